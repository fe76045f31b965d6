"""Bytes over a socket, for 3.1.1 and 5.0: the clauses without which nothing else matters.

Every test names the clauses it holds up. The packets come from `tests.wire`, written by hand. Where the versions differ
in the answer, both are spelled out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests import wire
from tests.conformance.standalone import BrokerProcess
from tests.wire import V4, V5, RawClient

Raw = Callable[[], RawClient]
Name = Callable[[], str]


def property_bytes(packet: bytes, start: int) -> bytes:
    """Return the properties of a packet with less than 128 bytes of them, whose length stands at `start`."""
    return packet[start + 1 : start + 1 + packet[start]]


# -- CONNECT -----------------------------------------------------------------------------------------------------------


def test_connack_is_the_first_packet_and_says_that_there_was_no_session(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.2.0-1] [MQTT-3.2.2-2] [3.1.1: MQTT-3.2.0-1] [3.1.1: MQTT-3.2.2-1]: session present 0, code 0."""
    client = raw()
    connack = client.enter(wire.connect(name(), version))
    if version == V4:
        assert connack == b"\x20\x02\x00\x00"


def test_connack_of_5_0_tells_the_limits(raw: Raw, name: Name) -> None:
    """Receive maximum, maximum packet size, topic alias maximum (MQTT 5.0, 3.2.2.3)."""
    properties = property_bytes(raw().enter(wire.connect(name(), V5)), 4)
    assert b"\x21" + struct.pack(">H", 1_024) in properties
    assert b"\x27" + struct.pack(">I", 1024 * 1024) in properties
    assert b"\x22" + struct.pack(">H", 16) in properties


def test_a_client_may_leave_its_identifier_to_the_server(raw: Raw, version: int) -> None:
    """[MQTT-3.1.3-6] [MQTT-3.1.3-7] [3.1.1: MQTT-3.1.3-6]: accepted; in 5.0 it is told the one it got."""
    connack = raw().enter(wire.connect("", version))
    assert (b"\x12" in property_bytes(connack, 4)) if version == V5 else len(connack) == 4


def test_3_1_1_cannot_keep_a_session_without_an_identifier(raw: Raw) -> None:
    """[3.1.1: MQTT-3.1.3-7] [3.1.1: MQTT-3.1.3-8]: return code 2, then the end."""
    client = raw()
    client.send(wire.connect("", V4, clean=False))
    client.expect(wire.connack_4(code=2))
    client.expect_end()


def test_a_session_stays_until_it_is_cleaned(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.2.2-2] [MQTT-3.2.2-3] [3.1.1: MQTT-3.1.2-4] [3.1.1: MQTT-3.1.2-6]
    [3.1.1: MQTT-3.2.2-1] [3.1.1: MQTT-3.2.2-2] [3.1.1: MQTT-3.2.2-3]."""
    kiosk = name()
    for present in (False, True):
        client = raw()
        client.join(kiosk, version, present=present)
        client.send(wire.DISCONNECT)
        client.expect_end()
    client = raw()
    client.enter(wire.connect(kiosk, version, clean=True))
    client.send(wire.DISCONNECT)
    client.expect_end()
    raw().join(kiosk, version, present=False)


def test_the_newer_connection_takes_over(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.1.4-3] [3.1.1: MQTT-3.1.4-2]: the older one is closed, in 5.0 with 0x8E."""
    kiosk = name()
    older, newer = raw(), raw()
    older.join(kiosk, version)
    newer.join(kiosk, version, present=True)
    if version == V5:
        goodbye = older.read()
        assert (goodbye[0], goodbye[2]) == (0xE0, 0x8E)
    older.expect_end()
    newer.expect_silence()


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: kiosk\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), id="TLS"),
        pytest.param(wire.PINGREQ, id="PINGREQ first"),
        pytest.param(wire.publish("t", b"x"), id="PUBLISH first"),
        pytest.param(wire.puback(1), id="PUBACK first"),
        pytest.param(b"\x10\xff\xff\xff\xff\x7f", id="remaining length of five bytes"),
        pytest.param(b"\x00\x00", id="packet type 0"),
        pytest.param(wire.packet(0x11, wire.text("MQTT") + b"\x04\x02\x00\x00" + wire.text("a")), id="CONNECT flags"),
    ],
)
def test_whoever_does_not_speak_mqtt_gets_no_answer(broker: BrokerProcess, stranger: bytes) -> None:
    """[MQTT-3.1.0-1] [MQTT-3.14.0-1] [MQTT-4.13.1-1] [3.1.1: MQTT-3.1.0-1] [3.1.1: MQTT-4.8.0-1]: closed, the broker
    goes on."""
    with RawClient(broker.port) as client:
        client.send(stranger)
        client.expect_end()
    with RawClient(broker.port) as client:
        client.enter(wire.connect("after-the-stranger"))


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(wire.connect("kiosk", 9), id="version 9"),
        pytest.param(wire.packet(0x10, wire.text("MQIsdp") + b"\x02\x02\x00\x3c" + wire.text("a")), id="before 3.1"),
        pytest.param(wire.packet(0x10, wire.text("MQTX") + b"\x04\x02\x00\x3c" + wire.text("a")), id="other name"),
    ],
)
def test_an_unknown_protocol_version_is_answered(raw: Raw, unknown: bytes) -> None:
    """[MQTT-3.1.2-1] [MQTT-3.1.2-2] [3.1.1: MQTT-3.1.2-1] [3.1.1: MQTT-3.1.2-2]: return code 1, from level 5 on 0x84 in
    a CONNACK of 5.0, then the end."""
    client = raw()
    client.send(unknown)
    client.expect(b"\x20\x03\x00\x84\x00" if unknown[8] == 9 else wire.connack_4(code=1))
    client.expect_end()


