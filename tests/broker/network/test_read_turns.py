"""Busy connections are served in parts, one after the other, within the turn's time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from broker.network import read_turns
from broker.network.read_turns import CONNECTION_SECONDS, PART_BYTES, TURN_SECONDS, ReadTurns
from broker.settings import BrokerSettings
from tests import wire
from tests.broker.network.conftest import Run
from tests.broker.network.serving import serving
from tests.broker.network.test_transport import joined, until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Reader:
    def __init__(self, name: str, parts: int, work: Callable[[str], None]) -> None:
        self.name = name
        self.parts = parts
        self.work = work
        self.until: list[float] = []

    def read_on(self, until: float) -> bool:
        self.until.append(until)
        self.parts -= 1
        self.work(self.name)
        return self.parts > 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(read_turns, "time", clock)
    return clock


def test_each_gets_a_part_in_its_turn(run: Run[None], clock: Clock) -> None:
    async def scenario() -> None:
        served: list[str] = []
        turns = ReadTurns(asyncio.get_running_loop())
        readers = [Reader("a", 3, served.append), Reader("b", 1, served.append), Reader("c", 2, served.append)]
        for reader in readers:
            turns.add(reader)
            turns.add(reader)
        for _ in range(10):
            await asyncio.sleep(0)
        assert "".join(served) == "abcaca"
        assert readers[0].until == [CONNECTION_SECONDS] * 3

    run(scenario())


def test_all_together_get_no_more_than_the_turns_time(run: Run[None], clock: Clock) -> None:
    async def scenario() -> None:
        served: list[str] = []

        def work(name: str) -> None:
            served.append(name)
            clock.now += TURN_SECONDS / 2

        turns = ReadTurns(asyncio.get_running_loop())
        for name in "abcde":
            turns.add(Reader(name, 2, work))
        rounds = []
        for _ in range(6):
            await asyncio.sleep(0)
            rounds.append("".join(served))
            served.clear()
        assert rounds == ["ab", "cd", "ea", "bc", "de", ""]

    run(scenario())


@pytest.mark.parametrize("sent", [PART_BYTES * 20, 300_000])
def test_others_are_served_in_between(run: Run[None], monkeypatch: pytest.MonkeyPatch, sent: int) -> None:
    """A part for each turn: then whoever comes meanwhile is answered before the heap is done."""
    monkeypatch.setattr(read_turns, "CONNECTION_SECONDS", -math.inf)

    async def scenario() -> None:
        async with serving() as server:
            busy, other = await joined(server, "busy"), await joined(server, "other")
            heap = wire.publish("t", b"") * (sent // len(wire.publish("t", b"")))
            busy.send(heap)
            await until(lambda: server.metrics.publishes_in, "the heap to begin")
            other.send(wire.PINGREQ)
            await other.expect(wire.PINGRESP)
            assert server.metrics.publishes_in < len(heap) // len(wire.publish("t", b""))
            busy.send(wire.PINGREQ)
            await busy.expect(wire.PINGRESP)
            assert server.metrics.publishes_in == len(heap) // len(wire.publish("t", b""))
            await busy.hang_up()
            await other.hang_up()

    run(scenario())


def test_a_client_that_is_not_read_does_not_take_turns(run: Run[None]) -> None:
    async def scenario() -> None:
        async with serving(BrokerSettings(max_message_rate=100.0)) as server:
            client = await joined(server, "kiosk-1")
            client.send(wire.publish("t", b"") * 2_000)
            await until(lambda: server.metrics.limited_senders, "the rate to hold it")
            seen = server.metrics.publishes_in
            for _ in range(100):
                await asyncio.sleep(0)
            assert server.metrics.publishes_in == seen < 2_000
            client.writer.transport.abort()

    run(scenario())
