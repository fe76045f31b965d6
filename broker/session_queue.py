"""Ordinary MQTT messages that wait for one session. Deliveries never wait here: the embedder keeps them.

Laws
1. First in, first out, for every QoS [MQTT-4.6.0-6].
2. Bounded by messages and by payload bytes, for itself and together with all the others. At the bound what has expired
   goes first, then the newest message loses: a client gets a prefix of the messages, not a sample.
3. Retained messages that answer a SUBSCRIBE do not count for the bound: their payload is in memory anyway, and
   their number has a bound of its own.

A body is kept once (`SharedMessage`), however many sessions queue it; a copy costs a session about 90 bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from broker.message import Message
from broker.metrics import BrokerMetrics
from broker.settings import BrokerSettings
from broker.store import StoredOutbound


class SharedMessage:
    """One ordinary message on its way to any number of sessions. `key` and `references` belong to the store's side:
    a message that no durable session has to keep is never stored, and has key 0. `queued`: how many queues it is in."""

    __slots__ = ("encoded_topic", "key", "message", "queued", "references")

    def __init__(self, message: Message, key: int = 0) -> None:
        self.message = message
        self.encoded_topic = message.topic.encode()
        self.key = key
        self.references = 0
        self.queued = 0


class MessageCopy:
    """The part of a message that differs by session: QoS, RETAIN, subscription identifiers, row number."""

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

    def has_expired(self, now: float) -> bool:
        return self.shared.message.body.has_expired(now)

    def row(self, packet_id: int, released: bool) -> StoredOutbound:
        """Return the copy as a row of the store."""
        return StoredOutbound(
            self.sequence, self.shared.key, None, self.qos, packet_id, released, self.retain, self.identifiers
        )


class SessionQueue:
    """The queue of one session, counted in `totals` together with all others. Runs on the *loop*."""

    __slots__ = ("_copies", "_totals", "payload_bytes")

    def __init__(self, totals: BrokerMetrics) -> None:
        self._copies: deque[MessageCopy] = deque()
        self._totals = totals
        """Counters of all queues together."""
        self.payload_bytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def __bool__(self) -> bool:
        return bool(self._copies)

    def __iter__(self) -> Iterator[MessageCopy]:
        return iter(self._copies)

    def has_room(self, shared: SharedMessage, settings: BrokerSettings) -> bool:
        """Whether one message more is within the limits of this queue and of all queues."""
        size = len(shared.message.body.payload)
        totals = self._totals
        return (
            len(self._copies) < settings.max_queued_messages
            and self.payload_bytes + size <= settings.max_queued_bytes
            and totals.queued_messages < settings.max_queued_messages_total
            and (shared.queued > 0 or totals.queued_bytes + size <= settings.max_queued_bytes_total)
        )

    def append(self, copy: MessageCopy) -> None:
        self._copies.append(copy)
        shared = copy.shared
        size = len(shared.message.body.payload)
        self.payload_bytes += size
        totals = self._totals
        totals.queued_messages += 1
        if not shared.queued:
            totals.queued_bytes += size
        shared.queued += 1

    def first(self) -> MessageCopy:
        return self._copies[0]

    def pop_first(self) -> MessageCopy:
        copy = self._copies.popleft()
        self._forget(copy)
        return copy

    def clear(self) -> None:
        """Drop all messages, because the session has ended."""
        for copy in self._copies:
            self._forget(copy)
        self._copies.clear()

    def remove_expired(self, now: float) -> list[MessageCopy]:
        """Remove and return the expired messages."""
        return self._remove_where(lambda copy: copy.has_expired(now))

    def remove_qos_0(self) -> list[MessageCopy]:
        """Remove and return the messages of QoS 0, which do not outlive a connection."""
        return self._remove_where(lambda copy: copy.qos == 0)

    def _remove_where(self, condition: Callable[[MessageCopy], bool]) -> list[MessageCopy]:
        taken = [copy for copy in self._copies if condition(copy)]
        if taken:
            self._copies = deque(copy for copy in self._copies if not condition(copy))
            for copy in taken:
                self._forget(copy)
        return taken

    def _forget(self, copy: MessageCopy) -> None:
        shared = copy.shared
        size = len(shared.message.body.payload)
        self.payload_bytes -= size
        totals = self._totals
        totals.queued_messages -= 1
        shared.queued -= 1
        if not shared.queued:
            totals.queued_bytes -= size