def test_a_second_connect_is_an_error(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.1.0-2] [3.1.1: MQTT-3.1.0-2]."""
    client = raw()
    client.enter(wire.connect(name(), version))
    client.send(wire.connect(name(), version))
    if version == V5:
        goodbye = client.read()
        assert (goodbye[0], goodbye[2]) == (0xE0, 0x82)
    client.expect_end()


def test_a_client_need_not_wait_for_connack(raw: Raw, name: Name, version: int) -> None:
    """(3.1.1, 3.1.4; 5.0, 3.1.4): what follows CONNECT at once is answered in order."""
    client = raw()
    client.send(
        wire.connect(name(), version),
        wire.subscribe(1, ("a", 1), version=version),
        wire.PINGREQ,
    )
    assert client.read()[0] == 0x20
    assert {client.read(), client.read()} == {wire.suback(1, 1, version=version), wire.PINGRESP}


# -- keep alive and the end --------------------------------------------------------------------------------------------


def test_a_silent_client_is_closed_after_one_and_a_half_keep_alives(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.1.2-22] [MQTT-3.2.2-22] [3.1.1: MQTT-3.1.2-24]: in 5.0 with 0x8D."""
    client = raw()
    client.enter(wire.connect(name(), version, keep_alive=1))
    if version == V5:
        goodbye = client.read()
        assert (goodbye[0], goodbye[2]) == (0xE0, 0x8D)
    client.expect_end()


