"""The common format of all packets: text, lengths, flags and packet identifiers."""

from __future__ import annotations

import struct

import pytest

from tests import wire
from tests.conformance.party import Party
from tests.wire import V5

SURROGATE = b"\xed\xa0\x80"
MALFORMED, PROTOCOL_ERROR = 0x81, 0x82


def connect_with(version: int, flags: int, *fields: bytes) -> bytes:
    """CONNECT with these connect flags and payload fields."""
    head = wire.text("MQTT") + bytes((version, flags)) + b"\x00\x3c" + (b"\x00" if version == V5 else b"")
    return wire.packet(0x10, head + b"".join(fields))


@pytest.mark.parametrize("bad", [SURROGATE, b"\xc0\xaf", b"\xff"])
def test_a_topic_that_is_not_utf_8_ends_the_connection(party: Party, bad: bytes) -> None:
    """[MQTT-1.5.4-1] [MQTT-3.3.2-1] [3.1.1: MQTT-1.5.3-1] [3.1.1: MQTT-3.3.2-1]."""
    properties = b"\x00" if party.is_5 else b""
    party.refused(wire.packet(0x30, wire.text(bad) + properties + b"x"), MALFORMED)


def test_a_filter_that_is_not_utf_8_ends_the_connection(party: Party) -> None:
    """[MQTT-3.8.3-1] [3.1.1: MQTT-3.8.3-1]."""
    properties = b"\x00" if party.is_5 else b""
    party.refused(wire.packet(0x82, b"\x00\x01" + properties + wire.text(SURROGATE) + b"\x00"), MALFORMED)


def test_an_unsubscribed_filter_that_is_not_utf_8_ends_the_connection(party: Party) -> None:
    """[MQTT-3.10.3-1] [3.1.1: MQTT-3.10.3-1]."""
    properties = b"\x00" if party.is_5 else b""
    party.refused(wire.packet(0xA2, b"\x00\x01" + properties + wire.text(SURROGATE)), MALFORMED)


def test_a_client_identifier_is_utf_8(party: Party) -> None:
    """[MQTT-3.1.3-4] [3.1.1: MQTT-3.1.3-4]."""
    party.connect_refused(connect_with(party.version, 0x02, wire.text(SURROGATE)), MALFORMED)


def test_a_will_topic_is_utf_8(party: Party) -> None:
    """[MQTT-3.1.3-11] [3.1.1: MQTT-3.1.3-10]."""
    properties = b"\x00" if party.is_5 else b""
    will = (wire.text("c"), properties, wire.text(SURROGATE), wire.text("x"))
    party.connect_refused(connect_with(party.version, 0x06, *will), MALFORMED)


def test_a_user_name_is_utf_8(party: Party) -> None:
    """[MQTT-3.1.3-12] [3.1.1: MQTT-3.1.3-11]."""
    party.connect_refused(connect_with(party.version, 0x82, wire.text("c"), wire.text(SURROGATE)), MALFORMED)


def test_text_has_no_u_0000(party: Party) -> None:
    """[MQTT-1.5.4-2] [MQTT-4.7.3-2] [3.1.1: MQTT-1.5.3-2] [3.1.1: MQTT-4.7.3-2]."""
    party.refused(party.publish("a\0b", b""), MALFORMED)
    party.refused(wire.subscribe(1, ("a\0b", 0), version=party.version), MALFORMED)
    party.connect_refused(connect_with(party.version, 0x02, wire.text("a\0b")), MALFORMED)


def test_u_feff_is_a_character_like_others(party: Party) -> None:
    """[MQTT-1.5.4-3] [3.1.1: MQTT-1.5.3-3]: neither skipped nor stripped."""
    topic = party.name()
    plain, marked = party.reader(topic), party.reader(f"\ufeff{topic}")
    party.say(f"\ufeff{topic}", b"x")
    marked.expect(party.publish(f"\ufeff{topic}", b"x"))
    plain.expect_silence()


def test_lengths_are_in_their_shortest_form(party_5: Party) -> None:
    """[MQTT-1.5.5-1]: of packets, of CONNECT too, and of properties."""
    party_5.refused(b"\xc0\x80\x00", MALFORMED)
    party_5.refused(wire.packet(0x30, wire.text("a") + b"\x80\x00" + b"x"), MALFORMED)
    connect = wire.connect(party_5.name(), V5)
    party_5.connect_refused(connect[:1] + bytes((connect[1] | 0x80, 0)) + connect[2:], MALFORMED)


