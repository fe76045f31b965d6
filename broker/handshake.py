"""The negotiation of CONNECT and CONNACK: the terms of a connection, as pure functions.

Nothing here touches a session: `connection` calls these functions, and `broker` acts on the terms.
"""

from __future__ import annotations

from secrets import token_hex
from typing import NamedTuple

from broker.forwarding import body_of
from broker.message import Body, Message
from broker.protocol.codec import encode
from broker.protocol.errors import return_code_of
from broker.protocol.packets import (
    REASON_CODES,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    Properties,
    ReasonCode,
    Will,
)
from broker.settings import BrokerSettings
from broker.store import StoredWill

MAX_PACKET_BYTES = 268_435_455 + 5
"""Limit of a client that names none: the largest remaining length and its header (MQTT 5.0, 2.1.4)."""
RECEIVE_MAXIMUM_MESSAGES = 65_535
"""Receive maximum of a client that names none (MQTT 5.0, 3.1.2.11.3)."""


class Terms(NamedTuple):
    """Terms of one connection, once it is accepted. Intervals are seconds."""

    client_id: str
    assigned: bool
    """The client left its identifier to us [MQTT-3.1.3-6]."""
    keep_alive: int
    expiry_interval: int
    receive_maximum: int
    maximum_packet_size: int
    alias_maximum: int
    """Topic aliases that we may define: the client's maximum, and no more than our own."""

    def fits(self, packet: Packet) -> bool:
        """Whether a packet of 5.0 is no larger than the client's maximum [MQTT-3.1.2-24]."""
        limit = self.maximum_packet_size
        return limit == MAX_PACKET_BYTES or len(encode(packet, V5)) <= limit


def terms_of(connect: Connect, settings: BrokerSettings) -> Terms:
    """Return the terms that a CONNECT asks for, within our limits."""
    # [MQTT-3.1.3-6] [MQTT-3.2.2-16] [3.1.1: MQTT-3.1.3-6]: random, so new.
    client_id = connect.client_id or "auto-" + token_hex(10)
    assigned = not connect.client_id
    if connect.protocol_version != V5:
        # A 3.1.1 session has no interval of its own: it ends with the connection, or stays (3.1.1, 3.1.2.4).
        expiry = 0 if connect.clean_start else settings.max_session_expiry
        return Terms(client_id, assigned, connect.keep_alive, expiry, RECEIVE_MAXIMUM_MESSAGES, MAX_PACKET_BYTES, 0)
    properties = connect.properties or _NONE
    # [MQTT-3.2.2-22]: the client's, unless ours is announced.
    keep_alive = connect.keep_alive
    longest = settings.server_keep_alive
    if longest and (not keep_alive or keep_alive > longest):  # 0: none at all, which is longer than any
        keep_alive = longest
    return Terms(
        client_id=client_id,
        assigned=assigned,
        keep_alive=keep_alive,
        expiry_interval=min(properties.session_expiry_interval or 0, settings.max_session_expiry),
        receive_maximum=properties.receive_maximum or RECEIVE_MAXIMUM_MESSAGES,
        maximum_packet_size=properties.maximum_packet_size or MAX_PACKET_BYTES,
        alias_maximum=min(properties.topic_alias_maximum or 0, settings.topic_alias_maximum),
    )


def may_have_client_id(connect: Connect, terms: Terms, settings: BrokerSettings) -> bool:
    """Whether the client identifier is allowed."""
    if not connect.client_id and connect.protocol_version != V5 and not connect.clean_start:
        return False  # 3.1.1 cannot tell a client which one it was given [3.1.1: MQTT-3.1.3-7] [3.1.1: MQTT-3.1.3-8]
    # [MQTT-3.1.3-5] [MQTT-3.1.3-8] [3.1.1: MQTT-3.1.3-5] [3.1.1: MQTT-3.1.3-9]
    return len(terms.client_id.encode()) <= settings.max_client_id_length


