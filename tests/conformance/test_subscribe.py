"""SUBSCRIBE and UNSUBSCRIBE, filters, shared subscriptions."""

from __future__ import annotations

import pytest

from tests import wire
from tests.conformance.party import Party
from tests.conformance.test_format import MALFORMED, PROTOCOL_ERROR
from tests.wire import V5, RawClient

NOT_FOUND = 0x11
DEEP = "/" * 200
"""A filter of more levels than the server takes (128)."""


def test_a_subscribe_asks_for_something(party: Party) -> None:
    """[MQTT-3.8.3-2] [3.1.1: MQTT-3.8.3-3]."""
    party.refused(wire.subscribe(1, version=party.version), PROTOCOL_ERROR)


def test_an_unsubscribe_names_something(party: Party) -> None:
    """[MQTT-3.10.3-2] [3.1.1: MQTT-3.10.3-2]."""
    party.refused(wire.unsubscribe(1, version=party.version), PROTOCOL_ERROR)


def test_a_shared_subscription_is_never_without_local_messages(party_5: Party) -> None:
    """[MQTT-3.8.3-4]."""
    party_5.refused(wire.subscribe(1, ("$share/crew/a", 0x04), version=V5), PROTOCOL_ERROR)


@pytest.mark.parametrize("options", [0x40, 0x80, 0xC0, 0x03])
def test_reserved_bits_of_options_are_zero(party: Party, options: int) -> None:
    """[MQTT-3.8.3-5] [3.1.1: MQTT-3-8.3-4]: and there is no QoS 3."""
    party.refused(wire.subscribe(1, ("a", options), version=party.version), MALFORMED)


@pytest.mark.parametrize("options", [0x04, 0x08, 0x10, 0x30])
def test_what_is_an_option_of_5_0_is_reserved_in_3_1_1(party: Party, options: int) -> None:
    """[3.1.1: MQTT-3-8.3-4]: in 5.0, of these only retain handling 3 is wrong."""
    client = party.client()
    client.send(wire.subscribe(1, (party.name(), options), version=party.version))
    if party.is_5 and options != 0x30:
        client.expect(wire.suback(1, 0, version=V5))
    else:
        client.expect_goodbye(PROTOCOL_ERROR, party.version)


@pytest.mark.parametrize("identifier", [1, 300, 65_535])
def test_suback_and_unsuback_have_the_identifier_of_the_request(party: Party, identifier: int) -> None:
    """[MQTT-2.2.1-6] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [3.1.1: MQTT-2.3.1-7]
    [3.1.1: MQTT-3.8.4-1] [3.1.1: MQTT-3.8.4-2] [3.1.1: MQTT-3.10.4-4] [3.1.1: MQTT-3.10.4-5]."""
    client, topic = party.client(), party.name()
    client.send(wire.subscribe(identifier, (topic, 1), version=party.version))
    client.expect(wire.suback(identifier, 1, version=party.version))
    for code in (0, NOT_FOUND):
        client.send(wire.unsubscribe(identifier, topic, version=party.version))
        client.expect(wire.unsuback(identifier, code, version=party.version))


def test_the_same_filter_again_replaces_the_subscription(party: Party) -> None:
    """[MQTT-3.8.4-3] [MQTT-3.8.4-4] [3.1.1: MQTT-3.8.4-3]: another QoS, the retained message again, and nothing is lost
    or doubled meanwhile."""
    topic = party.name()
    party.say(topic, b"kept", retain=True)
    reader, writer = party.client(), party.client()
    party.subscribe(reader, (topic, 0))
    reader.expect(party.publish(topic, b"kept", 0, retain=True))
    writer.send(*(party.publish(topic, b"%02d" % number) for number in range(50)))
    reader.send(wire.subscribe(2, (topic, 1), version=party.version))
    writer.send(*(party.publish(topic, b"%02d" % number) for number in range(50, 100)))
    got = [reader.read() for _ in range(102)]
    assert got.count(wire.suback(2, 1, version=party.version)) == 1
    kept = [packet for packet in got if packet.endswith(b"kept")]
    assert [packet[0] for packet in kept] == [0x33]
    assert [int(packet[-2:]) for packet in got if packet[0] == 0x30] == list(range(100))
    reader.send(wire.puback(1))
    reader.expect_silence()
    party.say(topic, b"one copy")
    reader.expect(party.publish(topic, b"one copy", 1, 2))


