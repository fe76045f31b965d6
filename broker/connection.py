"""One network connection: the legality of packets, their requests to the broker, and the acknowledgements in order.

Laws
1. Bytes in, bytes out: `data_received` feeds the decoder, the decoder calls `packet` (or `puback`, the fast path), and
   replies go to `transport.write`. `data_received` never raises; a peer's error ends the connection.
2. Authentication comes first. Until the authenticator has answered, bytes are kept (bounded) and not decoded; nor are
   they until CONNACK has left, which may have to wait for the store.
3. What it acknowledges, it has stored: an acknowledgement that promises something waits for the store's barrier, a
   PUBACK or PUBREC for the embedder's `done` as well, and all leave in the order of their packets (`pending_acks`).
4. Slow consumers are decided here, in the one place that writes (`reply`): messages stop in the session while the
   socket is full; replies cannot, so a client that asks without reading is closed when they pass a limit.

    AWAITING_CONNECT ─CONNECT─▶ AUTHENTICATING ─accepted─▶ CONNECTED ─▶ CLOSED         (any state ─error, lost─▶ CLOSED)

An idle connection takes about 500 bytes besides its session, decoder and socket.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, Final

from broker.authorization import (
    Accepted,
    ClientCertificate,
    Credentials,
    Permissions,
    Refused,
    publish_refusal,
    subscribe_refusal,
)
from broker.broker import Broker
from broker.connection_protocols import Transport
from broker.enhanced_authentication import EnhancedAuthentication
from broker.failed_authentications import REFUSAL_DELAY_SECONDS, DelayedRefusal
from broker.forwarding import body_of
from broker.handshake import (
    Terms,
    connack_of,
    disconnect_packet,
    may_have_client_id,
    refusing_connack,
    terms_of,
    will_of,
)
from broker.message import Message
from broker.pending_acks import PendingAck, PendingAcks
from broker.protocol.codec import Decoder, encode
from broker.protocol.errors import MqttError, ProtocolError
from broker.protocol.packets import (
    REASON_CODES,
    V3_1,
    V3_1_1,
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    ReasonCode,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from broker.protocol.topic_filters import SHARE
from broker.retry_hint import retry_hint
from broker.router import pack_options
from broker.session import Session
from broker.shared_state import SharedState
from broker.topic_aliases import InboundAliases

log = logging.getLogger(__name__)

_PINGRESP: Final = encode(Pingresp(), V3_1_1)
_CONNACK: Final = tuple(encode(Connack(present), V3_1_1) for present in (False, True))
"""CONNACK of 3.1.1, by session present."""
_FREE_BYTES: Final = 128
"""Bytes of a read without a whole packet that are not counted against a user's rate: 32 acknowledgements of ours."""


class State(Enum):
    """State of a connection; see the picture above."""

    AWAITING_CONNECT = "awaiting connect"
    AUTHENTICATING = "authenticating"
    CONNECTED = "connected"
    CLOSED = "closed"