def test_pingreq_is_answered(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.12.4-1] [3.1.1: MQTT-3.12.4-1]."""
    client = raw()
    client.enter(wire.connect(name(), version))
    client.send(wire.PINGREQ, wire.PINGREQ)
    client.expect(wire.PINGRESP, wire.PINGRESP)


# -- PUBLISH and SUBSCRIBE ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_a_message_arrives_at_the_lower_qos(raw: Raw, name: Name, version: int, published: int, granted: int) -> None:
    """[MQTT-3.8.4-8] [MQTT-4.3.1-1] [MQTT-4.3.2-2] [MQTT-4.3.2-4] [MQTT-4.3.3-2] [MQTT-4.3.3-4] [MQTT-4.3.3-8]
    [MQTT-4.3.3-11] [3.1.1: MQTT-3.8.4-6] [3.1.1: MQTT-4.3.1-1] [3.1.1: MQTT-4.3.2-1] [3.1.1: MQTT-4.3.2-2]
    [3.1.1: MQTT-4.3.3-1] [3.1.1: MQTT-4.3.3-2]: both flows in full, packet by packet."""
    topic = name()
    reader, writer = raw(), raw()
    for client in (reader, writer):
        client.enter(wire.connect(name(), version))
    reader.send(wire.subscribe(7, (topic, granted), version=version))
    reader.expect(wire.suback(7, granted, version=version))

    writer.send(wire.publish(topic, b"21", published, 9, version))
    if published == 1:
        writer.expect(wire.puback(9))
    elif published == 2:
        writer.expect(wire.pubrec(9))
        writer.send(wire.pubrel(9))
        writer.expect(wire.pubcomp(9))

    qos = min(published, granted)
    reader.expect(wire.publish(topic, b"21", qos, 1, version))
    if qos == 1:
        reader.send(wire.puback(1))
    elif qos == 2:
        reader.send(wire.pubrec(1))
        reader.expect(wire.pubrel(1))
        reader.send(wire.pubcomp(1))
    reader.expect_silence()
    writer.expect_silence()


def test_a_message_goes_once_to_a_session_with_overlapping_subscriptions(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.3.4-2] [3.1.1: MQTT-3.3.5-1]: once, at the highest QoS of the filters that match."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), version))
    client.send(wire.subscribe(1, (f"{topic}/#", 0), (f"{topic}/+", 1), version=version))
    client.expect(wire.suback(1, 0, 1, version=version))
    client.send(wire.publish(f"{topic}/x", b"21", 1, 3, version))
    got = {client.read(), client.read()}
    assert got == {wire.puback(3), wire.publish(f"{topic}/x", b"21", 1, 1, version)}
    client.send(wire.puback(1))
    client.expect_silence()


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("{0}/+", "{0}/a", True),
        ("{0}/+", "{0}/a/b", False),
        ("{0}/+", "{0}", False),
        ("{0}/#", "{0}", True),
        ("{0}/#", "{0}/a/b", True),
        ("{0}/+/b", "{0}/a/b", True),
        ("{0}/+/b", "{0}//b", True),
        ("{0}/a", "{0}/A", False),
        ("/{0}", "{0}", False),
    ],
)
def test_filters_match_as_specified(
    raw: Raw, name: Name, version: int, topic_filter: str, topic: str, matches: bool
) -> None:
    """[MQTT-4.7.1-2] [MQTT-4.7.3-4] [3.1.1: MQTT-4.7.1-3] [3.1.1: MQTT-4.7.3-4]: letter by letter."""
    base = name()
    topic_filter, topic = topic_filter.format(base), topic.format(base)
    client = raw()
    client.enter(wire.connect(name(), version))
    client.send(wire.subscribe(1, (topic_filter, 0), version=version))
    client.expect(wire.suback(1, 0, version=version))
    client.send(wire.publish(topic, b"21", version=version))
    if matches:
        client.expect(wire.publish(topic, b"21", version=version))
    client.expect_silence()


def test_a_leading_wildcard_does_not_see_what_begins_with_a_dollar(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-4.7.2-1] [3.1.1: MQTT-4.7.2-1]."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), version))
    client.send(wire.subscribe(1, (f"+/{topic}", 0), version=version))
    client.expect(wire.suback(1, 0, version=version))
    client.send(wire.publish(f"$dollar/{topic}", b"hidden", version=version))
    client.send(wire.publish(f"plain/{topic}", b"seen", version=version))
    client.expect(wire.publish(f"plain/{topic}", b"seen", version=version))
    client.expect_silence()


def test_unsubscribe_ends_a_subscription(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.10.4-4] [MQTT-3.10.4-5] [3.1.1: MQTT-3.10.4-4] [3.1.1: MQTT-3.10.4-5]: answered whether there was one or
    not, in 5.0 with 0x11 if not."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), version))
    client.send(wire.subscribe(1, (topic, 0), version=version))
    client.expect(wire.suback(1, 0, version=version))
    client.send(wire.unsubscribe(2, topic, "never", version=version))
    client.expect(wire.unsuback(2, 0, 0x11, version=version))
    client.send(wire.publish(topic, b"21", version=version))
    client.expect_silence()


@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param(lambda v: wire.publish("a/+", b"", version=v), id="wildcard in a topic name [MQTT-3.3.2-2]"),
        pytest.param(lambda v: wire.publish("", b"", version=v), id="empty topic name [MQTT-4.7.3-1]"),
        pytest.param(lambda v: wire.publish("a\0b", b"", version=v), id="U+0000 [MQTT-1.5.4-2]"),
        pytest.param(
            lambda v: wire.packet(0x30, wire.text(b"\xed\xa0\x80") + (b"\0" if v == V5 else b"")),
            id="surrogate [MQTT-1.5.4-1]",
        ),
        pytest.param(
            lambda v: wire.packet(0x36, wire.text("a") + b"\0\x01" + (b"\0" if v == V5 else b"")),
            id="QoS 3 [MQTT-3.3.1-4]",
        ),
        pytest.param(lambda v: wire.publish("a", b"", 1, 0, v), id="packet identifier 0 [MQTT-2.2.1-3]"),
        pytest.param(lambda v: wire.subscribe(1, version=v), id="SUBSCRIBE of nothing [MQTT-3.8.3-2]"),
        pytest.param(lambda v: wire.subscribe(1, ("a/#/b", 0), version=v), id="filter [MQTT-4.7.1-1]"),
        pytest.param(lambda v: wire.subscribe(1, ("a", 3), version=v), id="requested QoS 3 [MQTT-3.8.3-4]"),
        pytest.param(lambda v: b"\x80" + wire.subscribe(1, ("a", 0), version=v)[1:], id="flags [MQTT-3.8.1-1]"),
        pytest.param(lambda v: wire.unsubscribe(1, version=v), id="UNSUBSCRIBE of nothing [MQTT-3.10.3-2]"),
        pytest.param(lambda v: b"\x20\x02\x00\x00", id="a server's packet"),
        pytest.param(lambda v: b"\xf1\x00", id="AUTH with flags"),
    ],
)
def test_a_malformed_packet_ends_its_connection_and_no_other(
    raw: Raw, name: Name, version: int, malformed: Callable[[int], bytes]
) -> None:
    """[MQTT-4.13.1-1] [3.1.1: MQTT-4.8.0-1]: in 5.0 with a DISCONNECT that says why."""
    bystander, client = raw(), raw()
    bystander.enter(wire.connect(name(), version))
    client.enter(wire.connect(name(), version))
    client.send(malformed(version))
    if version == V5:
        goodbye = client.read()
        assert goodbye[0] == 0xE0
        assert goodbye[2] in (0x81, 0x82, 0x8F, 0x90)
    client.expect_end()
    bystander.expect_silence()


# -- QoS 1 and 2 across connections ------------------------------------------------------------------------------------


def test_unacknowledged_messages_come_again_in_order(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1] [3.1.1: MQTT-4.4.0-1] [3.1.1: MQTT-3.3.1-1] [3.1.1: MQTT-4.6.0-1]:
    same identifiers and order, DUP; PUBREL for the received."""
    kiosk, topic = name(), name()
    reader, writer = raw(), raw()
    reader.join(kiosk, version)
    reader.send(wire.subscribe(1, (topic, 2), version=version))
    reader.expect(wire.suback(1, 2, version=version))
    writer.enter(wire.connect(name(), version))
    for identifier, qos in ((1, 1), (2, 2), (3, 2), (4, 1)):
        writer.send(wire.publish(topic, b"%d" % identifier, qos, identifier, version))
        writer.expect(wire.puback(identifier) if qos == 1 else wire.pubrec(identifier))
        reader.expect(wire.publish(topic, b"%d" % identifier, qos, identifier, version))
    reader.send(wire.pubrec(3))
    reader.expect(wire.pubrel(3))
    reader.close()

    reader = raw()
    reader.join(kiosk, version, present=True)
    got = [reader.read() for _ in range(4)]
    assert wire.pubrel(3) in got
    got.remove(wire.pubrel(3))
    again = ((1, 1), (2, 2), (4, 1))
    assert got == [wire.publish(topic, b"%d" % i, qos, i, version, dup=True) for i, qos in again]
    reader.send(wire.puback(1), wire.pubrec(2), wire.pubcomp(3), wire.puback(4))
    reader.expect(wire.pubrel(2))
    reader.send(wire.pubcomp(2))
    reader.expect_silence()


