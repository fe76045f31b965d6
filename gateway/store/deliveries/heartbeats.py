"""Heartbeats in the database: which are due, and a row for each device with what became of its beats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from gateway.store.transaction import Transaction


class HeartbeatState(StrEnum):
    """States of a device's heartbeat, as the database holds them."""

    UNKNOWN = "unknown"  #: not beaten yet
    ANSWERING = "answering"  #: it answers in time
    SLOW = "slow"  #: it answers, but too late, several times in a row
    SILENT = "silent"  #: it does not answer, several times in a row


class StoredHeartbeat(NamedTuple):
    """A heartbeat, as it is stored. Times are server time in milliseconds."""

    content: str
    """`delivery.heartbeat_states.HeartbeatFields` as JSON."""
    beat_at: int | None
    next_at: int
    created_at: int
    updated_at: int


class DueBeat(NamedTuple):
    """A heartbeat whose next beat is due."""

    app_no: int
    app_id: str
    name: str
    content: str
    """As of `StoredHeartbeat`."""
    beat_at: int | None
    """Time of the last beat; None: there is none to evaluate."""
    push_no: int | None
    """Number of its push; None: no device was there to be sent it."""


class BeatenDevice(NamedTuple):
    """A device of a heartbeat, and when the last beat was delivered to it."""

    device_no: int
    state: str
    streak: int
    answered_at: int | None
    delivered_at: int | None


class DeviceState(NamedTuple):
    """The state of a device of a heartbeat."""

    device_id: str
    state: str
    streak: int
    answered_at: int | None
    took_ms: int | None
    changed_at: int


# -- beats: writer thread ----------------------------------------------------------------------------------------------


def due_heartbeats(transaction: Transaction, now_ms: int, count: int) -> list[DueBeat]:
    """Find the heartbeats that are due, the longest due first, `count` at most."""
    rows = transaction.execute(
        "SELECT h.app_no, a.id, h.id, h.content, h.beat_at, h.push_no FROM heartbeat AS h INDEXED BY heartbeat_next"
        " JOIN application AS a ON a.no = h.app_no WHERE h.next_at <= ? ORDER BY h.next_at LIMIT ?",
        (now_ms, count),
    ).fetchall()
    return [DueBeat._make(row) for row in rows]


def next_beat(transaction: Transaction, after: int) -> int | None:
    """The time behind this one at which the next heartbeat is due; None if there is none."""
    row = transaction.execute("SELECT min(next_at) FROM heartbeat WHERE next_at > ?", (after,)).fetchone()
    return None if row[0] is None else int(row[0])


def forget_beats(transaction: Transaction, first_at: int, spread_ms: int) -> None:
    """Forget the last beats of all, and have the next ones due from a time on, one after the other."""
    transaction.execute(
        "UPDATE heartbeat SET beat_at = NULL, push_no = NULL, next_at = ? + ? * place.no FROM (SELECT app_no, id,"
        " row_number() OVER (ORDER BY app_no, id) AS no FROM heartbeat) AS place"
        " WHERE heartbeat.app_no = place.app_no AND heartbeat.id = place.id",
        (first_at, spread_ms),
    )


def beaten_devices(transaction: Transaction, app_no: int, name: str, push_no: int | None) -> list[BeatenDevice]:
    """Read the devices of a heartbeat, with what became of a beat, which is this push."""
    rows = transaction.execute(
        "SELECT s.device_no, s.state, s.streak, s.answered_at, d.delivered_at FROM heartbeat_device AS s"
        " LEFT JOIN delivery AS d ON d.push_no = ?3 AND d.device_no = s.device_no"
        " WHERE s.app_no = ?1 AND s.heartbeat = ?2",
        (app_no, name, push_no),
    ).fetchall()
    return [BeatenDevice._make(row) for row in rows]


def note_state(
    transaction: Transaction,
    app_no: int,
    name: str,
    device: BeatenDevice,
    took_ms: int | None,
    now_ms: int,
) -> None:
    """Note the state of a device after a beat. `took_ms`: how long its answer took; None: there was none."""
    transaction.execute(
        "UPDATE heartbeat_device SET state = ?1, streak = ?2, answered_at = coalesce(?3, answered_at),"
        " took_ms = coalesce(?4, took_ms), changed_at = iif(state = ?1, changed_at, ?5)"
        " WHERE app_no = ?6 AND heartbeat = ?7 AND device_no = ?8",
        (device.state, device.streak, device.delivered_at, took_ms, now_ms, app_no, name, device.device_no),
    )


