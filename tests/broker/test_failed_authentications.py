"""Failures per address: only they count, only for a minute, and only so many addresses."""

from __future__ import annotations

from broker.failed_authentications import MAX_ADDRESSES, WINDOW, FailedAuthentications
from broker.protocol.packets import V5, Connack, Connect, ReasonCode
from broker.settings import BrokerSettings
from tests.fakes import World

WRONG = ReasonCode.BAD_USER_NAME_OR_PASSWORD


def test_the_limit_holds_for_one_address_and_one_minute() -> None:
    failed = FailedAuthentications(2)
    for port in (1, 2):
        assert not failed.too_many("192.0.2.1:9", 100.0)
        failed.note(f"192.0.2.1:{port}", WRONG, 100.0)
    assert failed.too_many("192.0.2.1:9", 100.0 + WINDOW - 0.1)
    assert not failed.too_many("192.0.2.2:9", 100.0)
    assert not failed.too_many("192.0.2.1:9", 100.0 + WINDOW)
    failed.note("192.0.2.1:1", WRONG, 100.0 + WINDOW)
    assert not failed.too_many("192.0.2.1:9", 100.0 + WINDOW), "begins anew"


def test_want_of_room_is_no_failure() -> None:
    failed = FailedAuthentications(1)
    failed.note("192.0.2.1:1", ReasonCode.QUOTA_EXCEEDED, 0.0)
    failed.note("192.0.2.1:1", ReasonCode.SERVER_BUSY, 0.0)
    assert not failed.too_many("192.0.2.1:1", 0.0)


def test_addresses_are_bounded_and_the_oldest_is_forgotten() -> None:
    failed = FailedAuthentications(1)
    for number in range(MAX_ADDRESSES + 1):
        failed.note(f"address-{number}:1", WRONG, float(number) / 1_000)
    assert not failed.too_many("address-0:1", 10.0)
    assert failed.too_many("address-1:1", 10.0)
    assert failed.too_many(f"address-{MAX_ADDRESSES}:1", 10.0)


def test_a_connection_is_refused_unasked_and_the_connected_stay() -> None:
    world = World(BrokerSettings(max_failed_authentications=3))
    there = world.connect("there", V5)
    for number in range(20):
        world.connect(f"well-{number}", V5)
    for _ in range(3):
        client = world.client(V5)
        client.send(Connect("guess", V5, password=b"wrong"))
        assert client.receive(Connack).reason_code == 0x86
    asked = len(world.authenticator.asked)
    client = world.client(V5)
    client.send(Connect("guess", V5, password=b"right"))
    assert client.receive(Connack).reason_code == 0x9F
    assert len(world.authenticator.asked) == asked
    assert not there.is_closed()
    assert world.broker.metrics.refused["too_many_failed_authentications"] == 1
