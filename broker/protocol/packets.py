"""The control packets of MQTT 3.1.1 and 5.0 as plain data.

One slotted dataclass per control packet, shared by both versions: what exists in 5.0 only (reason codes, properties)
has a default that means "absent". Packets hold no bytes of the wire and have no methods that encode or decode them;
`codec.py` does that, so that its hot paths can be read in one sitting.

Names are the specification's. `packet_id` is the packet identifier (1..65535), `payload` and `password` are bytes,
everything else textual is `str`. Intervals are whole seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

V3_1 = 3
"""Protocol level byte of MQTT 3.1, whose protocol name is `MQIsdp`. After CONNECT it is spoken as 3.1.1."""
V3_1_1 = 4
"""Protocol level byte of MQTT 3.1.1 [MQTT-3.1.2-2]."""
V5 = 5
"""Protocol version byte of MQTT 5.0."""
SPOKEN_AS = {(b"MQIsdp", V3_1): V3_1_1, (b"MQTT", V3_1_1): V3_1_1, (b"MQTT", V5): V5}
"""Protocol name and level of a CONNECT to the version of all further packets."""


class PacketType(IntEnum):
    """The high nibble of a packet's first byte (MQTT 5.0, table 2-1)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class ReasonCode(IntEnum):
    """Reason codes of MQTT 5.0 (table 2-6). Below 0x80: success."""

    SUCCESS = 0x00  # also Normal disconnection and Granted QoS 0
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    REAUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


_OF_PUBLISH = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
_OF_PUBREL = frozenset((0x00, 0x92))
REASON_CODES: dict[PacketType, frozenset[int]] = {
    PacketType.CONNACK: frozenset(
        (0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F)
    ),
    PacketType.PUBACK: _OF_PUBLISH,
    PacketType.PUBREC: _OF_PUBLISH,
    PacketType.PUBREL: _OF_PUBREL,
    PacketType.PUBCOMP: _OF_PUBREL,
    PacketType.SUBACK: frozenset((0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)),
    PacketType.UNSUBACK: frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91)),
    PacketType.DISCONNECT: frozenset(
        (0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3))
    ),
    PacketType.AUTH: frozenset((0x00, 0x18, 0x19)),
}
"""Reason codes that each packet may carry (MQTT 5.0, 3.2.2.2 to 3.15.2.1)."""
DISCONNECT_FROM_CLIENT_ONLY = frozenset((0x04,))
DISCONNECT_FROM_SERVER_ONLY = frozenset((0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, *range(0x9A, 0xA3)))
"""MQTT 5.0, table 3-10."""


class ConnectReturnCode(IntEnum):
    """Return codes of CONNACK in MQTT 3.1.1 (table 3.1)."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_VERSION = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


@dataclass(slots=True)
class Properties:
    """All properties of MQTT 5.0 (table 2-4); None and empty mean absent. Packets without any carry None instead."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: list[int] = field(default_factory=list)
    session_expiry_interval: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_interval: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: list[tuple[str, str]] = field(default_factory=list)
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


@dataclass(slots=True)
class Will:
    """Will of a CONNECT."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties | None = None


@dataclass(slots=True)
class Connect:
    """CONNECT: open a session. `keep_alive` is in seconds, 0 for none."""

    client_id: str
    protocol_version: int = V3_1_1
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties | None = None


@dataclass(slots=True)
class Connack:
    """CONNACK: the answer to CONNECT."""

    session_present: bool = False
    reason_code: int = 0
    """A 5.0 reason code, or a 3.1.1 return code: what goes on the wire."""
    properties: Properties | None = None


@dataclass(slots=True)
class Publish:
    """PUBLISH: a message. `packet_id` is 0 with QoS 0."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Puback:
    """PUBACK: a message of QoS 1 is acknowledged."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Pubrec:
    """PUBREC: a message of QoS 2 is received."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Pubrel:
    """PUBREL: the packet identifier of a message of QoS 2 is released."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Pubcomp:
    """PUBCOMP: a message of QoS 2 is complete."""

    packet_id: int
    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class SubscriptionRequest:
    """One topic filter of a SUBSCRIBE, with its options."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    """SUBSCRIBE: add subscriptions."""

    packet_id: int
    subscriptions: list[SubscriptionRequest]
    properties: Properties | None = None


@dataclass(slots=True)
class Suback:
    """SUBACK: a reason code for each topic filter of a SUBSCRIBE."""

    packet_id: int
    reason_codes: list[int]
    properties: Properties | None = None


@dataclass(slots=True)
class Unsubscribe:
    """UNSUBSCRIBE: remove subscriptions."""

    packet_id: int
    topic_filters: list[str]
    properties: Properties | None = None


@dataclass(slots=True)
class Unsuback:
    """UNSUBACK: a reason code for each topic filter of an UNSUBSCRIBE."""

    packet_id: int
    reason_codes: list[int] = field(default_factory=list)
    """Empty in 3.1.1, whose UNSUBACK has no payload."""
    properties: Properties | None = None


@dataclass(slots=True)
class Pingreq:
    """PINGREQ: the client is there."""


@dataclass(slots=True)
class Pingresp:
    """PINGRESP: the server is there."""


@dataclass(slots=True)
class Disconnect:
    """DISCONNECT: the connection ends, for a reason."""

    reason_code: int = 0
    properties: Properties | None = None


@dataclass(slots=True)
class Auth:
    """AUTH: one step of an enhanced authentication."""

    reason_code: int = 0
    properties: Properties | None = None


Packet = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