def connack_properties(connect: Connect, terms: Terms, settings: BrokerSettings) -> Properties:
    """Return the CONNACK properties of a 5.0 client: ours that differ from the defaults or from its CONNECT."""
    asked = connect.properties or _NONE
    # [MQTT-3.1.2-28] [MQTT-4.12.0-6]: no response information, no method that was not asked for.
    properties = Properties(
        receive_maximum=settings.receive_maximum,
        maximum_packet_size=settings.maximum_packet_size,
        topic_alias_maximum=settings.topic_alias_maximum or None,
    )
    if terms.assigned:
        properties.assigned_client_identifier = terms.client_id  # [MQTT-3.1.3-7]
    if terms.expiry_interval != (asked.session_expiry_interval or 0):
        properties.session_expiry_interval = terms.expiry_interval
    if terms.keep_alive != connect.keep_alive:
        properties.server_keep_alive = terms.keep_alive  # [MQTT-3.1.2-21]
    return properties


def connack_of(connect: Connect, terms: Terms, settings: BrokerSettings, authentication: Properties | None) -> Connack:
    """Return the CONNACK of a 5.0 client, with the properties of enhanced authentication, if any.

    If it would be too large for the client [MQTT-3.1.2-24], topic aliases are left out: all else it has to know.
    """
    properties = connack_properties(connect, terms, settings)
    if authentication is not None:
        properties.authentication_method = authentication.authentication_method
        properties.authentication_data = authentication.authentication_data
    connack = Connack(properties=properties)
    if not terms.fits(connack):
        properties.topic_alias_maximum = None
    return connack


def refusing_connack(reason_code: int, version: int, terms: Terms | None, hint: list[tuple[str, str]]) -> bytes:
    """Encode the CONNACK that refuses a client, with the hint when to come back if that fits; empty if nothing fits."""
    if version != V5:
        return encode(Connack(False, return_code_of(reason_code)), version)
    if reason_code not in REASON_CODES[PacketType.CONNACK]:  # a reason to disconnect, which CONNACK has not
        shutting_down = reason_code == ReasonCode.SERVER_SHUTTING_DOWN
        reason_code = ReasonCode.SERVER_UNAVAILABLE if shutting_down else ReasonCode.UNSPECIFIED_ERROR
    if hint and terms is not None:
        data = encode(Connack(False, reason_code, Properties(user_properties=hint)), version)
        if len(data) <= terms.maximum_packet_size:  # [MQTT-3.2.2-20]
            return data
    data = encode(Connack(False, reason_code), version)
    return data if terms is None or len(data) <= terms.maximum_packet_size else b""


def disconnect_packet(reason_code: int, reason: str, terms: Terms, hint: list[tuple[str, str]]) -> bytes:
    """Encode a DISCONNECT of 5.0, with the hint when to come back and a reason for people if they fit.

    Empty if not even the code fits.
    """
    # [MQTT-3.14.2-2]
    candidates = [Properties(reason_string=reason, user_properties=hint)]
    if hint:
        candidates.append(Properties(user_properties=hint))
    for properties in candidates:
        data = encode(Disconnect(reason_code, properties), V5)
        if len(data) <= terms.maximum_packet_size:  # [MQTT-3.14.2-3] [MQTT-3.14.2-4]
            return data
    data = encode(Disconnect(reason_code), V5)
    return data if len(data) <= terms.maximum_packet_size else b""


def will_of(connect: Connect) -> StoredWill | None:
    """Return the will of a CONNECT, not due yet. Its message expiry interval starts when it is published."""
    will = connect.will
    if will is None:
        return None
    properties = will.properties
    delay = (properties.will_delay_interval or 0) if properties is not None else 0
    body = Body(will.payload, _will_properties(will))
    # [MQTT-3.1.2-14] [MQTT-3.1.2-15] [3.1.1: MQTT-3.1.2-16] [3.1.1: MQTT-3.1.2-17]
    return StoredWill(Message(will.topic, body, will.qos, will.retain), due_at=None, delay=delay)


def published_will(will: StoredWill, now: float) -> Message:
    """Return the message of a will that is published at `now` (server time, seconds)."""
    message = will.message
    return Message(
        message.topic, body_of(message.body.payload, message.body.properties, now), message.qos, message.retain
    )


def _will_properties(will: Will) -> Properties | None:
    properties = will.properties
    if properties is None:
        return None
    # [MQTT-3.1.3-10]
    body = body_of(b"", properties, 0.0)
    kept = body.properties
    if properties.message_expiry_interval is not None:
        kept = kept or Properties()
        kept.message_expiry_interval = properties.message_expiry_interval
    return kept


_NONE = Properties()
"""Stands for absent properties; never changed."""
