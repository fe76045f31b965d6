"""The codec against hand-written vectors, against itself, and against noise."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocol.codec import (
    MAX_PACKET_BYTES,
    MAX_TOPIC_FILTERS,
    MAX_USER_PROPERTIES,
    Decoder,
    encode,
    encode_properties,
    encode_publish,
)
from broker.protocol.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    ProtocolError,
    UnsupportedProtocolVersion,
)
from broker.protocol.packets import (
    DISCONNECT_FROM_CLIENT_ONLY,
    DISCONNECT_FROM_SERVER_ONLY,
    REASON_CODES,
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
from tests import wire as packets_by_hand
from tests.broker.protocol.vectors import CONNECT_3_1_1, CONNECT_5, REFUSED, VECTORS, Refused, Vector, wire

PINGREQ = wire("c0 00")


class Heard:
    """A sink that writes down what it is told; PUBACKs as the packets that they stand for."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def puback(self, packet_id: int, reason_code: int) -> None:
        self.packets.append(Puback(packet_id, reason_code))

    def packet(self, packet: Packet) -> None:
        assert not isinstance(packet, Puback), "PUBACK has its own method"
        self.packets.append(packet)


def decoder_for(sink: Heard, version: int, from_server: bool = False, maximum: int = MAX_PACKET_BYTES) -> Decoder:
    decoder = Decoder(sink, maximum, from_server=from_server)
    decoder.version = version
    return decoder


def decode(data: bytes, version: int, from_server: bool = False) -> list[Packet]:
    heard = Heard()
    decoder = decoder_for(heard, version, from_server)
    decoder.feed(data)
    assert decoder.buffered == 0
    return heard.packets


def as_heard(packet: Packet) -> Packet:
    """A decoder drops the properties of PUBACK."""
    return replace(packet, properties=None) if isinstance(packet, Puback) else packet


# ------------------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_decodes_what_the_specification_shows(vector: Vector) -> None:
    assert decode(vector.data, vector.version, vector.from_server) == [as_heard(vector.packet)]


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if vector.canonical], ids=str)
def test_encodes_what_the_specification_shows(vector: Vector) -> None:
    assert encode(vector.packet, vector.version) == vector.data


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if len(vector.data) < 1_000], ids=str)
def test_no_packet_is_complete_without_its_last_byte(vector: Vector) -> None:
    heard = Heard()
    decoder = decoder_for(heard, vector.version, vector.from_server)
    for index in range(len(vector.data) - 1):
        decoder.feed(vector.data[index : index + 1])
        assert decoder.buffered == index + 1
    assert not heard.packets
    decoder.feed(vector.data[-1:])
    assert heard.packets == [as_heard(vector.packet)]
    assert decoder.buffered == 0


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if len(vector.data) < 1_000], ids=str)
def test_a_packet_that_claims_to_be_shorter_or_longer_is_no_crash(vector: Vector) -> None:
    """Every packet cut short with a remaining length to match: refused, or another packet, never another exception."""
    header = 2 if vector.data[1] < 0x80 else 3
    body = vector.data[header:]
    for length in range(min(len(body), 128)):
        try:
            decode(vector.data[:1] + bytes((length,)) + body[:length], vector.version, vector.from_server)
        except MqttError:
            pass


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_refuses_what_the_specification_forbids(refused: Refused) -> None:
    with pytest.raises(MqttError) as caught:
        decode(refused.data, refused.version, refused.from_server)
    assert type(caught.value) is refused.error


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_what_came_before_an_error_is_handed_on_and_nothing_after_it(refused: Refused) -> None:
    good = wire("50 02 0001")
    heard = Heard()
    decoder = decoder_for(heard, refused.version, refused.from_server)
    with pytest.raises(refused.error):
        decoder.feed(good + refused.data + good)
    decoder.feed(good)
    assert heard.packets == [Pubrec(1)]
    assert decoder.buffered == 0


# ------------------------------------------------------------------------------------------------- versions and limits


def test_connect_sets_the_version_for_what_follows() -> None:
    heard = Heard()
    decoder = Decoder(heard)
    assert decoder.version == V3_1_1
    decoder.feed(CONNECT_5 + wire("30 05", "0001", b"t", "00", b"p"))
    assert decoder.version == V5
    assert heard.packets[1] == Publish("t", b"p")


def test_an_error_in_connect_is_answered_in_its_own_version() -> None:
    decoder = Decoder(Heard())
    with pytest.raises(ProtocolError):
        decoder.feed(wire("10 11", "0004", b"MQTT", "05", "02", "003c", "03", "21 0000", "0001", b"a"))
    assert decoder.version == V5


