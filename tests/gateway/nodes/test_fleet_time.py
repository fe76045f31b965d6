"""Server time of a fleet, in a model of machines whose clocks jump and drift, and of a database whose clock does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.clock import ServerClock
from gateway.nodes.fleet_time import QUIET_SECONDS, SLEW_FACTOR, LineSearch, step_ms
from gateway.store.nodes.leases import NodeRow

RENEWAL_SECONDS = 0.5
LOOK_SECONDS = 0.05
MOST_DRIFT = 1e-4
"""100 parts in a million: a bad quartz."""
DAY_SECONDS = 86_400.0


@dataclass
class Machine:
    """A machine: its clocks, and its node while it runs."""

    no: int
    booted: float
    drift: float
    wall_ahead: float = 0.0
    clock: ServerClock | None = None
    renewals: int = 0
    epoch: int = 0
    compared: float = 0.0
    last_seen: float = 0.0
    rows: dict[int, int] = field(default_factory=dict)


class Fleet:
    """Real time, the database's clock and rows, and machines."""

    def __init__(self, drifts: list[float]) -> None:
        self.now = 1_800_000_000.0
        self.database_ahead = 0.0
        self.rows: dict[int, NodeRow] = {}
        self.stored = 0.0
        """The latest server time that anybody has stored, in milliseconds."""
        self.machines = [Machine(no, self.now - 1_000 * no, drift) for no, drift in enumerate(drifts, 1)]
        self.acting = self.machines[0]

    # -- what the clocks show --------------------------------------------------------------------------------------

    def boottime(self, machine: Machine) -> float:
        return (self.now - machine.booted) * (1 + machine.drift)

    def read_boottime(self, clock: int) -> float:
        return self.boottime(self.acting)

    def read_wall(self) -> float:
        return self.now + self.acting.wall_ahead

    def database_ms(self) -> int:
        return int((self.now + self.database_ahead) * 1000)

    def server_ms(self, machine: Machine) -> float:
        self.acting = machine
        assert machine.clock is not None
        return machine.clock.now() * 1000

    # -- what nodes do ---------------------------------------------------------------------------------------------

    def read(self) -> list[NodeRow]:
        shown = self.database_ms()
        return [row._replace(age_ms=shown - row.age_ms, database_ms=shown) for row in self.rows.values()]

    def write(self, machine: Machine, at: int) -> None:
        machine.renewals += 1
        row = NodeRow(machine.no, machine.epoch, "", "", machine.renewals, at, self.database_ms(), 0)  # age: since when
        self.rows[machine.no] = row
        self.stored = max(self.stored, at)

    def pass_time(self, seconds: float) -> None:
        """Real time goes on, and nodes renew."""
        end = self.now + seconds
        running = [machine for machine in self.machines if machine.clock is not None]
        while running and self.now < end:
            self.now = min(end, self.now + RENEWAL_SECONDS / len(running))
            running = [*running[1:], running[0]]
            self.renew(running[0])
        self.now = end

    def renew(self, machine: Machine) -> None:
        self.write(machine, int(self.server_ms(machine)))
        rows = [row for row in self.read() if machine.rows.get(row.no) != row.renewals]
        machine.rows = {row.no: row.renewals for row in self.rows.values()}
        boottime = self.boottime(machine)
        step = step_ms(rows, machine.no, int(self.server_ms(machine)), boottime - machine.compared)
        machine.compared = boottime
        assert machine.clock is not None
        machine.clock.advance(step / 1000)

    def start(self, machine: Machine) -> None:
        self.acting = machine
        machine.epoch += 1
        self.write(machine, 0)
        search = LineSearch(machine.no)
        while not search.add(self.read(), self.boottime(machine), self.boottime(machine)):
            self.pass_time(LOOK_SECONDS)
            self.write(machine, 0)
        self.acting = machine
        if search.line is None:
            origin = self.now + self.database_ahead - self.boottime(machine)
        else:
            origin = search.line.boot_origin
        machine.clock = ServerClock(self.stored / 1000, boot_origin=origin)
        machine.compared = self.boottime(machine)
        machine.last_seen = 0.0
        self.write(machine, int(self.server_ms(machine)))


