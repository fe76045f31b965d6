"""Stand-ins for what surrounds the broker's core: transport, store, clock, authenticator, events, and a client.

Nothing here waits or guesses: time moves when a test moves it, the disk is reached when a test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, TypeVar

from broker.authorization import Accepted, AllowAll, Challenge, Credentials, Permissions, Refused
from broker.broker import Broker
from broker.connection import Connection
from broker.message import Body, Message
from broker.protocol.codec import Decoder, encode
from broker.protocol.packets import (
    V3_1_1,
    V5,
    Connack,
    Connect,
    Packet,
    Properties,
    Puback,
    Publish,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Will,
)
from broker.settings import NEVER_EXPIRES, BrokerSettings
from broker.store import (
    MemoryStore,
    PublishedWill,
    SharedSessions,
    StoredOutbound,
    StoredSession,
    StoredState,
    StoredSubscription,
)

AnyPacket = TypeVar("AnyPacket")


class FakeClock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeTransport:
    """Keeps what is written. `fills_after` bytes it says that it is full, from within `write`, as real ones do."""

    scheme = "mqtt"

    def __init__(self) -> None:
        self.written = bytearray()
        self.writes = 0
        self.closed = False
        self.reading_paused = False
        self.fills_after: int | None = None
        self.on_full: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        assert not self.closed, "nothing is written after close"
        self.writes += 1
        self.written += data
        if self.fills_after is not None and len(self.written) > self.fills_after:
            self.fills_after = None
            self.on_full()

    send = write

    def send_together(self, packets: list[bytes]) -> None:
        self.write(b"".join(packets))

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        assert not self.reading_paused, "asked for once"
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False


class FakeStore:
    """A disk in memory. `blocked`: barriers wait until `commit`, and only what was committed survives `crashed`."""

    def __init__(self, state: StoredState | None = None) -> None:
        self.blocked = False
        self.next_packet_id = 1
        self.state = state or StoredState()
        self.log: list[tuple[str, Any]] = []
        """Names and arguments of all calls that change something, in order."""
        self._pending: list[Callable[[], None]] = []
        self._sessions = {session.client_id: session for session in self.state.sessions}
        self._wills = {will.number: will for will in self.state.wills}

    def crashed(self) -> FakeStore:
        """What another process would find."""
        sessions = deepcopy(list(self._sessions.values()))
        wills = list(self._wills.values())
        store = FakeStore(StoredState(sessions, dict(self.state.messages), list(self.state.retained), wills))
        store.next_packet_id = self.next_packet_id
        return store

    def commit(self, barriers: int | None = None) -> None:
        """Write what is pending, or only up to the next so many barriers."""
        while self._pending and barriers != 0:
            step = self._pending.pop(0)
            step()
            if barriers is not None and getattr(step, "is_barrier", False):
                barriers -= 1

    def mark_group(self) -> None:
        """What comes next belongs to another group, which may be written without it and not the other way round."""
        self._pending.append(_end_of_group)

    def write_groups(self, count: int) -> None:
        """Write so many groups, and call nobody back: what a kill right after the commit leaves."""
        while self._pending and count:
            step = self._pending.pop(0)
            if step is _end_of_group:
                count -= 1
            elif not getattr(step, "is_barrier", False):
                step()

    shared: SharedSessions | None = None

    def restore(self) -> StoredState:
        return deepcopy(self.state)

    def claim_packet_ids(self, size: int) -> int:
        first = self.next_packet_id if self.next_packet_id + size - 1 <= 65_535 else 1
        self.next_packet_id = first + size
        return first

    def barrier(self, callback: Callable[[], None]) -> None:
        def step() -> None:
            callback()

        step.is_barrier = True  # type: ignore[attr-defined]  # a mark for `commit`
        self._pending.append(step)
        if not self.blocked:
            self.commit()

    def save_session(self, session: StoredSession) -> None:
        copy = deepcopy(session)

        def step() -> None:
            there = self._sessions.get(copy.client_id)
            if there is not None:
                copy.subscriptions, copy.outbound, copy.received = there.subscriptions, there.outbound, there.received
            self._sessions[copy.client_id] = copy

        self._change("save_session", copy, step)

    def delete_session(self, client_id: str) -> None:
        self._change("delete_session", client_id, lambda: self._sessions.pop(client_id, None))

    def save_subscription(self, client_id: str, subscription: StoredSubscription) -> None:
        def step() -> None:
            there = self._sessions[client_id].subscriptions
            there[:] = [s for s in there if s.topic_filter != subscription.topic_filter] + [subscription]

        self._change("save_subscription", (client_id, subscription), step)

    def delete_subscription(self, client_id: str, topic_filter: str) -> None:
        def step() -> None:
            there = self._sessions[client_id].subscriptions
            there[:] = [s for s in there if s.topic_filter != topic_filter]

        self._change("delete_subscription", (client_id, topic_filter), step)

    def save_message(self, message_key: int, message: Message) -> None:
        self._change("save_message", (message_key, message), lambda: self.state.messages.update({message_key: message}))

    def delete_message(self, message_key: int) -> None:
        self._change("delete_message", message_key, lambda: self.state.messages.pop(message_key))

    def save_outbound(self, client_id: str, outbound: StoredOutbound) -> None:
        row = deepcopy(outbound)

        def step() -> None:
            there = self._sessions[client_id].outbound
            there[:] = [o for o in there if o.sequence != row.sequence] + [row]

        self._change("save_outbound", (client_id, row), step)

    def delete_outbound(self, client_id: str, sequence: int) -> None:
        def step() -> None:
            there = self._sessions[client_id].outbound
            there[:] = [o for o in there if o.sequence != sequence]

        self._change("delete_outbound", (client_id, sequence), step)

    def save_received(self, client_id: str, packet_id: int) -> None:
        step = lambda: self._sessions[client_id].received.append(packet_id)  # noqa: E731  # one of a row of steps
        self._change("save_received", (client_id, packet_id), step)

    def delete_received(self, client_id: str, packet_id: int) -> None:
        step = lambda: self._sessions[client_id].received.remove(packet_id)  # noqa: E731  # one of a row of steps
        self._change("delete_received", (client_id, packet_id), step)

    def save_retained(self, message: Message) -> None:
        def step() -> None:
            there = self.state.retained
            there[:] = [m for m in there if m.topic != message.topic] + [message]

        self._change("save_retained", message, step)

    def delete_retained(self, topic: str) -> None:
        def step() -> None:
            self.state.retained[:] = [m for m in self.state.retained if m.topic != topic]

        self._change("delete_retained", topic, step)

    def save_published_will(self, will: PublishedWill) -> None:
        self._change("save_published_will", will, lambda: self._wills.update({will.number: will}))

    def delete_published_will(self, number: int) -> None:
        self._change("delete_published_will", number, lambda: self._wills.pop(number, None))

    def session(self, client_id: str) -> StoredSession:
        return self._sessions[client_id]

    def has_session(self, client_id: str) -> bool:
        return client_id in self._sessions

    def names(self) -> list[str]:
        return [name for name, _ in self.log]

    def _change(self, name: str, what: object, step: Callable[[], object]) -> None:
        self.log.append((name, what))

        def run() -> None:
            step()

        self._pending.append(run)
        if not self.blocked:
            self.commit()


class FakeSharedStore(FakeStore):
    """The same store, of which other brokers have sessions as well: those that are away are not in memory."""

    def __init__(self, state: StoredState | None = None) -> None:
        super().__init__(state)
        self.shared = self
        self.held: set[str] = set()
        """Clients whose sessions are in the memory of a broker."""
        self._last_number = 0
        self._queued: dict[tuple[str, int], Message] = {}
        self._of_broker: dict[int, Message] = {}
        """Messages by client and row: the keys of a broker mean nothing to another one."""

    def crashed(self) -> FakeSharedStore:
        store = super().crashed()
        again = FakeSharedStore(store.state)
        again.next_packet_id, again._last_number = store.next_packet_id, self._last_number
        again._queued = dict(self._queued)
        return again

    def end_epoch(self, now: float) -> None:
        """The broker has died, and somebody has noticed: the sessions that it had expire from now on."""
        for session in self._sessions.values():
            if session.expires_at is None and session.expiry_interval != NEVER_EXPIRES:
                session.expires_at = now + session.expiry_interval
            if session.will is not None and session.will.due_at is None:
                session.will.due_at = now + min(session.will.delay, session.expiry_interval)

    def restore(self) -> StoredState:
        return StoredState(wills=list(self._wills.values()))

    def draw_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def withdraw_release(self, client_id: str) -> None:
        self.held.add(client_id)

    def release_session(self, client_id: str) -> None:
        self.held.discard(client_id)

    def save_session(self, session: StoredSession) -> None:
        self.held.add(session.client_id)
        super().save_session(session)

    def load(self, client_ids: Iterable[str]) -> StoredState:
        """What a broker that is about to answer these clients adopts."""
        found = [deepcopy(self._sessions[name]) for name in client_ids if name in self._sessions]
        self.held |= {session.client_id for session in found}
        messages: dict[int, Message] = {}
        for session in found:
            for row in session.outbound:
                if row.message_key is not None:
                    row.message_key = len(messages) + 1
                    messages[row.message_key] = self._queued[session.client_id, row.sequence]
        return StoredState(found, messages)

    def due(self, now: float) -> list[str]:
        """Clients whose sessions no broker has, and that have expired or have a will that is due."""
        times = {
            name: [session.expires_at, session.will.due_at if session.will is not None else None]
            for name, session in self._sessions.items()
            if name not in self.held
        }
        return [name for name, due in times.items() if any(at is not None and at <= now for at in due)]

    def save_message(self, message_key: int, message: Message) -> None:
        self._of_broker[message_key] = message

    def delete_message(self, message_key: int) -> None:
        del self._of_broker[message_key]

    def save_outbound(self, client_id: str, outbound: StoredOutbound) -> None:
        if outbound.message_key is not None:
            self._queued[client_id, outbound.sequence] = self._of_broker[outbound.message_key]
        super().save_outbound(client_id, outbound)


def _end_of_group() -> None:
    """A mark among the steps of a FakeStore."""


class RecordingEvents:
    """Writes down everything in `log`. What is published is done with at once, unless `blocked`; what may be resumed is
    decided by `resumable`: a function of the handles, or None to keep the question in `resumes`."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.published_messages: list[Message] = []
        self.blocked = False
        self.dones: list[Callable[[int], None]] = []
        self.reason_code = 0
        self.identifiers: set[int] = set()
        """Of the messages whose content is stored; the next run of the embedder finds them."""
        self.blocked_releases: list[Callable[[], None]] | None = None
        """What waits to be forgotten; None: all of it is at once."""
        self.resumable: Callable[[Sequence[int]], Mapping[int, Message | None]] | None = lambda handles: {}
        self.resumes: list[tuple[list[int], Callable[[Mapping[int, Message | None]], None]]] = []
        self.on_delivery_ended: Callable[[str, int, int], None] | None = None
        self.on_ready: Callable[[str, int], None] | None = None

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        return [entry for entry in self.log if entry[0] in names]

    def take(self) -> list[tuple[Any, ...]]:
        log, self.log = self.log, []
        return log

    def connected(self, client_id: str, identity: object, session_present: bool) -> None:
        self.log.append(("connected", client_id, session_present))

    def disconnected(self, client_id: str, reason: str, detail: str) -> None:
        self.log.append(("disconnected", client_id, reason))

    def ready(self, client_id: str, send_quota: int) -> None:
        assert send_quota > 0
        self.log.append(("ready", client_id, send_quota))
        if self.on_ready is not None:
            self.on_ready(client_id, send_quota)

    def delivery_ended(self, client_id: str, handle: int, outcome: int) -> None:
        self.log.append(("delivery_ended", client_id, handle, outcome))
        if self.on_delivery_ended is not None:
            self.on_delivery_ended(client_id, handle, outcome)

    def resume(
        self, client_id: str, handles: Sequence[int], done: Callable[[Mapping[int, Message | None]], None]
    ) -> None:
        self.log.append(("resume", client_id, list(handles)))
        self.resumes.append((list(handles), done))
        if self.resumable is not None:
            done(self.resumable(handles))

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        self.identifiers.difference_update(identifiers)
        if self.blocked_releases is None:
            done()
        else:
            self.blocked_releases.append(done)

    def published(
        self, client_id: str, message: Message, done: Callable[[int], None], identifier: int | None = None
    ) -> None:
        if identifier is not None:
            if identifier in self.identifiers:
                done(0)
                return
            if not self.blocked and self.reason_code < 0x80:
                self.identifiers.add(identifier)
        self.log.append(("published", client_id, message.topic, message.body.payload))
        self.published_messages.append(message)
        if self.blocked:
            self.dones.append(done)
        else:
            done(self.reason_code)


