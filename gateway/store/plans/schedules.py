"""Schedules and their runs in the database: how far each has come.

    active ─┬─ a date is due: a run ──▶ active            running ─┬─ nobody waits any more ───▶ done
            ├─ paused ⇄ active                                      ├─ nobody of it was sent any ▶ skipped
            ├─ no more dates ───────────▶ ended                     ├─ its push was refused ─────▶ failed
            └─ cancelled                                            └─ its schedule was cancelled ▶ cancelled

Laws
1. A run begins in the operation that moves the schedule's last date, with the set of its devices (`waiting_devices`). A
   part takes its devices in the operation that stores its push; the last one ends the run.
2. What a look has found on a reader is stored only if the schedule's `version` is the one that was read: whoever
   changes, pauses or cancels a schedule, or begins a run of it, counts it up.

Every function runs inside an operation, on the writer thread, unless it says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from pyroaring import BitMap

from gateway.store.deliveries.event_log import log_of_app
from gateway.store.deliveries.plan_parts import PlanKind
from gateway.store.plans.waiting_devices import (
    clear_waiting,
    insert_waiting,
    is_anybody_waiting,
    remove_from_waiting,
)
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339_of_wall

RUNS_KEPT = 100
"""Runs of a schedule that are kept, with those under way: three months of a daily one."""
MANY_SCHEDULES = 10_000_000
"""More than there are: all of a thousand apps."""
KIND = PlanKind.SCHEDULE


class ScheduleState(StrEnum):
    """States of a schedule, as the database holds them."""

    ACTIVE = "active"  #: its next date is waited for
    PAUSED = "paused"  #: nothing of it is sent
    ENDED = "ended"  #: it has no more dates
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """States of a run, as the database holds them."""

    RUNNING = "running"  #: some of its devices have not had their part
    DONE = "done"
    SKIPPED = "skipped"  #: nobody was sent it, for a reason
    FAILED = "failed"  #: its push was refused when it was due
    CANCELLED = "cancelled"


HELD = f"('{ScheduleState.PAUSED}', '{ScheduleState.CANCELLED}')"
"""States, in SQL, in which the rest of a run is not sent."""


class ScheduleRow(NamedTuple):
    """A schedule, as it is stored."""

    no: int
    id: str
    app_no: int
    app_id: str
    name: str | None
    push: str
    missed: str
    state: str
    since: int
    last_date: int | None
    used: int
    asked: int | None
    wake: int | None
    version: int
    failures: int
    created_at: int
    updated_at: int
    ended_at: int | None


class RunRow(NamedTuple):
    """A run of a schedule, as it is stored."""

    no: int
    schedule_no: int
    date: int | None
    due: int
    state: str
    reason: str | None
    problem: str | None
    push: str | None
    missed: str | None
    since: int | None
    slices: int
    targeted: int
    left_out: int
    skipped_dates: int
    started_at: int
    ended_at: int | None


class NewRun(NamedTuple):
    """A run that begins, or that was skipped or refused before anybody was sent it."""

    date: int | None
    due: int
    state: RunState
    reason: str | None
    problem: str | None
    slices: int
    devices: BitMap
    skipped_dates: int


_SCHEDULE = ", ".join("a.id" if name == "app_id" else f"s.{name}" for name in ScheduleRow._fields)
_RUN = ", ".join(RunRow._fields)
_FROM = "FROM schedule AS s JOIN application AS a ON a.no = s.app_no"


def schedule_of(transaction: Transaction, schedule_no: int) -> ScheduleRow | None:
    """A schedule by its number. Any thread."""
    row = transaction.execute(f"SELECT {_SCHEDULE} {_FROM} WHERE s.no = ?", (schedule_no,)).fetchone()
    return None if row is None else ScheduleRow._make(row)


def schedule_by_id(transaction: Transaction, app_no: int, schedule_id: str) -> ScheduleRow | None:
    """A schedule of an app by its id. Any thread."""
    row = transaction.execute(
        f"SELECT {_SCHEDULE} {_FROM} WHERE s.id = ? AND s.app_no = ?", (schedule_id, app_no)
    ).fetchone()
    return None if row is None else ScheduleRow._make(row)


def schedules_of_app(
    transaction: Transaction, app_no: int, before: int, states: Collection[str]
) -> Iterator[ScheduleRow]:
    """Read the schedules of an app in these states, the newest first. Reader thread."""
    rows = transaction.execute(
        f"SELECT {_SCHEDULE} {_FROM} WHERE s.app_no = ? AND s.no < ?"
        " AND s.state IN (SELECT value FROM json_each(?)) ORDER BY s.no DESC",
        (app_no, before, json.dumps(list(states))),
    )
    return map(ScheduleRow._make, rows)


def due_schedules(transaction: Transaction, wall_ms: int, but: Collection[int], count: int) -> list[tuple[int, int]]:
    """Schedules that are to be looked at, (number, app) each: apps in turn, of each the longest due. Reader thread.

    `but`: those that are being looked at, or failed a moment ago.
    """
    return transaction.execute(
        "SELECT no, app_no FROM (SELECT no, app_no, wake, row_number() OVER (PARTITION BY app_no ORDER BY wake, no)"
        "  AS turn FROM schedule INDEXED BY schedule_wake WHERE wake <= ?1"
        "  AND no NOT IN (SELECT value FROM json_each(?2))) ORDER BY turn, wake LIMIT ?3",
        (wall_ms, json.dumps(list(but)), count),
    ).fetchall()


def next_wake(transaction: Transaction, after: int) -> int | None:
    """The instant behind this one at which the next schedule is to be looked at. Reader thread."""
    found: int | None = transaction.execute("SELECT min(wake) FROM schedule WHERE wake > ?", (after,)).fetchone()[0]
    return found


def insert_schedule(
    transaction: Transaction,
    schedule_id: str,
    app_no: int,
    name: str | None,
    push: str,
    missed: str,
    since: int,
    now_ms: int,
) -> None:
    """Store a new schedule. It is looked at at once, which finds its first date."""
    transaction.execute(
        "INSERT INTO schedule (id, app_no, name, push, missed, state, since, wake, created_at, updated_at)"
        f" VALUES (?, ?, ?, ?, ?, '{ScheduleState.ACTIVE}', ?, ?, ?, ?)",
        (schedule_id, app_no, name, push, missed, since, since, now_ms, now_ms),
    )


def usage_of_app(transaction: Transaction, app_no: int) -> tuple[int, int]:
    """Count the schedules of an app that are active or paused, and the bytes of their pushes."""
    row = transaction.execute(
        "SELECT count(*), coalesce(sum(length(push)), 0) FROM schedule WHERE app_no = ? AND ended_at IS NULL", (app_no,)
    ).fetchone()
    return int(row[0]), int(row[1])


def change_schedule(transaction: Transaction, row: ScheduleRow, now_ms: int, **columns: Any) -> bool:
    """Change columns of a schedule, if nothing else has since it was read; whether it was."""
    names = ", ".join(f"{name} = ?" for name in columns)
    changed = transaction.execute(
        f"UPDATE schedule SET {names}, updated_at = ?, version = version + 1 WHERE no = ? AND version = ?",
        (*columns.values(), now_ms, row.no, row.version),
    )
    return changed.rowcount > 0


def rest(transaction: Transaction, row: ScheduleRow, wake: int | None, is_over: bool, now_ms: int) -> bool:
    """Note when a schedule is to be looked at again, or that it has ended. False: it has changed since it was read."""
    ended = is_over and row.state == ScheduleState.ACTIVE
    changed = transaction.execute(
        "UPDATE schedule SET wake = ?, state = iif(?, ?, state), ended_at = iif(?, ?, ended_at)"
        " WHERE no = ? AND version = ?",
        (wake, ended, ScheduleState.ENDED, ended, now_ms, row.no, row.version),
    )
    return changed.rowcount > 0


# -- runs --------------------------------------------------------------------------------------------------------------


def begin_run(transaction: Transaction, row: ScheduleRow, run: NewRun, now_ms: int) -> int | None:
    """Begin a run of a schedule; its number. None if the schedule has changed since it was read."""
    columns: dict[str, Any] = {"failures": row.failures + (run.state == RunState.FAILED)}
    if run.date is None:
        columns["asked"] = None
    else:
        columns |= {"last_date": run.date, "used": row.used + run.skipped_dates + 1}
    if not change_schedule(transaction, row, row.updated_at, **columns):
        return None
    is_running = run.state == RunState.RUNNING
    cursor = transaction.execute(
        "INSERT INTO schedule_run (schedule_no, date, due, state, reason, problem, push, missed, since, slices,"
        " targeted, skipped_dates, started_at, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.no,
            run.date,
            run.due,
            run.state,
            run.reason,
            run.problem,
            row.push if is_running else None,
            row.missed,
            row.since,
            run.slices,
            len(run.devices),
            run.skipped_dates,
            now_ms,
            None if is_running else now_ms,
        ),
    )
    run_no = cursor.lastrowid
    assert run_no is not None, "inserted"
    if is_running:
        insert_waiting(transaction, KIND, run_no, run.devices)
    transaction.execute(
        f"DELETE FROM schedule_run WHERE schedule_no = ?1 AND state <> '{RunState.RUNNING}' AND no <="
        " (SELECT no FROM schedule_run WHERE schedule_no = ?1 ORDER BY no DESC LIMIT 1 OFFSET ?2)",
        (row.no, RUNS_KEPT),
    )
    _log(transaction, row.app_no, row.id, run_no, run.state, run.due, len(run.devices), run.reason, run.problem, now_ms)
    return run_no


def pause(transaction: Transaction, schedule_no: int) -> None:
    """Pause a schedule that cannot go on. It is looked at no more."""
    transaction.execute("UPDATE schedule SET state = ?, wake = NULL WHERE no = ?", (ScheduleState.PAUSED, schedule_no))


def pass_over(transaction: Transaction, row: ScheduleRow, date: int) -> None:
    """Go on behind a date that is none of the devices', if the schedule has not changed since it was read."""
    change_schedule(transaction, row, row.updated_at, last_date=date)


