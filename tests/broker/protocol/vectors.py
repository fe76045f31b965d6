"""Packets as bytes, written by hand from the specifications, beside what they mean.

Never made by our encoder: a codec that is only tested against itself can be wrong twice in the same way. Text in a
vector is given as bytes, everything else in hexadecimal, in the order and grouping of the specification's figures.

`VECTORS` are right, for 3.1.1 and 5.0 and in both directions; `canonical` ones are also what our encoder must say.
`REFUSED` are wrong, each with the clause that it breaks and the error that it earns.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.protocol.errors import (
    MalformedPacket,
    MqttError,
    ProtocolError,
    TopicAliasInvalid,
    UnsupportedProtocolVersion,
)
from broker.protocol.packets import (
    V3_1,
    V3_1_1,
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    SubscriptionRequest,
    Unsuback,
    Unsubscribe,
    Will,
)


def wire(*parts: str | bytes) -> bytes:
    """Hexadecimal digits (spaces do not matter) and literal bytes, one after the other."""
    return b"".join(bytes.fromhex(part) if isinstance(part, str) else part for part in parts)


@dataclass(frozen=True)
class Vector:
    name: str
    version: int
    data: bytes
    packet: Packet
    from_server: bool = False
    canonical: bool = True

    def __str__(self) -> str:
        return f"{'5.0' if self.version == V5 else '3.1.1'} {self.name}"


@dataclass(frozen=True)
class Refused:
    clause: str
    version: int
    data: bytes
    error: type[MqttError]
    from_server: bool = False

    def __str__(self) -> str:
        return f"{'5.0' if self.version == V5 else '3.1.1'} {self.clause}"


def _both(name: str, data: bytes, packet: Packet, from_server: bool = False) -> list[Vector]:
    """Return a vector for each version, with equal bytes."""
    return [Vector(name, version, data, packet, from_server) for version in (V3_1_1, V5)]


def _all_refuse(clause: str, data: bytes, error: type[MqttError], from_server: bool = False) -> list[Refused]:
    return [Refused(clause, version, data, error, from_server) for version in (V3_1_1, V5)]


CONNECT_3_1_1 = wire(
    "10 0d",  # CONNECT, 13 bytes
    "0004", b"MQTT", "04",  # protocol name and level
    "02",  # clean session
    "003c",  # keep alive 60
    "0001", b"a",
)  # fmt: skip
CONNECT_5 = wire(
    "10 0e",
    "0004", b"MQTT", "05",
    "02",  # clean start
    "003c",
    "00",  # no properties
    "0001", b"a",
)  # fmt: skip

_CONNECTS = [
    Vector("CONNECT", V3_1_1, CONNECT_3_1_1, Connect("a", V3_1_1, True, 60)),
    Vector("CONNECT", V5, CONNECT_5, Connect("a", V5, True, 60)),
    Vector(
        "CONNECT of MQTT 3.1",
        V3_1_1,
        wire("10 16", "0006", b"MQIsdp", "03", "c0", "003c", "0001", b"a", "0002", b"jo", "0001", b"x"),
        Connect("a", V3_1, False, 60, "jo", b"x"),
    ),
    Vector(
        "CONNECT with user name and password",
        V3_1_1,
        wire("10 16", "0004", b"MQTT", "04", "c2", "012c", "0001", b"a", "0003", b"joe", "0002", b"\0\xff"),
        Connect("a", V3_1_1, True, 300, "joe", b"\0\xff"),
    ),
    Vector(
        "CONNECT to a session, with nothing in its fields",
        V3_1_1,
        wire("10 10", "0004", b"MQTT", "04", "c0", "0000", "0000", "0000", "0000"),
        Connect("", V3_1_1, False, 0, "", b""),
    ),
    Vector(
        "CONNECT with all there is",
        V3_1_1,
        wire(
            "10 27",  # 39
            "0004", b"MQTT", "04",
            "ee",  # user name, password, will retain, will QoS 1, will, clean session
            "000a",
            "0006", b"kiosk1",
            "0001", b"w", "0004", b"gone",
            "0003", b"joe", "0005", b"\0\xff\x80ab",
        ),
        Connect("kiosk1", V3_1_1, True, 10, "joe", b"\0\xff\x80ab", Will("w", b"gone", 1, True)),
    ),
    Vector(
        "CONNECT with all there is",
        V5,
        wire(
            "10 6b",  # 107
            "0004", b"MQTT", "05",
            "f4",  # user name, password, will retain, will QoS 2, will
            "ffff",
            "23",  # properties, 35 bytes
            "11 00000e10",  # session expiry interval 3600
            "15 0001", b"m",  # authentication method
            "16 0001", b"\0",  # authentication data
            "17 00",  # request problem information
            "19 01",  # request response information
            "21 0014",  # receive maximum 20
            "22 000a",  # topic alias maximum 10
            "26 0001", b"k", "0001", b"v",
            "27 00100000",  # maximum packet size 1 MiB
            "0006", b"kiosk1",
            "20",  # will properties, 32 bytes
            "01 01",  # payload format indicator
            "02 0000003c",  # message expiry interval
            "03 0001", b"t",  # content type
            "08 0001", b"r",  # response topic
            "09 0002", b"\xff\0",  # correlation data
            "18 00000005",  # will delay interval
            "26 0001", b"a", "0001", b"b",
            "0004", b"will", "0003", b"bye",
            "0003", b"joe", "0002", b"pw",
        ),
        Connect(
            "kiosk1",
            V5,
            False,
            65_535,
            "joe",
            b"pw",
            Will(
                "will",
                b"bye",
                2,
                True,
                Properties(
                    payload_format_indicator=1,
                    message_expiry_interval=60,
                    content_type="t",
                    response_topic="r",
                    correlation_data=b"\xff\0",
                    will_delay_interval=5,
                    user_properties=[("a", "b")],
                ),
            ),
            Properties(
                session_expiry_interval=3600,
                authentication_method="m",
                authentication_data=b"\0",
                request_problem_information=0,
                request_response_information=1,
                receive_maximum=20,
                topic_alias_maximum=10,
                user_properties=[("k", "v")],
                maximum_packet_size=1_048_576,
            ),
        ),
    ),
    Vector(
        "CONNECT with an empty client identifier, will payload, user name and password",
        V3_1_1,
        wire("10 15", "0004", b"MQTT", "04", "c6", "0000", "0000", "0001", b"w", "0000", "0000", "0000"),
        Connect("", V3_1_1, True, 0, "", b"", Will("w", b"")),
    ),
    Vector(
        "CONNECT with a password and no user name",  # allowed from 5.0 on
        V5,
        wire("10 11", "0004", b"MQTT", "05", "40", "0000", "00", "0000", "0002", b"pw"),
        Connect("", V5, False, 0, None, b"pw"),
    ),
    Vector(
        "CONNECT, remaining length in two bytes where one would do",
        V3_1_1,
        wire("10 8d00", CONNECT_3_1_1[2:]),
        Connect("a", V3_1_1, True, 60),
        canonical=False,
    ),
]  # fmt: skip

_CONNACKS = [
    Vector("CONNACK", V3_1_1, wire("20 02 00 00"), Connack(), True),
    Vector("CONNACK, session present", V3_1_1, wire("20 02 01 00"), Connack(True), True),
    Vector("CONNACK, not authorized", V3_1_1, wire("20 02 00 05"), Connack(False, 5), True),
    Vector("CONNACK", V5, wire("20 03 00 00 00"), Connack(), True),
    Vector("CONNACK, session present", V5, wire("20 03 01 00 00"), Connack(True), True),
    Vector("CONNACK, not authorized", V5, wire("20 03 00 87 00"), Connack(False, 0x87), True),
    Vector(
        "CONNACK with all there is",
        V5,
        wire(
            "20 40",  # 64
            "00 00",
            "3d",  # 61
            "11 ffffffff",  # session expiry interval: never
            "12 0002", b"id",  # assigned client identifier
            "13 001e",  # server keep alive 30
            "15 0001", b"m",
            "16 0001", b"d",
            "1a 0001", b"i",  # response information
            "1c 0001", b"s",  # server reference
            "1f 0002", b"ok",  # reason string
            "21 0400",  # receive maximum 1024
            "22 0010",  # topic alias maximum 16
            "24 01",  # maximum QoS 1
            "25 00",  # retain available
            "26 0001", b"k", "0000",
            "27 00000400",  # maximum packet size
            "28 01",  # wildcard subscription available
            "29 00",  # subscription identifiers available
            "2a 01",  # shared subscription available
        ),
        Connack(
            properties=Properties(
                session_expiry_interval=0xFFFFFFFF,
                assigned_client_identifier="id",
                server_keep_alive=30,
                authentication_method="m",
                authentication_data=b"d",
                response_information="i",
                server_reference="s",
                reason_string="ok",
                receive_maximum=1024,
                topic_alias_maximum=16,
                maximum_qos=1,
                retain_available=0,
                user_properties=[("k", "")],
                maximum_packet_size=1024,
                wildcard_subscription_available=1,
                subscription_identifier_available=0,
                shared_subscription_available=1,
            )
        ),
        True,
    ),
]  # fmt: skip

_PUBLISHES = [
    Vector("PUBLISH QoS 0", V3_1_1, wire("30 07", "0003", b"a/b", b"hi"), Publish("a/b", b"hi")),
    Vector("PUBLISH QoS 0", V5, wire("30 08", "0003", b"a/b", "00", b"hi"), Publish("a/b", b"hi")),
    Vector(
        "PUBLISH QoS 1, retained",
        V3_1_1,
        wire("33 09", "0003", b"a/b", "000a", b"hi"),
        Publish("a/b", b"hi", 1, True, False, 10),
    ),
    Vector(
        "PUBLISH QoS 2, repeated",
        V3_1_1,
        wire("3c 07", "0003", b"a/b", "ffff"),
        Publish("a/b", b"", 2, False, True, 65_535),
    ),
    Vector(
        "PUBLISH QoS 1, repeated and retained",
        V5,
        wire("3b 0a", "0003", b"a/b", "0100", "00", b"hi"),
        Publish("a/b", b"hi", 1, True, True, 256),
    ),
    Vector(
        "PUBLISH of 128 bytes: remaining length in two",
        V3_1_1,
        wire("30 8001", "0001", b"t", b"x" * 125),
        Publish("t", b"x" * 125),
    ),
    Vector(
        "PUBLISH of 16,384 bytes: remaining length in three",
        V3_1_1,
        wire("32 808001", "0001", b"t", "0007", b"y" * 16_379),
        Publish("t", b"y" * 16_379, 1, packet_id=7),
    ),
    Vector(
        "PUBLISH of 2,097,152 bytes: remaining length in four",
        V5,
        wire("30 80808001", "0001", b"t", "00", b"z" * 2_097_148),
        Publish("t", b"z" * 2_097_148),
    ),
    Vector(
        "PUBLISH with a topic beyond ASCII",  # U+0041, U+2A6D4: the example of MQTT 5.0, 1.5.4
        V3_1_1,
        wire("30 07", "0005", b"A\xf0\xaa\x9b\x94"),
        Publish("A\U0002a6d4", b""),
    ),
    Vector(
        "PUBLISH with U+FEFF in the topic, which stays",  # [MQTT-1.5.4-3]
        V5,
        wire("30 06", "0003", b"\xef\xbb\xbf", "00"),
        Publish("\ufeff", b""),
    ),
    Vector(
        "PUBLISH with all there is, from a client",
        V5,
        wire(
            "34 37",  # 55
            "0001", b"t", "0001",
            "26",  # 38
            "01 00",
            "02 00000001",
            "03 0003", b"a/b",
            "08 0002", b"re",
            "09 0000",  # empty correlation data
            "23 000a",  # topic alias 10
            "26 0001", b"k", "0001", b"1", "26 0001", b"k", "0001", b"2",  # the same name twice, in order
            b"payload!!!!",
        ),
        Publish(
            "t",
            b"payload!!!!",
            2,
            packet_id=1,
            properties=Properties(
                payload_format_indicator=0,
                message_expiry_interval=1,
                content_type="a/b",
                response_topic="re",
                correlation_data=b"",
                topic_alias=10,
                user_properties=[("k", "1"), ("k", "2")],
            ),
        ),
    ),
    Vector(
        "PUBLISH by topic alias alone",
        V5,
        wire("30 07", "0000", "03", "23 0001", b"p"),
        Publish("", b"p", properties=Properties(topic_alias=1)),
    ),
    Vector(
        "PUBLISH with two subscription identifiers, from a server",
        V5,
        wire("30 0c", "0001", b"t", "07", "0b 01", "0b ffffff7f", b"p"),
        Publish("t", b"p", properties=Properties(subscription_identifiers=[1, 268_435_455])),
        from_server=True,
    ),
    Vector(
        "PUBLISH with properties in another order",
        V5,
        wire("30 0c", "0001", b"t", "07", "02 00000009", "01 01", b"p"),
        Publish("t", b"p", properties=Properties(payload_format_indicator=1, message_expiry_interval=9)),
        canonical=False,
    ),
]  # fmt: skip


def _acknowledgements(from_server: bool) -> list[Vector]:
    vectors = []
    for kind, name, first, refusal in (
        (Puback, "PUBACK", "40", "97"),
        (Pubrec, "PUBREC", "50", "97"),
        (Pubrel, "PUBREL", "62", "92"),  # flags 0010 [MQTT-3.6.1-1]
        (Pubcomp, "PUBCOMP", "70", "92"),
    ):
        code = int(refusal, 16)
        vectors += _both(name, wire(first, "02 0102"), kind(0x0102), from_server)
        vectors += [
            Vector(f"{name} with a code", V5, wire(first, "03 ffff", refusal), kind(0xFFFF, code), from_server),
            Vector(
                f"{name} with a reason",
                V5,
                wire(first, "10 0001", refusal, "0c", "1f 0002", b"no", "26 0001", b"k", "0001", b"v"),
                kind(1, code, Properties(reason_string="no", user_properties=[("k", "v")])),
                from_server,
            ),
            Vector(f"{name}, 0x00 spelt out", V5, wire(first, "03 0001 00"), kind(1), from_server, canonical=False),
            Vector(f"{name}, all spelt out", V5, wire(first, "04 0001 00 00"), kind(1), from_server, canonical=False),
        ]
    return vectors


_SUBSCRIPTIONS = [
    Vector(
        "SUBSCRIBE",
        V3_1_1,
        wire("82 0e", "000a", "0003", b"a/b", "01", "0003", b"c/#", "02"),
        Subscribe(10, [SubscriptionRequest("a/b", 1), SubscriptionRequest("c/#", 2)]),
    ),
    Vector(
        "SUBSCRIBE",
        V5,
        wire("82 0f", "000a", "00", "0003", b"a/b", "01", "0003", b"c/#", "02"),
        Subscribe(10, [SubscriptionRequest("a/b", 1), SubscriptionRequest("c/#", 2)]),
    ),
    Vector(
        "SUBSCRIBE with all there is",
        V5,
        wire(
            "82 27",  # 39
            "000a",
            "0a",  # 10
            "0b 8001",  # subscription identifier 128
            "26 0001", b"k", "0001", b"v",
            "0001", b"+", "2e",  # retain handling 2, retain as published, no local, QoS 2
            "000b", b"$share/g/+/", "19",  # retain handling 1, retain as published, QoS 1
            "0005", b"$SYS/", "00",
        ),
        Subscribe(
            10,
            [
                SubscriptionRequest("+", 2, True, True, 2),
                SubscriptionRequest("$share/g/+/", 1, False, True, 1),
                SubscriptionRequest("$SYS/", 0),
            ],
            Properties(subscription_identifiers=[128], user_properties=[("k", "v")]),
        ),
    ),
    Vector("SUBACK", V3_1_1, wire("90 06", "000a", "00 01 02 80"), Suback(10, [0, 1, 2, 0x80]), True),
    Vector("SUBACK", V5, wire("90 06", "000a", "00", "00 02 87"), Suback(10, [0, 2, 0x87]), True),
    Vector(
        "SUBACK with a reason",
        V5,
        wire("90 09", "000a", "05", "1f 0002", b"no", "8f"),
        Suback(10, [0x8F], Properties(reason_string="no")),
        True,
    ),
    Vector("UNSUBSCRIBE", V3_1_1, wire("a2 09", "000b", "0001", b"a", "0002", b"+/"), Unsubscribe(11, ["a", "+/"])),
    Vector("UNSUBSCRIBE", V5, wire("a2 06", "000b", "00", "0001", b"a"), Unsubscribe(11, ["a"])),
    Vector(
        "UNSUBSCRIBE with a user property",
        V5,
        wire("a2 0d", "000b", "07", "26 0001", b"k", "0001", b"v", "0001", b"a"),
        Unsubscribe(11, ["a"], Properties(user_properties=[("k", "v")])),
    ),
    Vector("UNSUBACK", V3_1_1, wire("b0 02", "000b"), Unsuback(11), True),
    Vector("UNSUBACK", V5, wire("b0 05", "000b", "00", "00 11"), Unsuback(11, [0, 0x11]), True),
    Vector(
        "UNSUBACK with a reason",
        V5,
        wire("b0 08", "000b", "04", "1f 0001", b"x", "11"),
        Unsuback(11, [0x11], Properties(reason_string="x")),
        True,
    ),
]  # fmt: skip

_REST = [
    *_both("PINGREQ", wire("c0 00"), Pingreq()),
    *_both("PINGRESP", wire("d0 00"), Pingresp(), from_server=True),
    *_both("DISCONNECT", wire("e0 00"), Disconnect()),
    Vector("DISCONNECT", V5, wire("e0 00"), Disconnect(), True),
    Vector("DISCONNECT with the will", V5, wire("e0 01 04"), Disconnect(4)),
    Vector(
        "DISCONNECT with another session expiry",
        V5,
        wire("e0 07", "00", "05", "11 0000000a"),
        Disconnect(0, Properties(session_expiry_interval=10)),
    ),
    Vector("DISCONNECT, taken over", V5, wire("e0 01 8e"), Disconnect(0x8E), True),
    Vector(
        "DISCONNECT, server moved",
        V5,
        wire("e0 0c", "9d", "0a", "1c 0003", b"b:1", "1f 0001", b"x"),
        Disconnect(0x9D, Properties(server_reference="b:1", reason_string="x")),
        True,
    ),
    Vector("DISCONNECT, all spelt out", V5, wire("e0 02 00 00"), Disconnect(), canonical=False),
    Vector("AUTH", V5, wire("f0 00"), Auth(), True),
    Vector(
        "AUTH to go on",
        V5,
        wire("f0 14", "18", "12", "15 0005", b"SCRAM", "16 0001", b"\x01", "1f 0003", b"why"),
        Auth(0x18, Properties(authentication_method="SCRAM", authentication_data=b"\x01", reason_string="why")),
        True,
    ),
    Vector(
        "AUTH again",
        V5,
        wire("f0 06", "19", "04", "15 0001", b"m"),
        Auth(0x19, Properties(authentication_method="m")),
    ),
]

VECTORS: list[Vector] = [
    *_CONNECTS,
    *_CONNACKS,
    *_PUBLISHES,
    *_acknowledgements(from_server=False),
    *_acknowledgements(from_server=True),
    *_SUBSCRIPTIONS,
    *_REST,
]


def _connect(length: str, level: str, flags: str, *rest: str | bytes) -> bytes:
    """CONNECT with a keep alive of 60, up to where the versions part."""
    return wire("10", length, "0004", b"MQTT", level, flags, "003c", *rest)


_HEADERS = [
    *_all_refuse("MQTT-2.1.3-1: type 0", wire("00 00"), MalformedPacket),
    *_all_refuse("MQTT-2.1.3-1: PINGREQ with flags", wire("c1 00"), MalformedPacket),
    *_all_refuse("MQTT-3.6.1-1: PUBREL without flags", wire("60 02 0001"), MalformedPacket),
    *_all_refuse("MQTT-3.8.1-1: SUBSCRIBE without flags", wire("80 06 0001 0001", b"a", "00"), MalformedPacket),
    *_all_refuse("MQTT-3.10.1-1: UNSUBSCRIBE without flags", wire("a0 05 0001 0001", b"a"), MalformedPacket),
    *_all_refuse("1.5.5: remaining length of five bytes", wire("30 8080808001"), MalformedPacket),
    Refused("MQTT-1.5.5-1: remaining length with a byte to spare", V5, wire("c0 8000"), MalformedPacket),
    Refused("MQTT-1.5.5-1: with two bytes to spare", V5, wire("40 828000 0001"), MalformedPacket),
    *_all_refuse("bytes after PINGREQ", wire("c0 01 00"), MalformedPacket),
    *_all_refuse("an HTTP request", b"GET / HTTP/1.1\r\n\r\n", MalformedPacket),
    *_all_refuse("a TLS handshake", wire("16 03 01 02 00 01"), MalformedPacket),
    # Directions.
    *_all_refuse("CONNACK from a client", wire("20 02 0000"), ProtocolError),
    *_all_refuse("SUBACK from a client", wire("90 03 0001 00"), ProtocolError),
    *_all_refuse("UNSUBACK from a client", wire("b0 02 0001"), ProtocolError),
    *_all_refuse("PINGRESP from a client", wire("d0 00"), ProtocolError),
    *_all_refuse("CONNECT from a server", CONNECT_3_1_1, ProtocolError, True),
    *_all_refuse("SUBSCRIBE from a server", wire("82 06 0001 0001", b"a", "00"), ProtocolError, True),
    *_all_refuse("UNSUBSCRIBE from a server", wire("a2 05 0001 0001", b"a"), ProtocolError, True),
    *_all_refuse("PINGREQ from a server", wire("c0 00"), ProtocolError, True),
    Refused("DISCONNECT from a server", V3_1_1, wire("e0 00"), ProtocolError, True),
    Refused("AUTH", V3_1_1, wire("f0 00"), MalformedPacket),
]

_OPENINGS = [
    *_all_refuse(
        "MQTT-3.1.2-1: another protocol name",
        wire("10 0d", "0004", b"MQTt", "04", "02", "003c", "0001", b"a"),
        UnsupportedProtocolVersion,
    ),
    *_all_refuse("MQTT-3.1.2-2: level 6", _connect("0d", "06", "02", "0001", b"a"), UnsupportedProtocolVersion),
    *_all_refuse(
        "MQTT-3.1.2-2: MQIsdp has level 3",
        wire("10 0f", "0006", b"MQIsdp", "04", "02", "003c", "0001", b"a"),
        UnsupportedProtocolVersion,
    ),
    *_all_refuse("MQTT-3.1.2-3: reserved flag", _connect("0d", "04", "03", "0001", b"a"), MalformedPacket),
    *_all_refuse("MQTT-3.1.2-11: QoS without a will", _connect("0d", "04", "0a", "0001", b"a"), MalformedPacket),
    *_all_refuse("MQTT-3.1.2-13: retain without a will", _connect("0d", "04", "22", "0001", b"a"), MalformedPacket),
    *_all_refuse(
        "MQTT-3.1.2-12: will QoS 3",
        _connect("12", "04", "1e", "0001", b"a", "0001", b"w", "0000"),
        MalformedPacket,
    ),
    *_all_refuse(
        "MQTT-4.7.0-1: a wildcard in the will topic",
        _connect("12", "04", "06", "0001", b"a", "0001", b"#", "0000"),
        MalformedPacket,
    ),
    *_all_refuse(
        "MQTT-3.1.2-22 of 3.1.1: password without user name",
        _connect("0f", "04", "42", "0001", b"a", "0000"),
        MalformedPacket,
    ),
    *_all_refuse("CONNECT that ends early", _connect("0c", "04", "02", "0001"), MalformedPacket),
    *_all_refuse("CONNECT without its user name", _connect("10", "04", "c2", "0004", b"abcd"), MalformedPacket),
    *_all_refuse(
        "CONNECT without its password", _connect("11", "04", "c2", "0001", b"a", "0002", b"us"), MalformedPacket
    ),
    *_all_refuse(
        "CONNECT with too short a password",
        _connect("12", "04", "c2", "0001", b"a", "0000", "0002", b"p"),
        MalformedPacket,
    ),
    *_all_refuse(
        "bytes after the password",
        _connect("13", "04", "c2", "0001", b"a", "0000", "0001", b"p", "00"),
        MalformedPacket,
    ),
    *_all_refuse(
        "MQTT-1.5.4-2: U+0000 in the user name",
        _connect("12", "04", "c2", "0001", b"a", "0001", b"\0", "0000"),
        MalformedPacket,
    ),
    *_all_refuse(
        "MQTT-1.5.4-1: a user name that is not UTF-8",
        _connect("12", "04", "c2", "0001", b"a", "0001", b"\xff", "0000"),
        MalformedPacket,
    ),
    *_all_refuse("bytes after CONNECT", _connect("0e", "04", "02", "0001", b"a", "00"), MalformedPacket),
    *_all_refuse("MQTT-1.5.4-2: U+0000", _connect("0d", "04", "02", "0001", b"\0"), MalformedPacket),
    *_all_refuse("MQTT-1.5.4-1: a surrogate", _connect("0f", "04", "02", "0003", b"\xed\xa0\x80"), MalformedPacket),
    Refused("3.1.2.11.3: receive maximum 0", V5, _connect("11", "05", "02", "03 21 0000", "0001", b"a"), ProtocolError),
    Refused(
        "3.1.2.11.4: maximum packet size 0",
        V5,
        _connect("13", "05", "02", "05 27 00000000", "0001", b"a"),
        ProtocolError,
    ),
    Refused(
        "3.1.2.11.7: request problem information 2",
        V5,
        _connect("10", "05", "02", "02 17 02", "0001", b"a"),
        ProtocolError,
    ),
    Refused(
        "3.1.2.11.10: authentication data without a method",
        V5,
        _connect("11", "05", "02", "03 16 0000", "0001", b"a"),
        ProtocolError,
    ),
    Refused(
        "3.1.2.11.2: session expiry interval twice",
        V5,
        _connect("18", "05", "02", "0a 11 00000001 11 00000001", "0001", b"a"),
        ProtocolError,
    ),
    Refused(
        "2.2.2.2: a property of PUBLISH in CONNECT",
        V5,
        _connect("10", "05", "02", "02 01 01", "0001", b"a"),
        MalformedPacket,
    ),
    Refused(
        "2.2.2.2: a property that does not exist",
        V5,
        _connect("10", "05", "02", "02 7f 01", "0001", b"a"),
        MalformedPacket,
    ),
    Refused(
        "a property that is longer than the properties",
        V5,
        _connect("11", "05", "02", "03 11 0000", "0001", b"a"),
        MalformedPacket,
    ),
    Refused(
        "properties that are longer than the packet",
        V5,
        _connect("0e", "05", "02", "7f", "0001", b"a"),
        MalformedPacket,
    ),
    Refused("1.5.5: property length of five bytes", V5, _connect("0f", "05", "02", "8080808001"), MalformedPacket),
    Refused(
        "MQTT-1.5.5-1: property length with a byte to spare",
        V5,
        _connect("0f", "05", "02", "8000", "0001", b"a"),
        MalformedPacket,
    ),
    Refused("MQTT-3.2.2-1: connack flags", V3_1_1, wire("20 02 02 00"), MalformedPacket, True),
    Refused("MQTT-3.2.2-6: session present, but refused", V3_1_1, wire("20 02 01 05"), ProtocolError, True),
    Refused("table 3.1: return code 6", V3_1_1, wire("20 02 00 06"), ProtocolError, True),
    Refused("3.2.2.2: reason code of DISCONNECT", V5, wire("20 03 00 8e 00"), ProtocolError, True),
]

_MESSAGES = [
    *_all_refuse("MQTT-3.3.1-4: QoS 3", wire("36 05", "0001", b"t", "0001"), MalformedPacket),
    *_all_refuse("MQTT-3.3.1-2: DUP with QoS 0", wire("38 03", "0001", b"t"), MalformedPacket),
    *_all_refuse("MQTT-2.2.1-3: packet identifier 0", wire("32 06", "0001", b"t", "0000", "00"), ProtocolError),
    *_all_refuse("MQTT-3.3.2-2: + in the topic", wire("30 04", "0001", b"+", "00"), MalformedPacket),
    *_all_refuse("MQTT-3.3.2-2: # in the topic", wire("30 05", "0002", b"a#", "00"), MalformedPacket),
    *_all_refuse("MQTT-1.5.4-2: U+0000 in the topic", wire("30 05", "0002", b"a\0", "00"), MalformedPacket),
    *_all_refuse("MQTT-1.5.4-1: topic is not UTF-8", wire("30 05", "0002", b"a\xff", "00"), MalformedPacket),
    *_all_refuse("MQTT-1.5.4-1: overlong UTF-8", wire("30 05", "0002", b"\xc0\xaf", "00"), MalformedPacket),
    *_all_refuse(
        "MQTT-1.5.4-1: a surrogate in the topic", wire("30 06", "0003", b"\xed\xbf\xbf", "00"), MalformedPacket
    ),
    *_all_refuse("MQTT-4.7.3-1: empty topic", wire("30 04", "0000", "00", b"p"), ProtocolError),
    *_all_refuse("PUBLISH without a topic length", wire("30 01", "00"), MalformedPacket),
    *_all_refuse("PUBLISH of nothing", wire("30 00"), MalformedPacket),
    *_all_refuse("PUBLISH with a longer topic than itself", wire("30 04", "0003", b"ab"), MalformedPacket),
    *_all_refuse("PUBLISH QoS 1 that ends before its identifier", wire("32 04", "0001", b"a", "00"), MalformedPacket),
    Refused("PUBLISH that ends before its properties", V5, wire("30 03", "0001", b"t"), MalformedPacket),
    Refused("MQTT-3.3.2-8: topic alias 0", V5, wire("30 07", "0001", b"t", "03 23 0000"), TopicAliasInvalid),
    Refused(
        "MQTT-3.3.4-6: subscription identifier from a client",
        V5,
        wire("30 06", "0001", b"t", "02 0b 01"),
        MalformedPacket,
    ),
    Refused("3.3.2.3.8: subscription identifier 0", V5, wire("30 06", "0001", b"t", "02 0b 00"), ProtocolError, True),
    Refused(
        "MQTT-3.3.2-14: response topic with a wildcard",
        V5,
        wire("30 08", "0001", b"t", "04 08 0001", b"+"),
        MalformedPacket,
    ),
    Refused("3.3.2.3.2: payload format indicator 2", V5, wire("30 06", "0001", b"t", "02 01 02"), ProtocolError),
    # PUBACK, PUBREC, PUBREL, PUBCOMP.
    *_all_refuse("PUBACK with packet identifier 0", wire("40 02 0000"), ProtocolError),
    *_all_refuse("PUBACK that ends early", wire("40 01 00"), MalformedPacket),
    *_all_refuse("PUBCOMP with packet identifier 0", wire("70 02 0000"), ProtocolError),
    Refused("PUBACK of 5.0", V3_1_1, wire("40 03 0001 00"), MalformedPacket),
    Refused("PUBREL of 5.0", V3_1_1, wire("62 04 0001 00 00"), MalformedPacket),
    Refused("MQTT-3.4.2-1: reason code of SUBACK in PUBACK", V5, wire("40 03 0001 01"), ProtocolError),
    Refused("PUBACK 0x10 with packet identifier 0", V5, wire("40 03 0000 10"), ProtocolError),
    Refused("MQTT-3.6.2-1: reason code of PUBACK in PUBREL", V5, wire("62 03 0001 97"), ProtocolError),
    Refused("PUBACK that ends before its properties", V5, wire("40 04 0001 00 05"), MalformedPacket),
    Refused("bytes after PUBACK", V5, wire("40 05 0001 00 00 00"), MalformedPacket),
]

_FILTERS = [
    Refused("MQTT-3.8.3-2: SUBSCRIBE without a filter", V3_1_1, wire("82 02 0001"), ProtocolError),
    Refused("MQTT-3.8.3-2: SUBSCRIBE without a filter", V5, wire("82 03 0001 00"), ProtocolError),
    Refused("MQTT-3.10.3-2: UNSUBSCRIBE without a filter", V3_1_1, wire("a2 02 0001"), ProtocolError),
    Refused("MQTT-3.10.3-2: UNSUBSCRIBE without a filter", V5, wire("a2 03 0001 00"), ProtocolError),
    Refused("MQTT-2.2.1-3: SUBSCRIBE 0", V3_1_1, wire("82 06 0000", "0001", b"a", "00"), ProtocolError),
    Refused("MQTT-2.2.1-3: UNSUBSCRIBE 0", V5, wire("a2 06 0000", "00", "0001", b"a"), ProtocolError),
    Refused("SUBSCRIBE that ends before its options", V3_1_1, wire("82 05 0001", "0001", b"a"), MalformedPacket),
    Refused("MQTT-3-8.3-4: reserved options", V3_1_1, wire("82 06 0001", "0001", b"a", "04"), MalformedPacket),
    Refused("MQTT-3-8.3-4: QoS 3", V3_1_1, wire("82 06 0001", "0001", b"a", "03"), MalformedPacket),
    Refused("MQTT-3.8.3-5: reserved options", V5, wire("82 07 0001 00", "0001", b"a", "40"), MalformedPacket),
    Refused("3.8.3.1: retain handling 3", V5, wire("82 07 0001 00", "0001", b"a", "30"), ProtocolError),
    Refused(
        "MQTT-3.8.3-4: no local on a shared subscription",
        V5,
        wire("82 10 0001 00", "000a", b"$share/g/t", "04"),
        ProtocolError,
    ),
    Refused(
        "3.8.2.1.2: two subscription identifiers",
        V5,
        wire("82 0b 0001", "04 0b 01 0b 02", "0001", b"a", "00"),
        ProtocolError,
    ),
    Refused("MQTT-4.7.1-1: # in the middle", V3_1_1, wire("82 08 0001", "0003", b"#/a", "00"), MalformedPacket),
    Refused("MQTT-4.7.3-1: empty filter", V5, wire("82 06 0001 00", "0000", "00"), MalformedPacket),
    Refused("MQTT-4.7.1-2: UNSUBSCRIBE from a+", V3_1_1, wire("a2 06 0001", "0002", b"a+"), MalformedPacket),
    Refused("MQTT-3.9.3-2: return code 0x87", V3_1_1, wire("90 03 0001 87"), ProtocolError, True),
    Refused("MQTT-3.9.3-2: reason code 3", V5, wire("90 04 0001 00 03"), ProtocolError, True),
    Refused("SUBACK without a code", V5, wire("90 03 0001 00"), ProtocolError, True),
    Refused("UNSUBACK without a code", V5, wire("b0 03 0001 00"), ProtocolError, True),
    Refused("UNSUBACK of 5.0", V3_1_1, wire("b0 04 0001 00 00"), MalformedPacket, True),
]

_FAREWELLS = [
    Refused("DISCONNECT of 5.0", V3_1_1, wire("e0 01 00"), MalformedPacket),
    Refused("table 3-10: taken over, says the client", V5, wire("e0 01 8e"), ProtocolError),
    Refused("table 3-10: with the will, says the server", V5, wire("e0 01 04"), ProtocolError, True),
    Refused("MQTT-3.14.2-2: session expiry from a server", V5, wire("e0 07 00 05 11 00000001"), MalformedPacket, True),
    Refused("3.14.2.2.5: server reference from a client", V5, wire("e0 05 00 03 1c 0000"), MalformedPacket),
    Refused("MQTT-3.15.2-1: reason code of DISCONNECT in AUTH", V5, wire("f0 02 87 00"), ProtocolError),
]

REFUSED: list[Refused] = [*_HEADERS, *_OPENINGS, *_MESSAGES, *_FILTERS, *_FAREWELLS]