@pytest.mark.parametrize(("level", "version"), [("03", V3_1_1), ("06", V5), ("7f", V5), ("84", V3_1_1), ("85", V5)])
def test_an_unknown_version_is_answered_in_the_nearest(level: str, version: int) -> None:
    """The highest bit is that of mosquitto's bridges."""
    decoder = Decoder(Heard())
    with pytest.raises(UnsupportedProtocolVersion):
        decoder.feed(wire("10 0d", "0004", b"MQTT", level, "02", "003c", "0001", b"a"))
    assert decoder.version == version


@pytest.mark.parametrize(
    "header", [wire("30 09"), wire("30 8008"), wire("30 ffffff7f"), wire("82 808001"), wire("10 8101")]
)
def test_a_claim_above_the_maximum_is_refused_at_the_header(header: bytes) -> None:
    decoder = Decoder(Heard(), maximum_packet_size=10)
    for index in range(len(header) - 1):
        decoder.feed(header[index : index + 1])
    with pytest.raises(PacketTooLarge):
        decoder.feed(header[-1:])
    assert decoder.buffered == 0


def test_the_maximum_counts_the_whole_packet_and_can_be_changed() -> None:
    heard = Heard()
    decoder = Decoder(heard, maximum_packet_size=10)
    packet = wire("30 08", "0001", b"t", b"12345")
    decoder.feed(packet)
    decoder.maximum_packet_size = 9
    with pytest.raises(PacketTooLarge):
        decoder.feed(packet)
    assert heard.packets == [Publish("t", b"12345")]


def test_what_cannot_become_a_packet_is_refused_before_it_is_there() -> None:
    with pytest.raises(MalformedPacket):
        Decoder(Heard()).feed(b"\x36")
    with pytest.raises(MalformedPacket):
        Decoder(Heard()).feed(wire("30 80808080"))


@pytest.mark.timeout(20)  # it takes one second, or minutes
def test_a_packet_in_many_pieces_costs_time_in_proportion_to_its_size() -> None:
    """One byte at a time, a megabyte: collecting it by concatenation would copy half a terabyte."""
    heard = Heard()
    decoder = Decoder(heard)
    data = encode_publish(b"t", bytes(1_000_000), 0, 0, 0, None)
    for index in range(len(data)):
        decoder.feed(data[index : index + 1])
    assert heard.packets == [Publish("t", bytes(1_000_000))]


# ------------------------------------------------------------------------------------------------ stopping and pausing


