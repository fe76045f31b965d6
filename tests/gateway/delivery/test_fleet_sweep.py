"""The sweep of one node for all: what is in flight from others is left alone, and keeps nothing else from its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from pyroaring import BitMap

from gateway.delivery.fleet_sweep import RECHECK_MS, FleetSweep
from gateway.store.deliveries.ledger_statements import SWEEP_PUSHES
from tests.gateway.delivery.world import World


class Others:
    """Other nodes, from which pushes are in flight."""

    def __init__(self) -> None:
        self.sent: set[int] = set()
        """Numbers of the pushes, each to the first device."""
        self.asked = 0

    async def __call__(self, push_nos: Sequence[int], device_no: int | None) -> Mapping[int, BitMap]:
        self.asked += 1
        return {push_no: BitMap([1]) for push_no in push_nos if push_no in self.sent}


@pytest.fixture
def world() -> Iterator[World]:
    world = World(mailbox_limit=2 * SWEEP_PUSHES)
    yield world
    world.close()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def sweep(world: World, others: Others) -> FleetSweep:
    database: Any = world.writer
    return FleetSweep(database=database, ledger=world.ledger, sent_elsewhere=others)


def test_pushes_in_flight_from_others_keep_nothing_from_its_end(
    world: World, others: Others, sweep: FleetSweep
) -> None:
    for _ in range(SWEEP_PUSHES):
        world.push({"device": "d1"}, ttl=10)
    others.sent = {no for (no,) in world.connection.execute("SELECT no FROM push")}
    world.push({"device": "d2"}, ttl=11)
    last = world.push({"device": "d1"}, ttl=12)
    world.now += 20_000
    world.run(sweep.follow_others())
    waiting = world.connection.execute("SELECT count(*) FROM whole_delivery WHERE state = 0").fetchone()
    assert waiting == (len(others.sent),)
    assert world.counts(last.push_id)["expired"] == 1
    asked = others.asked
    world.run(sweep.follow_others())
    assert others.asked == asked  # they have a second
    world.now += RECHECK_MS
    others.sent.clear()
    world.run(sweep.follow_others())
    assert world.connection.execute("SELECT count(*) FROM whole_delivery WHERE state = 0").fetchone() == (0,)
