"""Server time on disk, and the wall clock that is followed: what a run goes on from, and what it shows.

Server time (`broker/clock.py`) is a distance: it neither jumps nor goes back. The clock on the wall may be wrong when
the server starts, and be set right hours later; it may have been wrong for a whole run. So the ledger keeps, besides
the last server time, by how much the wall clock was ahead of it since when: one offset for each boot of the machine,
because until its clock was set everything stored under a boot is off by the same. `timestamps.wall_time` shows by it.

A stored time far in the future (one start with a clock in 2056) is shown right as soon as the clock is; `mend` takes it
out of the files for good.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import SQLModel

from broker.clock import boot_id
from broker.sqlite_file import connect
from gateway.store import models
from gateway.store.app_locks import NO_APP
from gateway.store.protocols import Writer
from gateway.store.transaction import Transaction
from gateway.timestamps import WallTime

log = logging.getLogger(__name__)

STEP_MS = 1_000
"""A difference below is no clock that was set, but two clocks that were read one after the other; an NTP daemon steps
the clock from 128 ms on, and until then slews both of ours alike."""
TOLD_MS = 60_000
"""Step from which on somebody is told, and quiet hours are checked anew: they are in minutes."""
EARLIEST_MS = 1_767_225_600_000
"""2026-01-01: no clock that is right shows less, so what does is not followed (a machine without a battery starts in
1970, or at the date of its image)."""
KEPT_OFFSETS = 1_000
"""Boots whose clock had to be set; the oldest go."""
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

STORE_TIME = "INSERT INTO clock (no, at) VALUES (1, ?) ON CONFLICT (no) DO UPDATE SET at = max(at, excluded.at)"
"""Stores server time, with each group that has changed something: no run begins before it."""
_TIMES_WITHOUT_AT = {
    "last_seen",
    "not_before",
    "gap_told_to",
    "old_secret_until",
    "previous_token_until",
    "failing_since",
    "at",
}
"""Columns with a server time whose names do not end with `_at`."""
_BROKER_TIMES = {
    "session": ("expires_at", "will_expires_at", "will_due_at"),
    "message": ("expires_at",),
    "retained": ("expires_at",),
    "server": ("time",),
}
"""Columns of times in the broker's file, in microseconds (`broker/sqlite_tables.py`)."""


@dataclass(slots=True, frozen=True)
class StoredClock:
    """Server time and wall clock as earlier runs have left them, in milliseconds."""

    last_ms: int = 0
    """The last server time; 0 in a new file."""
    boot_id: str | None = None
    boot_origin_ms: int | None = None
    boot_since_ms: int | None = None
    offsets: tuple[tuple[int, int], ...] = ()

    @property
    def is_of_this_boot(self) -> bool:
        return self.boot_id is not None and self.boot_id == boot_id()

    def ahead_ms(self) -> int:
        """The last known offset of the wall clock."""
        return self.offsets[-1][1] if self.offsets else 0


def check_answers(transaction: Transaction) -> None:
    """Read a row that is always there. Raises whatever keeps the database from answering."""
    transaction.execute("SELECT no FROM clock").fetchone()


def read_stored_clock(transaction: Transaction) -> StoredClock:
    """Read server time and wall clock from a migrated ledger."""
    row = transaction.execute("SELECT at, boot_id, boot_origin, boot_since FROM clock WHERE no = 1").fetchone()
    offsets = tuple(transaction.execute("SELECT since, ahead FROM clock_offset ORDER BY since").fetchall())
    return StoredClock(*(row or (0,)), offsets=offsets)  # type: ignore[misc]  # the columns above