class Obeying(Heard):
    """Calls a method of its decoder on the first packet."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self.methods = methods
        self.decoder = Decoder(self)

    def puback(self, packet_id: int, reason_code: int) -> None:
        super().puback(packet_id, reason_code)
        self._obey()

    def packet(self, packet: Packet) -> None:
        super().packet(packet)
        self._obey()

    def _obey(self) -> None:
        if len(self.packets) == 1:
            for method in self.methods:
                getattr(self.decoder, method)()


@pytest.mark.parametrize("first", [PINGREQ, wire("40 02 0001"), wire("30 03 0001", b"t")])
def test_after_stop_nothing_more_is_decoded(first: bytes) -> None:
    sink = Obeying("stop")
    sink.decoder.feed(first + PINGREQ + PINGREQ[:1])
    sink.decoder.feed(PINGREQ)
    sink.decoder.feed(b"\0")  # would be an error
    assert len(sink.packets) == 1
    assert sink.decoder.buffered == 0


@pytest.mark.parametrize("first", [CONNECT_5, wire("40 02 0001"), wire("30 03 0001", b"t")])
def test_pause_keeps_the_rest_for_resume(first: bytes) -> None:
    sink = Obeying("pause")
    sink.decoder.feed(first + PINGREQ + PINGREQ[:1])
    sink.decoder.feed(PINGREQ[1:] + b"\0")
    assert len(sink.packets) == 1
    assert sink.decoder.buffered == 5
    with pytest.raises(MalformedPacket):
        sink.decoder.resume()
    assert sink.packets[1:] == [Pingreq(), Pingreq()]


def test_pause_and_resume_within_one_packet_goes_on_in_order() -> None:
    sink = Obeying("pause", "resume")
    sink.decoder.feed(CONNECT_3_1_1 + PINGREQ + wire("40 02 0001"))
    assert sink.packets[1:] == [Pingreq(), Puback(1)]


def test_stop_lets_go_of_what_is_pending() -> None:
    decoder = Decoder(Heard())
    decoder.feed(wire("30 7f"))
    assert decoder.buffered == 2
    decoder.stop()
    assert decoder.buffered == 0


def test_stop_is_final() -> None:
    sink = Obeying("stop", "pause", "resume")
    sink.decoder.feed(PINGREQ + PINGREQ)
    sink.decoder.feed(PINGREQ)
    assert len(sink.packets) == 1


def test_resume_without_pause_does_nothing() -> None:
    heard = Heard()
    decoder = Decoder(heard)
    decoder.feed(PINGREQ[:1])
    decoder.resume()
    decoder.feed(PINGREQ[1:])
    assert heard.packets == [Pingreq()]


def test_an_error_of_the_sink_ends_the_decoder_too() -> None:
    class Refusing(Heard):
        def packet(self, packet: Packet) -> None:
            super().packet(packet)
            raise ProtocolError("not now")

    sink = Refusing()
    decoder = Decoder(sink)
    with pytest.raises(ProtocolError):
        decoder.feed(PINGREQ + PINGREQ)
    decoder.feed(PINGREQ)
    assert sink.packets == [Pingreq()]


# ----------------------------------------------------------------------------------------------------------- properties

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
TOPICS = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=20)
FILTERS = st.one_of(TOPICS.filter(lambda topic: not topic.startswith("$share/")), st.sampled_from(["#", "+/a/#", "+"]))
BYTES = st.binary(max_size=40)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
POSITIVE_U16 = st.integers(1, 0xFFFF)
FLAG = st.integers(0, 1)
PACKET_IDS = POSITIVE_U16
QOS = st.integers(0, 2)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3)

REASON: dict[str, st.SearchStrategy[Any]] = {"reason_string": TEXT, "user_properties": PAIRS}
MESSAGE: dict[str, st.SearchStrategy[Any]] = {
    "payload_format_indicator": FLAG,
    "message_expiry_interval": U32,
    "content_type": TEXT,
    "response_topic": TOPICS,
    "correlation_data": BYTES,
    "user_properties": PAIRS,
}
OF_BOTH_CONNECTS: dict[str, st.SearchStrategy[Any]] = {
    "session_expiry_interval": U32,
    "receive_maximum": POSITIVE_U16,
    "topic_alias_maximum": U16,
    "maximum_packet_size": st.integers(1, 0xFFFFFFFF),
    "authentication_method": TEXT,
    "user_properties": PAIRS,
}


def properties(version: int, **of: st.SearchStrategy[Any]) -> st.SearchStrategy[Properties | None]:
    """Some of these; None when none was drawn, as a decoder says it, and always in 3.1.1."""
    if version != V5:
        return st.none()
    drawn = st.fixed_dictionaries({}, optional=of).map(lambda values: Properties(**values))
    return drawn.map(lambda one: None if one == Properties() else one)


def wills(version: int) -> st.SearchStrategy[Will]:
    return st.builds(
        Will,
        topic=TOPICS,
        payload=BYTES,
        qos=QOS,
        retain=st.booleans(),
        properties=properties(version, will_delay_interval=U32, **MESSAGE),
    )


def connects(version: int) -> st.SearchStrategy[Connect]:
    drawn = st.builds(
        Connect,
        client_id=TEXT,
        protocol_version=st.just(version),
        clean_start=st.booleans(),
        keep_alive=U16,
        username=st.none() | TEXT,
        password=st.none() | BYTES,
        will=st.none() | wills(version),
        properties=properties(
            version, request_problem_information=FLAG, request_response_information=FLAG, **OF_BOTH_CONNECTS
        ),
    )
    if version == V5:
        return drawn
    # 3.1.1 has no password without a user name [MQTT-3.1.2-22].
    return drawn.filter(lambda packet: packet.username is not None or packet.password is None)


def publishes(version: int, from_server: bool) -> st.SearchStrategy[Publish]:
    of = MESSAGE | {"topic_alias": POSITIVE_U16}
    if from_server:
        of = of | {"subscription_identifiers": st.lists(st.integers(1, 268_435_455), max_size=3)}
    drawn = st.builds(
        Publish,
        topic=TOPICS,
        payload=st.binary(max_size=300),
        qos=QOS,
        retain=st.booleans(),
        dup=st.booleans(),
        packet_id=PACKET_IDS,
        properties=properties(version, **of),
    )
    # QoS 0 has neither an identifier nor DUP [MQTT-2.2.1-2], [MQTT-3.3.1-2].
    return drawn.map(lambda packet: packet if packet.qos else replace(packet, packet_id=0, dup=False))


def codes(version: int, kind: PacketType) -> st.SearchStrategy[int]:
    return st.sampled_from(sorted(REASON_CODES[kind])) if version == V5 else st.just(0)


def acknowledgements(version: int) -> st.SearchStrategy[Packet]:
    kinds: list[tuple[type[Packet], PacketType]] = [
        (Puback, PacketType.PUBACK),
        (Pubrec, PacketType.PUBREC),
        (Pubrel, PacketType.PUBREL),
        (Pubcomp, PacketType.PUBCOMP),
    ]
    return st.one_of(
        [st.builds(build, PACKET_IDS, codes(version, kind), properties(version, **REASON)) for build, kind in kinds]
    )


def requests(version: int) -> st.SearchStrategy[SubscriptionRequest]:
    if version != V5:
        return st.builds(SubscriptionRequest, FILTERS, QOS)
    exact = st.builds(SubscriptionRequest, FILTERS, QOS, st.booleans(), st.booleans(), st.integers(0, 2))
    shared = st.builds(
        SubscriptionRequest, FILTERS.map("$share/g/".__add__), QOS, st.just(False), st.booleans(), st.integers(0, 2)
    )
    return exact | shared


def disconnects(version: int, from_server: bool) -> st.SearchStrategy[Disconnect]:
    if version != V5:
        return st.just(Disconnect())
    foreign = DISCONNECT_FROM_CLIENT_ONLY if from_server else DISCONNECT_FROM_SERVER_ONLY
    own: dict[str, st.SearchStrategy[Any]] = (
        {"server_reference": TEXT} if from_server else {"session_expiry_interval": U32}
    )
    allowed = sorted(REASON_CODES[PacketType.DISCONNECT] - foreign)
    return st.builds(Disconnect, st.sampled_from(allowed), properties(version, **REASON, **own))


def auths(version: int) -> st.SearchStrategy[Packet]:
    of = properties(version, authentication_method=TEXT, **REASON)
    return st.builds(Auth, codes(version, PacketType.AUTH), of) if version == V5 else st.nothing()


def from_client(version: int) -> st.SearchStrategy[Packet]:
    identified = {"subscription_identifiers": st.lists(st.integers(1, 268_435_455), max_size=1)}
    return st.one_of(
        connects(version),
        publishes(version, from_server=False),
        acknowledgements(version),
        st.builds(
            Subscribe,
            PACKET_IDS,
            st.lists(requests(version), min_size=1, max_size=4),
            properties(version, user_properties=PAIRS, **identified),
        ),
        st.builds(
            Unsubscribe,
            PACKET_IDS,
            st.lists(FILTERS, min_size=1, max_size=4),
            properties(version, user_properties=PAIRS),
        ),
        st.just(Pingreq()),
        disconnects(version, from_server=False),
        auths(version),
    )


def connacks(version: int) -> st.SearchStrategy[Connack]:
    code = codes(version, PacketType.CONNACK) if version == V5 else st.integers(0, 5)
    of = {
        "assigned_client_identifier": TEXT,
        "server_keep_alive": U16,
        "response_information": TEXT,
        "server_reference": TEXT,
        "maximum_qos": FLAG,
        "retain_available": FLAG,
        "wildcard_subscription_available": FLAG,
        "subscription_identifier_available": FLAG,
        "shared_subscription_available": FLAG,
        **REASON,
        **OF_BOTH_CONNECTS,
    }
    drawn = st.builds(Connack, st.booleans(), code, properties(version, **of))
    return drawn.map(lambda packet: replace(packet, session_present=packet.session_present and not packet.reason_code))


def subacks(version: int) -> st.SearchStrategy[Suback]:
    code = codes(version, PacketType.SUBACK) if version == V5 else st.sampled_from([0, 1, 2, 0x80])
    return st.builds(Suback, PACKET_IDS, st.lists(code, min_size=1, max_size=4), properties(version, **REASON))


def unsubacks(version: int) -> st.SearchStrategy[Unsuback]:
    if version != V5:
        return st.builds(Unsuback, PACKET_IDS)
    code = codes(version, PacketType.UNSUBACK)
    return st.builds(Unsuback, PACKET_IDS, st.lists(code, min_size=1, max_size=4), properties(version, **REASON))


def from_server(version: int) -> st.SearchStrategy[Packet]:
    return st.one_of(
        connacks(version),
        publishes(version, from_server=True),
        acknowledgements(version),
        subacks(version),
        unsubacks(version),
        st.just(Pingresp()),
        disconnects(version, from_server=True) if version == V5 else st.nothing(),
        auths(version),
    )


DIRECTIONS = {
    (version, server): (from_server if server else from_client)(version)
    for version in (V3_1_1, V5)
    for server in (False, True)
}
BOTH_WAYS = pytest.mark.parametrize(
    ("version", "server"), DIRECTIONS, ids=[f"{version}-{'server' if s else 'client'}" for version, s in DIRECTIONS]
)


@BOTH_WAYS
def test_the_round_trip_knows_every_packet(version: int, server: bool) -> None:
    """The strategies above have forgotten no packet."""
    names = {vector.packet.__class__ for vector in VECTORS if (vector.version, vector.from_server) == (version, server)}
    drawn: set[type] = set()

    # Chance must not decide this one. It takes 70 draws at most, and as many as the round trip below has lists.
    @settings(max_examples=300, derandomize=True, database=None, deadline=None)
    @given(DIRECTIONS[version, server])
    def collect(packet: Packet) -> None:
        drawn.add(type(packet))

    collect()
    assert names <= drawn


@BOTH_WAYS
def test_what_is_encoded_decodes_to_itself(version: int, server: bool, full: int) -> None:
    @settings(max_examples=150 * full, deadline=None)
    @given(st.lists(DIRECTIONS[version, server], min_size=1, max_size=4))
    def round_trip(packets: list[Packet]) -> None:
        data = b"".join(encode(packet, version) for packet in packets)
        assert decode(data, version, server) == [as_heard(packet) for packet in packets]

    round_trip()


def outcome(chunks: list[bytes], version: int, server: bool, maximum: int) -> tuple[list[Packet], type | None]:
    heard = Heard()
    decoder = decoder_for(heard, version, server, maximum)
    try:
        for chunk in chunks:
            decoder.feed(chunk)
    except MqttError as error:
        return heard.packets, type(error)
    return heard.packets, None


def cut(data: bytes, at: list[int]) -> list[bytes]:
    points = [0, *sorted(point % (len(data) + 1) for point in at), len(data)]
    return [data[start:end] for start, end in pairwise(points)]


@BOTH_WAYS
def test_any_bytes_in_any_pieces_are_packets_or_one_error(version: int, server: bool, full: int) -> None:
    """Whole or cut anywhere: the same packets, then the same error, and never another exception."""
    packets = DIRECTIONS[version, server].map(lambda packet: encode(packet, version))
    small_lengths = st.builds(
        lambda first, body: bytes((first, len(body))) + body, st.integers(0, 255), st.binary(max_size=60)
    )
    pieces = packets | small_lengths | st.binary(max_size=20) | st.sampled_from([v.data for v in REFUSED])

    @settings(max_examples=200 * full, deadline=None)
    @given(
        st.lists(pieces, max_size=5).map(b"".join),
        st.lists(st.integers(0, 10_000), max_size=8),
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
        st.sampled_from([4, 64, MAX_PACKET_BYTES]),
    )
    def same(data: bytes, at: list[int], flips: list[tuple[int, int]], maximum: int) -> None:
        damaged = bytearray(data)
        for position, value in flips:
            if damaged:
                damaged[position % len(damaged)] = value
        data = bytes(damaged)
        whole = outcome([data], version, server, maximum)
        assert outcome(cut(data, at), version, server, maximum) == whole
        assert outcome([data[i : i + 1] for i in range(len(data))], version, server, maximum) == whole

    same()


@pytest.mark.parametrize("version", [V3_1_1, V5])
@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_encode_publish_of_every_length(version: int, size: int, qos: int) -> None:
    """Around each limit of the remaining length, whose bytes the head spells out."""
    overhead = 3 + (2 if qos else 0) + (1 if version == V5 else 0)
    payload = bytes(max(size - overhead, 0))
    data = encode_publish(b"t", payload, qos, 9, 0x01, b"" if version == V5 else None)
    assert decode(data, version) == [Publish("t", payload, qos, True, False, 9 if qos else 0)]


def test_encode_publish_with_properties_of_more_than_127_bytes() -> None:
    own = Properties(correlation_data=bytes(300))
    data = encode_publish(b"t", b"p", 1, 9, 0x08, encode_properties(own, PacketType.PUBLISH))
    assert decode(data, V5) == [Publish("t", b"p", 1, False, True, 9, own)]


def test_property_bytes_can_be_put_one_after_the_other() -> None:
    """Sessions do that: the publisher's properties, encoded once, and then their own."""
    forwarded = encode_properties(Properties(content_type="t"), PacketType.PUBLISH)
    own = encode_properties(Properties(subscription_identifiers=[1]), PacketType.PUBLISH)
    assert encode_properties(None, PacketType.PUBLISH) == b""
    data = encode_publish(b"t", b"", 0, 0, 0, forwarded + own)
    assert decode(data, V5, from_server=True) == [
        Publish("t", b"", properties=Properties(content_type="t", subscription_identifiers=[1]))
    ]