def running_runs(transaction: Transaction, schedule_no: int) -> list[RunRow]:
    """The runs of a schedule that are under way, in their order. Any thread."""
    rows = transaction.execute(
        f"SELECT {_RUN} FROM schedule_run INDEXED BY schedule_run_running"
        f" WHERE schedule_no = ? AND state = '{RunState.RUNNING}' ORDER BY no",
        (schedule_no,),
    )
    return [RunRow._make(row) for row in rows.fetchall()]


def runs_of_schedule(transaction: Transaction, schedule_no: int, before: int) -> Iterator[RunRow]:
    """Read the runs of a schedule, the newest first. Reader thread."""
    rows = transaction.execute(
        f"SELECT {_RUN} FROM schedule_run WHERE schedule_no = ? AND no < ? ORDER BY no DESC", (schedule_no, before)
    )
    return map(RunRow._make, rows)


def unfinished_pushes(transaction: Transaction, schedule_no: int) -> list[str]:
    """Ids of the pushes of a schedule that have not ended. Reader thread."""
    rows = transaction.execute(
        "SELECT p.id FROM schedule_run AS r CROSS JOIN plan_part AS t ON t.kind = ? AND t.run_no = r.no"
        " CROSS JOIN push AS p ON p.no = t.push_no AND p.gone_at IS NULL AND p.recalled_at IS NULL"
        " WHERE r.schedule_no = ? AND p.closed_at IS NULL ORDER BY p.no",
        (KIND, schedule_no),
    )
    return [push_id for (push_id,) in rows.fetchall()]


