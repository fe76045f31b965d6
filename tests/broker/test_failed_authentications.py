"""Guesses per address: only wrong credentials count, each once, for a minute, and of so many addresses."""

from __future__ import annotations

from broker.failed_authentications import MAX_ADDRESSES, WINDOW, FailedAuthentications
from broker.protocol.packets import V5, Connack, Connect, ReasonCode
from broker.settings import BrokerSettings
from tests.fakes import World

WRONG = ReasonCode.BAD_USER_NAME_OR_PASSWORD


def test_the_limit_holds_for_one_address_and_one_minute() -> None:
    failed = FailedAuthentications(2)
    for number in (1, 2):
        assert not failed.too_many("192.0.2.1:9", 100.0)
        failed.note(f"192.0.2.1:{number}", number, WRONG, 100.0)
    assert failed.too_many("192.0.2.1:9", 100.0 + WINDOW - 0.1)
    assert not failed.too_many("192.0.2.2:9", 100.0)
    assert not failed.too_many("192.0.2.1:9", 100.0 + WINDOW)
    failed.note("192.0.2.1:1", 3, WRONG, 100.0 + WINDOW)
    assert not failed.too_many("192.0.2.1:9", 100.0 + WINDOW), "begins anew"


def test_the_same_credentials_count_once() -> None:
    failed = FailedAuthentications(2)
    for _ in range(1_000):
        failed.note("192.0.2.1:1", 1, WRONG, 0.0)
    assert not failed.too_many("192.0.2.1:1", 0.0)


def test_want_of_room_is_no_failure() -> None:
    failed = FailedAuthentications(1)
    failed.note("192.0.2.1:1", 1, ReasonCode.QUOTA_EXCEEDED, 0.0)
    failed.note("192.0.2.1:1", 2, ReasonCode.SERVER_BUSY, 0.0)
    assert not failed.too_many("192.0.2.1:1", 0.0)


def test_addresses_are_bounded_and_the_oldest_is_forgotten() -> None:
    failed = FailedAuthentications(1)
    for number in range(MAX_ADDRESSES + 1):
        failed.note(f"address-{number}:1", 1, WRONG, float(number) / 1_000)
    assert not failed.too_many("address-0:1", 10.0)
    assert failed.too_many("address-1:1", 10.0)
    assert failed.too_many(f"address-{MAX_ADDRESSES}:1", 10.0)


def test_a_connection_is_refused_unasked_and_the_connected_stay() -> None:
    world = World(BrokerSettings(max_failed_authentications=3))
    there = world.connect("there", V5)
    for number in range(20):
        world.connect(f"well-{number}", V5)
    for name in ("a", "b", "b", "b", "b", "c"):
        client = world.client(V5)
        client.send(Connect("guess", V5, username=name, password=b"wrong"))
        assert client.receive(Connack).reason_code == 0x86
    asked = len(world.authenticator.asked)
    client = world.client(V5)
    client.send(Connect("guess", V5, password=b"right"))
    assert client.receive(Connack).reason_code == 0x9F
    assert len(world.authenticator.asked) == asked
    assert not there.is_closed()
    assert world.broker.metrics.refused["too_many_failed_authentications"] == 1
