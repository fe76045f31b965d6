"""PUBLISH: its flags, its properties, aliases, subscription identifiers and flow control."""

from __future__ import annotations

import struct

import pytest

from tests import wire
from tests.conformance.party import Party
from tests.conformance.test_format import MALFORMED, SURROGATE
from tests.wire import V5

ALIAS_INVALID = 0x94
RECEIVE_MAXIMUM = 1_024
"""What the server announces."""
TOPIC_ALIAS_MAXIMUM = 16
"""What the server announces."""


def alias(number: int) -> bytes:
    return b"\x23" + struct.pack(">H", number)


# -- DUP, QoS, RETAIN --------------------------------------------------------------------------------------------------


def test_dup_is_zero_at_qos_0(party: Party) -> None:
    """[MQTT-3.3.1-2] [3.1.1: MQTT-3.3.1-2]."""
    party.refused(party.publish("a", b"", 0, dup=True), MALFORMED)


@pytest.mark.parametrize("qos", [1, 2])
def test_dup_of_what_comes_in_is_not_sent_on(party: Party, qos: int) -> None:
    """[MQTT-3.3.1-3] [MQTT-4.3.2-2] [MQTT-4.3.3-2] [3.1.1: MQTT-3.3.1-3]."""
    topic = party.name()
    reader, writer = party.reader(topic, qos), party.client()
    writer.send(party.publish(topic, b"x", qos, 9, dup=True))
    reader.expect(party.publish(topic, b"x", qos, 1))


def test_there_is_no_qos_3(party: Party) -> None:
    """[MQTT-3.3.1-4] [3.1.1: MQTT-3.3.1-4]."""
    party.refused(party.publish("a", b"", 3, 1), MALFORMED)


def test_a_publish_of_qos_0_has_no_packet_identifier(party: Party) -> None:
    """[MQTT-2.2.1-2] [3.1.1: MQTT-2.3.1-5]: what stands there is payload, in both directions."""
    topic = party.name()
    reader, writer = party.reader(topic), party.client()
    writer.send(party.publish(topic, b"\x00\x07"))
    reader.expect(party.publish(topic, b"\x00\x07"))


def test_what_is_not_retained_leaves_the_retained_message_alone(party: Party) -> None:
    """[MQTT-3.3.1-8] [3.1.1: MQTT-3.3.1-12]: is not stored, does not replace, does not remove."""
    topic = party.name()
    party.say(topic, b"passing")
    party.reader(topic).expect_silence()
    party.say(topic, b"kept", retain=True)
    party.say(topic, b"passing")
    party.say(topic, b"")
    party.reader(topic).expect(party.publish(topic, b"kept", retain=True))


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_retained_message_replaces_the_one_before(party: Party, qos: int) -> None:
    """[MQTT-3.3.1-5] [3.1.1: MQTT-3.3.1-5] [3.1.1: MQTT-3.3.1-7]: with its own QoS."""
    topic = party.name()
    party.say(topic, b"old", 2, retain=True)
    party.say(topic, b"new", qos, retain=True)
    party.reader(topic, 2).expect(party.publish(topic, b"new", qos, 1, retain=True))


def test_an_empty_retained_message_removes_and_is_not_stored(party: Party) -> None:
    """[MQTT-3.3.1-6] [MQTT-3.3.1-7] [3.1.1: MQTT-3.3.1-10] [3.1.1: MQTT-3.3.1-11]: those present get it."""
    topic = party.name()
    party.say(topic, b"old", retain=True)
    present = party.reader(topic)
    present.expect(party.publish(topic, b"old", retain=True))
    party.say(topic, b"", retain=True)
    present.expect(party.publish(topic, b""))
    party.reader(topic).expect_silence()


def test_a_subscription_brings_the_retained_message_with_retain_set(party: Party) -> None:
    """[MQTT-3.3.1-9] [3.1.1: MQTT-3.3.1-6] [3.1.1: MQTT-3.3.1-8]: of each topic that matches."""
    base = party.name()
    for leaf in ("a", "b"):
        party.say(f"{base}/{leaf}", leaf.encode(), retain=True)
    client = party.reader(f"{base}/+")
    got = {client.read(), client.read()}
    assert got == {party.publish(f"{base}/{leaf}", leaf.encode(), retain=True) for leaf in ("a", "b")}
    client.expect_silence()