class FleetTime(RuleBasedStateMachine):
    """Nodes start and are killed, clocks are set, and time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()

    @initialize(drifts=st.lists(st.floats(-MOST_DRIFT, MOST_DRIFT), min_size=3, max_size=3))
    def boot(self, drifts: list[float]) -> None:
        self.fleet = Fleet(drifts)
        self.patch.setattr(time, "time", self.fleet.read_wall)
        self.patch.setattr(time, "clock_gettime", self.fleet.read_boottime)

    def teardown(self) -> None:
        self.patch.undo()

    @rule(no=st.integers(0, 2))
    def start_or_kill(self, no: int) -> None:
        machine = self.fleet.machines[no]
        if machine.clock is None:
            before = self.fleet.stored
            self.fleet.start(machine)
            assert self.fleet.server_ms(machine) >= before - 1, "no run begins before what any node has stored"
        else:
            machine.clock = None  # and its row stays, as if it were still there

    @rule(days=st.sampled_from([-1.0, -0.0001, 0.0001, 1.0]), no=st.integers(0, 2))
    def set_wall(self, days: float, no: int) -> None:
        self.fleet.machines[no].wall_ahead += days * DAY_SECONDS

    @rule(days=st.sampled_from([-1.0, -0.0001, 0.0001, 1.0]))
    def fail_over_to_a_database_with_another_clock(self, days: float) -> None:
        self.fleet.database_ahead += days * DAY_SECONDS

    @rule(seconds=st.floats(0.01, 30))
    def go_on(self, seconds: float) -> None:
        running = [machine for machine in self.fleet.machines if machine.clock is not None]
        before = {machine.no: (self.fleet.server_ms(machine), self.fleet.boottime(machine)) for machine in running}
        self.fleet.pass_time(seconds)
        for machine in running:
            began, boot = before[machine.no]
            passed = self.fleet.server_ms(machine) - began
            real = (self.fleet.boottime(machine) - boot) * 1000
            assert real - 1 <= passed <= real * (1 + SLEW_FACTOR) + RENEWAL_SECONDS + 1, (
                "it neither jumps nor goes back"
            )

    @invariant()
    def nodes_have_one_time(self) -> None:
        if not hasattr(self, "fleet"):
            return
        running = [machine for machine in self.fleet.machines if machine.clock is not None]
        shown = [self.fleet.server_ms(machine) for machine in running]
        for machine, at in zip(running, shown, strict=True):
            assert at >= machine.last_seen - 1e-3
            machine.last_seen = at
        if shown:
            # A start takes a line that is as old as a look, and drift is caught up with.
            assert max(shown) - min(shown) <= LOOK_SECONDS * 1000 + 10


TestFleetTime = FleetTime.TestCase
TestFleetTime.settings = settings(stateful_step_count=30, deadline=None)


def row(no: int, renewals: int, at: int, age_ms: int = 0) -> NodeRow:
    return NodeRow(no, 1, "", "", renewals, at, age_ms, 0)


def test_the_line_is_that_of_who_renews_whatever_the_database_shows() -> None:
    search = LineSearch(1)
    assert not search.add([row(1, 1, 0), row(2, 7, 5_000, 86_400_000), row(3, 9, 9_000_000)], 10.0, 10.0)
    assert not search.add([row(1, 2, 0), row(2, 7, 5_000, 86_400_050), row(3, 9, 9_000_000)], 10.05, 10.05)
    assert search.add([row(1, 3, 0), row(2, 8, 5_400, 40), row(3, 9, 9_000_000)], 10.1, 10.1)
    assert search.line is not None
    assert (search.line.at_ms, search.line.boottime) == (5_440, 10.1)


def test_who_does_not_renew_has_no_line_and_is_waited_for() -> None:
    search = LineSearch(1)
    dead = [row(1, 1, 0), row(2, 7, 5_000)]
    assert not search.add(dead, 10.0, 10.0)
    assert not search.add(dead, 10.0 + QUIET_SECONDS - 0.1, 13.9)
    assert search.add(dead, 10.0 + QUIET_SECONDS, 14.0)
    assert search.line is None
    assert LineSearch(1).add([row(1, 1, 0), row(2, 5, 0)], 10.0, 10.0), "who has no time yet gives none"
    assert LineSearch(1).add([row(1, 1, 0)], 10.0, 10.0)


def test_clocks_that_drift_are_caught_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """By those that are behind; the quickest of all is nobody's to slow down."""
    fleet = Fleet([MOST_DRIFT, -MOST_DRIFT, 0.0])
    monkeypatch.setattr(time, "time", fleet.read_wall)
    monkeypatch.setattr(time, "clock_gettime", fleet.read_boottime)
    for machine in fleet.machines:
        fleet.start(machine)
    began, real = fleet.server_ms(fleet.machines[0]), fleet.now
    fleet.pass_time(3_600)
    shown = [fleet.server_ms(machine) for machine in fleet.machines]
    assert max(shown) - min(shown) <= 5
    assert shown[0] - began == pytest.approx((fleet.now - real) * 1000 * (1 + MOST_DRIFT), abs=5)
