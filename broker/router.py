"""Routing: from a topic name to its subscribers.

Rules
1. Exact filters first: a dictionary from topic name to subscribers. A fleet subscribes to one topic per device, and
   that must cost one lookup however many devices there are.
2. Filters with wildcards live in a trie of topic levels. While there are any, results are cached by topic name, because
   a walk costs some microseconds per level and the same topics come again; any change that could alter a cached result
   drops it.
3. A subscriber appears once in a result, however many of its filters match: at the highest QoS [MQTT-3.3.4-2], with all
   its subscription identifiers [MQTT-3.3.4-3] [MQTT-3.3.4-4]. (One copy per subscription is allowed as well.)
4. Members of a shared subscription are alternatives, not additions; the caller chooses one [MQTT-4.8.2-4].

A subscription is one int: the options byte of SUBSCRIBE as it came on the wire (QoS in bits 0-1, no local in bit 2,
retain as published in bit 3, retain handling in bits 4-5; MQTT 5.0, 3.8.3.1), and the subscription identifier above
bit 8. Without an identifier it is a small int that Python shares, so a subscription costs no object of its own.

Price: an exact filter with one subscriber is a dictionary entry and a pair, about 170 bytes; each level of a wildcard
filter that is not shared with another, about 300 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from broker.protocol.topic_filters import matches, split_shared

QOS = 0x03
NO_LOCAL = 0x04
RETAIN_AS_PUBLISHED = 0x08
RETAIN_HANDLING_SHIFT = 4
IDENTIFIER_SHIFT = 8

CACHE_TOPICS = 4_096
"""Cached results, about 1 MB with short ones. More distinct topics than this in rotation are better walked: a cache
that is always cleared is only work. nats bounds its own at 1,024."""
CACHE_SUBSCRIBERS = 1_024
"""A result with more subscribers is not cached: to build it costs little beside sending it, to hold it costs much."""

Subscriber = TypeVar("Subscriber", bound=Hashable)


class Match(Generic[Subscriber]):
    """One subscriber of a topic, with the sum of its matching filters."""

    __slots__ = ("identifiers", "options", "others", "subscriber")

    def __init__(self, subscriber: Subscriber, options: int) -> None:
        self.subscriber = subscriber
        self.options = options & 0xFF
        """Highest QoS; retain as published if any filter asked for it; no local only if all did."""
        identifier = options >> IDENTIFIER_SHIFT
        self.identifiers: tuple[int, ...] = (identifier,) if identifier else ()
        self.others: tuple[int, ...] = (options,)
        """Each filter's own options, for the publisher that is itself a subscriber with and without no local."""

    def add(self, options: int) -> None:
        mine = self.options
        qos = max(mine & QOS, options & QOS)
        self.options = qos | ((mine | options) & RETAIN_AS_PUBLISHED) | (mine & options & NO_LOCAL)
        identifier = options >> IDENTIFIER_SHIFT
        if identifier:
            self.identifiers = (*self.identifiers, identifier)
        self.others = (*self.others, options)

    def for_publisher(self) -> Match[Subscriber] | None:
        """Return the match without its no-local filters, for the message's own publisher [MQTT-3.8.3-3]."""
        rest = [options for options in self.others if not options & NO_LOCAL]
        if not rest:
            return None
        match = Match(self.subscriber, rest[0])
        for options in rest[1:]:
            match.add(options)
        return match


class SharedGroup(Generic[Subscriber]):
    """The members of one `$share/name/filter`, and whose turn it is."""

    __slots__ = ("members", "turn")

    def __init__(self) -> None:
        self.members: dict[Subscriber, int] = {}
        self.turn = 0

    def choose(self, accepts: Callable[[Subscriber], bool]) -> tuple[Subscriber, int] | None:
        """Return the next member in rotation for which `accepts` is true, with its options; None without one."""
        members = list(self.members.items())
        count = len(members)
        for step in range(count):
            turn = (self.turn + step) % count
            if accepts(members[turn][0]):
                self.turn = turn + 1
                return members[turn]
        return None

    def next(self) -> tuple[Subscriber, int]:
        """Return the next member in rotation; it may get the message later [MQTT-4.8.2-5]."""
        chosen = self.choose(lambda _: True)
        assert chosen is not None, "a group without members is removed"
        return chosen


