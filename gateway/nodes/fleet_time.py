"""Server time of the fleet: one line that every node goes on, whatever the clocks of its machines and databases show.

Server time is a distance (`broker.clock`), and lifetimes are compared with what other nodes have stored. So a node that
starts takes the line of those that serve, and one that is behind them goes faster for a while, by SLEW_FACTOR at most.
No line goes back, and none jumps. If nobody serves, a start goes on as the only server does, but by the clock of the
database, which is the wall of all nodes.

The database's clock is read as a difference only, and not beyond what a length of time of one's own allows: a fail-over
to another machine, or a clock that is set, moves nothing. Milliseconds, but for CLOCK_BOOTTIME, which is in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.store.nodes.leases import NodeRow

SLEW_FACTOR = 0.001
"""The part of the time by which a clock that is behind goes faster: ten times what quartz drifts."""
QUIET_SECONDS = 4.0
"""Time without a renewal after which a node does not serve any more, as for its lease (`membership.ENDED_SECONDS`)."""
MOST_AGE_MS = 1_000
"""The age of a row of who renews its lease twice a second, at the most that is believed."""


class FleetLine(NamedTuple):
    """Server time as the nodes that serve have it, at a moment of this machine."""

    at_ms: float
    boottime: float
    """That moment, by CLOCK_BOOTTIME."""

    @property
    def boot_origin(self) -> float:
        """Server time at this machine's boot, in seconds, as a `ServerClock` begins from it."""
        return self.at_ms / 1000 - self.boottime


class LineSearch:
    """Finds the line of the nodes that serve, from readings of their rows one after the other.

    A row is believed when it has changed since the reading before: then it is no older than that one. So who looks for
    the line waits for a renewal, half a second, or until nobody has renewed for QUIET_SECONDS.
    """

    def __init__(self, own_no: int) -> None:
        self._own_no = own_no
        self._seen: dict[int, tuple[int, int]] = {}
        self._began: float | None = None
        self._answered = 0.0
        self.line: FleetLine | None = None

    def add(self, rows: Sequence[NodeRow], asked: float, answered: float) -> bool:
        """Read the rows once more; whether the search is over, with a line or without. Times: CLOCK_BOOTTIME."""
        others = {row.no: row for row in rows if row.no != self._own_no and row.at}
        if self._began is None:
            self._began = answered
        else:
            gap_ms = (answered - self._answered) * 1000
            moved = [row for row in others.values() if self._seen.get(row.no) != (row.epoch, row.renewals)]
            if moved:
                self.line = FleetLine(max(row.at + min(max(row.age_ms, 0), gap_ms) for row in moved), answered)
        self._answered = answered
        self._seen = {row.no: (row.epoch, row.renewals) for row in others.values()}
        return self.line is not None or not others or asked - self._began >= QUIET_SECONDS


def step_ms(rows: Sequence[NodeRow], own_no: int, now_ms: float, elapsed_seconds: float) -> float:
    """Return by how much a clock goes forward, which shows `now_ms` and was last compared so long ago.

    `rows`: of nodes that serve, as they were just read.
    """
    others = [row.at + min(max(row.age_ms, 0), MOST_AGE_MS) for row in rows if row.no != own_no and row.at]
    behind = max(others, default=0) - now_ms
    return min(max(behind, 0.0), elapsed_seconds * 1000 * SLEW_FACTOR)