def test_with_retain_handling_1_only_a_new_subscription_brings_it(party_5: Party) -> None:
    """[MQTT-3.3.1-10]."""
    topic = party_5.name()
    party_5.say(topic, b"kept", retain=True)
    client = party_5.reader(topic, 0x10)
    client.expect(party_5.publish(topic, b"kept", retain=True))
    party_5.subscribe(client, (topic, 0x10))
    client.expect_silence()


def test_with_retain_handling_2_no_subscription_brings_it(party_5: Party) -> None:
    """[MQTT-3.3.1-11]."""
    topic = party_5.name()
    party_5.say(topic, b"kept", retain=True)
    party_5.reader(topic, 0x20).expect_silence()


@pytest.mark.parametrize("retain", [False, True])
def test_retain_is_cleared_on_the_way_to_those_present(party: Party, retain: bool) -> None:
    """[MQTT-3.3.1-12] [3.1.1: MQTT-3.3.1-9]."""
    topic = party.name()
    reader = party.reader(topic)
    party.say(topic, b"x", retain=retain)
    reader.expect(party.publish(topic, b"x", retain=False))


@pytest.mark.parametrize("retain", [False, True])
def test_retain_as_published_keeps_it(party_5: Party, retain: bool) -> None:
    """[MQTT-3.3.1-13]."""
    topic = party_5.name()
    reader = party_5.reader(topic, 0x08)
    party_5.say(topic, b"x", retain=retain)
    reader.expect(party_5.publish(topic, b"x", retain=retain))


# -- topic and properties ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["#", "a/#", "+", "a/+/b", "a+", "a#b"])
def test_a_topic_name_has_no_wildcards(party: Party, topic: str) -> None:
    """[MQTT-3.3.2-2] [MQTT-4.7.0-1] [3.1.1: MQTT-3.3.2-2] [3.1.1: MQTT-4.7.1-1]."""
    party.refused(party.publish(topic, b""), MALFORMED)


def test_topics_that_are_delivered_match_the_filter(party: Party) -> None:
    """[MQTT-3.3.2-3] [3.1.1: MQTT-3.3.2-3]: the name of the publisher, not the filter, and none that does not match."""
    base = party.name()
    reader = party.reader(f"{base}/+/c")
    for leaf in ("a/b", "a/c", "c", "a/b/c"):
        party.say(f"{base}/{leaf}", b"x")
    reader.expect(party.publish(f"{base}/a/c", b"x"))
    reader.expect_silence()


PROPERTIES = (
    b"\x01\x01"  # payload format: text
    + (b"\x03" + wire.text("text/plain"))
    + (b"\x08" + wire.text("to/answer"))
    + (b"\x09" + wire.text(b"\x00\xff correlation"))
    + b"".join(b"\x26" + wire.text(key) + wire.text(value) for key, value in (("b", "2"), ("a", "1"), ("b", "2")))
)


@pytest.mark.parametrize("how", ["present", "queued", "retained", "shared", "will"])
def test_properties_are_sent_on_as_they_came(party_5: Party, how: str) -> None:
    """[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
    [MQTT-3.1.3-10]: user properties in their order, also those that repeat."""
    topic, kiosk = party_5.name(), party_5.name()
    expected = party_5.publish(topic, b"x", 1, 1, properties=PROPERTIES, retain=how == "retained")
    if how == "queued":
        reader = party_5.durable(kiosk)
        party_5.subscribe(reader, (topic, 1))
        reader.close()
    elif how != "retained":
        reader = party_5.reader(f"$share/crew/{topic}" if how == "shared" else topic, 1)
    if how == "will":
        client = party_5.raw()
        client.enter(wire.connect(kiosk, V5, will=(topic, b"x", 1, False), will_properties=PROPERTIES))
        client.close()
    else:
        party_5.say(topic, b"x", properties=PROPERTIES, retain=how == "retained")
    if how == "queued":
        reader = party_5.durable(kiosk, present=True)
    elif how == "retained":
        reader = party_5.reader(topic, 1)
    reader.expect(expected)


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param(b"\x08" + wire.text(SURROGATE), id="response topic not UTF-8 [MQTT-3.3.2-13]"),
        pytest.param(b"\x08" + wire.text("a/+"), id="response topic with + [MQTT-3.3.2-14]"),
        pytest.param(b"\x08" + wire.text("#"), id="response topic with # [MQTT-3.3.2-14]"),
        pytest.param(b"\x03" + wire.text(SURROGATE), id="content type not UTF-8 [MQTT-3.3.2-19]"),
        pytest.param(b"\x0b\x01", id="subscription identifier [MQTT-3.3.4-6]"),
    ],
)
def test_properties_are_what_they_may_be(party_5: Party, properties: bytes) -> None:
    """[MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19] [MQTT-3.3.4-6]: the last is the server's to add."""
    party_5.refused(party_5.publish("a", b"", properties=properties), MALFORMED)


