"""The state that outlives a connection: subscriptions, inbound QoS 2, will and expiry, in memory and in the store."""

from __future__ import annotations

import pytest

from broker.protocol.packets import (
    V3_1_1,
    V5,
    Disconnect,
    Properties,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.protocol.packets import SubscriptionRequest as Request
from broker.settings import NEVER_EXPIRES, BrokerSettings
from broker.store import StoredOutbound
from tests.fakes import World

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])


@both_versions
def test_subscriptions_survive_a_crash_with_all_their_options(version: int) -> None:
    """[MQTT-3.1.2-5] of 5.0; every option, the identifier included."""
    world = World()
    client = world.connect("c", version, clean=False)
    if version == V5:
        client.subscribe(Request("a/+", 2, no_local=True, retain_as_published=True, retain_handling=2), identifier=300)
    client.subscribe(("b", 1), ("$share/g/z/+", 1))
    before = dict(world.broker.sessions["c"].subscriptions)
    client.drop()
    world = world.crash()
    session = world.broker.sessions["c"]
    assert session.subscriptions == before
    assert session.wildcards == (1 if version == V5 else 0)
    again = world.connect("c", version, clean=False)
    assert again.connack.session_present
    world.connect("p").send(Publish("b", b"hello", 1, packet_id=1))
    assert again.payloads() == [b"hello"]


@both_versions
def test_unsubscribed_is_gone_after_a_crash(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    client.subscribe(("a/+", 1), ("b", 1))
    client.send(Unsubscribe(4, ["a/+", "never"]))
    assert client.receive(Unsuback).reason_codes == ([0, 0x11] if version == V5 else [])
    world = world.crash()
    assert list(world.broker.sessions["c"].subscriptions) == ["b"]
    assert world.broker.sessions["c"].wildcards == 0


@both_versions
def test_a_session_that_ends_with_its_connection_is_never_stored(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=True)
    client.subscribe(("a", 2))
    client.send(Publish("b", b"x", 2, packet_id=9))
    client.received()
    assert world.store.names() == []
    client.drop()
    assert "c" not in world.broker.sessions


def test_a_message_that_an_earlier_version_noted_is_not_routed_again() -> None:
    world = World()
    world.connect("c", clean=False).send(Publish("a", b"x", 2, packet_id=9))
    world.store.session("c").stored.add(9)
    world = world.crash()
    world.events.identifiers.clear()  # that version did not tell them
    again = world.connect("c", clean=False)
    again.send(Publish("a", b"x", 2, dup=True, packet_id=9))
    assert again.receive(Pubrec) == Pubrec(9)
    assert not world.events.of("published")
    again.send(Pubrel(9))
    assert again.receive(Pubcomp) == Pubcomp(9)
    again.send(Publish("a", b"y", 2, packet_id=9))
    assert world.events.of("published") == [("published", "c", "a", b"y")]


@both_versions
def test_an_inbound_qos_2_message_is_routed_once_across_crashes(version: int) -> None:
    """[MQTT-4.3.3-10]"""
    world = World()
    client = world.connect("c", version, clean=False)
    client.send(Publish("a", b"x", 2, packet_id=9))
    client.receive(Pubrec)
    assert world.store.session("c").received == [9]
    world = world.crash()
    again = world.connect("c", version, clean=False)
    again.send(Publish("a", b"x", 2, dup=True, packet_id=9))
    assert again.receive(Pubrec).packet_id == 9
    assert not world.events.of("published")
    again.send(Pubrel(9))
    assert again.receive(Pubcomp) == Pubcomp(9)
    assert world.store.session("c").received == []
    again.send(Publish("a", b"y", 2, packet_id=9))
    assert world.events.of("published") == [("published", "c", "a", b"y")]


@both_versions
def test_a_session_expires_and_its_rows_with_it(version: int) -> None:
    """[MQTT-3.1.2-23]"""
    world = World(BrokerSettings(max_session_expiry=100))
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 1))
    world.advance(1000)
    assert world.store.has_session("c"), "not while it is connected"
    client.drop()
    world.advance(99)
    assert world.store.has_session("c")
    world.advance(2)
    assert not world.store.has_session("c")
    assert world.broker.sessions == {}
    assert world.broker.metrics.sessions == 0
    assert not world.connect("c", version, clean=False).connack.session_present