class WallClock:
    """Follows the machine's clock and keeps on disk by how much it is ahead of server time. Loop.

    `read_wall`: the machine's clock, in seconds. Nodes follow that of their database, each in memory, and the one of
    which `is_keeper` is true stores what they find. `goes_on`: server time is that of the run which has stored the
    clock; None: if that was under this boot.
    """

    def __init__(
        self,
        database: Writer,
        server_ms: Callable[[], int],
        boot_origin_ms: int,
        stored: StoredClock,
        wall_time: WallTime,
        read_wall: Callable[[], float] = time.time,
        *,
        goes_on: bool | None = None,
        is_keeper: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._server_ms = server_ms
        self._wall_time = wall_time
        self._read_wall = read_wall
        self._is_keeper = is_keeper
        self._has_origin = bool(goes_on)
        """Whether the origin is stored, by another node."""
        goes_on = stored.is_of_this_boot if goes_on is None else goes_on
        self._since = stored.boot_since_ms if goes_on and stored.boot_since_ms is not None else server_ms()
        self._earlier = [piece for piece in stored.offsets if piece[0] < self._since]
        self._ahead = stored.ahead_ms()
        self._boot = boot_id(), boot_origin_ms, self._since
        wall_time.set_offsets(stored.offsets)

    @property
    def ahead_ms(self) -> int:
        """The offset of the wall clock from server time, in milliseconds."""
        return self._ahead

    def start(self) -> None:
        """Store this boot's origin and follow the clock; once, before anything is shown.

        A full disk is no reason not to start: the next start then goes by the wall clock alone.
        """
        if self._has_origin:
            self.follow()
            return
        self._store(
            "UPDATE clock SET boot_id = ?, boot_origin = ?, boot_since = ? WHERE no = 1",
            self._boot,
            "INSERT INTO clock (no, at, boot_id, boot_origin, boot_since) VALUES (1, ?, ?, ?, ?)"
            " ON CONFLICT (no) DO NOTHING",
            (self._server_ms(), *self._boot),
        )
        self.follow()

    def follow(self) -> bool:
        """Compare the machine's clock with server time, and store by how much it is ahead.

        Answers whether it was set by so much that times of day are others now.
        """
        wall_ms = int(self._read_wall() * 1000)
        ahead = wall_ms - self._server_ms()
        if abs(ahead - self._ahead) <= STEP_MS or wall_ms < EARLIEST_MS:
            return False
        if abs(ahead) <= STEP_MS:
            ahead = 0
        step, self._ahead = ahead - self._ahead, ahead
        before = self._earlier[-1][1] if self._earlier else 0
        pieces = [*self._earlier, (self._since, ahead)][-KEPT_OFFSETS:] if ahead != before else self._earlier
        self._wall_time.set_offsets(pieces)
        if self._is_keeper():
            self._store(
                "DELETE FROM clock_offset WHERE since >= ?", (self._since,),
                "INSERT INTO clock_offset (since, ahead) SELECT ?, ? WHERE ? <> ?", (self._since, ahead, ahead, before),
            )  # fmt: skip
        if abs(step) < TOLD_MS:
            return False
        log.warning(
            "the machine's clock is %s s %s than before: times shown, quiet hours and signatures follow it, lifetimes"
            " do not change", f"{abs(step) // 1000:,}", "later" if step > 0 else "earlier",
        )  # fmt: skip
        return True

    def _store(self, first: str, first_values: Iterable[object], then: str, then_values: Iterable[object]) -> None:
        def operation(transaction: Transaction) -> None:
            transaction.execute(first, tuple(first_values))
            transaction.execute(then, tuple(then_values))
            transaction.execute(
                "DELETE FROM clock_offset WHERE since NOT IN"
                " (SELECT since FROM clock_offset ORDER BY since DESC LIMIT ?)",
                (KEPT_OFFSETS,),
            )

        self._database.submit(
            operation,
            lambda _: None,
            lambda error: log.warning("what the machine's clock shows could not be stored: %s", error),
            apps=NO_APP,
        )


# -- mending -----------------------------------------------------------------------------------------------------------


def mend(ledger: Path, sessions: Path, now_ms: int) -> int:
    """Rewrite every stored time as the clock on the wall showed it; by how many ms the last one went back.

    The server must not run (the caller holds its directory). `now_ms`: the machine's clock, which has to be right. Both
    files change in transactions of their own, the ledger last: interrupted, the same call does the rest.
    """
    with _opened(ledger) as transaction:
        stored = read_stored_clock(transaction)
        offsets = list(stored.offsets)
        last = stored.last_ms + stored.ahead_ms()
        if last > now_ms:  # the clock was set right while no server ran to see it
            since = stored.boot_since_ms if stored.boot_since_ms is not None else stored.last_ms
            offsets = [piece for piece in offsets if piece[0] < since]
            offsets.append((since, now_ms - stored.last_ms))
        if not offsets:
            return 0
        if sessions.exists():
            with _opened(sessions) as broker:
                for table, columns in _BROKER_TIMES.items():
                    for column in columns:
                        _shift(broker, table, column, offsets, 1_000)
        for of_ledger in SQLModel.metadata.sorted_tables:
            for name in of_ledger.columns.keys():  # noqa: SIM118  # no dict
                if name.endswith("_at") or name in _TIMES_WITHOUT_AT:
                    _shift(transaction, of_ledger.name, name, offsets, 1)
        _shift_hours(transaction, offsets)
        _forget_days(transaction, offsets)
        # In which hours devices were connected is not known any more: it is a habit, and is learned again.
        transaction.execute("DELETE FROM presence_hour WHERE hour >= ?", (offsets[0][0] // HOUR_MS,))
        transaction.execute("UPDATE clock SET boot_id = NULL, boot_origin = NULL, boot_since = NULL")
        transaction.execute("DELETE FROM clock_offset")
        (mended,) = transaction.execute("SELECT at FROM clock WHERE no = 1").fetchone()
        return stored.last_ms - int(mended)


class _opened:
    """A file's connection and one transaction, committed if nothing fails."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, isolation_level=None)

    def __enter__(self) -> Transaction:
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
        self._connection.close()


def _shift(transaction: Transaction, table: str, column: str, offsets: list[tuple[int, int]], unit: int) -> None:
    """Add to each time the offset that held at it. `unit`: parts of a millisecond that the column counts."""
    cases = " ".join(f"WHEN {column} >= {since * unit} THEN {ahead * unit}" for since, ahead in reversed(offsets))
    transaction.execute(
        f"UPDATE {table} SET {column} = {column} + CASE {cases} ELSE 0 END WHERE {column} >= {offsets[0][0] * unit}"
    )


def _shift_hours(transaction: Transaction, offsets: list[tuple[int, int]]) -> None:
    """Shift the tallies of hours; two that become the same hour are added."""
    wall_time = WallTime()
    wall_time.set_offsets(offsets)
    first = offsets[0][0] // HOUR_MS
    rows = transaction.execute(
        "SELECT app_no, dimension, key, hour, content FROM funnel WHERE hour >= ?", (first,)
    ).fetchall()
    transaction.execute("DELETE FROM funnel WHERE hour >= ?", (first,))
    for app_no, dimension, key, hour, content in rows:
        # By the end of the hour: the first of a boot began in its middle.
        place = app_no, dimension, key, wall_time.of((hour + 1) * HOUR_MS - 1) // HOUR_MS
        there = transaction.execute(
            "SELECT content FROM funnel WHERE app_no = ? AND dimension = ? AND key = ? AND hour = ?", place
        ).fetchone()
        tally = Counter(json.loads(content))
        if there is not None:
            tally.update(json.loads(there[0]))
        transaction.execute(
            "INSERT OR REPLACE INTO funnel (app_no, dimension, key, hour, content) VALUES (?, ?, ?, ?, ?)",
            (*place, json.dumps(tally)),
        )


def _forget_days(transaction: Transaction, offsets: list[tuple[int, int]]) -> None:
    """Forget what days of a wrong clock had of alerts: what of it was one day cannot be told."""
    first = offsets[0][0] // DAY_MS
    for table in ("alert_day", "fatigue_day"):
        transaction.execute(f"DELETE FROM {table} WHERE day >= ?", (first,))
    transaction.execute("DELETE FROM fatigue_position")
    transaction.execute("UPDATE adapted_cap SET reviewed_day = min(reviewed_day, ?)", (first,))


assert models.ClockOffset.__tablename__ == "clock_offset", "the tables are declared before they are walked"
