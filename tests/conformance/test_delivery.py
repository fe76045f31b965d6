"""The flows of QoS 1 and 2 over one connection and several (chapter 4.3 to 4.6), and what ends a connection."""

from __future__ import annotations

import struct

import pytest

from tests import wire
from tests.conformance.party import Party
from tests.wire import V5

EXPIRES_SOON = b"\x02" + struct.pack(">I", 1)


def wait_two_seconds(party: Party) -> None:
    """Wait until the server publishes a will with that delay, so by its clock."""
    topic = party.name()
    witness, mortal = party.reader(topic), party.raw()
    will = (topic, b"later", 0, False)
    delay = b"\x18" + struct.pack(">I", 2)
    mortal.enter(wire.connect(party.name(), V5, will=will, will_properties=delay, properties=wire.FOR_EVER))
    mortal.close()
    witness.expect(party.publish(topic, b"later"))


def test_after_puback_an_identifier_means_a_new_message(party: Party) -> None:
    """[MQTT-4.3.2-5] [3.1.1: MQTT-4.3.2-2]: whatever DUP says."""
    topic = party.name()
    reader, writer = party.reader(topic), party.client()
    for dup in (False, True, True):
        writer.send(party.publish(topic, b"x", 1, 5, dup=dup))
        writer.expect(wire.puback(5))
    reader.expect(*[party.publish(topic, b"x")] * 3)


def test_after_pubcomp_an_identifier_means_a_new_message(party: Party) -> None:
    """[MQTT-4.3.3-12] [MQTT-4.3.3-11] [3.1.1: MQTT-4.3.3-2]."""
    topic = party.name()
    reader, writer = party.reader(topic), party.client()
    for _ in range(2):
        writer.send(party.publish(topic, b"x", 2, 5))
        writer.expect(wire.pubrec(5))
        writer.send(wire.pubrel(5))
        writer.expect(wire.pubcomp(5))
    reader.expect(*[party.publish(topic, b"x")] * 2)


def test_before_pubrel_an_identifier_means_the_same_message(party: Party) -> None:
    """[MQTT-4.3.3-10] [3.1.1: MQTT-4.3.3-2]: acknowledged, and not delivered again."""
    topic = party.name()
    reader, writer = party.reader(topic), party.client()
    for dup in (False, True, True):
        writer.send(party.publish(topic, b"x", 2, 5, dup=dup))
        writer.expect(wire.pubrec(5))
    reader.expect(party.publish(topic, b"x"))
    reader.expect_silence()


def test_after_a_refusing_pubrec_an_identifier_means_a_new_message(party_5: Party) -> None:
    """[MQTT-4.3.3-9]: no PUBREL is due, and it is free."""
    topic = party_5.name()
    reader, writer = party_5.reader(topic), party_5.client()
    writer.send(party_5.publish(topic, b"\xff", 2, 5, properties=b"\x01\x01"))
    assert writer.read()[2:5] == b"\x00\x05\x99"
    writer.send(party_5.publish(topic, b"x", 2, 5))
    writer.expect(wire.pubrec(5))
    reader.expect(party_5.publish(topic, b"x"))


def test_pubrec_is_answered_by_pubrel_with_its_identifier(party: Party) -> None:
    """[MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [3.1.1: MQTT-4.3.3-1]: PUBLISH comes until PUBREC,
    PUBREL until PUBCOMP, and never PUBLISH after it."""
    topic, kiosk = party.name(), party.name()
    client = party.durable(kiosk)
    party.subscribe(client, (topic, 2))
    party.say(topic, b"x", 2)
    client.expect(party.publish(topic, b"x", 2, 1))
    for _ in range(2):
        client.close()
        client = party.durable(kiosk, present=True)
        client.expect(party.publish(topic, b"x", 2, 1, dup=True))
    client.send(wire.pubrec(1))
    client.expect(wire.pubrel(1))
    for _ in range(2):
        client.close()
        client = party.durable(kiosk, present=True)
        client.expect(wire.pubrel(1))
        client.expect_silence()
    client.send(wire.pubcomp(1))
    client.close()
    party.durable(kiosk, present=True).expect_silence()


def test_a_message_is_unacknowledged_until_puback(party: Party) -> None:
    """[MQTT-4.3.2-3] [MQTT-4.4.0-1] [3.1.1: MQTT-4.3.2-1] [3.1.1: MQTT-4.4.0-1]: it comes again only over a new
    connection, then with DUP and its identifier."""
    topic, kiosk = party.name(), party.name()
    client = party.durable(kiosk)
    party.subscribe(client, (topic, 1))
    party.say(topic, b"x")
    client.expect(party.publish(topic, b"x", 1, 1))
    client.expect_silence()
    for _ in range(2):
        client.close()
        client = party.durable(kiosk, present=True)
        client.expect(party.publish(topic, b"x", 1, 1, dup=True))
        client.expect_silence()
    client.send(wire.puback(1))
    client.close()
    party.durable(kiosk, present=True).expect_silence()


def test_pubrels_come_in_the_order_of_the_pubrecs(party: Party) -> None:
    """[MQTT-4.6.0-4] [3.1.1: MQTT-4.6.0-4]: which need not be that of the messages."""
    topic = party.name()
    client = party.reader(topic, 2)
    for number in range(1, 6):
        party.say(topic, b"x", 2)
        client.expect(party.publish(topic, b"x", 2, number))
    order = (4, 1, 5, 3, 2)
    client.send(*map(wire.pubrec, order))
    client.expect(*map(wire.pubrel, order))