def test_several_filters_are_granted_in_their_order(party: Party) -> None:
    """[MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [3.1.1: MQTT-3.8.4-4]
    [3.1.1: MQTT-3.8.4-5] [3.1.1: MQTT-3.9.3-1] [3.1.1: MQTT-3.9.3-2]: each with its own code, one of them a refusal."""
    base, client = party.name(), party.client()
    filters = [(f"{base}/a", 2), (f"{base}/b", 0), (DEEP, 1), (f"{base}/c", 1)]
    client.send(wire.subscribe(5, *filters, version=party.version))
    client.expect(wire.suback(5, 2, 0, 0x8F if party.is_5 else 0x80, 1, version=party.version))
    for leaf, qos in (("a", 2), ("b", 0), ("c", 1)):
        party.say(f"{base}/{leaf}", b"x", 2)
        got = client.read()
        assert got[0] == 0x30 | qos << 1
        assert leaf.encode() + b"\x00"[: qos and 1] in got


@pytest.mark.parametrize(
    ("subscribed", "unsubscribed"), [("{}/+", "{}/a"), ("{}/a", "{}/+"), ("{}/#", "{}"), ("{}/A", "{}/a")]
)
def test_filters_are_unsubscribed_by_their_letters(party: Party, subscribed: str, unsubscribed: str) -> None:
    """[MQTT-3.10.4-1] [3.1.1: MQTT-3.10.4-1]: not by what they match."""
    base = party.name()
    client = party.reader(subscribed.format(base))
    client.send(wire.unsubscribe(2, unsubscribed.format(base), version=party.version))
    client.expect(wire.unsuback(2, NOT_FOUND, version=party.version))
    topic = subscribed.format(base).replace("+", "x").replace("#", "y")
    party.say(topic, b"still")
    client.expect(party.publish(topic, b"still"))
    client.send(wire.unsubscribe(3, subscribed.format(base), version=party.version))
    client.expect(wire.unsuback(3, 0, version=party.version))
    party.say(topic, b"no more")
    client.expect_silence()


@pytest.mark.parametrize("qos", [1, 2])
def test_unsubscribe_stops_new_messages_and_completes_what_has_begun(party: Party, qos: int) -> None:
    """[MQTT-3.10.4-2] [MQTT-3.10.4-3] [3.1.1: MQTT-3.10.4-2] [3.1.1: MQTT-3.10.4-3]: also over another connection."""
    kiosk, topic = party.name(), party.name()
    client = party.durable(kiosk)
    party.subscribe(client, (topic, qos))
    party.say(topic, b"begun", qos)
    client.expect(party.publish(topic, b"begun", qos, 1))
    client.send(wire.unsubscribe(2, topic, version=party.version))
    client.expect(wire.unsuback(2, 0, version=party.version))
    party.say(topic, b"too late", qos)
    client.expect_silence()
    client.close()
    client = party.durable(kiosk, present=True)
    client.expect(party.publish(topic, b"begun", qos, 1, dup=True))
    if qos == 1:
        client.send(wire.puback(1))
    else:
        client.send(wire.pubrec(1))
        client.expect(wire.pubrel(1))
        client.send(wire.pubcomp(1))
    client.expect_silence()


def test_several_filters_are_unsubscribed_in_their_order(party: Party) -> None:
    """[MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] [3.1.1: MQTT-3.10.4-6]: one UNSUBACK, in 5.0 a code for each."""
    base, client = party.name(), party.client()
    party.subscribe(client, (f"{base}/a", 0), (f"{base}/b", 0))
    client.send(wire.unsubscribe(4, f"{base}/a", f"{base}/none", f"{base}/b", version=party.version))
    client.expect(wire.unsuback(4, 0, NOT_FOUND, 0, version=party.version))
    for leaf in "ab":
        party.say(f"{base}/{leaf}", b"x")
    client.expect_silence()


@pytest.mark.parametrize("bad", ["a/#/b", "#/a", "a#", "##", "a/b#"])
def test_the_multi_level_wildcard_is_the_whole_last_level(party: Party, bad: str) -> None:
    """[MQTT-4.7.1-1] [3.1.1: MQTT-4.7.1-2]: after which nothing is subscribed."""
    party.refused(wire.subscribe(1, (bad, 0), version=party.version), MALFORMED)


@pytest.mark.parametrize("bad", ["a+", "+a", "a/+b/c", "++"])
def test_the_single_level_wildcard_is_a_whole_level(party: Party, bad: str) -> None:
    """[MQTT-4.7.1-2] [3.1.1: MQTT-4.7.1-3]."""
    party.refused(wire.subscribe(1, (bad, 0), version=party.version), MALFORMED)