def test_a_message_of_qos_2_that_is_repeated_is_routed_once(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-4.3.3-10] [MQTT-4.3.3-12] [3.1.1: MQTT-4.3.3-2]: also when the repetition comes over another connection."""
    topic, sender = name(), name()
    reader, writer = raw(), raw()
    reader.enter(wire.connect(name(), version))
    reader.send(wire.subscribe(1, (topic, 0), version=version))
    reader.expect(wire.suback(1, 0, version=version))
    writer.join(sender, version)
    writer.send(wire.publish(topic, b"once", 2, 5, version))
    writer.expect(wire.pubrec(5))
    writer.close()
    writer = raw()
    writer.join(sender, version, present=True)
    writer.send(wire.publish(topic, b"once", 2, 5, version, dup=True))
    writer.expect(wire.pubrec(5))
    writer.send(wire.pubrel(5))
    writer.expect(wire.pubcomp(5))
    writer.send(wire.publish(topic, b"the next", 2, 5, version))
    writer.expect(wire.pubrec(5))
    for payload in (b"once", b"the next"):
        reader.expect(wire.publish(topic, payload, version=version))
    reader.expect_silence()


def test_pubrel_for_an_unknown_identifier_is_answered(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-4.3.3-11] [3.1.1: MQTT-4.3.3-2]: PUBCOMP, in 5.0 with 0x92; the client may have forgotten what it has
    finished."""
    client = raw()
    client.enter(wire.connect(name(), version))
    client.send(wire.pubrel(77))
    client.expect(wire.pubcomp(77, 0x92 if version == V5 else 0))