class FakePermissions:
    """Everything but what is listed."""

    def __init__(self) -> None:
        self.no_publish: set[str] = set()
        self.no_subscribe: set[str] = set()

    def may_publish(self, topic: str, retain: bool) -> bool:
        return topic not in self.no_publish

    def may_subscribe(self, topic_filter: str) -> bool:
        return topic_filter not in self.no_subscribe


class FakeAuthenticator:
    """Refuses the password `wrong`; a client id with a colon is a side connection. `blocked`: calls wait in `asked`."""

    def __init__(self, permissions: Permissions | None = None) -> None:
        self.permissions: Permissions = permissions or AllowAll()
        self.blocked = False
        self.asked: list[tuple[Credentials, Callable[[], None]]] = []
        self.before_answer: Callable[[str], None] = lambda client_id: None

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        def decide() -> None:
            if credentials.password == b"wrong":
                answer(Refused(0x86))
                return
            principal, colon, _ = credentials.client_id.partition(":")
            self.before_answer(credentials.client_id)
            answer(Accepted(principal, self.permissions, identity=principal, persistent=not colon))

        self.asked.append((credentials, decide))
        if not self.blocked:
            decide()

    def exchange(self, method: str, credentials: Credentials) -> FakeExchange | None:
        return FakeExchange(credentials.client_id, self.permissions) if method == "MIRROR" else None


