"""Ordinary MQTT messages that wait for one session. Pushes never wait here: their mailbox is the gateway's.

Laws
1. First in, first out, for every QoS [MQTT-4.6.0-6].
2. Bounded by messages and by payload bytes. At the bound what has expired goes first, then the newest message loses:
   what a client has got is then a prefix of what was said, and not a sample of it.
3. Retained messages that answer a SUBSCRIBE are not held against the bound: their payload is in memory anyway, and
   their number has a bound of its own.

A body is kept once (`SharedMessage`), however many sessions queue it; a copy costs a session about 90 bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from broker.message import Message
from broker.store import StoredOutbound


class SharedMessage:
    """One ordinary message on its way to any number of sessions. `key` and `references` belong to the store's side:
    a message that no durable session has to keep is never stored, and has key 0."""

    __slots__ = ("encoded_topic", "key", "message", "references")

    def __init__(self, message: Message, key: int = 0) -> None:
        self.message = message
        self.encoded_topic = message.topic.encode()
        self.key = key
        self.references = 0


class MessageCopy:
    """What one session has to know of a message: how it goes to this client."""

    __slots__ = ("identifiers", "qos", "retain", "sequence", "shared")

    def __init__(
        self, shared: SharedMessage, qos: int, retain: bool, identifiers: tuple[int, ...], sequence: int
    ) -> None:
        self.shared = shared
        self.qos = qos
        self.retain = retain
        self.identifiers = identifiers
        """Subscription identifiers of the filters that matched [MQTT-3.3.4-3]."""
        self.sequence = sequence
        """Number of its row in the store; 0: not stored."""

    def row(self, packet_id: int, released: bool) -> StoredOutbound:
        return StoredOutbound(
            self.sequence, self.shared.key, None, self.qos, packet_id, released, self.retain, self.identifiers
        )


class SessionQueue:
    __slots__ = ("_copies", "payload_bytes")

    def __init__(self) -> None:
        self._copies: deque[MessageCopy] = deque()
        self.payload_bytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[MessageCopy]:
        return iter(self._copies)

    def has_room(self, size: int, max_messages: int, max_bytes: int) -> bool:
        return len(self._copies) < max_messages and self.payload_bytes + size <= max_bytes

    def append(self, copy: MessageCopy) -> None:
        self._copies.append(copy)
        self.payload_bytes += len(copy.shared.message.body.payload)

    def first(self) -> MessageCopy:
        return self._copies[0]

    def pop_first(self) -> MessageCopy:
        copy = self._copies.popleft()
        self.payload_bytes -= len(copy.shared.message.body.payload)
        return copy

    def take_expired(self, now: float) -> list[MessageCopy]:
        """Remove and return what nobody needs any more."""
        return self._take(lambda copy: copy.shared.message.body.has_expired(now))

    def take_qos_0(self) -> list[MessageCopy]:
        """Remove and return what does not outlive a connection."""
        return self._take(lambda copy: copy.qos == 0)

    def _take(self, condition: Callable[[MessageCopy], bool]) -> list[MessageCopy]:
        taken = [copy for copy in self._copies if condition(copy)]
        if taken:
            self._copies = deque(copy for copy in self._copies if not condition(copy))
            self.payload_bytes -= sum(len(copy.shared.message.body.payload) for copy in taken)
        return taken
