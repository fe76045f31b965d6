"""The durable side of sessions, as a protocol: the state that must survive a crash of the process.

Rules
1. Calls append to an ordered log; none of them waits and none of them reads.
2. `barrier(callback)` calls back on the *loop* when everything appended before it is on disk, in the order the
   barriers were set. An implementation with nothing to write (`MemoryStore`) calls back at once, inside the call.
3. Pushes do not enter, with one exception: the packet identifier and phase of a QoS 2 delivery (`save_outbound` with a
   handle and no message key), because a crash in mid-handshake must not deliver twice.
4. A message body is stored once under a message key (`save_message`), however many sessions queue it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from broker.message import Message


@dataclass(slots=True)
class StoredSubscription:
    """One subscription of a session."""

    topic_filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0
    subscription_identifier: int | None = None


@dataclass(slots=True)
class StoredOutbound:
    """One message on its way to a client: queued (packet_id 0), or inflight."""

    sequence: int
    """Order within the session; unique per session."""
    message_key: int | None
    """Ordinary MQTT: key of the message. None for a delivery (`handle`)."""
    handle: int | None
    qos: int
    packet_id: int = 0
    released: bool = False
    """QoS 2: PUBREC has come, PUBREL is due."""
    retain: bool = False
    subscription_identifiers: tuple[int, ...] = ()


@dataclass(slots=True)
class StoredWill:
    """The will of a session; `delay` is in seconds."""

    message: Message
    due_at: float | None
    """Server time at which it must be published; None while the client is connected."""
    delay: int = 0
    number: int = 0
    """A number that no other will, and no session, ever has; 0 in files of an earlier version."""


@dataclass(slots=True)
class StoredSession:
    """One session, with its lists when it is restored."""

    client_id: str
    principal: str
    expiry_interval: int
    """Seconds after the connection ends; 0xFFFFFFFF: never."""
    expires_at: float | None
    """Server time; None while connected, or never."""
    subscriptions: list[StoredSubscription] = field(default_factory=list)
    outbound: list[StoredOutbound] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    """Packet identifiers of inbound QoS 2 messages whose PUBREL has not come."""
    will: StoredWill | None = None
    number: int = 0
    """Value of `Session.number`."""
    stored: set[int] = field(default_factory=set)
    """Identifiers that an earlier version stored: the embedder has the content, but not the identifier."""


@dataclass(slots=True)
class PublishedWill:
    """A will that was routed, and that the embedder may not have stored yet."""

    number: int
    """Value of `StoredWill.number`."""
    client_id: str
    message: Message


@dataclass(slots=True)
class StoredState:
    """Everything that an earlier run has stored."""

    sessions: list[StoredSession] = field(default_factory=list)
    messages: dict[int, Message] = field(default_factory=dict)
    retained: list[Message] = field(default_factory=list)
    wills: list[PublishedWill] = field(default_factory=list)


class SharedSessions(Protocol):
    """The part of a store in which other brokers have sessions as well. Called on the *loop*.

    A session is in the memory of one broker at most: from `Broker.adopt` or its first CONNECT until it is released. The
    embedder sees to it that no two brokers have the same client.
    """

    def draw_number(self) -> int:
        """Return a number that no broker over this store is given again; at least 1."""

    def withdraw_release(self, client_id: str) -> None:
        """Take back a release that is not stored yet: the broker has the session in memory again."""

    def release_session(self, client_id: str) -> None:
        """Note that this broker has the session in memory no longer, and that all of it was stored before."""


class SessionStore(Protocol):
    """The store of one broker, or of several. Called on the *loop*; see the rules above."""

    shared: SharedSessions | None
    """The part that several brokers have in common; None: the store is this broker's alone."""

    def restore(self) -> StoredState:
        """Return everything that this broker has stored; nothing of a store that is shared.

        Called once, before any other call.
        """

    def claim_packet_ids(self, size: int) -> int:
        """Reserve `size` packet identifiers that none of the last runs has used, and return the first.

        Called once, after `restore`; on disk when it returns, unless the disk refuses.
        """

    def save_session(self, session: StoredSession) -> None:
        """Insert or update the session's own facts (not its lists; the will is included)."""

    def delete_session(self, client_id: str) -> None:
        """Delete the session and all that belongs to it."""

    def save_subscription(self, client_id: str, subscription: StoredSubscription) -> None: ...

    def delete_subscription(self, client_id: str, topic_filter: str) -> None: ...

    def save_message(self, message_key: int, message: Message) -> None: ...

    def delete_message(self, message_key: int) -> None:
        """Delete a message that no session needs any more."""

    def save_outbound(self, client_id: str, outbound: StoredOutbound) -> None:
        """Insert or update, keyed by (client_id, sequence)."""

    def delete_outbound(self, client_id: str, sequence: int) -> None: ...

    def save_received(self, client_id: str, packet_id: int) -> None: ...

    def delete_received(self, client_id: str, packet_id: int) -> None: ...

    def save_retained(self, message: Message) -> None: ...

    def delete_retained(self, topic: str) -> None: ...

    def save_published_will(self, will: PublishedWill) -> None: ...

    def delete_published_will(self, number: int) -> None: ...

    def barrier(self, callback: Callable[[], None]) -> None: ...


class MemoryStore:
    """Store that forgets: for tests and for a broker without a data directory."""

    shared: SharedSessions | None = None

    def restore(self) -> StoredState:
        return StoredState()

    def claim_packet_ids(self, size: int) -> int:
        return 1  # nothing of an earlier run is ever resumed

    def save_session(self, session: StoredSession) -> None: ...

    def delete_session(self, client_id: str) -> None: ...

    def save_subscription(self, client_id: str, subscription: StoredSubscription) -> None: ...

    def delete_subscription(self, client_id: str, topic_filter: str) -> None: ...

    def save_message(self, message_key: int, message: Message) -> None: ...

    def delete_message(self, message_key: int) -> None: ...

    def save_outbound(self, client_id: str, outbound: StoredOutbound) -> None: ...

    def delete_outbound(self, client_id: str, sequence: int) -> None: ...

    def save_received(self, client_id: str, packet_id: int) -> None: ...

    def delete_received(self, client_id: str, packet_id: int) -> None: ...

    def save_retained(self, message: Message) -> None: ...

    def delete_retained(self, topic: str) -> None: ...

    def save_published_will(self, will: PublishedWill) -> None: ...

    def delete_published_will(self, number: int) -> None: ...

    def barrier(self, callback: Callable[[], None]) -> None:
        callback()
