"""The broker: sessions by client identifier, take-over, hand-over of deliveries, fan-out of ordinary messages, wills.

Laws
1. Synchronous and without I/O: it is called with bytes and times, and calls the transport, the store and the events.
   Nothing waits; what must happen later is in the timing wheel, what must be on disk first is behind a store's barrier.
2. One session per client identifier, and at most one connection per session: a new connection ends the old one first
   [MQTT-3.1.4-3], and what the old one held is reported lost before the new one is reported connected.
3. Nobody gets here unauthenticated: `open_session` is called by a connection that has been accepted.
4. Over a store that is shared, a session is in memory as long as it has a connection: released when that has ended and
   all is stored, adopted before its client is answered again, here or at another broker.
5. `deliver` (under a handle) and `route` (ordinary MQTT) do not meet: the one addresses a session and may be refused,
   the other addresses a topic and queues.

The caller owes: `start` before the first connection, `tick` some four times a second, `drain` and `shutdown` before the
sockets go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from typing import Protocol

from broker.addresses import address_of
from broker.authorization import Authenticator
from broker.connection_protocols import ConnectionFacts, SessionConnection, Transport
from broker.deadlines import TimingWheel
from broker.events import BrokerEvents, NoEvents
from broker.failed_authentications import FailedAuthentications
from broker.handshake import Terms
from broker.message import Message
from broker.message_rates import MessageRates
from broker.metrics import BrokerMetrics
from broker.packet_ids import PacketIds, range_size
from broker.protocol.packets import ReasonCode
from broker.retained import RetainedMessages
from broker.router import IDENTIFIER_SHIFT, NO_LOCAL, QOS, RETAIN_AS_PUBLISHED, Router
from broker.session import Session
from broker.session_queue import SharedMessage
from broker.settings import BrokerSettings
from broker.shared_state import SharedState
from broker.store import SessionStore, StoredSession, StoredState, StoredWill
from broker.system_topics import SystemTopics
from broker.wills import Wills

log = logging.getLogger(__name__)

RELEASE_SECONDS = 0.25
"""Pause between two attempts to release a session about which the embedder owes an answer: a tick."""


class ClientConnection(SessionConnection, Protocol):
    """The part of a `Connection` that the broker uses: `connection` imports this module, not the other way round."""

    peer: str
    """Remote address, HOST:PORT."""
    principal: str
    identity: object
    terms: Terms | None
    """Set from CONNECT on."""
    transport: Transport
    session: Session | None
    """Set from an accepted CONNECT to the end of the connection."""

    def end(self, reason_code: int, reason: str, detail: str = "") -> None:
        """Tell the client the reason, if its version can be told, and close; `detail` is for the embedder."""

    def has_pending_acks(self) -> bool:
        """Whether the client owes an acknowledgement, or is owed one."""


class Broker:
    """The sessions of one server, and everything that concerns more than one of them. Runs on the *loop*."""

    def __init__(
        self,
        settings: BrokerSettings,
        store: SessionStore,
        authenticator: Authenticator,
        events: BrokerEvents | None,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.authenticator = authenticator
        self.metrics = BrokerMetrics()
        self.sessions: dict[str, Session] = {}
        self.embedded = events is not None
        """An embedder is told of every message, whether it has subscribers or not."""
        self.shared_state = SharedState(settings, store, events or NoEvents(), self.metrics, clock)
        self.wills = Wills(self.shared_state, self.route, self.embedded)
        self.wheel = TimingWheel(self.shared_state.now)
        self._router: Router[Session] = Router()
        self._retained = RetainedMessages(settings.max_retained_messages, settings.max_retained_bytes)
        self.failed = FailedAuthentications(settings.max_failed_authentications)
        self.rates = MessageRates(settings.max_message_rate, settings.max_byte_rate)
        self._connections: dict[str, tuple[ClientConnection, ...]] = {}
        """Connections of each principal: almost always one, and a tuple of one is the smallest collection there is."""
        self._needed: Session | None = None
        """The session whose connection `_disconnect` is ending."""
        self._awaiting_release: dict[str, list[Callable[[], None]]] = {}
        """Callbacks of `release`, by client identifier."""
        self._by_address: dict[str, int] = {}
        """Connections past CONNECT of each address (`address_of`)."""
        self.max_connections = settings.max_connections
        """The setting, or fewer where the system gives us no more descriptors."""
        self._clients_at_close: int | None = None
        """Number of clients when `close` was called; None: it has not been."""

    # -- called by the embedder ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restore sessions and retained messages from the store. Call once, before the first connection."""
        shared_state = self.shared_state
        shared_state.now = now = shared_state.clock()
        state = shared_state.store.restore()
        size = range_size(self.settings.max_inflight)
        shared_state.packet_ids = PacketIds(shared_state.store.claim_packet_ids(size), size)
        messages = {key: SharedMessage(message, key) for key, message in state.messages.items()}
        shared_state.last_message_key = max(messages, default=0)
        self.wills.unconfirmed = state.wills
        for stored in state.sessions:
            self._schedule(self._restore(stored, messages, now))
        shared_state.last_number = max(self.numbers(), default=0)
        for shared in messages.values():
            if not shared.references:
                shared_state.store.delete_message(shared.key)
        for message in state.retained:
            if message.body.has_expired(now) or not self._retained.set(message):
                shared_state.store.delete_retained(message.topic)
        self.metrics.retained = len(self._retained)
        if self.settings.system_interval:
            topics = SystemTopics(self.metrics, self.settings.system_interval, now, lambda m: self.route(m, None))
            self.wheel.schedule(topics, now)

    def adopt(self, stored: StoredState) -> None:
        """Restore sessions out of a shared store, for clients that are about to be answered, or because they are due.

        One that has expired ends at once, a will whose delay is over is published. Who stays away is to be released.
        """
        shared_state = self.shared_state
        shared_state.now = now = shared_state.clock()
        messages: dict[int, SharedMessage] = {}
        for key, message in stored.messages.items():
            shared_state.last_message_key += 1
            messages[key] = SharedMessage(message, shared_state.last_message_key)
            shared_state.store.save_message(shared_state.last_message_key, message)
        for one in stored.sessions:
            assert one.client_id not in self.sessions, "it is in the memory of one broker, and was released"
            session = self._restore(one, messages, now)
            if shared_state.store.shared is not None:
                shared_state.store.shared.withdraw_release(one.client_id)
            self._end_due(session, now)

    def release(self, client_id: str, on_released: Callable[[], None]) -> None:
        """End the connection of a client for another broker, and call back when its session is in the store alone.

        Only over a shared store. Until then the client must not be let in here."""
        if (session := self.sessions.get(client_id)) is not None:
            self._disconnect(session, ReasonCode.SESSION_TAKEN_OVER, "session taken over")
        if self.sessions.get(client_id) is not session or session is None:
            self.shared_state.store.barrier(on_released)
            return
        self._awaiting_release.setdefault(client_id, []).append(on_released)
        self._release_when_stored(session)

    def tick(self, now: float) -> None:
        """Run the deadlines that have come by `now` (server time, seconds). Call about four times a second."""
        self.shared_state.now = now
        self.wheel.advance(now)
        if self.wills.unconfirmed:
            self.wills.publish_again()

    def deliver(self, client_id: str, message: Message, handle: int) -> bool:  # Hot path.
        """Hand a message to one connected, subscribed client, and return whether it was accepted.

        If so, its end is reported by `delivery_ended` (QoS 0: it is written, and that is all). If not (not connected,
        not subscribed, or no send quota), nothing is kept.
        """
        session = self.sessions.get(client_id)
        return session is not None and session.deliver(message, handle)

    def deliver_to(self, client_id: str) -> Callable[[Message, int], bool]:
        """Return `deliver` of one client that is connected now, without the look-up; valid until it is not."""
        session = self.sessions.get(client_id)
        return session.deliver if session is not None else partial(self.deliver, client_id)

    def cork(self, client_id: str) -> None:
        """Collect deliveries to this client until `uncork`, which must follow in the same call stack."""
        session = self.sessions.get(client_id)
        if session is not None:
            session.cork()

    def uncork(self, client_id: str) -> None:
        """Send the deliveries collected since `cork` with one system call."""
        session = self.sessions.get(client_id)
        if session is not None:
            session.uncork()

    def granted_qos(self, client_id: str, topic: str) -> int | None:
        """Return the QoS with which a connected client has subscribed to a topic; None without a subscription."""
        session = self.sessions.get(client_id)
        if session is None or session.connection is None:
            return None
        granted = session.granted(topic)
        return granted if granted >= 0 else None

    def in_flight(self, client_id: str) -> int:
        """Return the number of unacknowledged messages of a client, including those that wait for `forget`."""
        session = self.sessions.get(client_id)
        return len(session.inflight) if session is not None else 0

    def connection_facts(self, client_id: str, principal: str) -> ConnectionFacts | None:
        """Return facts about the connection of a client; None while it has none."""
        for connection in self._connections.get(principal, ()):
            terms = connection.terms
            if connection.session is not None and terms is not None and terms.client_id == client_id:
                return ConnectionFacts(connection.version, terms.keep_alive, connection.transport.scheme)
        return None

    def forget(self, client_id: str, handle: int) -> None:
        """Free the packet identifier and row of a QoS 2 delivery, whose acknowledgement the embedder has stored."""
        session = self.sessions.get(client_id)
        if session is not None:
            session.forget(handle)

    def past_pubrec(self) -> list[tuple[str, int]]:
        """Return (client_id, handle) of all QoS 2 deliveries past PUBREC, which cannot be taken back."""
        return [(client_id, handle) for client_id, session in self.sessions.items() for handle in session.past_pubrec()]

    def awaiting_pubrec(self, client_id: str) -> set[int]:
        """Return the QoS 2 handles whose PUBLISH may have arrived: under another identifier it would arrive twice."""
        session = self.sessions.get(client_id)
        return set(session.awaiting_pubrec()) if session is not None else set()

    def unfinished(self) -> list[int]:
        """Return all handles of QoS 2 before PUBREC: right after a restart those of the last run, in no order."""
        return [handle for session in self.sessions.values() for handle in session.awaiting_pubrec()]

    def numbers(self) -> set[int]:
        """Return the numbers of sessions and wills whose messages `published` may report again.

        Identifiers of other numbers (shifted by `PACKET_ID_BITS`) are not needed any more. For the embedder's start.
        """
        numbers = {session.number for session in self.sessions.values()}
        numbers |= {session.will.number for session in self.sessions.values() if session.will is not None}
        return numbers | {will.number for will in self.wills.unconfirmed}

    def publish(self, message: Message) -> None:
        """Publish an ordinary message to its subscribers, and retain it if it says so; the object may be used again."""
        self.shared_state.now = self.shared_state.clock()
        self.route(Message(message.topic, message.body, message.qos, message.retain), None)

    def remove_session(self, client_id: str, reason_code: int = ReasonCode.ADMINISTRATIVE_ACTION) -> None:
        """Delete a session, in the store too, and close its connection."""
        session = self.sessions.get(client_id)
        if session is None:
            if self.shared_state.store.shared is not None:
                self.shared_state.store.delete_session(client_id)
            return
        self._disconnect(session, reason_code, "session removed")
        if self.sessions.get(client_id) is session:
            self._end_session(session)

    def when_stored(self, callback: Callable[[], None]) -> None:
        """Call `callback`, perhaps at once, when everything changed so far is on disk."""
        self.shared_state.store.barrier(callback)

    def disconnect_principal(self, principal: str, reason_code: int) -> int:
        """Close all connections of one credential, side connections included; return their number."""
        for connection in (connections := self._connections.get(principal, ())):
            connection.end(reason_code, "disconnected by the server")
        return len(connections)

    def is_connected(self, client_id: str) -> bool:
        session = self.sessions.get(client_id)
        return session is not None and session.connection is not None

    def close(self) -> None:
        """Refuse new clients, for good. Those that are here go on, and `shutdown` ends some of them."""
        if self._clients_at_close is None:
            self._clients_at_close = self.metrics.connections

    def drain(self) -> None:
        """Close, and refuse new deliveries (`deliver`: False). Until `shutdown`, acknowledgements are answered."""
        self.close()
        self.shared_state.draining = True
        for connection in chain.from_iterable(self._connections.values()):
            if connection.session is not None:
                connection.session.pause_sending()

    def has_pending_acks(self) -> bool:
        """Whether any client owes an acknowledgement, or is owed one."""
        return any(c.has_pending_acks() for connections in self._connections.values() for c in connections)

    def shutdown(self, at_most: int | None = None) -> bool:
        """Disconnect the clients of at most so many credentials; return whether any client is left.

        5.0 clients are told 0x8B, and when to come back.
        """
        for connection in list(chain.from_iterable(islice(self._connections.values(), at_most))):
            connection.end(ReasonCode.SERVER_SHUTTING_DOWN, "server shutting down")
        return bool(self._connections)

    # -- called by connections -----------------------------------------------------------------------------------------

    def is_busy(self) -> bool:
        """Whether a CONNECT has to be refused: too many wait for CONNACK, or the server drains."""
        return self._clients_at_close is not None or self.metrics.handshakes > self.settings.max_handshakes

    @property
    def expected_reconnects(self) -> int:
        """Number of clients that may come back together after a refusal."""
        return max(self._clients_at_close or 0, self.metrics.connections + self.metrics.handshakes)

    def refusal(self, client_id: str, principal: str, peer: str) -> int:
        """Return the reason code for an authenticated client that may not have a session; 0 if it may.

        Either a limit is reached, or the session belongs to another principal.
        """
        if self._clients_at_close is not None:
            return ReasonCode.SERVER_BUSY
        session = self.sessions.get(client_id)
        if session is not None and session.principal != principal:
            return ReasonCode.CLIENT_IDENTIFIER_NOT_VALID
        if session is None:
            if len(self.sessions) >= self.settings.max_sessions:
                return ReasonCode.QUOTA_EXCEEDED
        elif session.connection is not None:
            return ReasonCode.SUCCESS  # it takes its own place over
        metrics, settings = self.metrics, self.settings
        # A user's own client, which has its name, has its place besides them.
        others = len(self._connections.get(principal, ())) - self.is_connected(principal)
        if client_id != principal and others >= settings.max_connections_per_user:
            metrics.refuse("too_many_connections_of_a_user")
            return ReasonCode.QUOTA_EXCEEDED
        if self._by_address.get(address_of(peer), 0) >= settings.max_connections_per_address:
            metrics.refuse("too_many_connections_of_an_address")
            return ReasonCode.QUOTA_EXCEEDED
        if metrics.connections >= self.max_connections:
            return ReasonCode.QUOTA_EXCEEDED
        return ReasonCode.SUCCESS

    def open_session(
        self, connection: ClientConnection, terms: Terms, clean_start: bool, will: StoredWill | None
    ) -> tuple[Session, bool, bool]:
        """Open or resume the session of an accepted client: the session, session present, and whether to wait.

        Session present as in [MQTT-3.2.2-2] [MQTT-3.2.2-3]. CONNACK has to wait for the store if it promises something:
        the end of an old session, a new one, a will. A client that returns to its session need not wait, and is served
        on a full disk.
        """
        client_id = terms.client_id
        session = self.sessions.get(client_id)
        if session is not None and session.connection is not None:
            self.metrics.taken_over += 1
            # [3.1.1: MQTT-3.1.4-2]
            self._disconnect(session, ReasonCode.SESSION_TAKEN_OVER, "session taken over")  # [MQTT-3.1.4-3]
            session = self.sessions.get(client_id)
        ended = False
        if session is not None and session.is_worn_out():
            log.warning(
                "%s: its session ends, for it has left %d handshakes unfinished", client_id, len(session.inflight)
            )
            self.metrics.worn_out_sessions += 1
            clean_start = True
        if session is not None and clean_start:
            ended = session.durable
            # [3.1.1: MQTT-3.1.2-6]
            self._end_session(session)  # [MQTT-3.1.2-4]
            session = None
        # [MQTT-3.1.2-5] [MQTT-3.1.2-6] [3.1.1: MQTT-3.1.2-4] [3.1.1: MQTT-3.2.2-1] [3.1.1: MQTT-3.2.2-2]
        # [3.1.1: MQTT-3.2.2-3]
        present = session is not None
        if session is None:
            session = Session(client_id, connection.principal, self.shared_state, self._session_due)
            session.durable = terms.expiry_interval > 0
            session.number = self.shared_state.new_number()
            # [MQTT-3.1.3-2] [3.1.1: MQTT-3.1.3-2]
            self.sessions[client_id] = session
            self.metrics.sessions = len(self.sessions)
        elif self.shared_state.store.shared is not None:
            session.own_inflight()
        session.principal = connection.principal
        session.attach(connection, terms.maximum_packet_size, terms.receive_maximum, terms.alias_maximum)
        session.expiry_interval = terms.expiry_interval
        # An earlier will that was waiting for its delay is not published any more [MQTT-3.1.3-9].
        # [MQTT-3.1.2-7] [3.1.1: MQTT-3.1.2-8] [3.1.1: MQTT-3.1.2-12]
        session.will = will
        if will is not None:
            will.number = self.shared_state.new_number()
        session.save()
        connection.session = session
        self._connections[connection.principal] = (*self._connections.get(connection.principal, ()), connection)
        address = address_of(connection.peer)
        self._by_address[address] = self._by_address.get(address, 0) + 1
        metrics = self.metrics
        metrics.connects += 1
        metrics.connections += 1
        if metrics.connections > metrics.most_connections:
            metrics.most_connections = metrics.connections
        self.shared_state.events.connected(client_id, connection.identity, present)
        return session, present, ended or (session.durable and (not present or will is not None))

    def _disconnect(self, session: Session, reason_code: int, reason: str) -> None:
        """End the connection of a session that is needed afterwards, and is therefore not released."""
        if session.connection is not None:
            self._needed = session
            session.connection.end(reason_code, reason)
            self._needed = None

    def connection_ended(
        self, connection: ClientConnection, session: Session, reason: str, keep_will: bool, detail: str
    ) -> None:
        """End a connection: its deliveries are lost, its will is due, its session expires, ends or is released."""
        connections = self._connections.pop(connection.principal)
        if len(connections) > 1:
            others = tuple(other for other in connections if other is not connection)
            self._connections[connection.principal] = others
        address = address_of(connection.peer)
        left = self._by_address.pop(address) - 1
        if left:
            self._by_address[address] = left
        self.metrics.connections -= 1
        session.detach(reason)
        self.shared_state.events.disconnected(session.client_id, reason, detail)
        if self.sessions.get(session.client_id) is not session or session.connection is not None:
            return  # a listener has removed it
        now = self.shared_state.now
        will = session.will
        if will is not None:
            delay = min(will.delay, session.expiry_interval)
            if not keep_will:
                session.will = None
            elif delay > 0:
                will.due_at = now + delay
            else:
                session.will = None
                # [3.1.1: MQTT-3.1.2-8]
                self.wills.publish(session.client_id, will)  # [MQTT-3.1.2-8]
        if session.expiry_interval > 0:
            # [MQTT-3.1.2-23] [MQTT-4.1.0-1] [3.1.1: MQTT-4.1.0-1] [3.1.1: MQTT-4.1.0-2]: it outlives its connection,
            # and never ends before.
            session.start_expiry(now)
            if self.shared_state.store.shared is None:
                self._schedule(session)
            else:
                session.save_inflight()
                if session is not self._needed:
                    self._release_when_stored(session)
        else:
            self._end_session(session)

    def route(self, message: Message, publisher: Session | None) -> bool:  # Hot path of ordinary fan-out.
        """Send a message to every subscriber once, at the lower of both QoS; return False if there is none.

        `message` must not change afterwards.
        """
        # [MQTT-3.3.1-8] [3.1.1: MQTT-3.3.1-12]
        if message.retain:
            self._retained.keep(message, self.shared_state)
        matches = self._router.match(message.topic)
        if not matches.direct and not matches.shared:
            return False
        shared = SharedMessage(message)
        qos = message.qos
        retain = message.retain
        # [MQTT-3.3.2-3] [MQTT-4.5.0-1] [MQTT-4.6.0-5] [MQTT-4.6.0-6] [3.1.1: MQTT-3.3.2-3] [3.1.1: MQTT-3.3.5-1]
        # [3.1.1: MQTT-4.5.0-1] [3.1.1: MQTT-4.6.0-5] [3.1.1: MQTT-4.6.0-6]: to all that match, in the order of
        # arrival.
        for match in matches.direct:
            session = match.subscriber
            if session is publisher and any(options & NO_LOCAL for options in match.others):
                own = match.for_publisher()
                if own is None:
                    continue
                match = own
            options = match.options
            # RETAIN is kept for subscriptions that asked for it only [MQTT-3.3.1-12] [MQTT-3.3.1-13].
            # [3.1.1: MQTT-3.3.1-9]
            kept = retain and bool(options & RETAIN_AS_PUBLISHED)
            # [MQTT-3.8.4-8] [MQTT-3.3.1-3] [3.1.1: MQTT-3.8.4-6] [3.1.1: MQTT-3.3.1-3]: with DUP of its own.
            session.send_or_queue(shared, min(qos, options & QOS), kept, match.identifiers)
        for group in matches.shared:
            # [MQTT-4.8.2-4] [MQTT-4.8.2-5] [MQTT-4.8.2-6]: one of them, and it stays with that one.
            chosen = group.choose(_can_send_now) or group.choose(_is_connected) or group.next()
            session, options = chosen
            identifier = options >> IDENTIFIER_SHIFT
            kept = retain and bool(options & RETAIN_AS_PUBLISHED)
            # [MQTT-4.8.2-3]
            session.send_or_queue(shared, min(qos, options & QOS), kept, (identifier,) if identifier else ())
        return True

    def subscribe(self, session: Session, topic_filter: str, options: int) -> bool:
        """Add or replace a subscription; return True if it is new."""
        session.subscribe(topic_filter, options)
        self.metrics.subscriptions += (is_new := self._router.subscribe(topic_filter, session, options))
        return is_new

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Remove a subscription; return True if there was one."""
        removed = session.unsubscribe(topic_filter) and self._router.unsubscribe(topic_filter, session)
        self.metrics.subscriptions -= removed
        return removed

    def send_retained(self, session: Session, topic_filter: str, options: int) -> None:
        """Send the retained messages that match a new subscription."""
        identifier = options >> IDENTIFIER_SHIFT
        for message in self._retained.match(topic_filter, self.shared_state.now):
            if session.connection is None:
                return
            qos = min(message.qos, options & QOS)
            session.send_or_queue_retained(SharedMessage(message), qos, (identifier,) if identifier else ())

    # -- sessions and wills -------------------------------------------------------------------------------------------

    def _session_due(self, session: Session, now: float) -> float | None:
        """Check a session for the timing wheel: publish its will if that is due, end it if it has expired."""
        if session.connection is not None:
            return None
        if self.shared_state.store.shared is not None:
            self._release_when_stored(session)
            return None
        return None if self._end_due(session, now) else session.next_deadline()

    def _end_due(self, session: Session, now: float) -> bool:
        """Publish the will of a session if that is due, and end it if it has expired; return whether it has."""
        will = session.will
        if will is not None and will.due_at is not None and will.due_at <= now:
            session.will = None
            session.save()
            self.wills.publish(session.client_id, will)
        # [MQTT-4.1.0-2]
        if session.expires_at is None or session.expires_at > now:
            return False
        self._end_session(session)
        return True

    def _restore(self, stored: StoredSession, messages: dict[int, SharedMessage], now: float) -> Session:
        session = Session(stored.client_id, stored.principal, self.shared_state, self._session_due)
        session.restore(stored, messages, now)
        self.sessions[stored.client_id] = session
        self.metrics.sessions += 1
        for topic_filter, options in session.subscriptions.items():
            self._router.subscribe(topic_filter, session, options)
        self.metrics.subscriptions += len(session.subscriptions)
        return session

    def _release_when_stored(self, session: Session) -> None:
        """Let a session without a connection leave memory as soon as all of it is in the store, which is shared."""
        self.shared_state.store.barrier(partial(self._release, session))

    def _release(self, session: Session) -> None:
        client_id = session.client_id
        if self.sessions.get(client_id) is not session or session.connection is not None:
            return  # its client is back, or it was removed
        if not session.is_settled():
            self.wheel.schedule(session, self.shared_state.now + RELEASE_SECONDS)
            return
        store = self.shared_state.store
        assert store.shared is not None, "sessions stay in memory otherwise"
        self._remove(session)
        session.unload()
        store.shared.release_session(client_id)
        for on_released in self._awaiting_release.pop(client_id, ()):
            store.barrier(on_released)

    def _schedule(self, session: Session) -> None:
        deadline = session.next_deadline()
        if deadline is not None:
            self.wheel.schedule(session, deadline)

    def _end_session(self, session: Session) -> None:
        """End a session for good. A will that was still waiting is due now (MQTT 5.0, 3.1.3.2.2)."""
        # [3.1.1: MQTT-3.1.2-7]: subscriptions go with it, retained messages do not.
        self._remove(session)
        will = session.will
        session.end()
        if will is not None:
            self.wills.publish(session.client_id, will)
        for on_released in self._awaiting_release.pop(session.client_id, ()):
            self.shared_state.store.barrier(on_released)

    def _remove(self, session: Session) -> None:
        """Remove a session from everything that finds it."""
        del self.sessions[session.client_id]
        self.metrics.sessions = len(self.sessions)
        self.wheel.cancel(session)
        for topic_filter in session.subscriptions:
            self._router.unsubscribe(topic_filter, session)
        self.metrics.subscriptions -= len(session.subscriptions)


def _can_send_now(session: Session) -> bool:
    return session.write is not None and session.queue is None and session.send_quota > 0


def _is_connected(session: Session) -> bool:
    return session.connection is not None