def test_answers_come_in_the_order_of_what_they_answer(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-4.6.0-2] [MQTT-4.6.0-3] [3.1.1: MQTT-4.6.0-2] [3.1.1: MQTT-4.6.0-3]."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), version))
    count = 500
    client.send(*(wire.publish(topic, b"x", 1 + i % 2, i, version) for i in range(1, count)))
    for identifier in range(1, count):
        unheard = 0x10 if version == V5 else 0  # nobody has subscribed
        client.expect((wire.pubrec if identifier % 2 else wire.puback)(identifier, unheard))


# -- retained messages and wills ---------------------------------------------------------------------------------------


def test_a_retained_message_greets_new_subscriptions_until_it_is_removed(raw: Raw, name: Name, version: int) -> None:
    """[MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-9] [MQTT-3.3.1-12] [3.1.1: MQTT-3.3.1-5] [3.1.1: MQTT-3.3.1-6]
    [3.1.1: MQTT-3.3.1-8] [3.1.1: MQTT-3.3.1-9]: RETAIN 1 for the newcomer, 0 for those present."""
    topic = name()
    present, writer, newcomer = raw(), raw(), raw()
    for client in (present, writer, newcomer):
        client.enter(wire.connect(name(), version))
    subscribe, suback = wire.subscribe(1, (topic, 0), version=version), wire.suback(1, 0, version=version)
    present.send(subscribe)
    present.expect(suback)
    writer.send(wire.publish(topic, b"old", 1, 1, version, retain=True))
    writer.expect(wire.puback(1))
    writer.send(wire.publish(topic, b"new", 1, 2, version, retain=True))
    writer.expect(wire.puback(2))
    present.expect(wire.publish(topic, b"old", version=version), wire.publish(topic, b"new", version=version))
    newcomer.send(subscribe)
    newcomer.expect(suback, wire.publish(topic, b"new", version=version, retain=True))
    newcomer.send(subscribe)  # again: the same again [MQTT-3.8.4-3]
    newcomer.expect(suback, wire.publish(topic, b"new", version=version, retain=True))
    writer.send(wire.publish(topic, b"", 1, 3, version, retain=True))
    writer.expect(wire.puback(3))
    newcomer.expect(wire.publish(topic, b"", version=version))
    newcomer.send(subscribe)
    newcomer.expect(suback)
    newcomer.expect_silence()


