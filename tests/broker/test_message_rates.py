"""The rate of a user: a burst, then its rate; over all its connections, and across them."""

from __future__ import annotations

import pytest

from broker.message_rates import BURST_SECONDS, MessageRates
from broker.protocol.codec import encode
from broker.protocol.packets import V5, Pingreq, Pingresp, Publish, Subscribe, SubscriptionRequest
from broker.settings import BrokerSettings
from tests.fakes import World

BURST = int(BURST_SECONDS)


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    rates = MessageRates(10, 1_000)
    assert rates.charge("kiosk-1", 10 * BURST, 0, 100.0) <= 0
    assert rates.charge("kiosk-1", 5, 0, 100.0) == 0.5
    assert rates.seconds_over("kiosk-1", 100.25) == 0.25
    assert rates.charge("kiosk-1", 0, 0, 101.0) < 0
    assert rates.charge("kiosk-2", 1, 0, 100.0) < 0, "another user has its own"


def test_the_larger_of_packets_and_bytes_counts() -> None:
    rates = MessageRates(10, 1_000)
    assert rates.charge("kiosk-1", 1, 1_000 * BURST, 0.0) == 0
    assert rates.charge("kiosk-1", 1, 100, 0.0) == pytest.approx(0.1)
    assert rates.charge("kiosk-1", 2, 100, 0.0) == pytest.approx(0.3)


def test_who_is_within_the_rate_again_is_forgotten() -> None:
    rates = MessageRates(1, 1)
    for number in range(1_000):
        rates.charge(f"kiosk-{number}", 1, 0, 0.0)
    rates.charge("flood", 100, 0, 0.0)
    assert rates.newly_limited("flood")
    assert not rates.newly_limited("flood")
    for number in range(1_000, 2_100):
        rates.charge(f"kiosk-{number}", 1, 0, 50.0)
    assert len(rates._ahead_until) <= 1_200
    assert rates.seconds_over("flood", 50.0) > 0, "this one is not"


def test_over_it_a_client_is_not_read_for_a_while_and_loses_nothing() -> None:
    world = World(BrokerSettings(max_message_rate=10))
    client = world.connect("kiosk-1", V5)
    for _ in range(10 * BURST + 5):
        client.send(Pingreq())
        client.receive(Pingresp)
    states = [client.transport.reading_paused]
    world.advance(1.0)
    states.append(client.transport.reading_paused)
    assert states == [True, False]
    assert world.broker.metrics.limited_senders == 1
    client.send(Pingreq())
    client.receive(Pingresp)


def test_it_is_not_too_silent_meanwhile() -> None:
    world = World(BrokerSettings(max_message_rate=0.1))
    client = world.connect("kiosk-1", V5, keep_alive=1)
    for _ in range(3):
        client.send(Pingreq())
    assert client.transport.reading_paused
    world.advance(8.0)
    assert not client.is_closed()
    assert client.transport.reading_paused


def test_coming_back_does_not_help() -> None:
    world = World(BrokerSettings(max_message_rate=10))
    client = world.connect("kiosk-1", V5)
    for _ in range(10 * BURST + 50):
        client.send(Publish("x", b""))
    client.drop()
    again = world.connect("kiosk-1", V5)
    assert again.transport.reading_paused
    again.send(Pingreq())
    assert not again.received()
    world.advance(10.0)
    again.receive(Pingresp)


def test_each_filter_counts() -> None:
    world = World(BrokerSettings(max_message_rate=10))
    client = world.connect("kiosk-1", V5)
    client.send(Subscribe(1, [SubscriptionRequest(f"t/{n}", 0) for n in range(10 * BURST + 10)]))
    assert client.transport.reading_paused


def test_the_bytes_of_a_packet_in_pieces_count() -> None:
    world = World(BrokerSettings(max_byte_rate=1_000))
    client = world.connect("kiosk-1", V5)
    packet = encode(Publish("x", bytes(1_100 * BURST)), V5)
    for start in range(0, len(packet), 1_000):
        client.send_bytes(packet[start : start + 1_000])
    assert client.transport.reading_paused
