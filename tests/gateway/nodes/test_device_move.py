"""The devices of a node that ends go to the others, a bounded number of them in a second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.nodes import device_move
from gateway.nodes.device_move import DEVICES_PER_ROUND, DEVICES_PER_SECOND, NOTICE_SECONDS, DeviceMove


@dataclass
class FakeBroker:
    """A broker with so many clients, that notes when each was disconnected."""

    connections: int
    is_closed: bool = False
    ends: list[float] = field(default_factory=list)
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def metrics(self) -> FakeBroker:
        return self

    def close(self) -> None:
        self.is_closed = True

    def shutdown(self, at_most: int | None = None) -> bool:
        assert self.is_closed, "nobody comes back here"
        ended = min(self.connections, at_most if at_most is not None else self.connections)
        self.connections -= ended
        self.has_begun.set()
        self.ends += [asyncio.get_running_loop().time()] * ended
        return self.connections > 0


@dataclass
class FakeMembership:
    others: list[str]

    def peers(self) -> list[str]:
        return self.others


async def test_devices_are_moved_no_faster_than_others_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_move, "NOTICE_SECONDS", 0.05)
    broker = FakeBroker(connections=100)
    began = asyncio.get_running_loop().time()
    await DeviceMove(broker, FakeMembership(["another"])).run(asyncio.Event())
    assert len(broker.ends) == 100
    assert broker.ends[0] - began >= 0.05, "balancers have looked"
    for number, at in enumerate(broker.ends):
        rounds = number // DEVICES_PER_ROUND
        # The loop's clock has a resolution of a millisecond.
        assert at - broker.ends[0] >= rounds * (DEVICES_PER_ROUND / DEVICES_PER_SECOND - 0.002)


async def test_without_another_node_devices_stay_until_the_end() -> None:
    broker = FakeBroker(connections=7)
    move = DeviceMove(broker, FakeMembership([]))
    assert move.expected_seconds() == 0
    await move.run(asyncio.Event())
    assert not broker.is_closed
    assert broker.connections == 7


async def test_the_move_ends_when_the_last_other_node_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_move, "NOTICE_SECONDS", 0.0)
    membership, broker = FakeMembership(["another"]), FakeBroker(connections=1_000)
    moved = asyncio.get_running_loop().create_task(DeviceMove(broker, membership).run(asyncio.Event()))
    await broker.has_begun.wait()
    membership.others.clear()
    await moved
    assert 0 < broker.connections < 1_000


async def test_the_second_signal_waits_for_no_device() -> None:
    broker, hurry = FakeBroker(connections=1_000), asyncio.Event()
    move = DeviceMove(broker, FakeMembership(["another"]))
    assert move.expected_seconds() == NOTICE_SECONDS + 1_000 / DEVICES_PER_SECOND
    moved = asyncio.get_running_loop().create_task(move.run(hurry))
    await asyncio.sleep(0)
    hurry.set()
    await moved
    assert broker.connections == 1_000