def test_what_has_expired_is_not_delivered(party_5: Party) -> None:
    """[MQTT-3.3.2-5]: by the clock of the server, which a last will with the same delay shows."""
    topic, kiosk = party_5.name(), party_5.name()
    client = party_5.durable(kiosk)
    party_5.subscribe(client, (topic, 1))
    client.close()
    party_5.say(topic, b"for a second", properties=b"\x02" + struct.pack(">I", 1))
    party_5.say(topic, b"for ever")
    witness = party_5.reader(f"{topic}/clock")
    mortal = party_5.raw()
    mortal.enter(
        wire.connect(
            party_5.name(),
            V5,
            will=(f"{topic}/clock", b"later", 0, False),
            will_properties=b"\x18" + struct.pack(">I", 2),
            properties=wire.FOR_EVER,
        )
    )
    mortal.close()
    witness.expect(party_5.publish(f"{topic}/clock", b"later"))
    client = party_5.durable(kiosk, present=True)
    client.expect(party_5.publish(topic, b"for ever", 1, 1))
    client.expect_silence()


# -- topic aliases -----------------------------------------------------------------------------------------------------


def test_an_alias_does_not_outlive_its_connection(party_5: Party) -> None:
    """[MQTT-3.3.2-7]: in neither direction."""
    topic, kiosk = party_5.name(), party_5.name()
    few = b"\x22\x00\x01"
    client = party_5.durable(kiosk, properties=few)
    party_5.subscribe(client, (topic, 0))
    client.send(party_5.publish(topic, b"1", properties=alias(1)))
    client.expect(party_5.publish(topic, b"1", properties=alias(1)))
    client.close()
    client = party_5.durable(kiosk, present=True, properties=few)
    client.send(party_5.publish(topic, b"2"))
    client.expect(party_5.publish(topic, b"2", properties=alias(1)))
    client.send(party_5.publish("", b"3", properties=alias(1)))
    client.expect_goodbye(ALIAS_INVALID, V5)


@pytest.mark.parametrize("number", [0, TOPIC_ALIAS_MAXIMUM + 1])
def test_aliases_that_were_not_allowed_are_refused(party_5: Party, number: int) -> None:
    """[MQTT-3.3.2-8] [MQTT-3.3.2-9]."""
    party_5.refused(party_5.publish("a", b"", properties=alias(number)), ALIAS_INVALID)


def test_every_alias_that_was_allowed_is_accepted(party_5: Party) -> None:
    """[MQTT-3.3.2-12]."""
    base = party_5.name()
    client = party_5.reader(f"{base}/+")
    for number in range(1, TOPIC_ALIAS_MAXIMUM + 1):
        client.send(
            party_5.publish(f"{base}/{number}", b"1", properties=alias(number)),
            party_5.publish("", b"2", properties=alias(number)),
        )
        client.expect(party_5.publish(f"{base}/{number}", b"1"), party_5.publish(f"{base}/{number}", b"2"))


def test_the_server_uses_no_more_aliases_than_the_client_takes(party_5: Party) -> None:
    """[MQTT-3.1.2-26] [MQTT-3.3.2-11]: the first topics get one, the others keep their name."""
    base = party_5.name()
    reader = party_5.reader(f"{base}/+", properties=b"\x22\x00\x02")
    for _ in range(2):
        for leaf in "abc":
            party_5.say(f"{base}/{leaf}", b"x", 0)
    reader.expect(
        party_5.publish(f"{base}/a", b"x", properties=alias(1)),
        party_5.publish(f"{base}/b", b"x", properties=alias(2)),
        party_5.publish(f"{base}/c", b"x"),
        party_5.publish("", b"x", properties=alias(1)),
        party_5.publish("", b"x", properties=alias(2)),
        party_5.publish(f"{base}/c", b"x"),
    )


