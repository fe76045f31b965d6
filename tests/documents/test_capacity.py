"""docs/operate/capacity.md says what is computed of the newest figures, and a simulation says the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.documents import capacity
from tests.documents.capacity import QUICK_GROUP, SLOW_GROUP, Costs, Fleet, Limits
from tests.documents.capacity_simulation import simulate
from tests.documents.figures import newest, values


@pytest.fixture(scope="module")
def costs() -> Costs:
    return capacity.measured_costs(values(newest()))


def test_the_page_has_what_is_computed() -> None:
    """`python -m tests.documents` writes it anew."""
    text = capacity.PAGE.read_text()
    assert capacity.written(text, values(newest())) == text


def test_what_the_page_assumes_is_what_is_computed_with() -> None:
    text = " ".join(capacity.PAGE.read_text().split())
    fleet, limits = Fleet(1), Limits()
    for words in (
        f"{fleet.pushes_a_day:.0f} pushes a day to a device alone",
        f"{fleet.broadcasts_a_day:.0f} to everybody",
        f"within {fleet.broadcast_seconds:.0f} s",
        f"connects {fleet.connects_a_day:.0f} times a day",
        f"{fleet.peak:.0f} times the mean",
        f"{limits.node_devices:,} connections of a node",
        f"{limits.turn_seconds * 1000:.0f} ms for a turn",
        f"{limits.lock_busy:.0%} of an app's lock",
        f"{limits.news_cores:.0f} cores",
        f"{limits.app_pushes:,.0f} single pushes a second of an app",
        f"{capacity.BALANCER_DEVICES:,} devices of a balancer",
    ):
        assert words in text, words


def test_costs_are_those_of_decision_9() -> None:
    """Each number that is not of a result stands in the table it is said to be from."""
    decision = (capacity.ROOT / "docs" / "adr" / "0009-postgresql.md").read_text()
    for words in ("| 0.75 ms |", "4.0 ms", "26,000 pushes a", "| 1.06 ms |", "| 7.3 ms |", "| 2.1 ms |"):
        assert words in decision, words


@pytest.mark.parametrize("group", [QUICK_GROUP, SLOW_GROUP])
@pytest.mark.parametrize("devices", capacity.FLEETS)
def test_a_simulation_of_a_cell_agrees(devices: int, group: float) -> None:
    """Share of the lock within a tenth, the turn within a quarter of what is computed; a push waits for two at most."""
    costs = capacity.measured_costs(values(newest()), group)
    cell = capacity.plan(Fleet(devices), costs, Limits()).cell
    seen = simulate(cell, costs, seconds=max(5.0, 40 * cell.turn_seconds), seed=devices)
    assert seen.busy == pytest.approx(cell.lock_busy, rel=0.1)
    assert seen.turn_seconds >= 0.75 * cell.turn_seconds, seen
    assert seen.turn_seconds <= 1.25 * max(cell.turn_seconds, cell.nodes * pause_of(cell, costs)), seen
    assert seen.wait_p99_seconds <= 2.5 * cell.turn_seconds + costs.group, (seen, cell)


def pause_of(cell: capacity.Cell, costs: Costs) -> float:
    """Time between two groups of the cell while nodes have nothing to store now and then."""
    rate = sum(rate for rate, _ in capacity.lock_work(cell.fleet, costs, cell.nodes))
    return max(1 / rate, costs.group)


def test_a_cell_that_is_too_large_does_not_keep_up(costs: Costs) -> None:
    """Neither by what is computed, nor in the simulation, in which it waits without end."""
    fits = capacity.largest_cell(Fleet(1), costs, Limits())
    cell = capacity.cell_for(Fleet(fits), costs, Limits())
    assert cell.fits(Limits())
    assert not capacity.cell_for(Fleet(int(fits * 1.1)), costs, Limits()).fits(Limits())
    over = replace(cell, fleet=Fleet(int(fits / cell.lock_busy * 1.2)))  # the lock would be taken for 120% of the time
    seen = simulate(over, costs, seconds=20, seed=1)
    assert seen.wait_p99_seconds > 10 * cell.turn_seconds, seen


def test_more_devices_never_need_fewer_machines(costs: Costs) -> None:
    plans = [
        capacity.plan(Fleet(devices), costs, Limits()) for devices in (1, 1_000, 50_000, 50_001, 10**6, 10**7, 10**8)
    ]
    machines = [found.cells * (found.cell.nodes + 3) for found in plans]
    assert machines == sorted(machines)
    assert all(math.isfinite(found.cell.turn_seconds) for found in plans)
