"""`$SYS/broker/...`: there at once for whoever subscribes, then only what changes, and never in the store."""

from __future__ import annotations

import pytest

from broker.protocol.packets import V5, Publish, Suback, Subscribe, SubscriptionRequest
from broker.settings import BrokerSettings
from tests.fakes import World, message


def said(packets: list[Publish]) -> dict[str, bytes]:
    return {packet.topic.removeprefix("$SYS/broker/"): packet.payload for packet in packets}


def test_a_subscriber_gets_what_is_known_and_later_what_has_changed() -> None:
    world = World()
    world.advance(1.0)
    world.connect("kiosk-1", clean=False).drop()
    reader = world.connect("reader", V5)
    world.advance(11.0)
    reader.send(Subscribe(1, [SubscriptionRequest("$SYS/#")]))
    suback, *first = reader.received()
    assert isinstance(suback, Suback)
    known = said([packet for packet in first if isinstance(packet, Publish) and packet.retain])
    assert len(known) == len(first)
    assert known["clients/connected"] == b"1"
    assert known["clients/total"] == b"2"
    assert known["clients/disconnected"] == b"1"
    assert known["connections/accepted"] == b"2"
    assert known["version"].startswith(b"fleetpush ")

    world.advance(11.0)
    changed = said(reader.publishes())
    assert changed["publish/messages/sent"] > known["publish/messages/sent"]
    assert "clients/total" not in changed
    assert "version" not in changed
    assert changed["uptime"].endswith(b" seconds")


def test_nothing_of_it_is_stored() -> None:
    world = World()
    world.advance(11.0)
    assert not world.store.state.retained


def test_a_wildcard_does_not_see_it() -> None:
    world = World()
    reader = world.connect("reader")
    reader.subscribe(("#", 0), ("+/broker/uptime", 0))
    world.advance(11.0)
    assert not reader.received()


@pytest.mark.parametrize("interval", [0, 5])
def test_the_interval_is_a_setting_and_0_is_never(interval: int) -> None:
    world = World(BrokerSettings(system_interval=interval))
    reader = world.connect("reader")
    reader.subscribe(("$SYS/broker/uptime", 0))
    times = 0
    for _ in range(40):
        world.advance(0.5)
        times += len(reader.publishes())
    assert times == (4 if interval else 0)


def test_queues_and_retained_messages_are_counted() -> None:
    world = World()
    away = world.connect("away", clean=False)
    away.subscribe(("a", 1))
    away.drop()
    for number in range(3):
        world.broker.publish(message("a", b"12345" * number))
    metrics = world.broker.metrics
    assert (metrics.queued_messages, metrics.queued_bytes) == (3, 15)
    away = world.connect("away", clean=False)
    assert len(away.publishes()) == 3
    assert (metrics.queued_messages, metrics.queued_bytes) == (0, 0)
    assert (metrics.subscriptions, metrics.most_connections) == (1, 1)
    world.connect("away", clean=True)
    assert metrics.subscriptions == 0
