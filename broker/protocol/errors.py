"""Errors of a peer on the wire. Each class has its code, its label and its text in one place.

`reason_code` goes into CONNACK or DISCONNECT of MQTT 5.0; `return_code` into CONNACK of 3.1.1, where None means that
3.1.1 has no word for it and the connection is just closed; `label` names it in metrics and logs. The
text is for our log and for the reason string: it says what was wrong and repeats nothing that the peer sent.

    MqttError
    ├── MalformedPacket             0x81  the bytes are not a packet
    ├── ProtocolError               0x82  a packet, with contents or at a moment that the protocol forbids
    ├── UnsupportedProtocolVersion  0x84  CONNECT of a version we do not speak; 3.1.1 calls it return code 1
    ├── TopicAliasInvalid           0x94  alias 0, above the maximum, or not defined
    ├── PacketTooLarge              0x95  larger than our maximum packet size
    └── QuotaExceeded               0x97  too many parts in one packet
"""

from __future__ import annotations

from typing import ClassVar

from broker.protocol.packets import ConnectReturnCode, ReasonCode


class MqttError(Exception):
    """Base class: the peer has done something after which the connection cannot go on."""

    reason_code: ClassVar[ReasonCode] = ReasonCode.UNSPECIFIED_ERROR
    return_code: ClassVar[ConnectReturnCode | None] = None
    label: ClassVar[str] = "unspecified_error"


class MalformedPacket(MqttError):
    """The bytes are not a packet."""

    reason_code = ReasonCode.MALFORMED_PACKET
    label = "malformed_packet"


class ProtocolError(MqttError):
    """A packet has contents, or comes at a moment, that the protocol forbids."""

    reason_code = ReasonCode.PROTOCOL_ERROR
    label = "protocol_error"


class UnsupportedProtocolVersion(MqttError):
    """CONNECT asks for a version that is not supported."""

    reason_code = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
    return_code = ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION
    label = "unsupported_protocol_version"


class TopicAliasInvalid(MqttError):
    """A topic alias is 0, above the maximum, or not defined."""

    reason_code = ReasonCode.TOPIC_ALIAS_INVALID
    label = "topic_alias_invalid"


class PacketTooLarge(MqttError):
    """A packet is larger than our maximum packet size."""

    reason_code = ReasonCode.PACKET_TOO_LARGE
    label = "packet_too_large"


class QuotaExceeded(MqttError):
    """A packet has too many parts."""

    reason_code = ReasonCode.QUOTA_EXCEEDED
    label = "quota_exceeded"


_RETURN_CODES: dict[int, ConnectReturnCode] = {
    ReasonCode.SUCCESS: ConnectReturnCode.ACCEPTED,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: ConnectReturnCode.IDENTIFIER_REJECTED,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD,
    ReasonCode.NOT_AUTHORIZED: ConnectReturnCode.NOT_AUTHORIZED,
    ReasonCode.BANNED: ConnectReturnCode.NOT_AUTHORIZED,
    ReasonCode.BAD_AUTHENTICATION_METHOD: ConnectReturnCode.NOT_AUTHORIZED,
}


def return_code_of(reason_code: int) -> ConnectReturnCode:
    """Return the CONNACK return code of 3.1.1 that comes nearest to a reason code of 5.0.

    Whatever 3.1.1 has no word for is "server unavailable": its client may try again later.
    """
    return _RETURN_CODES.get(reason_code, ConnectReturnCode.SERVER_UNAVAILABLE)