class FakeExchange:
    """Enhanced authentication `MIRROR`: the challenge is `nonce`, and only its mirror image is accepted."""

    def __init__(self, client_id: str, permissions: Permissions) -> None:
        self._client_id = client_id
        self._permissions = permissions
        self._challenged = False

    def step(self, data: bytes | None, answer: Callable[[Accepted | Refused | Challenge], None]) -> None:
        if not self._challenged:
            self._challenged = True
            answer(Challenge(b"nonce"))
        elif data == b"ecnon":
            answer(Accepted(self._client_id, self._permissions, identity=self._client_id, data=b"welcome"))
        else:
            answer(Refused(0x87))


class FakeClient:
    """The other end of a connection, speaking packets. `received` is what came since it was looked at last."""

    def __init__(self, world: World, version: int) -> None:
        self.world = world
        self.version = version
        self.transport = FakeTransport()
        self.connection = Connection(world.broker, self.transport, "192.0.2.1:50000", world.clock.now)
        self.transport.on_full = self.connection.pause_writing
        self.connack: Connack
        self.unread: list[Packet] = []
        self._decoder = Decoder(self, from_server=True)
        self._decoder.version = version

    def packet(self, packet: Packet) -> None:
        self.unread.append(packet)

    def puback(self, packet_id: int, reason_code: int) -> None:
        self.unread.append(Puback(packet_id, reason_code))

    def send(self, *packets: Packet) -> None:
        self.send_bytes(b"".join(encode(packet, self.version) for packet in packets))

    def send_bytes(self, data: bytes) -> None:
        self.connection.data_received(data, self.world.clock.now)

    def received(self) -> list[Packet]:
        data = bytes(self.transport.written)
        self.transport.written.clear()
        self._decoder.feed(data)
        received, self.unread = self.unread, []
        return received

    def receive(self, kind: type[AnyPacket]) -> AnyPacket:
        """The one packet that came, which must be of this kind."""
        packets = self.received()
        assert len(packets) == 1, packets
        assert isinstance(packets[0], kind), packets
        return packets[0]

    def publishes(self) -> list[Publish]:
        packets = self.received()
        assert all(isinstance(packet, Publish) for packet in packets), packets
        return [packet for packet in packets if isinstance(packet, Publish)]

    def payloads(self) -> list[bytes]:
        return [publish.payload for publish in self.publishes()]

    def subscribe(self, *filters: tuple[str, int] | SubscriptionRequest, identifier: int = 0) -> list[int]:
        requests = [f if isinstance(f, SubscriptionRequest) else SubscriptionRequest(*f) for f in filters]
        properties = Properties(subscription_identifiers=[identifier]) if identifier else None
        self.send(Subscribe(10, requests, properties))
        return self.receive(Suback).reason_codes

    def drop(self) -> None:
        """The network fails."""
        self.transport.closed = True
        self.connection.connection_lost(self.world.clock.now)

    def is_closed(self) -> bool:
        return self.transport.closed