def test_both_strings_of_a_pair_are_utf_8(party_5: Party) -> None:
    """[MQTT-1.5.7-1]."""
    for pair in (wire.text(SURROGATE) + wire.text("v"), wire.text("k") + wire.text(SURROGATE)):
        party_5.refused(party_5.publish("a", b"", properties=b"\x26" + pair), MALFORMED)


@pytest.mark.parametrize("first", [0x41, 0x52, 0x71, 0xC1, 0xC8])
def test_reserved_flags_are_as_listed(party: Party, first: int) -> None:
    """[MQTT-2.1.3-1] [3.1.1: MQTT-2.2.2-1] [3.1.1: MQTT-2.2.2-2]: PUBACK, PUBREC, PUBCOMP, PINGREQ."""
    body = b"" if first & 0xF0 == 0xC0 else b"\x00\x01"
    party.refused(wire.packet(first, body), MALFORMED)


@pytest.mark.parametrize("flags", [0, 1, 3, 6, 0xA])
def test_the_flags_of_pubrel_are_fixed(party: Party, flags: int) -> None:
    """[MQTT-3.6.1-1] [3.1.1: MQTT-3.6.1-1]."""
    party.refused(wire.packet(0x60 | flags, b"\x00\x01"), MALFORMED)


@pytest.mark.parametrize("flags", [0, 1, 3, 6, 0xA])
def test_the_flags_of_subscribe_are_fixed(party: Party, flags: int) -> None:
    """[MQTT-3.8.1-1] [3.1.1: MQTT-3.8.1-1]."""
    subscribe = wire.subscribe(1, ("a", 0), version=party.version)
    party.refused(bytes((0x80 | flags,)) + subscribe[1:], MALFORMED)


@pytest.mark.parametrize("flags", [0, 1, 3, 6, 0xA])
def test_the_flags_of_unsubscribe_are_fixed(party: Party, flags: int) -> None:
    """[MQTT-3.10.1-1] [3.1.1: MQTT-3.10.1-1]."""
    unsubscribe = wire.unsubscribe(1, "a", version=party.version)
    party.refused(bytes((0xA0 | flags,)) + unsubscribe[1:], MALFORMED)


@pytest.mark.parametrize("flags", [1, 2, 8])
def test_the_flags_of_disconnect_are_zero(party: Party, flags: int) -> None:
    """[MQTT-3.14.1-1] [3.1.1: MQTT-3.14.1-1]."""
    party.refused(bytes((0xE0 | flags, 0)), MALFORMED)


def test_the_flags_of_auth_are_zero(party_5: Party) -> None:
    """[MQTT-3.15.1-1]."""
    party_5.refused(b"\xf1\x00", MALFORMED)


@pytest.mark.parametrize("kind", ["publish", "subscribe", "unsubscribe"])
def test_packet_identifiers_are_not_zero(party: Party, kind: str) -> None:
    """[MQTT-2.2.1-3] [3.1.1: MQTT-2.3.1-1]."""
    packets = {
        "publish": party.publish("a", b"", 1, 0),
        "subscribe": wire.subscribe(0, ("a", 0), version=party.version),
        "unsubscribe": wire.unsubscribe(0, "a", version=party.version),
    }
    party.refused(packets[kind], PROTOCOL_ERROR)


@pytest.mark.parametrize("qos", [1, 2])
def test_the_server_uses_identifiers_that_are_free(party: Party, qos: int) -> None:
    """[MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1] [3.1.1: MQTT-2.3.1-4]: what is unacknowledged keeps its own."""
    topic = party.name()
    reader, writer = party.reader(topic, qos), party.client()
    seen: set[int] = set()
    for number in range(1, 7):
        writer.send(party.publish(topic, b"", qos, number))
        got = reader.read()
        start = 4 + len(topic)
        (identifier,) = struct.unpack(">H", got[start : start + 2])
        assert identifier > 0
        assert identifier not in seen
        seen.add(identifier)
        if qos == 1 and number == 3:
            reader.send(wire.puback(identifier))  # free again, and the others are not
            seen.remove(identifier)


def test_no_properties_are_said_with_a_length_of_zero(party_5: Party) -> None:
    """[MQTT-2.2.2-1]: byte for byte, in what the server sends."""
    topic = party_5.name()
    reader = party_5.client()
    reader.send(wire.packet(0x82, b"\x00\x05\x00" + wire.text(topic) + b"\x00"))
    reader.expect(b"\x90\x04\x00\x05\x00\x00")
    party_5.say(topic, b"x")
    reader.expect(bytes((0x30, 4 + len(topic))) + wire.text(topic) + b"\x00x")
    reader.send(wire.packet(0xA2, b"\x00\x06\x00" + wire.text(topic)))
    reader.expect(b"\xb0\x04\x00\x06\x00\x00")