def test_a_will_is_published_when_the_connection_is_lost_and_not_after_disconnect(
    raw: Raw, name: Name, version: int
) -> None:
    """[MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.14.4-3] [3.1.1: MQTT-3.1.2-8] [3.1.1: MQTT-3.1.2-10]
    [3.1.1: MQTT-3.14.4-3]."""
    topic = name()
    witness = raw()
    witness.enter(wire.connect(name(), version))
    witness.send(wire.subscribe(1, (topic, 1), version=version))
    witness.expect(wire.suback(1, 1, version=version))
    lost, left = raw(), raw()
    left.enter(wire.connect(name(), version, will=(topic, b"never", 1, False)))
    left.send(wire.DISCONNECT)
    left.expect_end()
    lost.enter(wire.connect(name(), version, will=(topic, b"gone", 1, False)))
    lost.close()
    witness.expect(wire.publish(topic, b"gone", 1, 1, version))
    witness.send(wire.puback(1))
    witness.expect_silence()


# -- what 5.0 adds -----------------------------------------------------------------------------------------------------


def test_topic_aliases_stand_for_topics(raw: Raw, name: Name) -> None:
    """[MQTT-3.3.2-12]."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), V5))
    client.send(wire.subscribe(1, (topic, 0), version=V5))
    client.expect(wire.suback(1, 0, version=V5))
    alias = b"\x23\x00\x03"
    client.send(wire.publish(topic, b"1", version=V5, properties=alias))
    client.send(wire.publish("", b"2", version=V5, properties=alias))
    client.expect(wire.publish(topic, b"1", version=V5), wire.publish(topic, b"2", version=V5))
    client.send(wire.publish("", b"3", version=V5, properties=b"\x23\x00\x04"))
    goodbye = client.read()
    assert goodbye[0] == 0xE0
    assert goodbye[2] in (0x82, 0x94)


def test_the_clients_receive_maximum_is_kept(raw: Raw, name: Name) -> None:
    """[MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2]: two in flight, the third when one is acknowledged."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), V5, properties=b"\x21\x00\x02"))
    client.send(wire.subscribe(1, (topic, 1), version=V5))
    client.expect(wire.suback(1, 1, version=V5))
    for identifier in (1, 2, 3):
        client.send(wire.publish(topic, b"%d" % identifier, 1, identifier, V5))
    got = [client.read() for _ in range(5)]
    assert sorted(got) == sorted(
        [*(wire.puback(i) for i in (1, 2, 3)), *(wire.publish(topic, b"%d" % i, 1, i, V5) for i in (1, 2))]
    )
    client.expect_silence()
    client.send(wire.puback(1))
    client.expect(wire.publish(topic, b"3", 1, 3, V5))


