"""The parts of a PUBLISH that the server forwards, changes and adds.

Kept unaltered: payload, payload format [MQTT-3.3.2-4], response topic [MQTT-3.3.2-15], correlation data
[MQTT-3.3.2-16], user properties [MQTT-3.3.2-17] in their order [MQTT-3.3.2-18], content type [MQTT-3.3.2-20].
Changed: the message expiry interval becomes what is left of it [MQTT-3.3.2-6]. Added: subscription identifiers
[MQTT-3.3.4-3]. Topic aliases are replaced by those of the receiver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil

from broker.message import Body
from broker.protocol.codec import encode_properties, encode_publish
from broker.protocol.packets import V5, PacketType, Properties
from broker.session_queue import MessageCopy
from broker.topic_aliases import OutboundAliases

RETAIN_FLAG = 0x01
EXPIRY_PROPERTY = b"\x02"
"""Identifier of the message expiry interval (MQTT 5.0, table 2-4); four bytes follow."""
_NONE = Properties()


def body_of(payload: bytes, properties: Properties | None, now: float) -> Body:
    """Return the body of a message that a client has published at `now` (server time, seconds)."""
    if properties is None:
        return Body(payload)
    forwarded = Properties(
        payload_format_indicator=properties.payload_format_indicator,
        content_type=properties.content_type,
        response_topic=properties.response_topic,
        correlation_data=properties.correlation_data,
        user_properties=properties.user_properties,
    )
    interval = properties.message_expiry_interval
    expires_at = now + interval if interval is not None else None
    return Body(payload, forwarded if forwarded != _NONE else None, expires_at)


def forwarded_properties(body: Body, clock: Callable[[], float]) -> bytes:  # Hot path of 5.0 clients.
    """Return the property bytes of a body: encoded once, and the lifetime that is left now."""
    encoded = body.encoded_properties
    if encoded is None:
        encoded = body.encoded_properties = encode_properties(body.properties, PacketType.PUBLISH)
    if body.expires_at is None:
        return encoded
    # Whole seconds, rounded up: a client must not think it over before it is.
    left = max(ceil(body.expires_at - clock()), 0)
    return encoded + EXPIRY_PROPERTY + min(left, 0xFFFFFFFF).to_bytes(4, "big")


def identifier_properties(identifiers: Iterable[int]) -> bytes:
    """Encode one property for each subscription identifier."""
    return encode_properties(Properties(subscription_identifiers=list(identifiers)), PacketType.PUBLISH)


def render(
    copy: MessageCopy,
    packet_id: int,
    flags: int,
    version: int,
    clock: Callable[[], float],
    aliases: OutboundAliases | None = None,
) -> bytes:
    """Encode a session's copy of an ordinary message as a PUBLISH.

    With `aliases` the packet has to be the next that is written, unless it has QoS 2.
    """
    shared = copy.shared
    encoded_topic = shared.encoded_topic
    body = shared.message.body
    properties = None
    if version == V5:
        properties = forwarded_properties(body, clock)
        if copy.identifiers:
            properties += identifier_properties(copy.identifiers)
        if aliases is not None:
            topic = shared.message.topic
            encoded_topic, properties = aliases.shorten(topic, encoded_topic, properties, may_define=copy.qos < 2)
    if copy.retain:
        flags |= RETAIN_FLAG
    return encode_publish(encoded_topic, body.payload, copy.qos, packet_id, flags, properties)