class SlowStore(MemoryStore):
    """A disk that takes its time: barriers call back when the test says so, and at once from then on."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] | None = []

    def barrier(self, callback: Callable[[], None]) -> None:
        if self.waiting is None:
            callback()
        else:
            self.waiting.append(callback)

    def go_on(self) -> None:
        """Call back those that wait."""
        waiting, self.waiting = self.waiting or [], None
        for callback in waiting:
            callback()


class World:
    """A broker with everything around it in a test's hands."""

    make_store: ClassVar[Callable[[], FakeStore]] = FakeStore

    def __init__(
        self,
        settings: BrokerSettings | None = None,
        store: FakeStore | None = None,
        events: bool = True,
        clock: FakeClock | None = None,
        permissions: Permissions | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.store = store or World.make_store()
        self.events = RecordingEvents()
        self.authenticator = FakeAuthenticator(permissions)
        self.on_adopted: Callable[[], None] = lambda: None
        if isinstance(self.store, FakeSharedStore):
            self.authenticator.before_answer = self._adopt
        self.broker = Broker(
            settings or BrokerSettings(), self.store, self.authenticator, self.events if events else None, self.clock
        )
        self.broker.start()

    def client(self, version: int = V3_1_1) -> FakeClient:
        return FakeClient(self, version)

    def connect(
        self,
        client_id: str,
        version: int = V3_1_1,
        *,
        clean: bool = True,
        expiry: int | None = None,
        keep_alive: int = 0,
        will: Will | None = None,
        properties: Properties | None = None,
    ) -> FakeClient:
        """A client that has been accepted, its CONNACK taken off."""
        client = self.client(version)
        if version == V5:
            properties = properties or Properties()
            properties.session_expiry_interval = (0 if clean else 3600) if expiry is None else expiry
        connect = Connect(client_id, version, clean, keep_alive, will=will, properties=properties)
        client.send(connect)
        connack, *client.unread = client.received()
        assert isinstance(connack, Connack), connack
        assert connack.reason_code == 0, connack
        client.connack = connack
        return client

    def _adopt(self, client_id: str) -> None:
        """What an embedder does over a shared store."""
        assert isinstance(self.store, FakeSharedStore)
        if client_id not in self.broker.sessions:
            self.broker.adopt(self.store.load([client_id]))
            self.on_adopted()

    def advance(self, seconds: float) -> None:
        self.clock.now += seconds
        self.broker.tick(self.clock.now)
        if isinstance(self.store, FakeSharedStore):
            for client_id in self.store.due(self.clock.now):
                self._adopt(client_id)
                self.broker.release(client_id, lambda: None)

    def crash(self) -> World:
        """The process dies; another one starts on what was on disk."""
        store = self.store.crashed()
        if isinstance(store, FakeSharedStore):
            store.end_epoch(self.clock.now)
        world = World(self.broker.settings, store, clock=self.clock)
        world.events.identifiers = set(self.events.identifiers)
        return world


def message(topic: str = "a", payload: bytes = b"x", qos: int = 1, **of_body: Any) -> Message:
    return Message(topic, Body(payload, **of_body), qos)