def is_running(transaction: Transaction, run_no: int) -> bool:
    """Whether a run is under way, and its schedule is neither paused nor cancelled."""
    row = transaction.execute(
        "SELECT 1 FROM schedule_run AS r JOIN schedule AS s ON s.no = r.schedule_no WHERE r.no = ?"
        f" AND r.state = '{RunState.RUNNING}' AND s.state NOT IN {HELD}",
        (run_no,),
    )
    return row.fetchone() is not None


def end_if_nobody_waits(transaction: Transaction, run_no: int, now_ms: int) -> RunState | None:
    """End a run whose devices have all had their part, or were left out; the state it has ended in."""
    return None if is_anybody_waiting(transaction, KIND, run_no) else end_run(transaction, run_no, now_ms)


def exclude_devices(
    transaction: Transaction, run_no: int, devices: BitMap, reason: str, now_ms: int
) -> RunState | None:
    """Give devices of a run no part, for a reason; the state that the run has ended in, if it has."""
    if not is_running(transaction, run_no):
        return None
    count = remove_from_waiting(transaction, KIND, run_no, devices)
    transaction.execute(
        "UPDATE schedule_run SET left_out = left_out + ?, reason = ? WHERE no = ?", (count, reason, run_no)
    )
    return end_if_nobody_waits(transaction, run_no, now_ms)