def test_a_defined_alias_serves_qos_2_as_well(party_5: Party) -> None:
    """A message that waits for the store defines none, but it may use one."""
    topic, kiosk = party_5.name(), party_5.name()
    reader = party_5.durable(kiosk, properties=b"\x22\x00\x02")
    party_5.subscribe(reader, (topic, 2))
    for payload, qos in ((b"1", 2), (b"2", 0), (b"3", 2), (b"4", 1)):
        party_5.say(topic, payload, qos)
    reader.expect(
        party_5.publish(topic, b"1", 2, 1),
        party_5.publish(topic, b"2", properties=alias(1)),
        party_5.publish("", b"3", 2, 2, properties=alias(1)),
        party_5.publish("", b"4", 1, 3, properties=alias(1)),
    )
    reader.close()
    party_5.durable(kiosk, present=True).expect(
        *(party_5.publish(topic, payload, qos, number, dup=True) for payload, qos, number in
          ((b"1", 2, 1), (b"3", 2, 2), (b"4", 1, 3)))
    )  # fmt: skip


@pytest.mark.parametrize("properties", [b"", b"\x22\x00\x00"])
def test_without_a_maximum_the_server_uses_no_alias(party_5: Party, properties: bytes) -> None:
    """[MQTT-3.1.2-27]."""
    topic = party_5.name()
    reader = party_5.reader(topic, properties=properties)
    for _ in range(2):
        party_5.say(topic, b"x", 0)
    reader.expect(party_5.publish(topic, b"x"), party_5.publish(topic, b"x"))


# -- subscription identifiers ------------------------------------------------------------------------------------------


def test_a_message_has_the_identifiers_of_all_subscriptions_that_match(party_5: Party) -> None:
    """[MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]: one copy, at the highest QoS; one has no identifier."""
    base = party_5.name()
    client = party_5.client()
    party_5.subscribe(client, (f"{base}/#", 0), properties=b"\x0b\x07")
    party_5.subscribe(client, (f"{base}/+", 2), properties=b"\x0b\xc8\x01")
    party_5.subscribe(client, (f"{base}/a", 1))
    party_5.subscribe(client, (f"{base}/b", 1), properties=b"\x0b\x09")
    party_5.say(f"{base}/a", b"x", 2)
    got = client.read()
    start = 6 + len(base) + 2
    assert got[:1] == b"\x34"
    assert got[start] == 5
    assert got[start + 1 : start + 6] in (b"\x0b\x07\x0b\xc8\x01", b"\x0b\xc8\x01\x0b\x07")
    client.expect_silence()


# -- flow control ------------------------------------------------------------------------------------------------------


def test_a_client_that_overruns_the_receive_maximum_is_disconnected(party_5: Party) -> None:
    """[MQTT-3.3.4-7] [MQTT-4.9.0-1]: QoS 2 that is not released counts; as many as announced are fine."""
    topic = party_5.name()
    client = party_5.client()
    for number in range(1, RECEIVE_MAXIMUM + 1):
        client.send(party_5.publish(topic, b"", 2, number))
    for number in range(1, RECEIVE_MAXIMUM + 1):
        client.expect(wire.pubrec(number, 0x10))
    client.send(party_5.publish(topic, b"", 2, RECEIVE_MAXIMUM + 1))
    client.expect_goodbye(0x93, V5)


def test_what_is_not_a_publish_is_not_held_back(party_5: Party) -> None:
    """[MQTT-3.3.4-10] [MQTT-4.9.0-2] [MQTT-4.9.0-3]: with no quota left the server
    answers everything."""
    topic = party_5.name()
    client = party_5.reader(topic, 1, properties=b"\x21\x00\x01")
    party_5.say(topic, b"1")
    party_5.say(topic, b"2")
    client.expect(party_5.publish(topic, b"1", 1, 1))
    client.send(wire.PINGREQ)
    client.expect(wire.PINGRESP)
    party_5.subscribe(client, (f"{topic}/0", 0))
    client.send(party_5.publish("unheard", b"mine", 1, 5), party_5.publish("unheard", b"mine", 2, 6))
    client.expect(wire.puback(5, 0x10), wire.pubrec(6, 0x10))
    client.send(wire.pubrel(6))
    client.expect(wire.pubcomp(6))
    client.send(wire.unsubscribe(6, f"{topic}/0", version=V5))
    client.expect(wire.unsuback(6, 0, version=V5))
    client.send(wire.puback(1))
    client.expect(party_5.publish(topic, b"2", 1, 2))