def test_a_message_larger_than_the_client_takes_is_not_sent(raw: Raw, name: Name) -> None:
    """[MQTT-3.1.2-24] [MQTT-3.1.2-25]."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), V5, properties=b"\x27" + struct.pack(">I", 100)))
    client.send(wire.subscribe(1, (topic, 0), version=V5))
    client.expect(wire.suback(1, 0, version=V5))
    for payload in (bytes(200), b"small"):
        client.send(wire.publish(topic, payload, version=V5))
    client.expect(wire.publish(topic, b"small", version=V5))


def test_a_message_tells_how_long_it_is_still_good(raw: Raw, name: Name) -> None:
    """[MQTT-3.3.2-6]."""
    topic = name()
    client = raw()
    client.enter(wire.connect(name(), V5))
    client.send(wire.subscribe(1, (topic, 0), version=V5))
    client.expect(wire.suback(1, 0, version=V5))
    client.send(wire.publish(topic, b"x", version=V5, properties=b"\x02" + struct.pack(">I", 3_600)))
    got = client.read()
    properties = property_bytes(got, 4 + len(topic))
    assert properties[0] == 0x02
    assert 3_595 <= struct.unpack(">I", properties[1:])[0] <= 3_600


def test_no_local_keeps_a_message_from_its_publisher(raw: Raw, name: Name) -> None:
    """[MQTT-3.8.3-3]."""
    topic = name()
    client, other = raw(), raw()
    client.enter(wire.connect(name(), V5))
    other.enter(wire.connect(name(), V5))
    client.send(wire.subscribe(1, (topic, 0x04), version=V5))
    client.expect(wire.suback(1, 0, version=V5))
    client.send(wire.publish(topic, b"mine", version=V5))
    client.expect_silence()
    other.send(wire.publish(topic, b"theirs", version=V5))
    client.expect(wire.publish(topic, b"theirs", version=V5))


def test_a_shared_subscription_gives_each_message_to_one(raw: Raw, name: Name) -> None:
    """(MQTT 5.0, 4.8.2): in turn, while both can take more."""
    topic = name()
    workers = raw(), raw()
    for worker in workers:
        worker.enter(wire.connect(name(), V5))
        worker.send(wire.subscribe(1, (f"$share/crew/{topic}", 0), version=V5))
        worker.expect(wire.suback(1, 0, version=V5))
    writer = raw()
    writer.enter(wire.connect(name(), V5))
    for number in range(4):
        writer.send(wire.publish(topic, b"%d" % number, version=V5))
    writer.expect_silence()
    got = [[worker.read(), worker.read()] for worker in workers]
    for worker in workers:
        worker.expect_silence()
    sent = [wire.publish(topic, b"%d" % number, version=V5) for number in range(4)]
    assert sorted([*got[0], *got[1]]) == sent


def test_a_will_may_wait_and_is_taken_back_by_a_return(raw: Raw, name: Name) -> None:
    """[MQTT-3.1.3-9]: back before the delay is over, so nobody hears it."""
    topic, kiosk = name(), name()
    witness = raw()
    witness.enter(wire.connect(name(), V5))
    witness.send(wire.subscribe(1, (topic, 0), version=V5))
    witness.expect(wire.suback(1, 0, version=V5))
    with_will = wire.connect(
        kiosk,
        V5,
        clean=False,
        will=(topic, b"gone", 0, False),
        will_properties=b"\x18" + struct.pack(">I", 1),
        properties=wire.FOR_EVER,
    )
    client = raw()
    client.enter(with_will)
    client.close()
    client = raw()
    client.enter(with_will, present=True)
    client.close()
    # The first will was taken back by the return; the second has nobody who takes it back.
    witness.expect(wire.publish(topic, b"gone", version=V5))
    witness.expect_silence()


# -- what is answered is stored ----------------------------------------------------------------------------------------


def test_what_was_answered_survives_kill_9(own_broker: BrokerProcess, version: int) -> None:
    """SUBACK, PUBACK, PUBREC, a retained message and the identifiers of both QoS 2 flows.

    What is sent has identifiers of a range that the run before did not have.
    """
    first, second = 2_049, 2_050
    with RawClient(own_broker.port) as reader:
        reader.join("reader", version)
        reader.send(wire.subscribe(1, ("t", 2), version=version))
        reader.expect(wire.suback(1, 2, version=version))
        own_broker.restart()
    with RawClient(own_broker.port) as reader, RawClient(own_broker.port) as writer:
        reader.join("reader", version, present=True)
        writer.join("writer", version)
        writer.send(wire.publish("t", b"1", 1, 1, version))
        writer.expect(wire.puback(1))
        reader.expect(wire.publish("t", b"1", 1, first, version))
        writer.send(wire.publish("t", b"2", 2, 2, version))
        writer.expect(wire.pubrec(2))
        reader.expect(wire.publish("t", b"2", 2, second, version))
        reader.send(wire.pubrec(second))
        reader.expect(wire.pubrel(second))
        writer.send(wire.publish("kept", b"3", 1, 3, version, retain=True))
        writer.expect(wire.puback(3, 0x10 if version == V5 else 0))
        own_broker.restart()
    with RawClient(own_broker.port) as reader, RawClient(own_broker.port) as writer:
        reader.join("reader", version, present=True)
        again = {wire.pubrel(second), wire.publish("t", b"1", 1, first, version, dup=True)}
        assert {reader.read(), reader.read()} == again
        reader.send(wire.puback(first), wire.pubcomp(second))
        writer.join("writer", version, present=True)
        writer.send(wire.publish("t", b"2", 2, 2, version, dup=True))  # PUBREC was lost, as far as we know
        writer.expect(wire.pubrec(2))
        writer.send(wire.pubrel(2))
        writer.expect(wire.pubcomp(2))
        reader.send(wire.subscribe(2, ("kept", 0), version=version))
        reader.expect(wire.suback(2, 0, version=version), wire.publish("kept", b"3", version=version, retain=True))
        reader.expect_silence()