def end_run(transaction: Transaction, run_no: int, now_ms: int, problem: str | None = None) -> RunState | None:
    """End a run: it is done, or failed; or skipped if nobody was sent it. None if it had ended."""
    waited = clear_waiting(transaction, KIND, run_no)
    found = transaction.execute(
        "SELECT r.due, r.targeted, r.left_out, r.reason, r.schedule_no, s.app_no, s.id FROM schedule_run AS r"
        f" JOIN schedule AS s ON s.no = r.schedule_no WHERE r.no = ? AND r.state = '{RunState.RUNNING}'",
        (run_no,),
    ).fetchone()
    if found is None:
        return None
    due, targeted, left_out, reason, schedule_no, app_no, schedule_id = found
    state = RunState.SKIPPED if targeted and left_out == targeted else RunState.DONE
    if problem is not None:
        state = RunState.FAILED
        transaction.execute("UPDATE schedule SET failures = failures + 1 WHERE no = ?", (schedule_no,))
    elif state == RunState.DONE:
        transaction.execute("UPDATE schedule SET failures = 0 WHERE no = ?", (schedule_no,))
    transaction.execute(
        "UPDATE schedule_run SET state = ?, problem = ?, left_out = left_out + ?, push = NULL, ended_at = ?"
        " WHERE no = ?",
        (state, problem, waited, now_ms, run_no),
    )
    _log(transaction, app_no, schedule_id, run_no, state, due, targeted, reason, problem, now_ms)
    return state


def cancel_runs(transaction: Transaction, row: ScheduleRow, now_ms: int) -> int:
    """End the runs of a schedule that are under way; how many devices waited for their part."""
    waited = 0
    for run in running_runs(transaction, row.no):
        waited += (left := clear_waiting(transaction, KIND, run.no))
        transaction.execute(
            "UPDATE schedule_run SET state = ?, left_out = left_out + ?, push = NULL, ended_at = ? WHERE no = ?",
            (RunState.CANCELLED, left, now_ms, run.no),
        )
        _log(transaction, row.app_no, row.id, run.no, RunState.CANCELLED, run.due, run.targeted, None, None, now_ms)
    return waited


def _log(
    transaction: Transaction,
    app_no: int,
    schedule_id: str,
    run_no: int,
    state: RunState,
    due: int,
    targeted: int,
    reason: str | None,
    problem: str | None,
    now_ms: int,
) -> None:
    content = {"schedule_id": schedule_id, "run": run_no, "state": str(state), "due": rfc3339_of_wall(due)}
    content |= {"targeted": targeted, "reason": reason, "problem": problem}
    log_of_app(transaction, "schedule.run", now_ms, app_no, content)


# -- removal -----------------------------------------------------------------------------------------------------------


def remove_ended(transaction: Transaction, ended_before: int, count: int) -> int:
    """Remove schedules that have ended before a time, and their runs; how many."""
    gone: Sequence[int] = [
        no
        for (no,) in transaction.execute(
            "SELECT no FROM schedule WHERE ended_at < ? ORDER BY ended_at LIMIT ?", (ended_before, count)
        )
    ]
    numbers = json.dumps(gone)
    transaction.execute("DELETE FROM schedule_run WHERE schedule_no IN (SELECT value FROM json_each(?))", (numbers,))
    transaction.execute("DELETE FROM schedule WHERE no IN (SELECT value FROM json_each(?))", (numbers,))
    return len(gone)