def note_beat(
    transaction: Transaction, app_no: int, name: str, devices: Sequence[int], next_at: int, now_ms: int
) -> None:
    """Note that a beat is sent, and to which devices it is; others are forgotten."""
    numbers = json.dumps(list(devices))
    transaction.execute(
        "DELETE FROM heartbeat_device WHERE app_no = ? AND heartbeat = ?"
        " AND device_no NOT IN (SELECT value FROM json_each(?))",
        (app_no, name, numbers),
    )
    transaction.execute(
        "INSERT OR IGNORE INTO heartbeat_device (app_no, heartbeat, device_no, state, streak, changed_at)"
        f" SELECT ?, ?, value, '{HeartbeatState.UNKNOWN}', 0, ? FROM json_each(?)",
        (app_no, name, now_ms, numbers),
    )
    transaction.execute(
        "UPDATE heartbeat SET beat_at = ?, next_at = ?, push_no = NULL WHERE app_no = ? AND id = ?",
        (now_ms, next_at, app_no, name),
    )


def note_push(transaction: Transaction, app_no: int, name: str, push_no: int) -> None:
    """Note the number of a beat's push."""
    transaction.execute("UPDATE heartbeat SET push_no = ? WHERE app_no = ? AND id = ?", (push_no, app_no, name))


# -- people's commands -------------------------------------------------------------------------------------------------


def find_heartbeat(transaction: Transaction, app_no: int, name: str) -> StoredHeartbeat | None:
    """A heartbeat of an app by its name. Any thread."""
    row = transaction.execute(
        "SELECT content, beat_at, next_at, created_at, updated_at FROM heartbeat WHERE app_no = ? AND id = ?",
        (app_no, name),
    ).fetchone()
    return None if row is None else StoredHeartbeat._make(row)


def names_behind(transaction: Transaction, app_no: int, name: str, limit: int) -> list[str]:
    """Names of the heartbeats of an app behind a name, in order, `limit` and one more. Reader thread."""
    rows = transaction.execute(
        "SELECT id FROM heartbeat WHERE app_no = ? AND id > ? ORDER BY id LIMIT ?", (app_no, name, limit + 1)
    ).fetchall()
    return [found for (found,) in rows]


def device_states(transaction: Transaction, app_no: int, name: str) -> list[DeviceState]:
    """Read the states of the devices of a heartbeat, in the order of their enrolment. Any thread."""
    rows = transaction.execute(
        "SELECT v.id, s.state, s.streak, s.answered_at, s.took_ms, s.changed_at FROM heartbeat_device AS s"
        " JOIN device AS v ON v.no = s.device_no WHERE s.app_no = ? AND s.heartbeat = ? ORDER BY s.device_no",
        (app_no, name),
    ).fetchall()
    return [DeviceState._make(row) for row in rows]


def count_other_heartbeats(transaction: Transaction, app_no: int, name: str) -> tuple[int, int]:
    """Count the heartbeats but for one: of its app, and of all. Writer thread."""
    of_app, of_all = transaction.execute(
        "SELECT count(*) FILTER (WHERE app_no = ?1), count(*) FROM heartbeat WHERE app_no <> ?1 OR id <> ?2",
        (app_no, name),
    ).fetchone()
    return of_app, of_all


def replace_heartbeat(transaction: Transaction, app_no: int, name: str, content: str, now_ms: int) -> None:
    """Store a heartbeat, which is due now, in the place of the one of that name. Writer thread."""
    transaction.execute(
        "INSERT INTO heartbeat (app_no, id, content, next_at, created_at, updated_at)"
        " VALUES (?1, ?2, ?3, ?4, ?4, ?4) ON CONFLICT DO UPDATE SET content = excluded.content,"
        " next_at = excluded.next_at, beat_at = NULL, push_no = NULL, updated_at = excluded.updated_at",
        (app_no, name, content, now_ms),
    )


def remove_heartbeat(transaction: Transaction, app_no: int, name: str) -> bool:
    """Remove a heartbeat; whether there was one. Writer thread."""
    transaction.execute("DELETE FROM heartbeat_device WHERE app_no = ? AND heartbeat = ?", (app_no, name))
    return transaction.execute("DELETE FROM heartbeat WHERE app_no = ? AND id = ?", (app_no, name)).rowcount > 0
