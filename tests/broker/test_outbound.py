"""The outbound half of a session: deliveries and their outcomes, both QoS flows, pauses, the queue."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from broker.events import ACKNOWLEDGED, COMPLETED, LOST, UNHANDLED
from broker.inflight import ABANDONED, PUBCOMP_DUE
from broker.message import Body, Message
from broker.protocol.packets import (
    V3_1_1,
    V5,
    Connect,
    Disconnect,
    Packet,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
)
from broker.settings import BrokerSettings
from tests.fakes import FakeClient, World, message

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])
only_5_0 = pytest.mark.parametrize("version", [V5])


def subscriber(
    world: World, version: int, qos: int = 1, *, clean: bool = True, properties: Properties | None = None
) -> FakeClient:
    client = world.connect("c", version, clean=clean, properties=properties)
    assert client.subscribe(("a", qos)) == [qos]
    world.events.take()
    return client


def awaiting_pubrec(
    version: int, handle: int = 1, *, settings: BrokerSettings | None = None, clean: bool = True
) -> tuple[World, FakeClient, int]:
    """A world, a subscriber that has received a message of QoS 2, and the packet identifier that it owes a PUBREC."""
    world = World(settings)
    client = subscriber(world, version, 2, clean=clean)
    deliver(world, handle, qos=2)
    return world, client, client.receive(Publish).packet_id


def deliver(world: World, handle: int, payload: bytes = b"x", qos: int = 1) -> bool:
    return world.broker.deliver("c", message("a", payload, qos), handle)


# -- taken or not taken ------------------------------------------------------------------------------------------------


@both_versions
def test_a_delivery_is_written_and_ended_by_its_puback(version: int) -> None:
    world = World()
    client = subscriber(world, version)
    assert deliver(world, 77, b"hello")
    publish = client.receive(Publish)
    assert (publish.topic, publish.payload, publish.qos, publish.retain, publish.dup) == (
        "a",
        b"hello",
        1,
        False,
        False,
    )
    assert not world.events.log
    client.send(Puback(publish.packet_id))
    assert world.events.take() == [("delivery_ended", "c", 77, ACKNOWLEDGED)]
    client.send(Puback(publish.packet_id))
    assert not world.events.take()
    assert not client.is_closed(), "clients that acknowledge by hand say it twice"
    assert world.broker.metrics.unsolicited_acknowledgements == 1


@both_versions
def test_the_message_object_may_be_used_again(version: int) -> None:
    world = World()
    client = subscriber(world, version)
    reused = message("a", b"one")
    assert world.broker.deliver("c", reused, 1)
    reused.topic, reused.body = "elsewhere", Body(b"two")
    assert client.payloads() == [b"one"]


@both_versions
def test_who_is_away_or_not_subscribed_is_not_given_anything(version: int) -> None:
    world = World()
    assert not world.broker.deliver("nobody", message("a"), 1)
    client = subscriber(world, version, clean=False)
    assert not world.broker.deliver("c", message("b"), 1)
    client.send(Unsubscribe(3, ["a"]))
    client.received()
    assert not deliver(world, 1)
    client.subscribe(("a", 1))
    client.drop()
    assert not deliver(world, 1)
    assert not world.events.of("delivery_ended")


@pytest.mark.parametrize(("asked", "granted", "sent"), [(2, 1, 1), (1, 2, 1), (1, 0, 0), (0, 1, 0)])
@both_versions
def test_the_lower_qos_of_message_and_subscription_counts(version: int, asked: int, granted: int, sent: int) -> None:
    """[MQTT-3.8.4-8]"""
    world = World()
    client = subscriber(world, version, granted)
    assert world.broker.granted_qos("c", "a") == granted
    assert deliver(world, 1, qos=asked)
    assert client.receive(Publish).qos == sent


@both_versions
def test_wildcards_count_for_deliveries_too(version: int) -> None:
    world = World()
    client = world.connect("c", version)
    client.subscribe(("a", 0), ("+", 1), ("$share/g/#", 2))
    assert world.broker.granted_qos("c", "a") == 1
    assert world.broker.granted_qos("c", "a/b") is None
    assert deliver(world, 1, qos=2)
    assert client.receive(Publish).qos == 1


@only_5_0
def test_subscription_identifiers_go_along(version: int) -> None:
    """[MQTT-3.3.4-3]"""
    world = World()
    client = world.connect("c", version)
    client.subscribe(("a", 1), identifier=300)
    assert deliver(world, 1)
    properties = client.receive(Publish).properties
    assert properties is not None
    assert properties.subscription_identifiers == [300]
    client.subscribe(("+", 0), identifier=5)
    assert deliver(world, 2)
    properties = client.receive(Publish).properties
    assert properties is not None
    assert sorted(properties.subscription_identifiers) == [5, 300]


@both_versions
def test_the_window_is_the_lower_of_both_limits_and_ready_comes_at_half(version: int) -> None:
    """[MQTT-3.3.4-9]"""
    limit = 4
    world = World(BrokerSettings(max_inflight=limit))
    client = subscriber(world, version)
    assert [deliver(world, handle) for handle in range(6)] == [True] * 4 + [False] * 2
    ids = [publish.packet_id for publish in client.publishes()]
    assert len(set(ids)) == 4
    client.send(Puback(ids[0]))
    assert not world.events.of("ready")
    client.send(Puback(ids[1]))
    assert world.events.of("ready") == [("ready", "c", 2)]
    client.send(Puback(ids[2]))
    assert len(world.events.of("ready")) == 1


@only_5_0
def test_the_clients_receive_maximum_lowers_the_window(version: int) -> None:
    world = World()
    client = subscriber(world, version, properties=Properties(receive_maximum=2))
    assert [deliver(world, handle) for handle in range(3)] == [True, True, False]
    assert deliver(world, 9, qos=0), "QoS 0 needs no send_quota"
    assert len(client.publishes()) == 3


@both_versions
def test_ready_may_deliver_from_within_and_delivery_ended_may_too(version: int) -> None:
    world = World(BrokerSettings(max_inflight=2))
    client = world.connect("c", version)
    waiting = list(range(10))

    def hand_over(*_: object) -> None:
        while waiting and deliver(world, waiting[0], bytes([waiting[0]])):
            waiting.pop(0)

    world.events.on_ready = world.events.on_delivery_ended = hand_over
    client.send(Subscribe(1, [SubscriptionRequest("a", 1)]))
    got: list[bytes] = []
    while True:
        publishes = [packet for packet in client.received() if isinstance(packet, Publish)]
        if not publishes:
            break
        got += [publish.payload for publish in publishes]
        client.send(*(Puback(publish.packet_id) for publish in publishes))
    assert got == [bytes([number]) for number in range(10)]
    assert len(world.events.of("delivery_ended")) == 10


@both_versions
def test_packet_identifiers_wrap_and_skip_what_is_in_use(version: int) -> None:
    """[MQTT-2.2.1-3]"""
    world = World()
    client = subscriber(world, version)
    assert deliver(world, 1)
    kept = client.receive(Publish).packet_id
    world.broker.sessions["c"].next_packet_id = 65_535
    ids = []
    for handle in range(2, 5):
        assert deliver(world, handle)
        ids.append(client.receive(Publish).packet_id)
    assert kept == 1
    assert ids == [65_535, 2, 3]


@only_5_0
def test_too_large_for_the_client_is_refused_and_takes_no_send_quota(version: int) -> None:
    """[MQTT-3.1.2-24]"""
    world = World(BrokerSettings(max_inflight=1))
    client = subscriber(world, version, 2, properties=Properties(maximum_packet_size=40))
    for qos in (0, 1, 2):
        assert deliver(world, qos, b"x" * 40, qos)
    assert world.events.take() == [("delivery_ended", "c", handle, 0x95) for handle in (0, 1, 2)]
    assert client.received() == []
    assert deliver(world, 3, b"fits")
    assert world.broker.metrics.dropped_too_large == 3


@only_5_0
def test_a_refusing_puback_carries_its_reason(version: int) -> None:
    world = World()
    client = subscriber(world, version)
    deliver(world, 5)
    client.send(Puback(client.receive(Publish).packet_id, 0x97))
    deliver(world, 6)
    client.send(Puback(client.receive(Publish).packet_id, 0x10))
    assert world.events.take() == [("delivery_ended", "c", 5, 0x97), ("delivery_ended", "c", 6, ACKNOWLEDGED)]


@both_versions
def test_an_acknowledgement_of_another_flow_books_nothing(version: int) -> None:
    """An acknowledgement of another flow is of an earlier message under that identifier."""
    world = World()
    client = subscriber(world, version, 2)
    deliver(world, 5, qos=2)
    deliver(world, 6, qos=1)
    exactly_once, at_least_once = client.publishes()
    client.send(Puback(exactly_once.packet_id), Pubcomp(exactly_once.packet_id), Pubcomp(at_least_once.packet_id))
    assert client.received() == []
    client.send(Pubrec(at_least_once.packet_id), Pubrec(at_least_once.packet_id, 0x80 if version == V5 else 0))
    unknown = Pubrel(at_least_once.packet_id, 0x92 if version == V5 else 0)
    assert client.received() == [unknown, unknown]
    assert not world.events.of("delivery_ended")
    assert world.broker.metrics.unsolicited_acknowledgements == 5
    client.send(Pubrec(exactly_once.packet_id), Puback(at_least_once.packet_id))
    client.send(Pubcomp(exactly_once.packet_id))
    assert world.events.of("delivery_ended") == [
        ("delivery_ended", "c", 6, ACKNOWLEDGED),
        ("delivery_ended", "c", 5, COMPLETED),
    ]


@both_versions
def test_acknowledgements_for_nothing_give_no_send_quota(version: int) -> None:
    """[MQTT-4.9.0-1]: the receive maximum stays what it was."""
    world = World(BrokerSettings(max_inflight=2))
    client = subscriber(world, version, 2)
    assert [deliver(world, handle, qos=handle) for handle in (1, 2)] == [True, True]
    first, second = client.publishes()
    client.send(Puback(4711), Pubrec(4711), Pubcomp(4711), Pubrel(4711), Puback(second.packet_id))
    assert not deliver(world, 3)
    client.send(Puback(first.packet_id), Puback(first.packet_id))
    assert [deliver(world, handle) for handle in (4, 5)] == [True, False]


@both_versions
def test_a_message_acknowledged_before_it_is_sent_again_gives_no_send_quota(version: int) -> None:
    """[MQTT-4.9.0-1] [MQTT-3.3.4-9]: a late acknowledgement frees no place that its message did not take."""
    world = World()
    client = subscriber(world, version, 2, clean=False)
    for handle in range(1, 7):
        deliver(world, handle, qos=1 + (handle == 5))
    sent = client.publishes()
    client.drop()
    world.events.resumable = lambda handles: {h: message("a", b"x", 1 + (h == 5)) for h in handles}
    world.broker.shared_state.settings = replace(world.broker.settings, max_inflight=2)
    again = world.connect("c", version, clean=False)
    assert len(again.publishes()) == 2
    again.send(Puback(sent[3].packet_id), Pubrec(sent[4].packet_id))
    assert [type(packet) for packet in again.received()] == [Pubrel], "no third message on its way"
    again.send(Puback(sent[0].packet_id))
    assert again.publishes() == [], "the place is taken by PUBREL"
    again.send(Pubcomp(sent[4].packet_id))
    assert [publish.packet_id for publish in again.publishes()] == [sent[2].packet_id]


@both_versions
def test_a_repeated_pubrec_has_pubrel_leave_when_the_first_is_stored(version: int) -> None:
    """[MQTT-4.3.3-5]: else a crash would send PUBLISH again to a client that has freed its identifier."""
    world, client, packet_id = awaiting_pubrec(version, clean=False)
    world.store.blocked = True
    client.send(Pubrec(packet_id), Pubrec(packet_id))
    assert client.received() == []
    client.drop()
    again = world.connect("c", version, clean=False)
    assert again.received() == []
    world.store.commit()
    assert Pubrel(packet_id) in again.received()


@only_5_0
def test_a_client_cannot_refuse_what_it_has_taken(version: int) -> None:
    world, client, packet_id = awaiting_pubrec(version)
    client.send(Pubrec(packet_id), Pubrec(packet_id, 0x80))
    assert client.received() == [Pubrel(packet_id)]
    client.send(Pubcomp(packet_id))
    assert world.events.of("delivery_ended") == [("delivery_ended", "c", 1, COMPLETED)]


# -- slow consumers ----------------------------------------------------------------------------------------------------


@both_versions
def test_a_full_socket_is_given_nothing_until_it_has_read(version: int) -> None:
    world = World()
    client = subscriber(world, version)
    client.transport.fills_after = 40
    taken = [deliver(world, handle, b"0123456789") for handle in range(6)]
    assert taken == [True, True, True, False, False, False]
    assert world.broker.metrics.slow_consumers == 1
    assert len(client.publishes()) == 3
    assert not world.events.of("ready")
    client.connection.resume_writing(world.clock.now)
    assert world.events.of("ready") == [("ready", "c", 509)]
    assert deliver(world, 7)


@both_versions
def test_corked_deliveries_leave_with_one_system_call(version: int) -> None:
    world = World(BrokerSettings(max_inflight=3))
    client = subscriber(world, version)
    writes = client.transport.writes
    world.broker.cork("c")
    assert [deliver(world, handle) for handle in range(1, 6)] == [True, True, True, False, False]
    assert client.transport.writes == writes
    world.broker.uncork("c")
    assert client.transport.writes == writes + 1
    published = client.publishes()
    assert len(published) == 3
    client.send(Puback(published[0].packet_id), Puback(published[1].packet_id))
    assert deliver(world, 4)
    assert client.transport.writes == writes + 2, "and not a moment longer"


@both_versions
def test_corking_for_a_full_socket_or_nobody_is_harmless(version: int) -> None:
    world = World()
    client = subscriber(world, version)
    client.transport.fills_after = 0
    world.broker.cork("c")
    assert deliver(world, 1)
    world.broker.uncork("c")
    assert not deliver(world, 2), "the gate has closed while it was scattered"
    world.broker.cork("c")
    assert not deliver(world, 2)
    world.broker.uncork("c")
    world.broker.cork("nobody")
    world.broker.uncork("nobody")
    client.connection.resume_writing(world.clock.now)
    assert deliver(world, 2)


@both_versions
def test_exactly_once_keeps_its_place_among_corked_deliveries(version: int) -> None:
    world = World()
    client = subscriber(world, version, qos=2)
    world.broker.cork("c")
    assert [deliver(world, handle, qos=qos) for handle, qos in ((1, 1), (2, 2), (3, 1))] == [True] * 3
    world.broker.uncork("c")
    assert [packet.qos for packet in client.publishes()] == [1, 2, 1]


@both_versions
def test_exactly_once_does_not_resume_sending_to_a_full_socket(version: int) -> None:
    world = World()
    client = subscriber(world, version, qos=2)
    client.transport.fills_after = 0
    world.broker.cork("c")
    deliver(world, 1, qos=2)
    world.broker.uncork("c")
    assert not deliver(world, 2)
    client.connection.resume_writing(world.clock.now)
    assert deliver(world, 2)


@both_versions
def test_acknowledgements_do_not_open_a_full_socket(version: int) -> None:
    world = World(BrokerSettings(max_inflight=2))
    client = subscriber(world, version)
    assert deliver(world, 1)
    packet_id = client.receive(Publish).packet_id
    client.connection.pause_writing()
    assert not deliver(world, 2)
    client.send(Puback(packet_id))
    assert not world.events.of("ready")
    assert not deliver(world, 2)
    client.connection.resume_writing(world.clock.now)
    assert world.events.of("ready") == [("ready", "c", 2)]


# -- loss and return ---------------------------------------------------------------------------------------------------


@both_versions
def test_an_ended_connection_loses_what_was_not_acknowledged(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2)
    deliver(world, 1)
    deliver(world, 2, qos=2)
    deliver(world, 3)
    first = client.publishes()[0]
    client.send(Puback(first.packet_id))
    world.events.take()
    client.drop()
    assert world.events.take() == [
        ("delivery_ended", "c", 2, UNHANDLED),
        ("delivery_ended", "c", 3, LOST),
        ("disconnected", "c", "connection lost"),
    ]


@both_versions
def test_what_is_still_wanted_is_sent_again_in_order_with_dup(version: int) -> None:
    """[MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1]"""
    world = World()
    client = subscriber(world, version, 2, clean=False)
    for handle in range(6):
        assert deliver(world, handle, b"old", qos=1 + handle % 2)
    before = client.publishes()
    client.drop()
    world.events.take()

    world.events.resumable = lambda handles: {h: message("a", b"new%d" % h, 2) for h in handles if h != 3}
    again = world.connect("c", version, clean=False)
    assert again.connack.session_present
    after = again.publishes()
    expected = [publish for number, publish in enumerate(before) if number != 3]
    assert [publish.packet_id for publish in after] == [publish.packet_id for publish in expected]
    assert [publish.qos for publish in after] == [publish.qos for publish in expected]
    assert [publish.payload for publish in after] == [b"new%d" % h for h in (0, 1, 2, 4, 5)]
    assert all(publish.dup for publish in after)
    assert world.events.take() == [
        ("connected", "c", True),
        ("resume", "c", [0, 1, 2, 3, 4, 5]),
        ("ready", "c", 507),
    ]


@both_versions
def test_a_smaller_window_at_the_return_is_kept(version: int) -> None:
    world = World(BrokerSettings(max_inflight=5))
    client = subscriber(world, version, clean=False)
    for handle in range(5):
        deliver(world, handle)
    client.drop()
    world.events.resumable = lambda handles: {h: message("a", b"%d" % h) for h in handles}
    world.broker.shared_state.settings = BrokerSettings(max_inflight=2)
    again = world.connect("c", version, clean=False)
    world.events.take()
    got: list[bytes] = []
    while len(got) < 5:
        assert len(got) == 4 or not deliver(world, 99), "what was lost goes first"
        publishes = again.publishes()
        assert len(publishes) <= 2
        got += [publish.payload for publish in publishes]
        again.send(*(Puback(publish.packet_id) for publish in publishes))
    assert got == [b"0", b"1", b"2", b"3", b"4"]
    assert world.events.of("ready") == [("ready", "c", 1)]


@both_versions
def test_what_is_acknowledged_before_its_turn_is_not_sent_again(version: int) -> None:
    world = World()
    client = subscriber(world, version, clean=False)
    for handle in (1, 2):
        deliver(world, handle)
    first, second = client.publishes()
    client.drop()
    world.events.resumable = None
    again = world.connect("c", version, clean=False)
    again.connection.pause_writing()
    world.events.resumes[0][1]({handle: message("a", b"%d" % handle) for handle in (1, 2)})
    again.send(Puback(second.packet_id))
    again.connection.resume_writing(world.clock.now)
    assert again.receive(Publish).packet_id == first.packet_id
    assert ("delivery_ended", "c", 2, ACKNOWLEDGED) in world.events.log


@both_versions
def test_nothing_is_accepted_before_the_embedder_has_decided(version: int) -> None:
    world = World()
    client = subscriber(world, version, clean=False)
    deliver(world, 1)
    client.drop()
    world.events.resumable = None
    again = world.connect("c", version, clean=False)
    world.events.take()
    assert not deliver(world, 2)
    assert again.received() == []
    (_, done), *_ = world.events.resumes
    done({1: message("a", b"again")})
    assert again.payloads() == [b"again"]
    assert world.events.take() == [("ready", "c", 511)]
    done({1: message("a", b"twice")})
    assert again.received() == []


@both_versions
def test_a_decision_that_comes_too_late_sends_nothing(version: int) -> None:
    world = World()
    client = subscriber(world, version, clean=False)
    deliver(world, 1)
    deliver(world, 2)
    client.drop()
    world.events.resumable = None
    again = world.connect("c", version, clean=False)
    world.events.take()
    again.drop()
    assert world.events.take() == [("disconnected", "c", "connection lost")], "nothing was given, nothing is lost"
    world.events.resumes[0][1]({1: message("a")})
    assert world.events.take() == [("delivery_ended", "c", 1, LOST)]
    third = world.connect("c", version, clean=False)
    assert world.events.of("resume") == [("resume", "c", [1, 2])]
    assert third.received() == []


@both_versions
def test_an_acknowledgement_during_the_decision_counts(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2, clean=False)
    deliver(world, 1)
    deliver(world, 2, qos=2)
    first, second = client.publishes()
    client.drop()
    world.events.resumable = None
    again = world.connect("c", version, clean=False)
    world.events.take()
    again.send(Puback(first.packet_id), Pubrec(second.packet_id))
    again.receive(Pubrel)
    world.events.resumes[0][1]({1: message("a"), 2: message("a", qos=2)})
    again.receive(Pubrel)
    assert world.events.take() == [("delivery_ended", "c", 1, ACKNOWLEDGED), ("ready", "c", 511)]
    assert world.broker.past_pubrec() == [("c", 2)]


@both_versions
def test_a_clean_start_forgets_what_was_lost(version: int) -> None:
    world = World()
    client = subscriber(world, version, clean=False)
    deliver(world, 1)
    client.drop()
    again = world.connect("c", version, clean=True)
    assert not again.connack.session_present
    assert not world.events.of("resume")
    assert again.received() == []


# -- QoS 2 -------------------------------------------------------------------------------------------------------------


@both_versions
def test_the_four_packets_of_qos_2_wait_for_the_disk(version: int) -> None:
    """[MQTT-4.3.3-2] [MQTT-4.3.3-5]"""
    world = World()
    client = subscriber(world, version, 2, clean=False)
    world.store.blocked = True
    assert deliver(world, 7, b"once", qos=2)
    assert client.received() == []
    assert world.store.names()[-1] == "save_outbound"
    world.store.commit()
    publish = client.receive(Publish)
    assert (publish.qos, publish.dup) == (2, False)
    client.send(Pubrec(publish.packet_id))
    assert client.received() == []
    assert world.broker.past_pubrec() == [("c", 7)]
    world.store.commit()
    assert client.receive(Pubrel).packet_id == publish.packet_id
    assert world.store.session("c").outbound[0].released
    client.send(Pubcomp(publish.packet_id))
    assert world.events.of("delivery_ended") == [("delivery_ended", "c", 7, COMPLETED)]
    world.store.commit()
    assert world.store.session("c").outbound, "until it is forgotten"
    world.broker.forget("c", 7)
    world.store.commit()
    assert not world.store.session("c").outbound
    assert world.broker.past_pubrec() == []


@both_versions
def test_an_identifier_is_reserved_until_it_is_forgotten(version: int) -> None:
    world, client, packet_id = awaiting_pubrec(version, 7)
    client.send(Pubrec(packet_id), Pubcomp(packet_id))
    client.received()
    world.broker.sessions["c"].next_packet_id = packet_id
    deliver(world, 8)
    assert client.receive(Publish).packet_id != packet_id
    world.broker.forget("c", 7)
    world.broker.forget("c", 7)
    world.broker.forget("nobody", 7)
    world.broker.sessions["c"].next_packet_id = packet_id
    deliver(world, 9)
    assert client.receive(Publish).packet_id == packet_id


@both_versions
def test_a_completed_handshake_frees_its_place_in_the_window(version: int) -> None:
    world, client, packet_id = awaiting_pubrec(version, settings=BrokerSettings(max_inflight=1))
    assert not deliver(world, 2)
    client.send(Pubrec(packet_id))
    assert not deliver(world, 2)
    client.send(Pubcomp(packet_id))
    assert world.events.of("ready") == [("ready", "c", 1)]
    assert deliver(world, 2)


@only_5_0
def test_a_refusing_pubrec_ends_the_handshake(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2, clean=False)
    deliver(world, 1, qos=2)
    client.send(Pubrec(client.receive(Publish).packet_id, 0x97))
    assert world.events.take() == [("delivery_ended", "c", 1, 0x97)]
    assert client.received() == []
    assert not world.store.session("c").outbound
    assert world.broker.past_pubrec() == []


@both_versions
def test_repeated_and_unknown_pubrecs_are_answered(version: int) -> None:
    _, client, packet_id = awaiting_pubrec(version)
    client.send(Pubrec(packet_id), Pubrec(packet_id))
    assert client.received() == [Pubrel(packet_id), Pubrel(packet_id)]
    client.send(Pubrec(4711))
    assert client.receive(Pubrel) == Pubrel(4711, 0x92 if version == V5 else 0)
    client.send(Pubcomp(4711), Pubcomp(4711))
    assert not client.is_closed(), "answers to a PUBREL of ours"
    client.send(Pubcomp(4712))
    assert not client.is_closed(), "to one of an earlier connection"


@both_versions
def test_past_pubrec_nothing_is_taken_back(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2, clean=False)
    deliver(world, 1, qos=2)
    deliver(world, 2, qos=2)
    first, second = (publish.packet_id for publish in client.publishes())
    client.send(Pubrec(first))
    client.receive(Pubrel)
    client.drop()
    assert world.events.take() == [("delivery_ended", "c", 2, LOST), ("disconnected", "c", "connection lost")]
    assert world.broker.past_pubrec() == [("c", 1)]
    again = world.connect("c", version, clean=False)
    assert world.events.of("resume") == [("resume", "c", [2])]
    assert again.receive(Pubrel).packet_id == first
    again.send(Pubcomp(first))
    assert world.events.of("delivery_ended") == [("delivery_ended", "c", 1, COMPLETED)]
    assert second in world.broker.sessions["c"].inflight, "the client may remember the identifier"


@both_versions
def test_a_session_that_ends_loses_even_what_was_past_pubrec(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2)
    deliver(world, 1, qos=2)
    client.send(Pubrec(client.receive(Publish).packet_id))
    client.received()
    client.drop()
    assert world.events.take() == [("disconnected", "c", "connection lost"), ("delivery_ended", "c", 1, LOST)]
    assert world.broker.past_pubrec() == []


@both_versions
def test_a_dropped_qos_2_identifier_is_not_used_for_another_message(version: int) -> None:
    world, client, packet_id = awaiting_pubrec(version, clean=False)
    client.drop()
    again = world.connect("c", version, clean=False)
    assert again.received() == []
    world.broker.sessions["c"].next_packet_id = packet_id
    deliver(world, 2, qos=2)
    assert again.receive(Publish).packet_id != packet_id
    # The identifier alone is left of the first, and stays reserved over a crash.
    assert [row.handle for row in world.store.session("c").outbound] == [None, 2]
    assert packet_id in world.crash().broker.sessions["c"].inflight
    again.send(Pubrec(packet_id))
    assert again.receive(Pubrel).packet_id == packet_id
    again.send(Pubcomp(packet_id))
    assert packet_id not in world.broker.sessions["c"].inflight
    assert not world.events.of("delivery_ended")[1:]


@both_versions
def test_a_publish_that_never_left_is_a_first_attempt(version: int) -> None:
    """[MQTT-3.3.1-1]: DUP 0 when it was not sent before."""
    world = World()
    client = subscriber(world, version, 2, clean=False)
    world.store.blocked = True
    deliver(world, 1, qos=2)
    client.drop()
    world.store.blocked = False
    world.store.commit()
    assert client.received() == []
    world.events.resumable = lambda handles: {h: message("a", b"again", 2) for h in handles}
    again = world.connect("c", version, clean=False)
    publish = again.receive(Publish)
    assert (publish.dup, publish.payload) == (False, b"again")


@pytest.mark.parametrize("left", [False, True])
def test_only_what_never_left_expires(left: bool) -> None:
    """[MQTT-3.3.2-5] [MQTT-4.3.3-7]."""
    world = World(events=False)
    client = subscriber(world, V5, 2, clean=False)
    writer = world.connect("w", V5)
    world.store.blocked = not left
    writer.send(Publish("a", b"x", 2, packet_id=1, properties=Properties(message_expiry_interval=5)))
    client.drop()
    assert len(client.received()) == left
    world.store.blocked = False
    world.store.commit()
    world.advance(10)
    again = world.connect("c", V5, clean=False)
    assert [publish.dup for publish in again.publishes()] == [True] * left
    assert len(world.broker.sessions["c"].inflight) == left
    assert world.broker.metrics.dropped_expired == (not left)
    assert bool(world.store.session("c").outbound) == left


@both_versions
def test_a_crash_in_any_phase_of_qos_2_delivers_once(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2, clean=False)
    for handle in range(4):
        deliver(world, handle, b"%d" % handle, 2)
    ids = [publish.packet_id for publish in client.publishes()]
    client.send(*(Pubrec(packet_id) for packet_id in ids[1:]))
    client.send(Pubcomp(ids[2]), Pubcomp(ids[3]))
    world.broker.forget("c", 3)
    world = world.crash()
    assert world.broker.past_pubrec() == [("c", 1), ("c", 2)]
    world.events.resumable = lambda handles: {h: message("a", b"again", 2) for h in handles}
    again = world.connect("c", version, clean=False)
    assert world.events.of("resume") == [("resume", "c", [0])]
    released, second, publish = again.received()
    assert (released, second) == (Pubrel(ids[1]), Pubrel(ids[2]))
    assert isinstance(publish, Publish)
    assert (publish.packet_id, publish.dup) == (ids[0], True)
    world.broker.forget("c", 2)  # the embedder knows it as delivered already
    again.send(Pubcomp(ids[1]), Pubcomp(ids[2]))
    assert world.events.of("delivery_ended") == [("delivery_ended", "c", 1, COMPLETED)]
    world.broker.forget("c", 1)
    assert [row.handle for row in world.store.session("c").outbound] == [0]


@both_versions
def test_what_is_put_off_is_repeated_under_its_identifier_in_its_place(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2, clean=False)
    for handle in (1, 2, 3):
        deliver(world, handle, qos=2)
    first, second, third = (publish.packet_id for publish in client.publishes())
    client.drop()
    world.events.take()
    assert sorted(world.crash().broker.unfinished()) == [1, 2, 3]
    world.events.resumable = lambda handles: {1: None, 2: message("a", b"at once", 2)}
    again = world.connect("c", version, clean=False)
    assert [(publish.packet_id, publish.payload) for publish in again.publishes()] == [(second, b"at once")]
    deliver(world, 7, b"earlier", 1)
    deliver(world, 1, b"in its place", 2)
    deliver(world, 3, b"dropped, so it is new", 2)
    found = [(publish.payload, publish.packet_id, publish.dup) for publish in again.publishes()]
    assert found[1:] == [
        (b"in its place", first, True),
        (b"dropped, so it is new", found[2][1], False),
    ]
    assert found[2][1] not in (first, second, third)
    session = world.broker.sessions["c"]
    assert session.send_quota == session.window - 4
    again.send(Pubrec(first), Pubcomp(first))
    assert world.events.of("delivery_ended") == [("delivery_ended", "c", 1, COMPLETED)]
    assert session.send_quota == session.window - 3


@both_versions
def test_what_is_put_off_and_answered_meanwhile_is_not_sent_again(version: int) -> None:
    world, client, packet_id = awaiting_pubrec(version, clean=False)
    client.drop()
    world.events.resumable = lambda handles: {1: None}
    again = world.connect("c", version, clean=False)
    again.send(Pubrec(packet_id))
    assert deliver(world, 1, qos=2)
    assert again.received() == [Pubrel(packet_id)]
    again.send(Pubcomp(packet_id))
    assert world.events.of("delivery_ended")[-1] == ("delivery_ended", "c", 1, COMPLETED)
    session = world.broker.sessions["c"]
    assert session.send_quota == session.window


@both_versions
def test_a_repetition_does_not_overtake_what_waits_for_the_store(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2, clean=False)
    deliver(world, 2, qos=2)
    client.drop()
    world.events.resumable = lambda handles: {2: None}
    again = world.connect("c", version, clean=False)
    world.store.blocked = True
    deliver(world, 1, b"new", 2)
    deliver(world, 2, b"again", 2)
    assert again.received() == []
    world.store.blocked = False
    world.store.commit()
    assert [publish.payload for publish in again.publishes()] == [b"new", b"again"]


# -- ordinary messages -------------------------------------------------------------------------------------------------


@both_versions
def test_ordinary_messages_wait_for_a_durable_session(version: int) -> None:
    world = World()
    client = subscriber(world, version, 2, clean=False)
    client.drop()
    for number in range(4):
        world.broker.publish(Message("a", Body(b"%d" % number), number % 3))
    assert world.broker.metrics.dropped_offline == 2
    again = world.connect("c", version, clean=False)
    got = again.publishes()
    assert [(publish.payload, publish.qos, publish.dup) for publish in got] == [(b"1", 1, False), (b"2", 2, False)]


@both_versions
def test_ordinary_messages_survive_a_crash_queued_and_inflight(version: int) -> None:
    """[MQTT-4.4.0-1] [MQTT-4.1.0-1]"""
    world = World(BrokerSettings(max_inflight=2))
    client = subscriber(world, version, 2, clean=False)
    for number in range(4):
        world.broker.publish(Message("a", Body(b"%d" % number), 1 + number % 2))
    inflight = client.publishes()
    assert len(inflight) == 2
    client.send(Pubrec(inflight[1].packet_id))
    client.receive(Pubrel)
    world = world.crash()
    again = world.connect("c", version, clean=False)
    pubrel, first = again.received()
    assert pubrel == Pubrel(inflight[1].packet_id)
    assert isinstance(first, Publish)
    assert (first.payload, first.packet_id, first.dup) == (b"0", inflight[0].packet_id, True)
    again.send(Puback(first.packet_id), Pubcomp(inflight[1].packet_id))
    rest = again.publishes()
    assert [(publish.payload, publish.dup) for publish in rest] == [(b"2", False), (b"3", False)]
    again.send(Puback(rest[0].packet_id), Pubrec(rest[1].packet_id), Pubcomp(rest[1].packet_id))
    assert not world.store.session("c").outbound
    assert not world.store.state.messages, "the last session has let go"


@both_versions
def test_a_body_is_stored_once_for_many_sessions(version: int) -> None:
    world = World()
    clients = [world.connect(f"c{number}", version, clean=False) for number in range(3)]
    for client in clients:
        client.subscribe(("a", 1))
        client.drop()
    world.broker.publish(Message("a", Body(b"x"), 1))
    assert world.store.names().count("save_message") == 1
    assert world.store.names().count("save_outbound") == 3
    for number in range(3):
        assert world.store.state.messages
        client = world.connect(f"c{number}", version, clean=False)
        client.send(Puback(client.receive(Publish).packet_id))
    assert not world.store.state.messages


@both_versions
def test_the_queue_is_bounded_and_the_newest_loses(version: int) -> None:
    world = World(BrokerSettings(max_queued_messages=2))
    client = subscriber(world, version, clean=False)
    client.drop()
    for number in range(4):
        world.broker.publish(Message("a", Body(b"%d" % number, expires_at=world.clock.now + 10), 1))
    assert world.broker.metrics.dropped_queue_full == 2
    world.clock.now += 11
    world.broker.publish(Message("a", Body(b"late"), 1))
    assert world.broker.metrics.dropped_expired == 2
    assert world.connect("c", version, clean=False).payloads() == [b"late"]


@both_versions
def test_expired_messages_are_not_sent_and_the_others_carry_what_is_left(version: int) -> None:
    """[MQTT-3.3.2-5] [MQTT-3.3.2-6]"""
    world = World()
    client = subscriber(world, version, clean=False)
    client.drop()
    for seconds in (10, 100):
        world.broker.publish(Message("a", Body(b"%d" % seconds, expires_at=world.clock.now + seconds), 1))
    world.advance(30)
    again = world.connect("c", version, clean=False)
    publish = again.receive(Publish)
    assert publish.payload == b"100"
    if version == V5:
        assert publish.properties is not None
        assert publish.properties.message_expiry_interval == 70
    assert world.broker.metrics.dropped_expired == 1
    again.send(Puback(publish.packet_id))
    assert not world.store.state.messages


@both_versions
def test_a_connected_client_with_a_full_window_gets_the_rest_in_order(version: int) -> None:
    """[MQTT-4.6.0-6]"""
    world = World(BrokerSettings(max_inflight=2))
    client = subscriber(world, version, 2)
    for number in range(7):
        world.broker.publish(Message("a", Body(b"%d" % number), 1))
    got: list[bytes] = []
    while publishes := client.publishes():
        assert len(publishes) <= 2
        got += [publish.payload for publish in publishes]
        client.send(*(Puback(publish.packet_id) for publish in publishes))
    assert got == [b"%d" % number for number in range(7)]


@both_versions
def test_a_slow_consumer_is_sent_what_waited_when_it_has_read(version: int) -> None:
    world = World(BrokerSettings(max_queued_messages=3))
    client = subscriber(world, version, 1)
    client.connection.pause_writing()
    for number in range(5):
        world.broker.publish(Message("a", Body(b"%d" % number), number % 2))
    assert client.received() == []
    assert world.broker.metrics.dropped_queue_full == 2
    client.connection.resume_writing(world.clock.now)
    assert client.payloads() == [b"0", b"1", b"2"]


@both_versions
def test_qos_0_that_waited_for_a_socket_is_dropped_with_it(version: int) -> None:
    world = World()
    client = subscriber(world, version, clean=False)
    client.connection.pause_writing()
    world.broker.publish(Message("a", Body(b"zero"), 0))
    world.broker.publish(Message("a", Body(b"one"), 1))
    client.drop()
    assert world.connect("c", version, clean=False).payloads() == [b"one"]


@only_5_0
def test_an_ordinary_message_too_large_for_the_client_is_dropped(version: int) -> None:
    """[MQTT-3.1.2-25]"""
    world = World()
    client = subscriber(world, version, 2, clean=False, properties=Properties(maximum_packet_size=40))
    for qos in (0, 1, 2):
        world.broker.publish(Message("a", Body(b"x" * 50), qos))
    assert client.received() == []
    client.drop()
    world.broker.publish(Message("a", Body(b"x" * 50), 1))
    again = world.connect("c", version, clean=False, properties=Properties(maximum_packet_size=40))
    assert again.received() == []
    assert world.broker.metrics.dropped_too_large == 4
    assert not world.store.state.messages


@both_versions
def test_deliveries_and_ordinary_messages_are_sent_again_in_their_common_order(version: int) -> None:
    world = World()
    client = subscriber(world, version, clean=False)
    deliver(world, 1, b"push1")
    world.broker.publish(Message("a", Body(b"ordinary"), 1))
    deliver(world, 2, b"push2")
    client.drop()
    world.events.resumable = lambda handles: {h: message("a", b"push%d" % h) for h in handles}
    again = world.connect("c", version, clean=False)
    assert again.payloads() == [b"push1", b"ordinary", b"push2"]


@both_versions
def test_a_restarted_broker_without_its_embedder_lets_the_deliveries_go(version: int) -> None:
    world = World()
    subscriber(world, version, 2, clean=False)
    deliver(world, 1, qos=2)
    alone = World(store=world.store.crashed(), events=False)
    client = alone.connect("c", version, clean=False)
    assert client.received() == []
    # Only the identifier stays reserved: the client may remember it.
    assert [row.handle for row in alone.store.session("c").outbound] == [None]


@both_versions
def test_an_idle_session_gives_its_memory_back(version: int) -> None:
    world = World()
    client = subscriber(world, version)
    for handle in range(500):
        deliver(world, handle)
    client.send(*(Puback(publish.packet_id) for publish in client.publishes()))
    session = world.broker.sessions["c"]
    large = session.inflight.__sizeof__()
    world.advance(301)
    assert session.inflight.__sizeof__() < large // 10
    client.send(Disconnect())


# -- conservation ------------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("seed", range(30))
def test_every_delivery_is_accounted_for_in_any_order_of_events(version: int, seed: int, full: int) -> None:
    """The end of a delivery is reported once, while the broker has it, and all accepted ones are acknowledged.

    The events are deliveries, acknowledgements, lost connections, late decisions, late disks, crashes, full sockets.
    """
    for round_ in range(full):
        _Ledger(version, random.Random(seed + 1000 * round_)).run(500)


class _Ledger:
    """The deliveries of a careful embedder, and a client that acknowledges sooner or later."""

    def __init__(self, version: int, chance: random.Random) -> None:
        self.version = version
        self.chance = chance
        self.settings = BrokerSettings(max_inflight=5)
        self.sent: set[int] = set()
        self.waiting: set[int] = set()
        self.done: set[int] = set()
        self.handle = 0
        self.world = World(self.settings)
        self.client: FakeClient | None = None
        self.owed: list[Packet] = []
        self.listen()

    def listen(self) -> None:
        self.world.events.on_delivery_ended = self.delivery_ended
        self.world.events.resumable = None
        self.world.on_adopted = self.take_over

    def delivery_ended(self, client_id: str, handle: int, outcome: int) -> None:
        assert handle in self.sent, (handle, outcome)
        self.sent.remove(handle)
        (self.waiting if outcome == LOST else self.done).add(handle)
        if outcome == COMPLETED and self.chance.random() < 0.8:
            self.world.broker.forget(client_id, handle)

    def run(self, steps: int) -> None:
        actions = [self.connect, self.deliver, self.deliver, self.ordinary, self.read, self.read, self.answer]
        actions += [
            self.deliver_again,
            self.answer,
            self.judge,
            self.drop,
            self.hold,
            self.commit,
            self.pause,
            self.resume,
        ]
        for _ in range(steps):
            self.chance.choice([*actions, *([self.crash] if self.chance.random() < 0.1 else [])])()
            self.check()
        self.finish()

    def check(self) -> None:
        session = self.world.broker.sessions.get("c")
        if session is not None and session.resumed:
            # A crash may bring back handshakes that were over, and their places with them: PUBREL is never held back.
            released = sum(entry.phase == PUBCOMP_DUE for entry in session.inflight.values())
            assert min(0, self.settings.max_inflight - released) <= session.send_quota <= self.settings.max_inflight
            assert self.sent >= {e.handle for e in session.inflight.values() if e.handle is not None and e.phase < 5}

    def connect(self) -> None:
        if self.client is None or self.client.is_closed():
            self.owed.clear()
            self.client = self.world.client(self.version)
            properties = Properties(session_expiry_interval=3600) if self.version == V5 else None
            self.client.send(Connect("c", self.version, False, properties=properties))
            self.client.send(Subscribe(1, [SubscriptionRequest("a", 2)]))

    def deliver(self) -> None:
        self.handle += 1
        self.hand_over(self.handle, self.chance.choice((1, 2)))

    def hand_over(self, handle: int, qos: int) -> None:
        self.sent.add(handle)
        if not deliver(self.world, handle, b"%d" % handle, qos):
            self.sent.remove(handle)

    def deliver_again(self) -> None:
        """Deliver messages that were postponed, or never were in flight."""
        session = self.world.broker.sessions.get("c")
        if self.waiting and session is not None and session.resumed:
            handle = min(self.waiting)
            self.waiting.remove(handle)
            self.hand_over(handle, 2)
            if handle not in self.sent and handle not in self.done:
                self.waiting.add(handle)

    def ordinary(self) -> None:
        self.world.broker.publish(Message("a", Body(b"ordinary"), self.chance.choice((0, 1, 2))))

    def read(self) -> None:
        if self.client is None:
            return
        for packet in self.client.received():
            if isinstance(packet, Publish) and packet.qos:
                self.owed.append(Puback(packet.packet_id) if packet.qos == 1 else Pubrec(packet.packet_id))
            elif isinstance(packet, Pubrel):
                self.owed.append(Pubcomp(packet.packet_id))

    def answer(self) -> None:
        if self.client is not None and self.owed:
            self.client.send(self.owed.pop(0))

    def judge(self) -> None:
        resumes = self.world.events.resumes
        if resumes:
            handles, done = resumes.pop(0)
            wanted = [handle for handle in handles if handle in self.waiting and self.chance.random() < 0.8]
            self.waiting -= set(wanted)
            self.sent |= set(wanted)
            later = {handle: None for handle in handles if self.chance.random() < 0.5}
            done(later | {handle: message("a", b"%d" % handle, 2) for handle in wanted})

    def drop(self) -> None:
        if self.client is not None and self.chance.random() < 0.4:
            self.client.drop()
            self.client.received()

    def hold(self) -> None:
        self.world.store.blocked = True

    def commit(self) -> None:
        self.world.store.blocked = False
        self.world.store.commit()

    def pause(self) -> None:
        if self.client is not None and not self.client.is_closed():
            self.client.connection.pause_writing()

    def resume(self) -> None:
        if self.client is not None and not self.client.is_closed():
            self.client.connection.resume_writing(self.world.clock.now)

    def crash(self) -> None:
        self.world = self.world.crash()
        self.listen()
        self.client = None
        self.waiting |= self.sent
        self.sent = set()
        self.take_over()

    def take_over(self) -> None:
        """What is past PUBREC in a session that comes from the store cannot be handed over again."""
        held = {handle for _, handle in self.world.broker.past_pubrec()}
        self.sent |= held - self.done
        self.waiting -= self.sent
        for handle in held & self.done:
            self.world.broker.forget("c", handle)

    def finish(self) -> None:
        self.commit()
        for _ in range(100 + len(self.waiting)):
            self.connect()
            self.resume()
            self.judge()
            self.deliver_again()
            self.read()
            while self.owed:
                self.answer()
        assert not self.sent
        session = self.world.broker.sessions["c"]
        assert session.send_quota == self.settings.max_inflight
        assert session.queue is None
        for handle in self.done:
            self.world.broker.forget("c", handle)
        live = [entry for entry in session.inflight.values() if entry.phase != ABANDONED]
        assert not live
        # What is left are identifiers that the client may remember, of QoS 2 messages it is not sent any more.
        left = self.world.store.session("c").outbound
        assert all(row.handle is None and row.message_key is None and not row.released for row in left), left
        assert not self.world.store.state.messages


def test_deliveries_use_topic_aliases_where_the_client_takes_them() -> None:
    world = World()
    client = subscriber(world, V5, properties=Properties(topic_alias_maximum=1, maximum_packet_size=40))
    deliver(world, 1, b"x" * 100)
    assert not client.received(), "too large: not written, so its alias is not known"
    deliver(world, 2, b"first")
    deliver(world, 3, b"second")
    first, second = client.publishes()
    assert first.properties is not None
    assert second.properties is not None
    assert (first.topic, first.properties.topic_alias) == ("a", 1)
    assert (second.topic, second.properties.topic_alias) == ("", 1)


def test_a_delivery_that_waits_for_the_store_defines_no_alias() -> None:
    world = World()
    client = subscriber(world, V5, 2, properties=Properties(topic_alias_maximum=1))
    world.store.blocked = True
    deliver(world, 1, qos=2)
    world.store.commit()
    (publish,) = client.publishes()
    assert publish.topic == "a"
    assert publish.properties is None