@pytest.mark.parametrize("good", ["{0}/+", "+/{0}/#", "{0}/+/+", "+/+/{0}", "#"])
def test_wildcards_are_allowed_wherever_they_may_be(party: Party, good: str) -> None:
    """[MQTT-4.7.1-1] [MQTT-4.7.1-2] [3.1.1: MQTT-4.7.1-2] [3.1.1: MQTT-4.7.1-3]."""
    party.reader(good.format(party.name()))


def test_names_and_filters_are_not_empty(party: Party) -> None:
    """[MQTT-4.7.3-1] [3.1.1: MQTT-4.7.3-1]: a name may be in 5.0, with an alias."""
    party.refused(wire.subscribe(1, ("", 0), version=party.version), MALFORMED)
    party.refused(wire.unsubscribe(1, "", version=party.version), MALFORMED)
    party.refused(party.publish("", b""), PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("bad", "clause"),
    [
        ("$share/crew", "[MQTT-4.8.2-2]"),
        ("$share//a", "[MQTT-4.8.2-1]"),
        ("$share/crew/", "[MQTT-4.8.2-2]"),
        ("$share/c+w/a", "[MQTT-4.8.2-2]"),
        ("$share/c#/a", "[MQTT-4.8.2-2]"),
        ("$share/crew/a#", "[MQTT-4.7.1-1]"),
    ],
)
def test_a_shared_subscription_has_a_name_and_a_filter(party_5: Party, bad: str, clause: str) -> None:
    """[MQTT-4.8.2-1] [MQTT-4.8.2-2]."""
    party_5.refused(wire.subscribe(1, (bad, 0), version=V5), MALFORMED)


@pytest.mark.parametrize("granted", [0, 1, 2])
def test_a_shared_subscription_has_its_own_qos(party_5: Party, granted: int) -> None:
    """[MQTT-4.8.2-3]: of the member that is chosen."""
    topic = party_5.name()
    worker = party_5.reader(f"$share/crew/{topic}", granted)
    party_5.say(topic, b"x", 2)
    worker.expect(party_5.publish(topic, b"x", granted, 1))


def half_done(party: Party) -> tuple[str, str, RawClient]:
    """A shared message of QoS 2 that its member has and has not answered, and that member away: topic, who, another."""
    topic, kiosk = party.name(), party.name()
    chosen = party.durable(kiosk)
    party.subscribe(chosen, (f"$share/crew/{topic}", 2))
    party.say(topic, b"mine", 2)
    chosen.expect(party.publish(topic, b"mine", 2, 1))
    other = party.reader(f"$share/crew/{topic}", 2)
    chosen.close()
    return topic, kiosk, other


def test_a_shared_message_of_qos_2_stays_with_the_one_who_has_it(party_5: Party) -> None:
    """[MQTT-4.8.2-4]: completed when that client returns; the other one does not get it."""
    topic, kiosk, other = half_done(party_5)
    returned = party_5.durable(kiosk, present=True)
    returned.expect(party_5.publish(topic, b"mine", 2, 1, dup=True))
    returned.send(wire.pubrec(1))
    returned.expect(wire.pubrel(1))
    returned.send(wire.pubcomp(1))
    returned.expect_silence()
    other.expect_silence()


def test_a_shared_message_of_qos_2_ends_with_the_session_that_has_it(party_5: Party) -> None:
    """[MQTT-4.8.2-5]: nobody else gets it."""
    _, kiosk, other = half_done(party_5)
    party_5.raw().enter(wire.connect(kiosk, V5, clean=True))
    other.expect_silence()


@pytest.mark.parametrize("qos", [1, 2])
def test_a_shared_message_that_is_refused_goes_to_nobody_else(party_5: Party, qos: int) -> None:
    """[MQTT-4.8.2-6]."""
    topic = party_5.name()
    workers = [party_5.reader(f"$share/crew/{topic}", qos) for _ in range(2)]
    party_5.say(topic, b"x", qos)
    party_5.say(topic, b"x", qos)
    for worker in workers:
        worker.expect(party_5.publish(topic, b"x", qos, 1))
        worker.send((wire.puback, wire.pubrec)[qos - 1](1, 0x83))
        worker.expect_silence()
    for worker in workers:
        worker.expect_silence()
