"""The grammar of topic names and topic filters (MQTT 5.0, 4.7 and 4.8.2), and whether one matches the other.

A shared subscription is `$share/NAME/FILTER`. 3.1.1 does not know it; we read it the same way there, as other servers
do, so a filter that begins with `$share/` and is none is refused in both versions.

`matches` walks one filter, for the few places that hold one; the router has its own structure for many.
"""

from __future__ import annotations

SHARE = "$share/"
MAX_BYTES = 65_535
"""UTF-8 bytes of a topic name or filter [MQTT-4.7.3-3]."""


def valid_topic_name(topic: str) -> bool:
    """Whether a text is a topic name: not empty, no wildcard [MQTT-4.7.0-1], no U+0000 [MQTT-4.7.3-2], not too long."""
    return bool(topic) and "+" not in topic and "#" not in topic and "\0" not in topic and _fits(topic)


def valid_topic_filter(topic_filter: str) -> bool:
    """Whether a text is a topic filter, with wildcards only where they may stand.

    A shared one has a name [MQTT-4.8.2-1] and a filter.
    """
    if not topic_filter or "\0" in topic_filter or not _fits(topic_filter):
        return False
    if topic_filter.startswith(SHARE):
        name, _, plain = topic_filter[len(SHARE) :].partition("/")
        # [MQTT-4.8.2-2]: the name has no wildcard, and a slash and a filter follow it.
        return bool(name and plain) and "+" not in name and "#" not in name and _has_valid_wildcards(plain)
    return _has_valid_wildcards(topic_filter)


def split_shared(topic_filter: str) -> tuple[str | None, str]:
    """Split a valid filter into the name of the shared subscription, None for any other, and the filter proper."""
    if topic_filter.startswith(SHARE):
        name, _, plain = topic_filter[len(SHARE) :].partition("/")
        return name, plain
    return None, topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic name matches a filter (both valid; of a shared subscription, the filter proper)."""
    if topic_filter == topic:
        return True
    if topic[0] == "$" and topic_filter[0] in "+#":
        # [3.1.1: MQTT-4.7.2-1]
        return False  # [MQTT-4.7.2-1]
    levels = topic.split("/")
    wanted = topic_filter.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        # `sport/#` matches `sport` as well: # includes the parent level (4.7.1.2).
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    # [MQTT-4.7.3-4] [3.1.1: MQTT-4.7.3-4]: letter by letter.
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))


def _has_valid_wildcards(topic_filter: str) -> bool:
    if "#" in topic_filter and (
        # Last, and a level of its own [MQTT-4.7.1-1].
        # [3.1.1: MQTT-4.7.1-2]
        topic_filter.index("#") != len(topic_filter) - 1 or not (topic_filter == "#" or topic_filter.endswith("/#"))
    ):
        return False
    # A level of its own [MQTT-4.7.1-2].
    # [3.1.1: MQTT-4.7.1-3]
    return "+" not in topic_filter or all(level == "+" or "+" not in level for level in topic_filter.split("/"))


def _fits(topic: str) -> bool:
    try:
        return len(topic.encode()) <= MAX_BYTES
    except UnicodeEncodeError:
        return False  # a lone surrogate has no UTF-8 [MQTT-1.5.4-1]