def test_a_property_in_the_wrong_packet_is_our_error() -> None:
    with pytest.raises(ValueError):
        encode(Puback(1, 0, Properties(content_type="t")), V5)


def test_every_property_belongs_to_some_packet() -> None:
    sample: dict[str, Any] = {"user_properties": [("a", "b")], "subscription_identifiers": [1]}
    sample |= dict.fromkeys(("correlation_data", "authentication_data"), b"x")
    sample |= dict.fromkeys(("content_type", "response_topic", "assigned_client_identifier", "reason_string"), "x")
    sample |= dict.fromkeys(("authentication_method", "response_information", "server_reference"), "x")
    for field in fields(Properties):
        one = Properties()
        setattr(one, field.name, sample.get(field.name, 1))
        possible = 0
        for packet_type in PacketType:
            try:
                possible += bool(encode_properties(one, packet_type))
            except ValueError:
                pass
        assert possible or field.name == "will_delay_interval"


def test_3_1_1_leaves_out_what_it_has_no_place_for() -> None:
    reason = Properties(reason_string="x")
    assert encode(Puback(1, 0x87, reason), V3_1_1) == wire("40 02 0001")
    assert encode(Suback(1, [0, 0x87, 0x97], reason), V3_1_1) == wire("90 05 0001 00 80 80")
    assert encode(Unsuback(1, [0x11], reason), V3_1_1) == wire("b0 02 0001")
    assert encode(Disconnect(0x8E, reason), V3_1_1) == wire("e0 00")
    assert encode(Connack(False, 5, reason), V3_1_1) == wire("20 02 00 05")
    asked = SubscriptionRequest("a", 1, no_local=True, retain_as_published=True, retain_handling=2)
    assert encode(Subscribe(1, [asked]), V3_1_1) == wire("82 06 0001 0001", b"a", "01")
    assert encode(Publish("t", b"", properties=Properties(content_type="x")), V3_1_1) == wire("30 03 0001", b"t")


