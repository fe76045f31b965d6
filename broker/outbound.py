"""The outbound half of a session: inflight window, packet identifiers, and both QoS flows towards the client.

Laws
1. Inflight belongs to the session, not to a connection or a call stack [MQTT-4.4.0-1]: when the client returns, what is
   unacknowledged goes out again under its identifier, in its order, with DUP_FLAG.
2. A delivery (a message with a `handle`, from `Broker.deliver`) is accepted or refused, at once, and never queued: the
   embedder keeps it until there is send quota. An ordinary message is queued (`session_queue`).
3. One switch, `write`: the transport's own method while a message may go out, None while not (no connection, CONNACK
   not sent, inflight not yet re-sent, socket full). The hot path asks nothing else.
4. Exactly once needs the disk: of a durable session, PUBLISH of QoS 2 leaves after its identifier is stored, and PUBREL
   after PUBREC is. QoS 1 never waits.
5. A new message gets a packet identifier of this run's range, so that what a client acknowledges late, of an earlier
   run, acknowledges nothing else (`packet_ids`).
6. An acknowledgement that comes twice, late or for nothing changes nothing: no outcome, no send quota. Clients
   that acknowledge by hand send them after every lost connection. It is counted, and answered where a packet has to be.

The life of a connection:

    attached ─CONNACK sent─▶ start ─embedder decided─▶ sending again ─▶ sending ◀─socket─▶ paused ─lost─▶ detached
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from struct import Struct

from broker.connection_protocols import SessionConnection
from broker.events import ACKNOWLEDGED, COMPLETED, LOST, UNHANDLED
from broker.forwarding import forwarded_properties, identifier_properties, render
from broker.inflight import (
    ABANDONED,
    BARRIER_DUE,
    FORGET_DUE,
    POSTPONED,
    PUBACK_DUE,
    PUBCOMP_DUE,
    PUBREC_DUE,
    Inflight,
)
from broker.message import Message
from broker.protocol.codec import encode, encode_publish, head_at_least_once
from broker.protocol.packets import V5, Pubrel, ReasonCode
from broker.router import IDENTIFIER_SHIFT, QOS, matching_options
from broker.session_queue import MessageCopy, SessionQueue, SharedMessage
from broker.shared_state import SharedState
from broker.topic_aliases import OutboundAliases
from broker.unhandled import unhandled

DUP_FLAG = 0x08
_PACKET_ID = Struct(">H").pack
_UNREACHABLE_QUOTA = 65_536  # more than any window has


class Outbound:
    """Messages of one session on their way to its client, over all its connections. Runs on the *loop*."""

    __slots__ = (
        "aliases",
        "barriers",
        "client_id",
        "connection",
        "corked",
        "durable",
        "inflight",
        "last_options",
        "last_topic",
        "last_topic_bytes",
        "next_packet_id",
        "packet_limit",
        "packet_of_handle",
        "queue",
        "resend",
        "resume_at_quota",
        "resumed",
        "send_quota",
        "sequence",
        "shared_state",
        "spare",
        "subscriptions",
        "version",
        "wanted_quota",
        "wildcards",
        "window",
        "write",
    )

    def __init__(self, client_id: str, shared_state: SharedState) -> None:
        self.client_id = client_id
        self.shared_state = shared_state
        self.durable = False
        """The session outlives its connection, and is therefore in the store."""
        self.subscriptions: dict[str, int] = {}  # filter to options, as in `router`
        self.wildcards = 0  # how many of them have wildcards and are not shared
        self.last_topic: str | None = None
        """The topic of the last delivery, which is nearly always that of the next; None when subscriptions change."""
        self.last_topic_bytes = b""
        self.last_options = -1

        self.inflight: dict[int, Inflight] = {}
        """Messages on the wire, by packet identifier, in the order of sending."""
        self.spare: Inflight | None = None
        """The entry of an acknowledged delivery, to be used for the next one."""
        self.packet_of_handle: dict[int, int] | None = None
        """Packet identifiers of QoS 2 deliveries, which `forget` names by handle."""
        self.queue: SessionQueue | None = None
        self.sequence = 0  # last row number in the store
        self.next_packet_id = shared_state.packet_ids.first

        self.connection: SessionConnection | None = None
        self.version = 0
        self.packet_limit = 0
        self.write: Callable[[bytes], None] | None = None
        self.corked: list[bytes] | None = None
        """Packets between `cork` and `uncork`, which leave with one system call."""
        self.window = 0
        self.send_quota = 0  # messages of QoS 1 and 2 that may still go out (MQTT 5.0, 4.9)
        self.aliases: OutboundAliases | None = None
        """Topic aliases of this connection; None if its client takes none."""
        self.barriers = 0
        """PUBLISHes of QoS 2 that wait for the store; nothing of a lower QoS may overtake them."""
        self.resumed = False
        """The embedder has decided on the inflight deliveries of this connection; from here on they can be lost."""
        self.resend: list[tuple[Inflight, Message | None]] | None = None
        """Still to be sent again, last first; None when that is over."""
        self.wanted_quota = 0
        """Call `ready` when there is so much send quota; 0: nobody waits for it."""
        self.resume_at_quota = _UNREACHABLE_QUOTA
        """An acknowledgement that leaves so much send quota calls `resume_sending`."""

    # -- deliveries ---------------------------------------------------------------------------------------------------

    def deliver(self, message: Message, handle: int) -> bool:  # Hot path.
        """Send a message under a handle, or return False and keep nothing."""
        write = self.write
        if write is None:
            self._ask_for_ready()
            return False
        topic = message.topic
        if topic is not self.last_topic and not self._look_up_topic(topic):
            return False
        options = self.last_options
        # The lower of the two QoS [MQTT-3.8.4-8].
        qos = message.qos
        if options & 3 < qos:
            qos = options & 3
        body = message.body
        shared_state = self.shared_state
        encoded_topic = self.last_topic_bytes
        properties = None
        if self.version == V5:
            properties = forwarded_properties(body, shared_state.clock)
            if options > 0xFF:
                properties += self._identifiers(topic)
            if self.aliases is not None and qos < 2 and not self.barriers and self.send_quota > 0:
                encoded_topic, properties = self.aliases.shorten(topic, encoded_topic, properties)
        if qos == 1:
            send_quota = self.send_quota
            # [MQTT-3.3.4-9] [MQTT-4.9.0-2]
            inflight = self.inflight
            if send_quota <= 0 or self.barriers or len(inflight) >= shared_state.packet_ids.most_inflight:
                self._ask_for_ready()
                return False
            packet_id = self.next_packet_id
            packet_ids = shared_state.packet_ids
            # [MQTT-2.2.1-4] [MQTT-4.3.2-1] [3.1.1: MQTT-2.3.1-4]
            while packet_id in inflight:
                packet_id = packet_id + 1 if packet_id < packet_ids.last else packet_ids.first
            if properties is None:
                length = len(encoded_topic)
                head = body.heads.get(length)
                if head is None:
                    head = body.heads[length] = head_at_least_once(length, len(body.payload))
                data = b"".join((head, encoded_topic, _PACKET_ID(packet_id), body.payload))
            else:
                data = encode_publish(encoded_topic, body.payload, 1, packet_id, 0, properties)
            size = len(data)
            if size > self.packet_limit:
                return self._too_large(topic, handle)
            self.next_packet_id = packet_id + 1 if packet_id < packet_ids.last else packet_ids.first
            entry = self.spare
            if entry is None:
                inflight[packet_id] = Inflight(handle, PUBACK_DUE, packet_id, shared_state.now, 0, None)
            else:
                self.spare = None
                entry.handle = handle
                entry.packet_id = packet_id
                entry.sent_at = shared_state.now
                inflight[packet_id] = entry
            self.send_quota = send_quota - 1
            write(data)
            metrics = shared_state.metrics
            metrics.publishes_out += 1
            metrics.bytes_out += size
            return True
        if qos == 0:
            if self.barriers:
                self._ask_for_ready()
                return False
            data = encode_publish(encoded_topic, body.payload, 0, 0, 0, properties)
            if len(data) > self.packet_limit:
                return self._too_large(topic, handle)
            write(data)
            self._count(data)
            return True
        return self._deliver_exactly_once(message, handle, properties)

    def _deliver_exactly_once(self, message: Message, handle: int, properties: bytes | None) -> bool:
        if self.packet_of_handle is None:
            self.packet_of_handle = {}
        known = self.packet_of_handle.get(handle)
        if known is not None and self.inflight[known].phase != POSTPONED:
            return True  # the client has answered PUBREC meanwhile: it needs nothing but the rest of the handshake
        if self.send_quota <= 0 or (known is None and not self._has_send_quota()):
            self._ask_for_ready()
            return False
        packet_id = known if known is not None else self._free_packet_id()
        flags = DUP_FLAG if known is not None else 0
        topic = message.topic
        encoded_topic = self.last_topic_bytes
        if properties is not None and self.aliases is not None:
            encoded_topic, properties = self.aliases.shorten(topic, encoded_topic, properties, may_define=False)
        data = encode_publish(encoded_topic, message.body.payload, 2, packet_id, flags, properties)
        if len(data) > self.packet_limit:
            return self._too_large(topic, handle)
        if known is not None:
            self._repeat(self.inflight[known], data)
            return True
        self.packet_of_handle[handle] = packet_id
        sequence = self._next_sequence() if self.durable else 0
        self._send_inflight(Inflight(handle, BARRIER_DUE, packet_id, self.shared_state.now, sequence, None), data)
        return True

    def _repeat(self, entry: Inflight, data: bytes) -> None:
        """Send a postponed delivery under the identifier that the client may remember."""
        connection = self.connection
        assert connection is not None, "sending is not paused"
        del self.inflight[entry.packet_id]
        self.inflight[entry.packet_id] = entry  # in the order of sending
        entry.phase = PUBREC_DUE
        entry.sent_at = self.shared_state.now
        self.send_quota -= 1
        if self.barriers:  # its row is stored, and it must not overtake one whose row is not
            self.barriers += 1
            self.shared_state.store.barrier(partial(self._barrier_reached, entry, connection, data))
        else:
            self._send_when_inflight(entry, connection, data)

    def cork(self) -> None:
        """Collect deliveries until `uncork`, which must follow in the same call stack."""
        if self.write is not None:
            self.corked = []
            self.write = self.corked.append

    def uncork(self) -> None:
        """Send the deliveries collected since `cork` with one system call."""
        corked, self.corked = self.corked, None
        connection = self.connection
        if corked is None or connection is None:
            return
        self.write = connection.send
        if corked:
            connection.send_together(corked)

    def _look_up_topic(self, topic: str) -> bool:
        """Find the QoS and options of deliveries to this topic; return False without a subscription."""
        options = self.subscriptions.get(topic, -1)
        if options < 0 or self.wildcards:
            options = self.options_for(topic)
            if options < 0:
                return False
        self.last_topic = topic
        self.last_topic_bytes = topic.encode()
        self.last_options = options
        return True

    def _count(self, data: bytes) -> None:
        metrics = self.shared_state.metrics
        metrics.publishes_out += 1
        metrics.bytes_out += len(data)

    def options_for(self, topic: str) -> int:
        """Return the highest QoS of the subscriptions to a topic; -1 without any.

        Above 0xFF there is something if any of them has an identifier.
        """
        every = matching_options(self.subscriptions, topic)
        return max(options & QOS for options in every) | max(every) & ~0xFF if every else -1

    def _identifiers(self, topic: str) -> bytes:
        every = matching_options(self.subscriptions, topic)
        return identifier_properties(options >> IDENTIFIER_SHIFT for options in every if options >> IDENTIFIER_SHIFT)

    def forget(self, handle: int) -> None:
        """Free the identifier and row of a QoS 2 delivery that the embedder has stored, or does not know any more."""
        packets = self.packet_of_handle
        packet_id = packets.pop(handle, None) if packets is not None else None
        if packet_id is None:
            return
        entry = self.inflight[packet_id]
        if entry.phase == FORGET_DUE:
            self._remove(entry)
            if self.wanted_quota or self.queue is not None:
                self.resume_sending()  # a waiting message may have waited for this identifier
        elif _can_be_lost(entry):
            self._drop(entry)
        else:
            # The handshake goes on, for the client's sake; its end is not reported.
            entry.handle = None

    def _too_large(self, topic: str, handle: int) -> bool:
        # As if it had been sent [MQTT-3.1.2-25]; the embedder is told that it was not.
        if self.aliases is not None:
            self.aliases.forget(topic)
        self.shared_state.metrics.dropped_too_large += 1
        self.shared_state.events.delivery_ended(self.client_id, handle, ReasonCode.PACKET_TOO_LARGE)
        return True

    def _ask_for_ready(self) -> None:
        # Without a connection there is no need: `ready` is called after CONNECT.
        if self.resumed and not self.wanted_quota:
            self.shared_state.metrics.out_of_packet_ids += self.send_quota > 0 and not self._has_send_quota()
            self.wanted_quota = 1 if self.barriers else (self.window + 1) // 2
            self.resume_at_quota = min(self.resume_at_quota, self.wanted_quota)

    # -- acknowledgements ---------------------------------------------------------------------------------------------

    def puback(self, packet_id: int, reason_code: int) -> None:  # Hot path.
        """Process a PUBACK: until then the message is unacknowledged [MQTT-4.3.2-3] [3.1.1: MQTT-4.3.2-1]."""
        inflight = self.inflight
        entry = inflight.get(packet_id)
        shared_state = self.shared_state
        if entry is None or entry.phase != PUBACK_DUE:
            shared_state.metrics.unsolicited_acknowledgements += 1
            return
        del inflight[packet_id]
        if self.resend is None or not self._waits_for_resend(entry):
            self.send_quota += 1
        shared_state.metrics.acknowledged += 1
        handle = entry.handle
        if handle is not None:
            self.spare = entry  # nothing else refers to it: resending is over before sending resumes
            shared_state.events.delivery_ended(
                self.client_id, handle, reason_code if reason_code >= 0x80 else ACKNOWLEDGED
            )
        elif entry.sequence:
            self._delete_row(entry)
        if self.send_quota >= self.resume_at_quota:
            self.resume_sending()

    def pubrec(self, packet_id: int, reason_code: int) -> None:
        """Process a PUBREC, a refusal included."""
        entry = self.inflight.get(packet_id)
        metrics = self.shared_state.metrics
        if entry is None or entry.phase in (PUBACK_DUE, BARRIER_DUE, FORGET_DUE):
            # Of an earlier message under this identifier. 3.1.1 knows no such reason; its client gets rid of the
            # identifier all the same.
            metrics.unsolicited_acknowledgements += 1
            self._send_pubrel(packet_id, ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)
        # [MQTT-4.4.0-2]
        elif entry.phase == PUBCOMP_DUE:
            metrics.unsolicited_acknowledgements += 1
            if reason_code < 0x80:  # else it takes back its first PUBREC, and PUBREL is on its way
                self._send_pubrel_when_stored(entry)
        elif reason_code >= 0x80:
            # Refused: no PUBREL, the identifier is free (MQTT 5.0, 4.3.3).
            self._end_handshake(entry, reason_code)
        elif entry.phase in (PUBREC_DUE, POSTPONED):
            # [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-6] [3.1.1: MQTT-4.3.3-1]: from here on PUBREL is sent again,
            # PUBLISH never.
            if self._waits_for_resend(entry):
                self.send_quota -= 1  # PUBCOMP gives it back
            entry.phase = PUBCOMP_DUE
            if entry.sequence:
                self.shared_state.store.save_outbound(self.client_id, entry.row())
            self._send_pubrel_when_stored(entry)
        else:
            # ABANDONED: the client drops the message, and PUBCOMP frees the identifier.
            self._send_pubrel(packet_id, ReasonCode.SUCCESS)

    def pubcomp(self, packet_id: int) -> None:
        """Process a PUBCOMP, whatever its reason code: 0x92 says that the client had completed it earlier."""
        entry = self.inflight.get(packet_id)
        if entry is not None and entry.phase in (PUBCOMP_DUE, ABANDONED):
            self._end_handshake(entry, COMPLETED)
        else:
            self.shared_state.metrics.unsolicited_acknowledgements += 1

    def _end_handshake(self, entry: Inflight, outcome: int) -> None:
        """Report the outcome of a QoS 2 handshake, and free its place in the window."""
        handle = entry.handle
        if entry.phase != ABANDONED:
            self.send_quota += not self._waits_for_resend(entry)
            self.shared_state.metrics.acknowledged += 1
        if handle is not None and outcome == COMPLETED:
            entry.phase = FORGET_DUE
        else:
            if handle is not None and self.packet_of_handle is not None:
                del self.packet_of_handle[handle]
            self._remove(entry)
        if handle is not None:
            self.shared_state.events.delivery_ended(self.client_id, handle, outcome)
        if self.send_quota >= self.resume_at_quota:
            self.resume_sending()

    def _send_pubrel_when_stored(self, entry: Inflight) -> None:
        """Send PUBREL when the PUBREC that has come is on disk."""
        connection = self.connection
        if entry.sequence and connection is not None:
            self.shared_state.store.barrier(partial(self._pubrec_stored, entry.packet_id, connection))
        else:
            self._send_pubrel(entry.packet_id, ReasonCode.SUCCESS)

    def _pubrec_stored(self, packet_id: int, connection: SessionConnection) -> None:
        """Send PUBREL [MQTT-4.3.3-5], in the order of the PUBRECs [MQTT-4.6.0-4] [3.1.1: MQTT-4.6.0-4]."""
        if self.connection is connection:
            self._send_pubrel(packet_id, ReasonCode.SUCCESS)

    def _send_pubrel(self, packet_id: int, reason_code: int) -> None:
        if self.connection is not None:
            # [MQTT-3.6.2-1] [MQTT-3.3.4-10] [MQTT-4.9.0-3]: never held back.
            self.connection.reply(encode(Pubrel(packet_id, reason_code), self.version))

    def _waits_for_resend(self, entry: Inflight) -> bool:
        """Whether this connection has not sent the message: its acknowledgement gives no send quota back."""
        if entry.phase == POSTPONED:
            return True
        if self.resend is None or entry.phase >= PUBCOMP_DUE:  # PUBREL took a place of the window
            return False
        return any(entry is waiting for waiting, _ in self.resend)

    # -- ordinary messages --------------------------------------------------------------------------------------------

    def send_or_queue(self, shared: SharedMessage, qos: int, retain: bool, identifiers: tuple[int, ...]) -> None:
        """Send an ordinary message now, or queue it, or drop it by a named rule. Hot path of ordinary fan-out."""
        if not qos and self.connection is None:
            self.shared_state.metrics.dropped_offline += 1
            return
        copy = MessageCopy(shared, qos, retain, identifiers, 0)
        if self._may_send(qos):
            self._send(copy)
            return
        shared_state = self.shared_state
        settings = shared_state.settings
        queue = self.queue
        if queue is None:
            queue = self.queue = SessionQueue(shared_state.metrics)
        if not queue.has_room(shared, settings):
            for expired in queue.remove_expired(shared_state.now):
                shared_state.metrics.dropped_expired += 1
                self._discard(expired)
            if not queue.has_room(shared, settings):
                shared_state.metrics.dropped_queue_full += 1
                if not queue:
                    self.queue = None
                return
        self._append(copy)

    def send_or_queue_retained(self, shared: SharedMessage, qos: int, identifiers: tuple[int, ...]) -> None:
        """Send or queue a retained message for a new subscription, with RETAIN 1 [3.1.1: MQTT-3.3.1-8]."""
        copy = MessageCopy(shared, qos, True, identifiers, 0)
        settings = self.shared_state.settings
        if self._may_send(qos):
            self._send(copy)
        elif self.queue is None or len(self.queue) < settings.max_queued_messages + settings.max_retained_messages:
            self._append(copy)
        else:
            self.shared_state.metrics.dropped_queue_full += 1

    def _may_send(self, qos: int) -> bool:
        free = self.write is not None and self.queue is None and (not qos or self._has_send_quota())
        return free and (qos == 2 or not self.barriers)

    def _append(self, copy: MessageCopy) -> None:
        if self.queue is None:
            self.queue = SessionQueue(self.shared_state.metrics)
        # [3.1.1: MQTT-3.1.2-5]
        if copy.qos and self.durable:
            self._add_reference(copy)
            self.shared_state.store.save_outbound(self.client_id, copy.row(0, False))
        self.queue.append(copy)
        self.resume_at_quota = 1

    def _send(self, copy: MessageCopy) -> None:
        """Send a copy for which there are send quota and a socket that takes bytes."""
        shared_state = self.shared_state
        packet_id = self._free_packet_id() if copy.qos else 0
        aliases = self.aliases
        data = render(copy, packet_id, 0, self.version, shared_state.clock, aliases)
        if len(data) > self.packet_limit:
            # Discarded as if it had been acknowledged [MQTT-3.1.2-25].
            if aliases is not None:
                aliases.forget(copy.shared.message.topic)
            shared_state.metrics.dropped_too_large += 1
            self._discard(copy)
        elif copy.qos:
            if self.durable and not copy.sequence:
                self._add_reference(copy)
            phase = PUBACK_DUE if copy.qos == 1 else BARRIER_DUE
            self._send_inflight(Inflight(None, phase, packet_id, shared_state.now, copy.sequence, copy), data)
        elif self.write is not None:
            self.write(data)
            self._count(data)

    def _send_inflight(self, entry: Inflight, data: bytes) -> None:
        """Add an entry to the window, store it if the session is stored, and send it: QoS 2 only when it is on disk."""
        self.inflight[entry.packet_id] = entry
        self.send_quota -= 1
        connection = self.connection
        assert connection is not None, "sending is not paused"
        if entry.sequence:
            store = self.shared_state.store
            store.save_outbound(self.client_id, entry.row())
            if entry.phase == BARRIER_DUE:
                self.barriers += 1
                store.barrier(partial(self._barrier_reached, entry, connection, data))
                return
        self._send_when_inflight(entry, connection, data)

    def _barrier_reached(self, entry: Inflight, connection: SessionConnection, data: bytes) -> None:
        if self.connection is not connection:
            return
        self._send_when_inflight(entry, connection, data)
        self.barriers -= 1
        if not self.barriers and (self.wanted_quota or self.queue is not None):
            self.resume_sending()

    def _send_when_inflight(self, entry: Inflight, connection: SessionConnection, data: bytes) -> None:
        if self.connection is not connection or self.inflight.get(entry.packet_id) is not entry:
            return  # another connection has been given the entry meanwhile, or the session has ended
        if entry.phase >= PUBCOMP_DUE:
            return  # a repetition that waited for others: the client has answered the first one meanwhile
        if entry.phase == BARRIER_DUE:
            entry.phase = PUBREC_DUE
        (self.write or connection.send)(data)  # in its place among corked packets
        self._count(data)

    # -- flow control -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start sending: CONNACK has left. Asks the embedder first which inflight deliveries are still to be sent."""
        connection = self.connection
        assert connection is not None, "started by its connection"
        ask = partial(self._ask_embedder_to_resume, connection)
        # A connection may have ended before an identifier was on disk: no PUBLISH leaves before it is.
        unstored = any(entry.phase == BARRIER_DUE and entry.sequence for entry in self.inflight.values())
        self.shared_state.store.barrier(ask) if unstored else ask()

    def _ask_embedder_to_resume(self, connection: SessionConnection) -> None:
        if self.connection is not connection:
            return
        unacknowledged = [e for e in self.inflight.values() if e.handle is not None and _can_be_lost(e)]
        if unacknowledged:
            handles = [entry.handle for entry in unacknowledged if entry.handle is not None]
            self.shared_state.events.resume(
                self.client_id, handles, partial(self._resume_decided, connection, unacknowledged)
            )
        else:
            self._resume_decided(connection, unacknowledged, {})

    def _resume_decided(
        self, connection: SessionConnection, unacknowledged: list[Inflight], messages: Mapping[int, Message | None]
    ) -> None:
        if self.connection is not connection:
            for handle, message in messages.items():
                if message is not None:
                    self.shared_state.events.delivery_ended(self.client_id, handle, LOST)
            return
        if self.resumed:
            return
        for entry in unacknowledged:
            # The client may have acknowledged it meanwhile, or answered PUBREC.
            if self.inflight.get(entry.packet_id) is not entry or not _can_be_lost(entry):
                continue
            if entry.handle is None or messages.get(entry.handle) is None:
                self._drop(entry, postponed=entry.handle in messages)
            elif entry.phase == POSTPONED:
                entry.phase = PUBREC_DUE
        self.resend = []
        # [MQTT-4.9.0-1]
        self.send_quota = self.window
        for entry in self.inflight.values():
            entry.sent_at = self.shared_state.now
            if entry.phase == PUBCOMP_DUE:
                # PUBREL is never held back by the receive maximum [MQTT-3.3.4-9].
                self._send_pubrel_when_stored(entry)
                self.send_quota -= 1
            elif entry.phase < PUBCOMP_DUE:
                self.resend.append((entry, messages[entry.handle] if entry.handle is not None else None))
        self.resend.reverse()
        self.resumed = True
        self.wanted_quota = 1
        self.resume_sending()

    def resume_sending(self) -> None:
        """Go on sending, when send quota or the socket has become free: first again, then the queue, then `ready`."""
        connection = self.connection
        if connection is None or connection.paused or not self.resumed or self.shared_state.draining:
            return
        if self.resend is not None:
            self.resume_at_quota = 1
            self._send_again(connection, self.resend)
            if self.resend or connection.paused:
                return
            self.resend = None
        self.write = connection.send
        is_open = self._send_queued()
        wanted = self.wanted_quota
        is_open = is_open and self._has_send_quota()
        if wanted and self.send_quota >= wanted and is_open and self.subscriptions and not self.barriers:
            self.wanted_quota = 0
            self.resume_at_quota = 1 if self.queue is not None else _UNREACHABLE_QUOTA
            self.shared_state.events.ready(self.client_id, self.send_quota)
        else:
            self.resume_at_quota = 1 if self.queue is not None else wanted or _UNREACHABLE_QUOTA

    def pause_sending(self) -> None:
        """Send nothing more until `resume_sending`: the socket is full, or the broker drains."""
        self.write = None

    def subscriptions_changed(self) -> None:
        """Call `ready` as soon as there is any send quota, because subscriptions have changed."""
        self.wanted_quota = 1
        self.resume_sending()

    def detach(self, reason: str) -> None:
        """Forget the connection, which has ended, and report every delivery as lost that can still be lost."""
        not_handled = unhandled(self, reason)
        self.connection = None
        self.write = None
        self.resend = None
        self.barriers = 0
        self.wanted_quota = 0
        self.resume_at_quota = _UNREACHABLE_QUOTA
        if self.queue is not None:
            self.shared_state.metrics.dropped_offline += len(self.queue.remove_qos_0())
            if not self.queue:
                self.queue = None
        if not self.resumed:
            return  # this connection was given none of them, so none is lost again
        self.resumed = False
        delivery_ended = self.shared_state.events.delivery_ended
        for entry in list(self.inflight.values()):
            if entry.handle is not None and entry.phase < PUBCOMP_DUE:
                delivery_ended(self.client_id, entry.handle, UNHANDLED if entry in not_handled else LOST)

    def _send_again(self, connection: SessionConnection, resend: list[tuple[Inflight, Message | None]]) -> None:
        """Send inflight messages again, in their order [MQTT-4.6.0-1] [3.1.1: MQTT-4.6.0-1] and under their identifiers
        [MQTT-4.4.0-1] [3.1.1: MQTT-4.4.0-1]."""
        shared_state = self.shared_state
        while resend and self.send_quota > 0 and not connection.paused:
            entry, message = resend.pop()
            if self.inflight.get(entry.packet_id) is not entry or entry.phase >= PUBCOMP_DUE:
                continue  # acknowledged while it waited here
            if entry.phase == BARRIER_DUE and entry.copy is not None and entry.copy.has_expired(shared_state.now):
                # Not one byte of it has left [MQTT-3.3.2-5]. What has left does not expire [MQTT-4.3.3-7].
                shared_state.metrics.dropped_expired += 1
                self._drop(entry)
                continue
            # Never sent before, because its barrier was not reached: a first attempt has DUP_FLAG 0 [MQTT-3.3.1-1].
            # [3.1.1: MQTT-3.3.1-1]
            flags = 0 if entry.phase == BARRIER_DUE else DUP_FLAG
            if message is not None:
                qos = 1 if entry.phase == PUBACK_DUE else 2
                properties = None
                if self.version == V5:
                    properties = forwarded_properties(message.body, shared_state.clock)
                    properties += self._identifiers(message.topic)
                encoded_topic = message.topic.encode()
                data = encode_publish(encoded_topic, message.body.payload, qos, entry.packet_id, flags, properties)
            else:
                assert entry.copy is not None, "a delivery without a message was dropped"
                data = render(entry.copy, entry.packet_id, flags, self.version, shared_state.clock)
            if len(data) > self.packet_limit:
                handle = entry.handle
                self._drop(entry)
                if handle is not None and message is not None:
                    self._too_large(message.topic, handle)
                continue
            if entry.phase == BARRIER_DUE:
                entry.phase = PUBREC_DUE  # `start` has waited for a later barrier than this entry's own
            self.send_quota -= 1
            connection.send(data)
            self._count(data)

    def _send_queued(self) -> bool:
        """Send queued messages; return False if the socket has filled up by it."""
        queue = self.queue
        if queue is None:
            return True
        shared_state = self.shared_state
        while queue and self.write is not None:
            copy = queue.first()
            if (copy.qos and not self._has_send_quota()) or (copy.qos < 2 and self.barriers):
                break
            queue.pop_first()
            if copy.has_expired(shared_state.now):
                # [MQTT-3.3.2-5]
                shared_state.metrics.dropped_expired += 1
                self._discard(copy)
            else:
                self._send(copy)
        if not queue:
            self.queue = None
        return self.write is not None

    # -- entries, rows and bytes --------------------------------------------------------------------------------------

    def _has_send_quota(self) -> bool:
        """Whether one more message of QoS 1 or 2 may go out: there are send quota and a packet identifier.

        Many entries that have an identifier take no send quota.
        """
        return self.send_quota > 0 and len(self.inflight) < self.shared_state.packet_ids.most_inflight

    def _free_packet_id(self) -> int:
        """Return a packet identifier that no entry uses [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1].

        `_has_send_quota` says whether there is one.
        """
        packet_id, self.next_packet_id = self.shared_state.packet_ids.find_free(self.next_packet_id, self.inflight)
        return packet_id

    def _next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def _add_reference(self, copy: MessageCopy) -> None:
        self.shared_state.add_reference(copy.shared)
        copy.sequence = self._next_sequence()

    def _discard(self, copy: MessageCopy) -> None:
        """Drop a copy that is not inflight."""
        if copy.sequence:
            self.shared_state.store.delete_outbound(self.client_id, copy.sequence)
            self.shared_state.drop_reference(copy.shared)

    def _drop(self, entry: Inflight, postponed: bool = False) -> None:
        """Take an entry out of the window that is not to be sent again, or not now.

        If it was sent before, the client may know the identifier. That stays reserved, over a crash too, or the client
        would take another message under it for a repetition [MQTT-4.3.3-10]. A postponed entry keeps it for itself.
        """
        if postponed and entry.phase in (PUBREC_DUE, POSTPONED):
            entry.phase = POSTPONED
            return
        if entry.handle is not None and self.packet_of_handle is not None:
            self.packet_of_handle.pop(entry.handle, None)
        if entry.phase not in (PUBREC_DUE, POSTPONED):
            self._remove(entry)
            return
        abandoned = Inflight(None, ABANDONED, entry.packet_id, entry.sent_at, entry.sequence, None)
        self.inflight[entry.packet_id] = abandoned
        if entry.sequence:
            self.shared_state.store.save_outbound(self.client_id, abandoned.row())
            if entry.copy is not None:
                self.shared_state.drop_reference(entry.copy.shared)

    def _remove(self, entry: Inflight) -> None:
        del self.inflight[entry.packet_id]
        if entry.sequence:
            self._delete_row(entry)

    def _delete_row(self, entry: Inflight) -> None:
        self.shared_state.store.delete_outbound(self.client_id, entry.sequence)
        if entry.copy is not None:
            self.shared_state.drop_reference(entry.copy.shared)


def _can_be_lost(entry: Inflight) -> bool:
    """Whether the client may not have the message, so that the embedder decides if it is sent again."""
    return entry.phase < PUBCOMP_DUE or entry.phase == POSTPONED