class Connection:
    """The MQTT side of one socket, from its first byte to its end. Runs on the *loop*."""

    __slots__ = (
        "_aliases",
        "_broker",
        "_certificate",
        "_connack_sent",
        "_decoder",
        "_enhanced",
        "_opened_at",
        "_pending_acks",
        "_permissions",
        "_publisher_paused",
        "_rate_paused_until",
        "_state",
        "_unacknowledged",
        "_uncounted_packets",
        "_unread_bytes",
        "_unstored_bytes",
        "identity",
        "last_received",
        "paused",
        "peer",
        "principal",
        "send",
        "send_together",
        "session",
        "shared_state",
        "slot",
        "terms",
        "transport",
        "version",
    )

    def __init__(
        self, broker: Broker, transport: Transport, peer: str, now: float, certificate: ClientCertificate | None = None
    ) -> None:
        self._broker = broker
        self._certificate = certificate
        self.transport = transport
        self.shared_state: SharedState = broker.shared_state
        self.peer = peer
        self.send: Callable[[bytes], None] = transport.send
        self.send_together: Callable[[list[bytes]], None] = transport.send_together
        self.session: Session | None = None
        """Set from an accepted CONNECT to the end of the connection."""
        self.principal = ""
        self.identity: object = None
        self.version = V3_1_1
        self.paused = self._connack_sent = False
        self.last_received = self._opened_at = now
        self.slot = -1
        """Place in the timing wheel."""
        self._state = State.AWAITING_CONNECT
        self._permissions: Permissions
        self.terms: Terms | None = None
        self._enhanced: EnhancedAuthentication | None = None
        """The AUTH packets, if the client has named a method."""
        self._aliases: InboundAliases | None = None
        """Topic aliases the client has defined; None before the first."""
        self._pending_acks: PendingAcks | None = None
        """Acknowledgements that wait; None while there are none: an empty deque takes 600 bytes."""
        self._unacknowledged = 0
        """QoS 1 and 2 messages from the client that we have not acknowledged: its send quota (MQTT 5.0, 4.9)."""
        self._unread_bytes = self._unstored_bytes = 0
        """Payload bytes of the messages whose acknowledgements wait for the store."""
        self._publisher_paused = False
        """The socket is not read, because too much of the client is unacknowledged."""
        self._uncounted_packets = 0
        """Packets of this read that are not yet counted against the user's rate."""
        self._rate_paused_until = 0.0
        """The socket is not read until then (server time), because its user is over its rate. 0: it is read."""
        # A stranger's packet may be as large as the bytes we keep for strangers.
        self._decoder = Decoder(self, broker.settings.connect_buffer)
        broker.wheel.schedule(self, now + broker.settings.connect_timeout)

    # -- called by the transport ---------------------------------------------------------------------------------------

    @property
    def has_received(self) -> bool:
        """Whether bytes have come."""
        return self.last_received > self._opened_at

    def data_received(self, data: bytes, now: float) -> None:  # Hot path.
        """Process bytes from the socket, which came at `now` (server time, seconds); never raises."""
        shared_state = self.shared_state
        shared_state.now = self.last_received = now
        shared_state.metrics.bytes_in += len(data)
        try:
            self._decoder.feed(data)
        except MqttError as error:
            self._refuse_packet(error)
        except Exception:
            # Ours, not the peer's: one connection pays for it.
            log.exception("connection of %s failed", self.peer, extra={"peer": self.peer})
            self.end(ReasonCode.UNSPECIFIED_ERROR, "internal error")
        if self._uncounted_packets or len(data) > _FREE_BYTES:
            packets, self._uncounted_packets = self._uncounted_packets, 0
            self.charge(packets, len(data), now)
        if not self._connack_sent and self._decoder.buffered > shared_state.settings.connect_buffer:
            self.end(ReasonCode.QUOTA_EXCEEDED, "too much before authentication")

    def charge(self, packets: int, size: int, now: float) -> None:
        """Count packets and bytes against the user's rate; over it, the socket is not read for a while."""
        if self.principal:  # a stranger may send no more than `connect_buffer`
            seconds = self._broker.rates.charge(self.principal, packets, size, now)
            if seconds > 0:
                self._pause_for_rate(now + seconds)

    def _pause_for_rate(self, until: float) -> None:
        """Stop reading the socket until then (server time)."""
        if self._state is not State.CONNECTED:
            return
        if not self._rate_paused_until:
            self.shared_state.metrics.limited_senders += 1
            if self._broker.rates.newly_limited(self.principal):
                text = "%s: %.64r says more than its rate: it is read more slowly"
                log.warning(text, self.peer, self.principal, extra={"peer": self.peer})
            if not self._publisher_paused:
                self.transport.pause_reading()
        self._rate_paused_until = until
        self._broker.wheel.schedule(self, until)

    def connection_lost(self, now: float, reason: str = "connection lost") -> None:
        """Process the loss of the socket. Harmless after our own `close`."""
        self.shared_state.now = now
        self._finish(reason, keep_will=True)

    def pause_writing(self) -> None:
        """Pause messages: the socket's buffer is above its high-water mark, and the client a slow consumer."""
        self.paused = True
        self.shared_state.metrics.slow_consumers += 1
        if self.session is not None:
            self.session.pause_sending()

    def resume_writing(self, now: float) -> None:
        """Go on with messages: the client has read."""
        self.shared_state.now = now
        self.paused = False
        self._unread_bytes = 0
        if self.session is not None:
            self.session.resume_sending()

    # -- called by the decoder -----------------------------------------------------------------------------------------

    def puback(self, packet_id: int, reason_code: int) -> None:
        """Refuse a PUBACK before CONNECT [MQTT-3.1.0-1] [3.1.1: MQTT-3.1.0-1]; later PUBACKs go to the session."""
        if self._state is not State.CLOSED:
            self.end(ReasonCode.PROTOCOL_ERROR, "protocol error")

    def packet(self, packet: Packet) -> None:
        """Process any packet but PUBACK, which goes from the decoder to the session."""
        self._uncounted_packets += 1
        handler = _LEGAL[self._state].get(type(packet))
        if handler is not None:
            handler(self, packet)
        elif self._state is not State.CLOSED:
            # [3.1.1: MQTT-3.1.0-1] [3.1.1: MQTT-3.1.0-2]
            # A second CONNECT [MQTT-3.1.0-2], another packet before the first [MQTT-3.1.0-1], AUTH without a method.
            self.end(ReasonCode.PROTOCOL_ERROR, "protocol error", f"{type(packet).__name__.upper()} may not come now")

    # -- called by the session -----------------------------------------------------------------------------------------

    def reply(self, data: bytes) -> None:
        """Send a packet that the protocol obliges us to send, even to a socket that is full."""
        if self._state is State.CLOSED:
            return
        if self.paused:
            self._unread_bytes += len(data)
            if self._unread_bytes > self.shared_state.settings.max_unread_bytes:
                self.end(ReasonCode.QUOTA_EXCEEDED, "slow consumer")
                return
        self.transport.write(data)

    def end(self, reason_code: int, reason: str, detail: str = "") -> None:
        """Close for a reason, and tell it to a client that can be told; `detail` is for the embedder."""
        if self._state is State.CLOSED:
            return
        self.shared_state.metrics.refuse(reason.replace(" ", "_"))
        hint = retry_hint(reason_code, self._broker.expected_reconnects)
        # [MQTT-3.14.0-1]: DISCONNECT only after CONNACK.
        if self._connack_sent:
            if self.version == V5 and self.terms is not None:
                self.transport.write(disconnect_packet(reason_code, reason, self.terms, hint))
        elif self._state is not State.AWAITING_CONNECT:
            # Its CONNECT was understood: the refusal is a CONNACK.
            # [MQTT-3.2.2-6] [MQTT-3.2.2-8] [3.1.1: MQTT-3.2.2-4]: session present 0, and a code of the table.
            self.transport.write(refusing_connack(reason_code, self.version, self.terms, hint))
        self._finish(reason, True, detail)

    def has_pending_acks(self) -> bool:
        """Whether the client owes an acknowledgement, or is owed one."""
        session = self.session
        return self._pending_acks is not None or (session is not None and session.oldest_sent_at() is not None)

    def due(self, now: float) -> float | None:
        """Check the connection for the timing wheel: connect timeout, keep alive, acknowledgements, rate."""
        if self._state is State.CLOSED:
            return None
        settings = self.shared_state.settings
        session = self.session
        # Also of a client that is accepted and waits for the disk: it takes a place among the handshakes.
        if session is None or self.terms is None or not self._connack_sent:
            until = self._opened_at + settings.connect_timeout
            if now >= until:
                self.end(ReasonCode.UNSPECIFIED_ERROR, "connect timeout")
                return None
            return until
        if self._rate_paused_until and now >= self._rate_paused_until:
            self._rate_pause_over(now)
            if session.connection is not self:
                return None  # a packet that had waited ended it
        oldest = session.oldest_sent_at()
        if oldest is None:
            session.compact()
            oldest = now
        ack_until = oldest + settings.ack_timeout
        if now >= ack_until:
            self.end(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, "ack timeout")
            return None
        if self._rate_paused_until:
            return min(self._rate_paused_until, ack_until)
        if not self.terms.keep_alive:
            return ack_until
        silence = self.terms.keep_alive * settings.keep_alive_grace
        alive_until = self.last_received + (max(silence, settings.ack_timeout) if self._publisher_paused else silence)
        if now >= alive_until:
            self.end(ReasonCode.KEEP_ALIVE_TIMEOUT, "keep alive timeout")  # [MQTT-3.1.2-22] [3.1.1: MQTT-3.1.2-24]
            return None
        return min(alive_until, ack_until)

    def _rate_pause_over(self, now: float) -> None:
        """Read the socket again: the user is within its rate."""
        self._rate_paused_until = 0.0
        self.last_received = now  # nobody has read meanwhile
        if not self._publisher_paused:
            self.transport.resume_reading()
        self._resume()

    # -- CONNECT ------------------------------------------------------------------------------------------------------

    def _connect(self, connect: Connect) -> None:
        self.version = max(connect.protocol_version, V3_1_1)
        self._state = State.AUTHENTICATING
        self.shared_state.metrics.handshakes += 1
        properties = connect.properties
        settings = self.shared_state.settings
        terms = self.terms = terms_of(connect, settings)
        if not may_have_client_id(connect, terms, settings):
            self._refused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID)
            return
        if self._broker.is_busy():
            self._refused(ReasonCode.SERVER_BUSY)
            return
        # The client need not wait for CONNACK (MQTT 5.0, 3.1.4); until it is accepted we decode nothing more.
        # [MQTT-3.1.4-6] [3.1.1: MQTT-3.1.4-5]
        self._decoder.pause()
        authenticator = self._broker.authenticator
        credentials = Credentials(
            terms.client_id,
            connect.username,
            connect.password,
            self.version,
            self.peer,
            self._certificate,
            self._broker.failed.is_suspect(self.peer, self.shared_state.now),
        )
        decided = partial(self._authenticated, connect, terms)
        method = properties.authentication_method if properties is not None else None
        if properties is None or method is None:
            authenticator.authenticate(credentials, decided)
            return
        self._enhanced = EnhancedAuthentication(method, authenticator, credentials, self._challenge, decided)
        if not self._enhanced.begin(properties.authentication_data):
            self._refused(ReasonCode.BAD_AUTHENTICATION_METHOD)  # [MQTT-4.12.0-1]

    def _authenticated(self, connect: Connect, terms: Terms, answer: Accepted | Refused) -> None:
        if self._state is not State.AUTHENTICATING:
            return  # the connection has ended meanwhile
        if isinstance(answer, Refused):
            name = connect.username or (self._certificate.common_name if self._certificate is not None else "")
            log.info(
                "%s: CONNECT of %.64r as %.64r is refused: %s",
                self.peer,
                terms.client_id,
                name,
                answer.reason,
                extra={"peer": self.peer},
            )
            guess = (name, connect.password if self._enhanced is None else self.peer)
            self._broker.failed.record(self.peer, guess, answer.reason_code, self.shared_state.now)
            if self._broker.failed.delay_refusal(self.peer, answer.reason_code, self.shared_state.now):
                self.shared_state.metrics.late_refusals += 1
                late = DelayedRefusal(
                    self._broker.failed, self.peer, partial(self._send_delayed_refusal, answer.reason_code)
                )
                self._broker.wheel.schedule(late, self.shared_state.now + REFUSAL_DELAY_SECONDS)
                return
            # [MQTT-3.1.4-2] [MQTT-4.12.0-4]
            self._refused(answer.reason_code)
            return
        settings = self.shared_state.settings
        will = will_of(connect) if connect.will is not None else None
        if will is not None:
            refused = publish_refusal(answer.permissions, will.message.topic, will.message.retain, settings)
            if not will.message.body.has_valid_payload_format():
                refused = ReasonCode.PAYLOAD_FORMAT_INVALID
            if refused:
                self.end(refused, "will refused")
                return
        if not answer.persistent:
            terms = terms._replace(expiry_interval=0)
        refusal = self._broker.refusal(terms.client_id, answer.principal, self.peer)
        if refusal:
            self._refused(refusal)
            return
        connack = None
        if self.version == V5:
            enhanced = self._enhanced
            authentication = enhanced.accepted(answer, self._authenticated_again) if enhanced is not None else None
            connack = connack_of(connect, terms, settings, authentication)
            if not terms.fits(connack):
                self.end(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, "maximum packet size too small")
                return
        self._permissions = answer.permissions
        self.terms = terms
        self._state = State.CONNECTED
        self.principal, self.identity = answer.principal, answer.identity
        self._decoder.maximum_packet_size = settings.maximum_packet_size
        # [MQTT-3.1.4-4] [3.1.1: MQTT-3.1.4-3]
        clean = connect.clean_start or not answer.persistent
        session, present, stored = self._broker.open_session(self, terms, clean, will)
        self._decoder.puback = session.puback
        # The wheel comes by at the connect timeout as it is: later deadlines are found then, and cost nothing now.
        soonest = min(terms.keep_alive * settings.keep_alive_grace or settings.ack_timeout, settings.ack_timeout)
        if soonest < settings.connect_timeout:
            self._broker.wheel.schedule(self, self.last_received + soonest)
        data = _CONNACK[present and connect.protocol_version != V3_1]  # 3.1 has no such flag
        if connack is not None:
            connack.session_present = present
            data = encode(connack, V5)
        if stored:
            self.shared_state.store.barrier(partial(self._connack_stored, data))
        else:
            self._connack_stored(data)

    def _resume(self) -> None:
        """Process the packets that have come meanwhile."""
        try:
            self._decoder.resume()
        except MqttError as error:
            self._refuse_packet(error)
        if self._uncounted_packets:
            packets, self._uncounted_packets = self._uncounted_packets, 0
            self.charge(packets, 0, self.shared_state.now)

    def _send_delayed_refusal(self, reason_code: int) -> None:
        """Send a refusal whose delay is over."""
        if self._state is State.AUTHENTICATING:
            self._refused(reason_code)

    def _refused(self, reason_code: int) -> None:
        self.end(reason_code, ReasonCode(reason_code).name.lower().replace("_", " "))

    def _challenge(self, auth: Auth) -> None:
        """Send a challenge of the authenticator, at CONNECT or later."""
        if self._state is State.CONNECTED:
            # [MQTT-3.15.2-1]
            self._queue_ack(auth, stored=False)
        elif self._state is State.AUTHENTICATING:
            if self.terms is None or not self.terms.fits(auth):
                self.end(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, "maximum packet size too small")
                return
            self.transport.write(encode(auth, V5))
            self._resume()

    def _auth(self, auth: Auth) -> None:
        if self._enhanced is None:
            raise ProtocolError("AUTH without a method in CONNECT")  # [MQTT-4.12.0-7]
        if self._state is State.AUTHENTICATING:
            self._decoder.pause()
        self._enhanced.auth(auth)

    def _authenticated_again(self, answer: Accepted | Refused) -> None:
        if self._state is not State.CONNECTED or self._enhanced is None:
            return
        if isinstance(answer, Refused):
            # [MQTT-4.12.1-2]; DISCONNECT does not have every code that CONNACK has.
            known = answer.reason_code in REASON_CODES[PacketType.DISCONNECT]
            self._refused(answer.reason_code if known else ReasonCode.NOT_AUTHORIZED)
        elif answer.principal != self.principal:
            self._refused(ReasonCode.NOT_AUTHORIZED)
        else:
            self._permissions = answer.permissions
            self.identity = answer.identity
            self._queue_ack(Auth(ReasonCode.SUCCESS, self._enhanced.properties(answer.data)), stored=False)

    def _connack_stored(self, connack: bytes) -> None:
        """Send CONNACK, whose promises are stored, and start the session."""
        session = self.session
        if session is None:
            return  # the connection has ended meanwhile
        # [MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] [3.1.1: MQTT-3.1.4-4] [3.1.1: MQTT-3.2.0-1]: once, before
        # anything but AUTH.
        self.transport.write(connack)
        self._connack_sent = True
        self.shared_state.metrics.handshakes -= 1
        session.start()
        ahead = self._broker.rates.seconds_over(self.principal, self.shared_state.now)
        if ahead > 0:
            self._pause_for_rate(self.shared_state.now + ahead)
        else:
            self._resume()

    # -- PUBLISH from the client --------------------------------------------------------------------------------------

    def _publish(self, publish: Publish) -> None:
        shared_state = self.shared_state
        shared_state.metrics.publishes_in += 1
        session = self._accepted_session()
        topic, properties = publish.topic, publish.properties
        if properties is not None and properties.topic_alias is not None:
            if self._aliases is None:
                self._aliases = InboundAliases()
            topic = self._aliases.resolve(topic, properties.topic_alias, shared_state.settings.topic_alias_maximum)
        qos = publish.qos
        # [3.1.1: MQTT-4.3.3-2] [MQTT-4.3.3-13]
        repeated = qos == 2 and session.has_received(publish.packet_id)
        # Repeated: acknowledged again, not routed again [MQTT-4.3.3-10]. Of QoS 1 nothing is noted: each PUBLISH is
        # a new message [MQTT-4.3.2-5].
        if repeated and self._acknowledge_again(session, publish):
            return
        if qos:
            self._unstored_bytes += len(publish.payload)
            self._unacknowledged += 1
            # [MQTT-3.3.4-7]
            if self.version == V5 and self._unacknowledged > shared_state.settings.receive_maximum:
                self.end(ReasonCode.RECEIVE_MAXIMUM_EXCEEDED, "receive maximum exceeded")  # MQTT 5.0, 3.3.4
                return
        refusal = publish_refusal(self._permissions, topic, publish.retain, shared_state.settings)
        body = body_of(publish.payload, properties, shared_state.now)
        if refusal:
            shared_state.metrics.dropped_not_permitted += 1
        elif not body.has_valid_payload_format():
            shared_state.metrics.dropped_invalid += 1
            refusal = ReasonCode.PAYLOAD_FORMAT_INVALID
        if refusal:
            if qos:
                ends = repeated and self.version == V5  # the handshake; an earlier run had noted the message
                if ends:
                    session.release(publish.packet_id)
                acknowledge = partial(self._queue_publish_ack(publish, 0), refusal)
                session.release_at_embedder(publish.packet_id, acknowledge) if ends else acknowledge()
            return
        message = Message(topic, body, qos, publish.retain)
        # Noted and routed in one group of the store.
        reception = session.receive(publish.packet_id) if qos == 2 else None
        anybody = repeated or self._broker.route(message, session)
        done: Callable[[int], None] = _no_acknowledgement
        identifier: int | None = None
        if qos:
            default_code = 0 if anybody or self._broker.embedded else ReasonCode.NO_MATCHING_SUBSCRIBERS
            done = self._queue_publish_ack(publish, default_code)
        if reception is not None:
            reception.acknowledge = done
            done, identifier = reception, session.identifier(publish.packet_id)
        shared_state.events.published(session.client_id, message, done, identifier)

    def _acknowledge_again(self, session: Session, publish: Publish) -> bool:
        """Send PUBREC for a repetition whose content is stored; return False if the embedder has to be asked again.

        An earlier run may have stored the packet identifier without the content.
        """
        assert session.received is not None, "it is a repetition"
        reception = session.received[publish.packet_id]
        if reception is None:
            self._queue_ack(Pubrec(publish.packet_id), session.durable)
        elif reception.acknowledge is not None:
            self._unstored_bytes += len(publish.payload)
            reception.acknowledge = self._queue_publish_ack(publish, 0)
        return reception is None or reception.acknowledge is not None

    def _queue_publish_ack(self, publish: Publish, default_code: int) -> Callable[[int], None]:
        """Queue PUBACK or PUBREC, until the changes by PUBLISH are stored and the function returned was called."""
        # [MQTT-2.2.1-5] [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [3.1.1: MQTT-2.3.1-6] [3.1.1: MQTT-3.3.4-1]
        # [3.1.1: MQTT-4.3.2-2]: in its turn [MQTT-4.6.0-2] [MQTT-4.6.0-3].
        packet = Puback(publish.packet_id) if publish.qos == 1 else Pubrec(publish.packet_id)

        def done(reason_code: int) -> None:
            # 3.1.1 has no way to refuse a message: it is acknowledged, and dropped [3.1.1: MQTT-3.3.5-2].
            if self.version == V5:
                # [MQTT-3.4.2-1] [MQTT-3.5.2-1]
                packet.reason_code = reason_code or default_code
            release()

        release = self._queue_ack(packet, stored=True, waits=True)
        return done

    def _pubrel(self, pubrel: Pubrel) -> None:
        session = self._accepted_session()
        known = session.release(pubrel.packet_id)
        # Unknown: completed before the connection was lost, or never started. 3.1.1 answers both alike.
        code = ReasonCode.SUCCESS if known or self.version != V5 else ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
        self.shared_state.metrics.unsolicited_acknowledgements += not known
        # Not before it is stored that the identifier is free: a new message under it would pass for a repetition. An
        # earlier run may have stored that here, and the embedder not. [MQTT-3.7.2-1] [MQTT-4.3.3-11] [MQTT-4.3.3-12]
        waits = self._broker.embedded and session.durable
        condition_met = self._queue_ack(Pubcomp(pubrel.packet_id, code), stored=known and session.durable, waits=waits)
        if waits:
            session.release_at_embedder(pubrel.packet_id, condition_met)

    def _pubrec(self, pubrec: Pubrec) -> None:
        self._accepted_session().pubrec(pubrec.packet_id, pubrec.reason_code)

    def _pubcomp(self, pubcomp: Pubcomp) -> None:
        self._accepted_session().pubcomp(pubcomp.packet_id)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def _subscribe(self, subscribe: Subscribe) -> None:
        session = self._accepted_session()
        properties = subscribe.properties
        identifiers = properties.subscription_identifiers if properties is not None else []
        identifier = identifiers[0] if identifiers else 0
        codes: list[int] = []
        wanting_retained: list[tuple[str, int]] = []
        # [MQTT-3.8.4-5] [3.1.1: MQTT-3.8.4-4]: one after the other, and one SUBACK.
        self._uncounted_packets += len(subscribe.subscriptions)  # each is work of its own
        for request in subscribe.subscriptions:
            topic_filter = request.topic_filter
            refusal = subscribe_refusal(
                self._permissions, topic_filter, session.subscriptions, self.shared_state.settings
            )
            if refusal:
                # [MQTT-3.9.3-2]
                codes.append(refusal)  # 0x80 in 3.1.1
                continue
            options = pack_options(
                request.qos, request.no_local, request.retain_as_published, request.retain_handling, identifier
            )
            is_new = self._broker.subscribe(session, topic_filter, options)
            # [MQTT-3.8.4-7] [3.1.1: MQTT-3.8.4-5]
            codes.append(request.qos)
            # Retain handling: 0 always, 1 if the subscription is new, 2 never [MQTT-3.3.1-9] [MQTT-3.3.1-10]
            # [MQTT-3.3.1-11]; a shared one never gets any (MQTT 5.0, 4.8.2).
            handling = request.retain_handling
            if (handling == 0 or (handling == 1 and is_new)) and not topic_filter.startswith(SHARE):
                # [MQTT-3.8.4-4] [3.1.1: MQTT-3.3.1-6] [3.1.1: MQTT-3.8.4-3]
                wanting_retained.append((topic_filter, options))

        def subscribed() -> None:
            for topic_filter, options in wanting_retained:
                self._broker.send_retained(session, topic_filter, options)
            session.subscriptions_changed()

        # [MQTT-2.2.1-6] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [3.1.1: MQTT-2.3.1-7] [3.1.1: MQTT-3.8.4-1] [3.1.1: MQTT-3.8.4-2]
        self._queue_ack(Suback(subscribe.packet_id, codes), stored=session.durable, then=subscribed)

    def _unsubscribe(self, unsubscribe: Unsubscribe) -> None:
        session = self._accepted_session()
        self._uncounted_packets += len(unsubscribe.topic_filters)
        # [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] [3.1.1: MQTT-3.10.4-6]
        removed = [self._broker.unsubscribe(session, topic_filter) for topic_filter in unsubscribe.topic_filters]
        codes: list[int] = [0 if there else ReasonCode.NO_SUBSCRIPTION_EXISTED for there in removed]
        # [MQTT-3.10.4-4] [MQTT-3.10.4-5] [3.1.1: MQTT-3.10.4-4] [3.1.1: MQTT-3.10.4-5]: also where there was nothing.
        self._queue_ack(
            Unsuback(unsubscribe.packet_id, codes), stored=session.durable, then=session.subscriptions_changed
        )

    # -- the rest of the packets --------------------------------------------------------------------------------------

    def _pingreq(self, _: Pingreq) -> None:
        self.reply(_PINGRESP)  # [MQTT-3.12.4-1] [3.1.1: MQTT-3.12.4-1]

    def _disconnect(self, disconnect: Disconnect) -> None:
        session = self._accepted_session()
        properties = disconnect.properties
        if properties is not None and properties.session_expiry_interval is not None:
            interval = properties.session_expiry_interval
            if interval and not session.expiry_interval:
                raise ProtocolError(
                    "a session that ends with its connection cannot be prolonged"
                )  # MQTT 5.0, 3.14.2.2.2
            session.expiry_interval = min(interval, self.shared_state.settings.max_session_expiry)
        # [MQTT-3.1.2-10] [3.1.1: MQTT-3.1.2-10] [3.1.1: MQTT-3.14.4-3]
        # Reason code 0, and every DISCONNECT of 3.1.1, takes the will back [MQTT-3.14.4-3].
        code = disconnect.reason_code
        self._finish("disconnected", code != 0, f"reason code 0x{code:02x}" if code >= 0x80 else "")

    # -- acknowledgements ---------------------------------------------------------------------------------------------

    def _queue_ack(
        self, packet: Packet, stored: bool, waits: bool = False, then: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        """Send an acknowledgement in its turn: after the store's barrier if `stored`, and after a call of the function
        returned if it `waits` for one. `then` is called when the packet has left."""
        acks = self._pending_acks
        if acks is None:
            acks = self._pending_acks = PendingAcks(self._send_ack)
        elif len(acks) >= self.shared_state.settings.max_pending_answers:
            self.end(ReasonCode.QUOTA_EXCEEDED, "too many unacknowledged messages")
        ack = PendingAck(packet, 1 + waits, then)
        acks.append(ack)
        settings = self.shared_state.settings
        if len(acks) >= settings.receive_maximum or self._unstored_bytes > settings.max_unstored_bytes:
            self._pause_publisher()
        condition_met = partial(acks.condition_met, ack)
        if stored:
            self.shared_state.store.barrier(condition_met)
        else:
            condition_met()
        return condition_met

    def _pause_publisher(self) -> None:
        """Stop reading a client that sends more than we can store for now; TCP makes it wait."""
        if not self._publisher_paused and self._state is State.CONNECTED:
            self._publisher_paused = True
            self.shared_state.metrics.held_publishers += 1
            if not self._rate_paused_until:
                self.transport.pause_reading()

    def _send_ack(self, packet: Packet) -> None:
        """Send an acknowledgement whose turn has come."""
        if not self._pending_acks:
            self._pending_acks = None
            self._unstored_bytes = 0
            if self._publisher_paused:
                self._publisher_paused = False
                self.last_received = self.shared_state.now  # nobody has read meanwhile
                self._broker.wheel.schedule(self, self.last_received)
                if not self._rate_paused_until:
                    self.transport.resume_reading()
        data = encode(packet, self.version)
        if self.terms is not None and len(data) > self.terms.maximum_packet_size:  # SUBACK of very many filters
            self.end(ReasonCode.PACKET_TOO_LARGE, "answer larger than the client takes")  # [MQTT-3.1.2-24]
            return
        self.reply(data)
        if isinstance(packet, Puback | Pubcomp):
            self._unacknowledged = max(self._unacknowledged - 1, 0)
        elif isinstance(packet, Pubrec) and packet.reason_code >= 0x80:
            # [MQTT-4.3.3-9]
            # The handshake ends here, and the identifier is free (MQTT 5.0, 4.3.3).
            self._unacknowledged -= 1

    # -- the end ------------------------------------------------------------------------------------------------------

    def _refuse_packet(self, error: MqttError) -> None:
        log.info("%s: %s (%s)", self.peer, error, error.label, extra={"peer": self.peer})
        if self._state is State.AWAITING_CONNECT:
            # The version may be known although CONNECT is not understood. Garbage gets no answer.
            self.version = self._decoder.version
            # [3.1.1: MQTT-3.2.2-6]: 3.1.1 has no code for most of it.
            code = error.reason_code if self.version == V5 else error.return_code
            if code is not None:
                self.transport.write(encode(Connack(False, code), self.version))
        self.end(error.reason_code, error.label.replace("_", " "), str(error))

    def _finish(self, reason: str, keep_will: bool, detail: str = "") -> None:
        if self._state is State.CLOSED:
            return
        # [MQTT-3.2.2-7] [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.1-1] [MQTT-4.13.2-1] [3.1.1: MQTT-3.2.2-5]
        # [3.1.1: MQTT-4.8.0-1]: whatever the reason, nothing is sent or read any more.
        if self._state is not State.AWAITING_CONNECT and not self._connack_sent:
            self.shared_state.metrics.handshakes -= 1
        self._state = State.CLOSED
        self._decoder.stop()
        self._enhanced = None  # it has our bound methods: a circle, see `Decoder.stop`
        self._broker.wheel.cancel(self)
        if self._pending_acks is not None:
            self._pending_acks.clear()
            self._pending_acks = None
        self.transport.close()
        session, self.session = self.session, None
        if session is not None:
            self._broker.connection_ended(self, session, reason, keep_will, detail)

    def _client_gave_up(self, _: Disconnect) -> None:
        self._finish("disconnected", keep_will=False)  # instead of the AUTH that was asked for

    def _accepted_session(self) -> Session:
        session = self.session
        assert session is not None, "the table lets these packets through only when CONNECT was accepted"
        return session


def _no_acknowledgement(_: int) -> None:
    """Stand in for `done` of a message of QoS 0, which has no acknowledgement."""


_LEGAL: Final[dict[State, dict[type[Any], Callable[[Connection, Any], None]]]] = {
    State.AWAITING_CONNECT: {Connect: Connection._connect},
    State.AUTHENTICATING: {Auth: Connection._auth, Disconnect: Connection._client_gave_up},  # [MQTT-3.1.2-30]
    State.CONNECTED: {
        Auth: Connection._auth,
        Publish: Connection._publish,
        Pubrec: Connection._pubrec,
        Pubrel: Connection._pubrel,
        Pubcomp: Connection._pubcomp,
        Subscribe: Connection._subscribe,
        Unsubscribe: Connection._unsubscribe,
        Pingreq: Connection._pingreq,
        Disconnect: Connection._disconnect,
    },
    State.CLOSED: {},
}
"""The packets that are legal in each state, with their handlers."""