class Matches(Generic[Subscriber]):
    """All subscribers of one topic. Immutable by convention: results are cached."""

    __slots__ = ("direct", "shared")

    def __init__(self, direct: tuple[Match[Subscriber], ...], shared: tuple[SharedGroup[Subscriber], ...]) -> None:
        self.direct = direct
        self.shared = shared


class _Node(Generic[Subscriber]):
    """One level of the wildcard trie; also what hangs at an exact topic with shared groups."""

    __slots__ = ("children", "shared", "subscribers")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Subscriber]] = {}
        self.subscribers: dict[Subscriber, int] = {}
        self.shared: dict[str, SharedGroup[Subscriber]] = {}

    def is_empty(self) -> bool:
        return not (self.children or self.subscribers or self.shared)


class Router(Generic[Subscriber]):
    """The subscriptions of all sessions of one broker. Runs on the *loop*."""

    def __init__(self) -> None:
        self._exact: dict[str, tuple[Subscriber, int] | dict[Subscriber, int]] = {}
        """Almost every topic has one subscriber: a pair is a third of a dictionary."""
        self._exact_shared: dict[str, dict[str, SharedGroup[Subscriber]]] = {}
        self._root: _Node[Subscriber] = _Node()
        self._wildcards = 0
        self._cache: dict[str, Matches[Subscriber]] = {}
        self._no_matches: Matches[Subscriber] = Matches((), ())

    def subscribe(self, topic_filter: str, subscriber: Subscriber, options: int) -> bool:
        """Add or replace a subscription [MQTT-3.8.4-3]; return True if it is new."""
        group, plain = split_shared(topic_filter)
        if has_wildcard(plain):
            # Every cached topic might match.
            self._cache.clear()
            node = self._root
            for level in plain.split("/"):
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = _Node()
                node = child
            members = _members(node.shared, group) if group is not None else node.subscribers
            new = subscriber not in members
            members[subscriber] = options
            self._wildcards += new
            return new
        self._cache.pop(plain, None)
        if group is not None:
            members = _members(self._exact_shared.setdefault(plain, {}), group)
            new = subscriber not in members
            members[subscriber] = options
            return new
        there = self._exact.get(plain)
        if there is None:
            self._exact[plain] = (subscriber, options)
            return True
        if isinstance(there, tuple):
            if there[0] == subscriber:
                self._exact[plain] = (subscriber, options)
                return False
            self._exact[plain] = {there[0]: there[1], subscriber: options}
            return True
        new = subscriber not in there
        there[subscriber] = options
        return new

    def unsubscribe(self, topic_filter: str, subscriber: Subscriber) -> bool:
        """Remove a subscription; return True if there was one."""
        group, plain = split_shared(topic_filter)
        if has_wildcard(plain):
            return self._unsubscribe_wildcard(group, plain, subscriber)
        self._cache.pop(plain, None)
        if group is not None:
            groups = self._exact_shared.get(plain, {})
            removed = _remove_member(groups, group, subscriber)
            if not groups:
                self._exact_shared.pop(plain, None)
            return removed
        there = self._exact.get(plain)
        if there is None:
            return False
        if isinstance(there, tuple):
            if there[0] != subscriber:
                return False
            del self._exact[plain]
            return True
        if there.pop(subscriber, None) is None:
            return False
        if len(there) == 1:
            self._exact[plain] = next(iter(there.items()))
        return True

    def match(self, topic: str) -> Matches[Subscriber]:  # Hot path of ordinary fan-out.
        """Return the subscribers of a topic."""
        if not self._wildcards and not self._exact_shared:
            there = self._exact.get(topic)
            if there is None:
                return self._no_matches
            if isinstance(there, tuple):
                return Matches((Match(*there),), ())
            return Matches(tuple([Match(subscriber, options) for subscriber, options in there.items()]), ())
        found = self._cache.get(topic)
        if found is None:
            found = self._walk(topic)
            if len(found.direct) <= CACHE_SUBSCRIBERS:
                if len(self._cache) >= CACHE_TOPICS:
                    self._cache.clear()
                self._cache[topic] = found
        return found

    def _walk(self, topic: str) -> Matches[Subscriber]:
        found: dict[Subscriber, Match[Subscriber]] = {}
        shared: list[SharedGroup[Subscriber]] = []

        there = self._exact.get(topic)
        if isinstance(there, tuple):
            found[there[0]] = Match(*there)
        elif there is not None:
            for subscriber, options in there.items():
                found[subscriber] = Match(subscriber, options)
        shared.extend(self._exact_shared.get(topic, {}).values())

        def collect(node: _Node[Subscriber]) -> None:
            for subscriber, options in node.subscribers.items():
                match = found.get(subscriber)
                if match is None:
                    found[subscriber] = Match(subscriber, options)
                else:
                    match.add(options)
            shared.extend(node.shared.values())

        nodes = [self._root]
        # A filter that starts with a wildcard does not match $SYS and its like [MQTT-4.7.2-1].
        wildcard = not topic.startswith("$")
        for level in topic.split("/"):
            deeper: list[_Node[Subscriber]] = []
            for node in nodes:
                children = node.children
                if wildcard:
                    if (child := children.get("#")) is not None:
                        collect(child)
                    if (child := children.get("+")) is not None:
                        deeper.append(child)
                if (child := children.get(level)) is not None:
                    deeper.append(child)
            nodes = deeper
            wildcard = True
        for node in nodes:
            collect(node)
            # "sport/#" also matches "sport", its parent level (MQTT 5.0, 4.7.1.2).
            if (child := node.children.get("#")) is not None:
                collect(child)
        return Matches(tuple(found.values()), tuple(shared))

    def _unsubscribe_wildcard(self, group: str | None, plain: str, subscriber: Subscriber) -> bool:
        path: list[tuple[_Node[Subscriber], str]] = []
        node = self._root
        for level in plain.split("/"):
            child = node.children.get(level)
            if child is None:
                return False
            path.append((node, level))
            node = child
        if group is not None:
            removed = _remove_member(node.shared, group, subscriber)
        else:
            removed = node.subscribers.pop(subscriber, None) is not None
        if removed:
            self._cache.clear()
            self._wildcards -= 1
        for parent, level in reversed(path):
            if not node.is_empty():
                break
            del parent.children[level]
            node = parent
        return removed