@both_versions
def test_expiry_goes_on_over_a_restart(version: int) -> None:
    world = World(BrokerSettings(max_session_expiry=100))
    world.connect("away", version, clean=False).drop()
    world.connect("here", version, clean=False)
    world.advance(60)
    world = world.crash()
    world.advance(45)
    assert list(world.broker.sessions) == ["here"], "its interval began with the crash"
    world.advance(60)
    assert list(world.broker.sessions) == []


def test_a_session_may_live_for_ever() -> None:
    world = World(BrokerSettings(max_session_expiry=NEVER_EXPIRES))
    world.connect("c", V5, expiry=NEVER_EXPIRES).drop()
    world.advance(1e9)
    world = world.crash()
    world.advance(1e9)
    assert world.connect("c", V5, clean=False).connack.session_present


def test_disconnect_may_change_the_expiry_but_not_begin_one() -> None:
    """[MQTT-3.14.2-2]"""
    world = World()
    client = world.connect("c", V5, expiry=1000)
    client.send(Disconnect(0, Properties(session_expiry_interval=10)))
    world.advance(11)
    assert "c" not in world.broker.sessions
    client = world.connect("c", V5, expiry=1000)
    client.send(Disconnect(0, Properties(session_expiry_interval=0)))
    assert "c" not in world.broker.sessions
    assert not world.store.has_session("c")
    client = world.connect("c", V5, expiry=0)
    client.send(Disconnect(0, Properties(session_expiry_interval=10)))
    assert client.receive(Disconnect).reason_code == 0x82


def test_a_will_waits_for_its_delay_or_for_the_end_of_its_session() -> None:
    """[MQTT-3.1.2-8], MQTT 5.0, 3.1.3.2.2: whichever comes first."""
    for delay, expiry, at in ((10, 100, 10), (100, 10, 10), (10, 0, 0)):
        world = World()
        will = Will("gone", b"w", properties=Properties(will_delay_interval=delay))
        world.connect("c", V5, expiry=expiry, will=will).drop()
        if at:
            world.advance(at - 1)
            assert not world.events.of("published")
            world.advance(2)
        assert world.events.of("published") == [("published", "c", "gone", b"w")]
        world.advance(1000)
        assert len(world.events.of("published")) == 1


@pytest.mark.parametrize("clean", [False, True])
def test_a_return_within_the_delay_keeps_the_will_from_being_published(clean: bool) -> None:
    """[MQTT-3.1.3-9]; a clean start ends the session, and that publishes it."""
    world = World()
    will = Will("gone", b"w", properties=Properties(will_delay_interval=10))
    world.connect("c", V5, expiry=100, will=will).drop()
    world.advance(5)
    world.connect("c", V5, clean=clean, expiry=100)
    world.advance(100)
    assert len(world.events.of("published")) == (1 if clean else 0)


def test_a_delayed_will_survives_a_crash() -> None:
    will = Will("gone", b"w", 1, properties=Properties(will_delay_interval=10, message_expiry_interval=7))
    for connected in (False, True):
        world = World()
        client = world.connect("c", V5, expiry=100, will=will)
        if not connected:
            client.drop()
            world.advance(6)
        world = world.crash()
        world.advance(3)
        assert not world.events.of("published")
        world.advance(8)
        (message,) = world.events.published_messages
        assert message.body.expires_at == world.clock.now + 7
        assert world.store.session("c").will is None


@both_versions
def test_inflight_rows_without_their_message_are_removed(version: int) -> None:
    world = World()
    world.connect("c", version, clean=False).drop()
    world.store.save_outbound("c", StoredOutbound(1, 99, None, 1, 0))
    world.store.save_outbound("c", StoredOutbound(2, 98, None, 2, 5))
    world = world.crash()
    assert not world.store.session("c").outbound
    assert not world.broker.sessions["c"].inflight