def test_what_was_sent_does_not_expire(party_5: Party) -> None:
    """[MQTT-4.3.3-7]: PUBLISH of QoS 2 was sent before, so it comes again although its time is over."""
    topic, kiosk = party_5.name(), party_5.name()
    client = party_5.durable(kiosk)
    party_5.subscribe(client, (topic, 2))
    party_5.say(topic, b"x", 2, properties=EXPIRES_SOON)
    assert client.read()[0] == 0x34
    client.close()
    wait_two_seconds(party_5)
    client = party_5.durable(kiosk, present=True)
    assert client.read()[0] == 0x3C
    client.send(wire.pubrec(1))
    client.expect(wire.pubrel(1))
    client.send(wire.pubcomp(1))
    client.expect_silence()


def test_the_flow_of_a_message_that_expired_is_completed(party_5: Party) -> None:
    """[MQTT-4.3.3-13]: the receiver goes on to PUBCOMP."""
    topic, sender, kiosk = party_5.name(), party_5.name(), party_5.name()
    reader, writer = party_5.durable(kiosk), party_5.durable(sender)
    party_5.subscribe(reader, (topic, 2))
    reader.close()
    writer.send(party_5.publish(topic, b"x", 2, 5, properties=EXPIRES_SOON))
    writer.expect(wire.pubrec(5))
    wait_two_seconds(party_5)
    writer.send(party_5.publish(topic, b"x", 2, 5, properties=EXPIRES_SOON, dup=True))
    writer.expect(wire.pubrec(5))
    writer.send(wire.pubrel(5))
    writer.expect(wire.pubcomp(5))
    party_5.durable(kiosk, present=True).expect_silence()


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_refused_is_not_sent_again(party_5: Party, qos: int) -> None:
    """[MQTT-4.4.0-2]: PUBACK or PUBREC with 0x80 or more."""
    topic, kiosk = party_5.name(), party_5.name()
    client = party_5.durable(kiosk)
    party_5.subscribe(client, (topic, qos))
    party_5.say(topic, b"x", qos)
    client.expect(party_5.publish(topic, b"x", qos, 1))
    client.send((wire.puback, wire.pubrec)[qos - 1](1, 0x80))
    client.expect_silence()
    client.close()
    party_5.durable(kiosk, present=True).expect_silence()


@pytest.mark.parametrize(
    "stray", [wire.puback(9), wire.pubrec(9), wire.pubrel(9), wire.pubcomp(9)], ids=["4009", "5009", "6009", "7009"]
)
def test_an_acknowledgement_of_nothing_is_answered_where_it_can_be(party: Party, stray: bytes) -> None:
    """Clients that acknowledge by hand send them late and twice. PUBREC and PUBREL are answered (5.0, 3.6.2.1 and
    3.7.2.1), PUBACK and PUBCOMP are ignored, and everything goes on."""
    unknown = 0x92 if party.is_5 else 0
    answers = {0x50: [wire.pubrel(9, unknown)], 0x62: [wire.pubcomp(9, unknown)]}.get(stray[0], [])
    topic = party.name()
    client = party.reader(topic, 1)
    for _ in range(2):
        client.send(stray)
        client.expect(*answers)
    party.say(topic, b"x")
    client.expect(party.publish(topic, b"x", 1, 1))
    for _ in range(2):
        client.send(wire.puback(1))
    client.expect_silence()


@pytest.mark.parametrize("code", [0x01, 0x18, 0x87, 0x8B, 0x8E, 0xA2])
def test_a_goodbye_has_a_code_that_a_client_may_use(party_5: Party, code: int) -> None:
    """[MQTT-3.14.2-1]: some do not exist, some are the server's own."""
    party_5.refused(bytes((0xE0, 2, code, 0)), 0x82)


@pytest.mark.parametrize("code", [0x04, 0x80, 0x81, 0x97])
def test_a_goodbye_with_a_reason_leaves_the_will(party_5: Party, code: int) -> None:
    """[MQTT-3.1.2-8] [MQTT-4.13.2-1]: 0x04 asks for it, an error does not take it back; the server hangs up."""
    topic = party_5.name()
    witness, client = party_5.reader(topic), party_5.raw()
    client.enter(wire.connect(party_5.name(), V5, will=(topic, b"gone", 0, False)))
    client.send(bytes((0xE0, 2, code, 0)))
    client.expect_end()
    witness.expect(party_5.publish(topic, b"gone"))


def test_after_disconnect_nothing_is_processed_and_no_will_is_sent(party: Party) -> None:
    """[MQTT-3.14.4-3] [MQTT-3.1.2-10] [3.1.1: MQTT-3.14.4-3] [3.1.1: MQTT-3.1.2-10]."""
    topic = party.name()
    witness, client = party.reader(topic), party.raw()
    client.enter(wire.connect(party.name(), party.version, will=(topic, b"gone", 0, False)))
    client.send(wire.DISCONNECT, party.publish(topic, b"after the end"))
    client.expect_end()
    witness.expect_silence()