@pytest.mark.parametrize("qos", [1, 2])
def test_acknowledgements_have_the_reason_codes_of_the_standard(party_5: Party, qos: int) -> None:
    """[MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]: success, no matching subscribers, not authorized,
    payload format invalid; PUBREL and PUBCOMP success or packet identifier not found."""
    topic = party_5.name()
    reader, writer = party_5.reader(topic, qos), party_5.client()
    acknowledged = wire.puback if qos == 1 else wire.pubrec
    for number, (target, properties, code) in enumerate(
        [(topic, b"", 0x00), (f"{topic}/x", b"", 0x10), ("$SYS/x", b"", 0x87), (topic, b"\x01\x01", 0x99)], 1
    ):
        writer.send(party_5.publish(target, b"\xff", qos, number, properties=properties))
        got = writer.read()
        assert got[0] == acknowledged(number)[0]
        assert got[2:4] == struct.pack(">H", number)
        assert (got[4] if len(got) > 4 else 0) == code
    reader.expect(party_5.publish(topic, b"\xff", qos, 1))
    if qos == 2:
        reader.send(wire.pubrec(1), wire.pubrec(9))
        assert [reader.read(), reader.read()] == [wire.pubrel(1), wire.pubrel(9, 0x92)]
        writer.send(wire.pubrel(1), wire.pubrel(77))
        writer.expect(wire.pubcomp(1), wire.pubcomp(77, 0x92))


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_a_client_may_not_publish_is_acknowledged_and_dropped(party: Party, qos: int) -> None:
    """[3.1.1: MQTT-3.3.5-2]: by the rules of its QoS; 5.0 says why."""
    topic = f"$SYS/{party.name()}"
    reader, writer = party.reader("$SYS/+", 2), party.client()
    writer.send(party.publish(topic, b"x", qos, 5))
    if qos:
        answer = writer.read()
        assert answer[0] == (0, 0x40, 0x50)[qos]
        assert answer[2:4] == b"\x00\x05"
        assert answer[4:5] == (b"\x87" if party.is_5 else b"")
    writer.close()
    reader.expect_silence()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_publish_is_answered_by_the_rules_of_its_qos(party: Party, qos: int) -> None:
    """[MQTT-3.3.4-1] [MQTT-2.2.1-5] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [3.1.1: MQTT-3.3.4-1] [3.1.1: MQTT-2.3.1-6]: nothing,
    PUBACK, PUBREC, with its packet identifier."""
    topic = party.name()
    party.reader(topic)
    writer = party.client()
    for identifier in (1, 700, 65_535):
        writer.send(party.publish(topic, b"x", qos, identifier))
        if qos:
            writer.expect((wire.puback, wire.pubrec)[qos - 1](identifier))
    writer.expect_silence()


def test_messages_come_in_the_order_in_which_they_were_published(party: Party) -> None:
    """[MQTT-4.6.0-5] [MQTT-4.6.0-6] [3.1.1: MQTT-4.6.0-5] [3.1.1: MQTT-4.6.0-6]: at each QoS of one topic."""
    topic, count = party.name(), 100  # so that nothing needs an acknowledgement before the next
    readers = {qos: party.reader(topic, qos) for qos in (0, 1, 2)}
    writer = party.client()
    for qos in (0, 1, 2):
        writer.send(*(party.publish(topic, b"%d%03d" % (qos, n), qos, 1 + n + qos * count) for n in range(count)))
    for granted, reader in readers.items():
        got: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for _ in range(3 * count):
            packet = reader.read()
            sent, number = int(packet[-4:-3]), int(packet[-3:])
            qos = packet[0] >> 1 & 3
            assert qos == min(granted, sent)
            got[sent].append(number)
        assert got == {qos: list(range(count)) for qos in (0, 1, 2)}
