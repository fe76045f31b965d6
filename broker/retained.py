"""Retained messages, and the lookup the other way round: from a topic filter to the topics that have one.

Laws
1. At most one message per topic; an empty payload removes it [MQTT-3.3.1-6].
2. An expired message is not handed out [MQTT-3.3.2-5]; it is removed at the next start, or when its place is needed.
3. Two limits, messages and payload bytes. A message over them is refused; no other is removed for it.

Filters without wildcards, and that is most subscriptions, cost one dictionary lookup. The others walk a trie of topic
levels, about 300 bytes per level that is not shared, along the branches that can match and no others.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.message import Message
from broker.shared_state import SharedState
from broker.system_topics import SYSTEM


class _Level:
    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Level] = {}
        self.message: Message | None = None


class RetainedMessages:
    """The retained messages of one broker, in memory. Runs on the *loop*."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._by_topic: dict[str, Message] = {}
        self._root = _Level()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._by_topic)

    def __bool__(self) -> bool:
        return bool(self._by_topic)

    def keep(self, message: Message, shared_state: SharedState) -> None:
        """Retain a published message, or remove that of its topic, in the store too."""
        store = shared_state.store
        if message.topic.startswith(SYSTEM):
            self.set(message)  # true for this run only
        # [MQTT-3.3.1-7] [3.1.1: MQTT-3.3.1-10] [3.1.1: MQTT-3.3.1-11]
        elif not message.body.payload:
            if self.remove(message.topic):
                store.delete_retained(message.topic)  # [MQTT-3.3.1-6]
        elif self.set(message) or (self._sweep(shared_state) and self.set(message)):
            # [3.1.1: MQTT-3.3.1-5] [3.1.1: MQTT-3.3.1-7]
            store.save_retained(message)  # [MQTT-3.3.1-5]
        else:
            shared_state.metrics.dropped_not_retained += 1
        shared_state.metrics.retained = len(self)

    def _sweep(self, shared_state: SharedState) -> bool:
        expired = self.expired(shared_state.now)
        for topic in expired:
            self.remove(topic)
            shared_state.store.delete_retained(topic)
        return bool(expired)

    def set(self, message: Message) -> bool:
        """Retain a message in place of the topic's earlier one; return False, and keep that, if a limit is reached."""
        earlier = self._by_topic.get(message.topic)
        size = self._bytes + len(message.body.payload) - (len(earlier.body.payload) if earlier is not None else 0)
        if size > self._max_bytes or (earlier is None and len(self._by_topic) >= self._max_messages):
            return False
        self._bytes = size
        self._by_topic[message.topic] = message
        level = self._root
        for name in message.topic.split("/"):
            child = level.children.get(name)
            if child is None:
                child = level.children[name] = _Level()
            level = child
        level.message = message
        return True

    def remove(self, topic: str) -> bool:
        """Remove the message of a topic; return False if there is none."""
        message = self._by_topic.pop(topic, None)
        if message is None:
            return False
        self._bytes -= len(message.body.payload)
        path: list[tuple[_Level, str]] = []
        level = self._root
        for name in topic.split("/"):
            path.append((level, name))
            level = level.children[name]
        level.message = None
        for parent, name in reversed(path):
            if level.children or level.message is not None:
                break
            del parent.children[name]
            level = parent
        return True

    def expired(self, now: float) -> list[str]:
        """Return the topics whose message has expired. Walks everything: call it only at a limit."""
        return [topic for topic, message in self._by_topic.items() if message.body.has_expired(now)]

    def match(self, topic_filter: str, now: float) -> list[Message]:
        """Return the messages for a new subscription; `topic_filter` comes without its `$share` part."""
        if "+" not in topic_filter and "#" not in topic_filter:
            message = self._by_topic.get(topic_filter)
            return [message] if message is not None and not message.body.has_expired(now) else []
        levels = [self._root]
        # A leading wildcard does not reach $SYS and its like [MQTT-4.7.2-1].
        hide_system = True
        for name in topic_filter.split("/"):
            if name == "#":
                below = [found for level in levels for found in _all_below(level, hide_system)]
                return [message for message in below if not message.body.has_expired(now)]
            if name == "+":
                levels = [
                    child
                    for level in levels
                    for key, child in level.children.items()
                    if not (hide_system and key.startswith("$"))
                ]
            else:
                levels = [level.children[name] for level in levels if name in level.children]
            hide_system = False
        found = (level.message for level in levels)
        return [message for message in found if message is not None and not message.body.has_expired(now)]


def _all_below(level: _Level, hide_system: bool) -> Iterator[Message]:
    """Yield the messages of a level and all below it: "sport/#" includes "sport" (MQTT 5.0, 4.7.1.2)."""
    stack = [level]
    while stack:
        level = stack.pop()
        if level.message is not None:
            yield level.message
        stack.extend(child for key, child in level.children.items() if not (hide_system and key.startswith("$")))
        hide_system = False
