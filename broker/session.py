"""The state that outlives a connection: subscriptions, will, expiry, inbound QoS 2, and (in `outbound`) messages sent.

Laws
1. A session exists from an accepted CONNECT to the end of its expiry interval; its connections come and go.
2. A durable session (one that may outlive its connection) is in the store, row by row, as it changes. One that ends
   with its connection never is. Which of both it is, is decided at its start.
3. The session decides nothing about others: routing, wills and take-over are the broker's.

An idle session takes about 1 KiB, its subscription included.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.connection_protocols import SessionConnection
from broker.events import LOST, MOVED
from broker.inflight import ABANDONED, FORGET_DUE, POSTPONED, PUBACK_DUE, PUBCOMP_DUE, PUBREC_DUE, Inflight
from broker.outbound import Outbound
from broker.protocol.topic_filters import split_shared
from broker.reception import PACKET_ID_BITS, Reception
from broker.router import (
    IDENTIFIER_SHIFT,
    NO_LOCAL,
    QOS,
    RETAIN_AS_PUBLISHED,
    RETAIN_HANDLING_SHIFT,
    has_wildcard,
    pack_options,
)
from broker.session_queue import MessageCopy, SessionQueue, SharedMessage
from broker.settings import NEVER_EXPIRES
from broker.shared_state import SharedState
from broker.store import StoredOutbound, StoredSession, StoredSubscription, StoredWill
from broker.topic_aliases import OutboundAliases


class Session(Outbound):
    """The session of one client identifier, over all its connections. Runs on the *loop*."""

    __slots__ = ("expires_at", "expiry_interval", "number", "on_due", "principal", "received", "slot", "will")

    def __init__(
        self,
        client_id: str,
        principal: str,
        shared_state: SharedState,
        on_due: Callable[[Session, float], float | None],
    ) -> None:
        super().__init__(client_id, shared_state)
        self.principal = principal
        self.number = 0
        """A number that no other session ever has, if this one is durable. See `identifier`."""
        self.on_due = on_due
        """The broker's handler of a deadline of this session."""
        self.expiry_interval = 0
        """Seconds it outlives its connection; 0xFFFFFFFF: for ever."""
        self.expires_at: float | None = None
        """Server time; None while connected, or never."""
        self.will: StoredWill | None = None
        self.received: dict[int, Reception | None] | None = None
        """Inbound QoS 2 messages before PUBREL, by packet identifier. None: the content is stored."""
        self.slot = -1
        """Place in the timing wheel."""

    # -- connections --------------------------------------------------------------------------------------------------

    def attach(
        self, connection: SessionConnection, packet_limit: int, receive_maximum: int, alias_maximum: int = 0
    ) -> None:
        """Join a connection that has authenticated as this session's client. Nothing is sent before `start`."""
        self.connection = connection
        self.version = connection.version
        self.aliases = OutboundAliases(alias_maximum) if alias_maximum else None
        self.packet_limit = packet_limit
        # [MQTT-4.9.0-1]
        shared_state = self.shared_state
        self.window = min(receive_maximum, shared_state.settings.max_inflight, shared_state.packet_ids.window)
        self.expires_at = None

    def start_expiry(self, now: float) -> None:
        """Start the expiry interval: the connection has ended (`detach` has been called), and the session stays."""
        if self.expiry_interval != NEVER_EXPIRES:
            self.expires_at = now + self.expiry_interval
        self.save()

    def next_deadline(self) -> float | None:
        """Return the time at which a session without a connection is due: its will, or its expiry."""
        due_at = self.will.due_at if self.will is not None else None
        if due_at is None or (self.expires_at is not None and self.expires_at < due_at):
            return self.expires_at
        return due_at

    def due(self, now: float) -> float | None:
        return self.on_due(self, now)

    def oldest_sent_at(self) -> float | None:
        """Return the time at which the oldest unacknowledged message was sent on this connection; None without one."""
        if self.resumed:
            for entry in self.inflight.values():
                if entry.phase < FORGET_DUE:
                    return entry.sent_at
        return None

    def compact(self) -> None:
        """Free the memory of an empty window: a dictionary keeps its size, and idle sessions would keep 18 KB each."""
        if not self.inflight:
            self.inflight = {}
            self.packet_of_handle = None

    def is_worn_out(self) -> bool:
        """Whether nothing is left but QoS 2 handshakes that the client never finishes, and too many of those."""
        return (
            len(self.inflight) > self.shared_state.packet_ids.most_abandoned
            and self.received is None
            and self.queue is None
            and all(entry.phase == ABANDONED for entry in self.inflight.values())
        )

    def past_pubrec(self) -> list[int]:
        """Return the handles past PUBREC, whose deliveries cannot be taken back."""
        return self._handles_in(PUBCOMP_DUE, FORGET_DUE)

    def awaiting_pubrec(self) -> list[int]:
        """Return the handles of QoS 2 deliveries whose PUBLISH has left, or may have left before a restart."""
        return self._handles_in(PUBREC_DUE, POSTPONED)

    def _handles_in(self, *phases: int) -> list[int]:
        if self.packet_of_handle is None:
            return []
        return [h for h, packet_id in self.packet_of_handle.items() if self.inflight[packet_id].phase in phases]

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, options: int) -> None:
        """Add or replace a subscription [MQTT-3.8.4-3] [3.1.1: MQTT-3.8.4-3]."""
        if topic_filter not in self.subscriptions and _is_wildcard(topic_filter):
            self.wildcards += 1
        self.subscriptions[topic_filter] = options
        self.last_topic = None
        if self.durable:
            self.shared_state.store.save_subscription(self.client_id, _stored(topic_filter, options))

    def unsubscribe(self, topic_filter: str) -> bool:
        """Remove a subscription; return False if there was none."""
        # [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-3] [3.1.1: MQTT-3.10.4-1] [3.1.1: MQTT-3.10.4-2]
        # [3.1.1: MQTT-3.10.4-3]: by its letters; inflight and queued messages go on.
        if self.subscriptions.pop(topic_filter, None) is None:
            return False
        self.last_topic = None
        if _is_wildcard(topic_filter):
            self.wildcards -= 1
        if self.durable:
            self.shared_state.store.delete_subscription(self.client_id, topic_filter)
        return True

    def granted(self, topic: str) -> int:
        """Return the highest QoS of the subscriptions to a topic, shared ones aside; -1 without any."""
        options = self.options_for(topic)
        return options & QOS if options >= 0 else -1

    # -- inbound QoS 2 ------------------------------------------------------------------------------------------------

    def has_received(self, packet_id: int) -> bool:
        """Whether a QoS 2 PUBLISH is a repetition, not to be routed again [MQTT-4.3.3-10]."""
        return self.received is not None and packet_id in self.received

    def receive(self, packet_id: int) -> Reception:
        """Store the packet identifier of an inbound QoS 2 message, unless an earlier run has done so."""
        if self.received is None:
            self.received = {}
        reception = self.received.get(packet_id)
        if reception is None:
            reception = self.received[packet_id] = Reception(self, packet_id)
            if self.durable:
                self.shared_state.store.save_received(self.client_id, packet_id)
        return reception

    def identifier(self, packet_id: int) -> int | None:
        """Return the number by which the embedder recognises an inbound QoS 2 message that is reported again.

        None for a session that ends with the process: its messages are never reported again.
        """
        return self.number << PACKET_ID_BITS | packet_id if self.durable else None

    def release_at_embedder(self, packet_id: int, done: Callable[[], None]) -> None:
        """Have the embedder forget an identifier as well, and call `done` when it has."""
        identifier = self.identifier(packet_id)
        if identifier is None:
            done()
        else:
            self.shared_state.events.released(self.client_id, [identifier], done)

    def release(self, packet_id: int) -> bool:
        """Free an identifier, after PUBREL or our refusal in PUBREC; return False if it was not in use."""
        if self.received is None or packet_id not in self.received:
            return False
        del self.received[packet_id]
        if not self.received:
            self.received = None
        if self.durable:
            self.shared_state.store.delete_received(self.client_id, packet_id)
        return True

    # -- the store ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Store the session's own facts, will included."""
        if self.durable:
            self.shared_state.store.save_session(
                StoredSession(
                    self.client_id,
                    self.principal,
                    self.expiry_interval,
                    self.expires_at,
                    will=self.will,
                    number=self.number,
                )
            )

    def restore(self, stored: StoredSession, messages: dict[int, SharedMessage], now: float) -> None:
        """Become a stored session. Rows that refer to nothing are removed from the store."""
        self.durable = True
        self.number = stored.number
        self.expiry_interval = stored.expiry_interval
        self.expires_at = stored.expires_at
        if stored.expires_at is None and stored.expiry_interval != NEVER_EXPIRES:
            # It was connected when the process ended: its interval starts now.
            self.expires_at = now + stored.expiry_interval
        self.will = stored.will
        if self.will is not None and self.will.due_at is None:
            self.will.due_at = now + min(self.will.delay, self.expiry_interval)
        for subscription in stored.subscriptions:
            self.subscriptions[subscription.topic_filter] = pack_options(
                subscription.qos,
                subscription.no_local,
                subscription.retain_as_published,
                subscription.retain_handling,
                subscription.subscription_identifier or 0,
            )
            self.wildcards += _is_wildcard(subscription.topic_filter)
        self.received = {
            packet_id: None if packet_id in stored.stored else Reception(self, packet_id)
            for packet_id in stored.received
        } or None
        for row in sorted(stored.outbound, key=lambda row: row.sequence):
            self.sequence = row.sequence
            self._restore_outbound(row, messages)

    def _restore_outbound(self, row: StoredOutbound, messages: dict[int, SharedMessage]) -> None:
        shared = messages.get(row.message_key) if row.message_key is not None else None
        copy: MessageCopy | None = None
        if shared is not None:
            shared.references += 1
            copy = MessageCopy(shared, row.qos, row.retain, row.subscription_identifiers, row.sequence)
            if not row.packet_id:
                if self.queue is None:
                    self.queue = SessionQueue(self.shared_state.metrics)
                self.queue.append(copy)
                return
        elif row.message_key is not None or not row.packet_id:
            # Its message was gone before the row was.
            self.shared_state.store.delete_outbound(self.client_id, row.sequence)
            return
        # It may have been sent before the process ended, so it goes out with DUP.
        phase = PUBACK_DUE if row.qos == 1 else PUBCOMP_DUE if row.released else PUBREC_DUE
        if row.handle is None and copy is None and phase == PUBREC_DUE:
            phase = ABANDONED  # only the identifier is left, which the client may remember
        self.inflight[row.packet_id] = Inflight(row.handle, phase, row.packet_id, 0.0, row.sequence, copy)
        if row.handle is not None and row.qos == 2:
            if self.packet_of_handle is None:
                self.packet_of_handle = {}
            self.packet_of_handle[row.handle] = row.packet_id

    def save_inflight(self) -> None:
        """Store what is in flight, in its order, for the broker at which the client comes back.

        Deliveries of QoS 1 included, whose rows are nobody's otherwise (`own_inflight`).
        """
        store = self.shared_state.store
        last = 0
        for entry in self.inflight.values():
            if entry.sequence <= last:
                if entry.sequence:
                    store.delete_outbound(self.client_id, entry.sequence)
                self.sequence += 1
                entry.sequence = self.sequence
                if entry.copy is not None:
                    entry.copy.sequence = entry.sequence
                store.save_outbound(self.client_id, entry.row())
            last = entry.sequence

    def own_inflight(self) -> None:
        """Delete the rows of QoS 1 deliveries: their client is back, and an acknowledgement costs no row."""
        for entry in self.inflight.values():
            if entry.phase == PUBACK_DUE and entry.handle is not None and entry.sequence:
                self.shared_state.store.delete_outbound(self.client_id, entry.sequence)
                entry.sequence = 0

    def is_settled(self) -> bool:
        """Whether the embedder owes no answer that would change what is stored of the session."""
        if any(entry.phase == FORGET_DUE for entry in self.inflight.values()):
            return False
        receptions = self.received.values() if self.received is not None else ()
        return all(reception is None or reception.acknowledge is None for reception in receptions)

    def unload(self) -> None:
        """Free what the session takes in memory; it stays in the store."""
        self._drop_references()
        past_pubrec = self.past_pubrec()  # known again wherever it is loaded
        self.durable = False
        self._clear()
        for handle in past_pubrec:
            self.shared_state.events.delivery_ended(self.client_id, handle, MOVED)

    def end(self) -> None:
        """End the session: deliveries past PUBREC are lost after all, and the store forgets everything of it."""
        past_pubrec = [e.handle for e in self.inflight.values() if e.phase == PUBCOMP_DUE and e.handle is not None]
        self._drop_references()
        if self.durable:
            self.shared_state.store.delete_session(self.client_id)
            if self.received is not None:
                identifiers = [self.number << PACKET_ID_BITS | packet_id for packet_id in self.received]
                self.shared_state.events.released(self.client_id, identifiers, lambda: None)
            self.durable = False
        self._clear()
        for handle in past_pubrec:
            self.shared_state.events.delivery_ended(self.client_id, handle, LOST)

    def _drop_references(self) -> None:
        """Need the stored messages of the session no longer."""
        for entry in self.inflight.values():
            if entry.copy is not None and entry.sequence:
                self.shared_state.drop_reference(entry.copy.shared)
        for copy in self.queue or ():
            if copy.sequence:
                self.shared_state.drop_reference(copy.shared)

    def _clear(self) -> None:
        self.inflight = {}
        self.packet_of_handle = None
        if self.queue is not None:
            self.queue.clear()
            self.queue = None
        self.received = None
        self.will = None


def _is_wildcard(topic_filter: str) -> bool:
    """Whether a topic may match the filter by more than its name; the session counts such filters."""
    return has_wildcard(topic_filter) and split_shared(topic_filter)[0] is None


def _stored(topic_filter: str, options: int) -> StoredSubscription:
    return StoredSubscription(
        topic_filter,
        options & QOS,
        bool(options & NO_LOCAL),
        bool(options & RETAIN_AS_PUBLISHED),
        options >> RETAIN_HANDLING_SHIFT & 3,
        options >> IDENTIFIER_SHIFT or None,
    )