def pack_options(qos: int, no_local: bool, retain_as_published: bool, retain_handling: int, identifier: int) -> int:
    """Return a subscription as one int."""
    return (
        qos
        | NO_LOCAL * no_local
        | RETAIN_AS_PUBLISHED * retain_as_published
        | retain_handling << RETAIN_HANDLING_SHIFT
        | identifier << IDENTIFIER_SHIFT
    )


def has_wildcard(topic_filter: str) -> bool:
    return "+" in topic_filter or "#" in topic_filter


def matching_options(subscriptions: dict[str, int], topic: str) -> list[int]:
    """Return the options of one session's subscriptions to a topic, shared ones aside: a look-up without the router."""
    exact = subscriptions.get(topic)
    every = [exact] if exact is not None else []
    for topic_filter, options in subscriptions.items():
        if has_wildcard(topic_filter) and matches(topic_filter, topic):
            every.append(options)
    return every


def _members(groups: dict[str, SharedGroup[Subscriber]], group: str) -> dict[Subscriber, int]:
    there = groups.get(group)
    if there is None:
        there = groups[group] = SharedGroup()
    return there.members


def _remove_member(groups: dict[str, SharedGroup[Subscriber]], group: str, subscriber: Subscriber) -> bool:
    there = groups.get(group)
    if there is None or there.members.pop(subscriber, None) is None:
        return False
    if not there.members:
        del groups[group]
    return True
