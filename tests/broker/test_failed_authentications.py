"""Guesses per address: only wrong credentials count, each once, for a minute; who is wrong waits, and nobody else."""

from __future__ import annotations

import pytest

from broker.failed_authentications import (
    DELAYED_REFUSALS_PER_ADDRESS,
    FAILURE_WINDOW_SECONDS,
    MAX_ADDRESSES,
    REFUSAL_DELAY_SECONDS,
    FailedAuthentications,
)
from broker.protocol.packets import V3_1_1, V5, Connack, Connect, ReasonCode
from broker.settings import BrokerSettings
from tests.fakes import World

WRONG = ReasonCode.BAD_USER_NAME_OR_PASSWORD


def test_the_limit_holds_for_one_address_and_one_minute() -> None:
    failed = FailedAuthentications(2)
    for number in (1, 2):
        assert not failed.is_suspect("192.0.2.1:9", 100.0)
        failed.record(f"192.0.2.1:{number}", number, WRONG, 100.0)
    assert failed.is_suspect("192.0.2.1:9", 100.0 + FAILURE_WINDOW_SECONDS - 0.1)
    assert not failed.is_suspect("192.0.2.2:9", 100.0)
    assert not failed.is_suspect("192.0.2.1:9", 100.0 + FAILURE_WINDOW_SECONDS)
    failed.record("192.0.2.1:1", 3, WRONG, 100.0 + FAILURE_WINDOW_SECONDS)
    assert not failed.is_suspect("192.0.2.1:9", 100.0 + FAILURE_WINDOW_SECONDS), "begins anew"


def test_the_same_credentials_count_once() -> None:
    failed = FailedAuthentications(2)
    for _ in range(1_000):
        failed.record("192.0.2.1:1", 1, WRONG, 0.0)
    assert not failed.is_suspect("192.0.2.1:1", 0.0)


def test_a_full_server_is_no_failure() -> None:
    failed = FailedAuthentications(1)
    failed.record("192.0.2.1:1", 1, ReasonCode.QUOTA_EXCEEDED, 0.0)
    failed.record("192.0.2.1:1", 2, ReasonCode.SERVER_BUSY, 0.0)
    assert not failed.is_suspect("192.0.2.1:1", 0.0)


def test_addresses_are_bounded_and_the_oldest_is_forgotten() -> None:
    failed = FailedAuthentications(1)
    for number in range(MAX_ADDRESSES + 1):
        failed.record(f"address-{number}:1", 1, WRONG, float(number) / 1_000)
    assert not failed.is_suspect("address-0:1", 10.0)
    assert failed.is_suspect("address-1:1", 10.0)
    assert failed.is_suspect(f"address-{MAX_ADDRESSES}:1", 10.0)


def test_a_network_of_ipv6_is_one_address() -> None:
    failed = FailedAuthentications(2)
    failed.record("[2001:db8::1]:9", 1, WRONG, 0.0)
    failed.record("[2001:db8::2]:9", 2, WRONG, 0.0)
    assert failed.is_suspect("[2001:db8::3]:9", 0.0)
    assert not failed.is_suspect("[2001:db8:0:1::3]:9", 0.0)


def test_what_is_remembered_of_an_address_is_bounded() -> None:
    failed = FailedAuthentications(10)
    for number in range(1_000):
        failed.record("192.0.2.1:1", number, WRONG, 0.0)
    assert len(failed._by_address["192.0.2.1"][1]) == 10


def test_delayed_refusals_are_bounded() -> None:
    failed = FailedAuthentications(1)
    assert not failed.delay_refusal("192.0.2.1:1", WRONG, 0.0)
    failed.record("192.0.2.1:1", 1, WRONG, 0.0)
    assert not failed.delay_refusal("192.0.2.1:1", ReasonCode.SERVER_BUSY, 0.0)
    for _ in range(DELAYED_REFUSALS_PER_ADDRESS):
        assert failed.delay_refusal("192.0.2.1:1", WRONG, 0.0)
    assert not failed.delay_refusal("192.0.2.1:1", WRONG, 0.0)
    failed.refusal_sent("192.0.2.1:5")
    assert failed.delay_refusal("192.0.2.1:1", WRONG, 0.0)


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_who_is_wrong_waits_and_who_is_right_does_not(version: int) -> None:
    world = World(BrokerSettings(max_failed_authentications=3))
    there = world.connect("there", version)
    for name in ("a", "b", "b", "b", "b", "c"):
        client = world.client(version)
        client.send(Connect("guess", version, username=name, password=b"wrong"))
        if name != "c":
            assert client.receive(Connack).reason_code == (0x86 if version == V5 else 4)
    world.advance(0.0)
    late = client
    assert not late.received(), "one too many: it waits"
    right = world.client(version)
    right.send(Connect("right", version, username="d", password=b"right"))
    assert right.receive(Connack).reason_code == 0, "at once"
    assert [asked.suspect for asked, _ in world.authenticator.asked[-2:]] == [False, True]
    world.advance(REFUSAL_DELAY_SECONDS + 0.5)
    assert late.receive(Connack).reason_code == (0x86 if version == V5 else 4)
    assert late.is_closed()
    assert not there.is_closed()
    assert world.broker.metrics.late_refusals == 1
    assert world.broker.metrics.handshakes == 0


def test_who_waits_for_a_refusal_may_leave() -> None:
    world = World(BrokerSettings(max_failed_authentications=1))
    for _ in range(2):
        client = world.client()
        client.send(Connect("guess", username="a", password=b"wrong"))
        client.drop()
    world.advance(REFUSAL_DELAY_SECONDS + 0.5)
    assert world.broker.metrics.handshakes == 0
    for _ in range(DELAYED_REFUSALS_PER_ADDRESS):
        assert world.broker.failed.delay_refusal("192.0.2.1:1", WRONG, world.clock.now)