PAIR = b"\x26\x00\x01a\x00\x01b"


@pytest.mark.parametrize(
    ("packet", "label"),
    [
        (packets_by_hand.publish("t", b"", version=V5, properties=PAIR * MAX_USER_PROPERTIES), None),
        (packets_by_hand.publish("t", b"", version=V5, properties=PAIR * (MAX_USER_PROPERTIES + 1)), "quota_exceeded"),
        (
            packets_by_hand.publish(
                "t", b"", version=V5, properties=b"\x26\x00\x01a" + packets_by_hand.text("b" * 16_380)
            ),
            "quota_exceeded",
        ),
        (packets_by_hand.subscribe(1, *[("t", 0)] * MAX_TOPIC_FILTERS, version=V5), None),
        (packets_by_hand.subscribe(1, *[("t", 0)] * (MAX_TOPIC_FILTERS + 1), version=V5), "quota_exceeded"),
        (packets_by_hand.unsubscribe(1, *["t"] * MAX_TOPIC_FILTERS, version=V5), None),
        (packets_by_hand.unsubscribe(1, *["t"] * (MAX_TOPIC_FILTERS + 1), version=V5), "quota_exceeded"),
    ],
)
def test_the_parts_of_a_clients_packet_are_bounded(packet: bytes, label: str | None) -> None:
    heard = Heard()
    decoder = decoder_for(heard, V5)
    if label is None:
        decoder.feed(packet)
        assert len(heard.packets) == 1
    else:
        with pytest.raises(MqttError) as error:
            decoder.feed(packet)
        assert (error.value.label, error.value.reason_code) == (label, 0x97)


def test_the_parts_of_a_servers_packet_are_its_own_affair() -> None:
    heard = Heard()
    decoder_for(heard, V5, from_server=True).feed(packets_by_hand.publish("t", b"", version=V5, properties=PAIR * 200))
    assert len(heard.packets) == 1
