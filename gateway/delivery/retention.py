"""Retention: removal of what has been kept long enough, in slices small enough that nobody notices.

Deliveries are removed some time after their push has fully ended; its counts are kept as JSON on the push row for
longer, then the row becomes a tombstone that answers 410. After as long again it leaves as well, and the push is as
unknown as one that never was. Idempotency records, uplink messages, events, dead letters and uses of `critical` go by
age, the row of a removed device and its consents when no delivery can refer to it any more. The conservation law holds
over all of it: counts before and after a removal of deliveries are the same.

What has ended before its ttl was over is looked for on a reader: everything that is still open has to be looked at, and
a million waiting pushes must not keep the writer from its work.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from gateway.delivery.reports import count_states
from gateway.store.analytics.forecasts import remove_forecasts
from gateway.store.analytics.funnels import DAY_MS, HOUR_MS, finish_row
from gateway.store.analytics.presence_hours import remove_hours
from gateway.store.database import Database
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.delivery_sets import remove_sets
from gateway.store.deliveries.escalations import remove_escalations
from gateway.store.deliveries.event_log import remove_events
from gateway.store.deliveries.plan_parts import remove_parts
from gateway.store.deliveries.push_texts import MARK, forget_templates, remove_texts

SLICE_ROWS = 2_000
"""Rows that one operation removes: about 10 ms of the writer."""
SLICE_SETS = 100
"""Sets of devices among those, of 8 KiB at most: about 5 ms."""
SLICE_PUSHES = 100
"""Pushes that one operation closes, sweeps or forgets: most pushes have one delivery, and by a push per commit nobody
would keep up with a fleet."""
READ_PUSHES = 1_000
"""Open pushes that one read looks at, about 2 ms: nobody waits for a reader."""
MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS = 60.0, 1.0
"""Seconds between two runs: a minute late is early where things are kept for days."""


FORGET = "DELETE FROM push WHERE no IN (SELECT no FROM push WHERE gone_at <= ? LIMIT ?)"


@dataclass(slots=True, frozen=True)
class RetentionPeriods:
    """Periods, in milliseconds, for which things are kept."""

    deliveries: int
    counts: int
    """Period of final counts; the tombstone stays as long again."""
    idempotency: int
    uplink: int
    events: int


class Retention:
    """Removes what is due, slice by slice. Loop."""

    def __init__(self, database: Database, keep: RetentionPeriods) -> None:
        self._database = database
        self._keep = keep
        shortest = min(keep.deliveries, keep.counts, keep.idempotency, keep.uplink, keep.events)
        self.pause = max(min(MAX_PAUSE_SECONDS, shortest / 1000), MIN_PAUSE_SECONDS)
        """Seconds until `run` is due again: what is kept for seconds is not kept for a minute."""

    async def run(self, now_ms: int) -> int:
        """Remove everything that is due, slice by slice; how many rows."""
        await self._close_finished(now_ms - self._keep.deliveries)
        removed = 0
        while True:
            count = await self._database.write(lambda connection: remove_slice(connection, self._keep, now_ms))
            removed += count
            if count == 0:
                return removed

    async def _close_finished(self, before: int) -> None:
        after: tuple[int, int] | None = (0, 0)
        while after is not None:
            looked_from = after
            finished, after = await self._database.read(
                lambda connection: find_finished(connection, before, looked_from)  # noqa: B023  awaited here
            )
            for start in range(0, len(finished), SLICE_PUSHES):
                slice_ = finished[start : start + SLICE_PUSHES]
                await self._database.write(
                    lambda connection: close_pushes(connection, slice_)  # noqa: B023  awaited here
                )


def find_finished(
    connection: sqlite3.Connection, before: int, after: tuple[int, int]
) -> tuple[list[tuple[int, int]], tuple[int, int] | None]:
    """Find open pushes whose deliveries had all ended by `before`, with the last change of each. Reader thread.

    Answers where to read on as well (None: that was all). Of those of READ_PUSHES that come after (end of life,
    number). What has ended does not wait again, so what is found here may be closed later.
    """
    rows = connection.execute(
        "SELECT p.expires_at, p.no, p.accepted_at, CASE WHEN p.accepted_at <= ?1 AND NOT EXISTS"
        f" (SELECT 1 FROM delivery AS d WHERE d.push_no = p.no AND +d.state {IS_WAITING})"
        " AND NOT EXISTS (SELECT 1 FROM waiting_set AS w WHERE w.push_no = p.no) THEN max(coalesce("
        "  (SELECT max(max(coalesce(d.delivered_at, 0), coalesce(d.displayed_at, 0), coalesce(d.dismissed_at, 0),"
        "   coalesce(d.opened_at, 0), coalesce(d.acted_at, 0), coalesce(d.ended_at, 0)))"
        "   FROM delivery AS d WHERE d.push_no = p.no), 0),"
        "  coalesce((SELECT max(o.at) FROM outcome_set AS o WHERE o.push_no = p.no), 0)) END"
        " FROM push AS p WHERE p.closed_at IS NULL AND (p.expires_at, p.no) > (?2, ?3)"
        " ORDER BY p.expires_at, p.no LIMIT ?4",
        (before, *after, READ_PUSHES),
    ).fetchall()
    finished = [(no, max(accepted, last)) for _, no, accepted, last in rows if last is not None and last <= before]
    return finished, (rows[-1][0], rows[-1][1]) if len(rows) == READ_PUSHES else None


def close_pushes(connection: sqlite3.Connection, finished: list[tuple[int, int]]) -> None:
    connection.execute(
        "UPDATE push SET closed_at = found.value ->> 1 FROM json_each(?) AS found"
        " WHERE push.no = found.value ->> 0 AND closed_at IS NULL",
        (json.dumps(finished),),
    )


def remove_slice(connection: sqlite3.Connection, keep: RetentionPeriods, now_ms: int) -> int:
    """Remove one slice of everything that is due; rows removed or buried, 0 when nothing is due. Writer thread."""
    return (
        _remove_deliveries(connection, now_ms - keep.deliveries)
        + _bury_pushes(connection, now_ms, keep.counts)
        + connection.execute(FORGET, (now_ms - keep.counts, SLICE_PUSHES)).rowcount
        + connection.execute(
            "DELETE FROM idempotency_record WHERE (app_no, key) IN"
            " (SELECT app_no, key FROM idempotency_record WHERE created_at <= ? LIMIT ?)",
            (now_ms - keep.idempotency, SLICE_ROWS),
        ).rowcount
        + connection.execute(
            "DELETE FROM uplink_message WHERE no IN (SELECT no FROM uplink_message WHERE received_at <= ? LIMIT ?)",
            (now_ms - keep.uplink, SLICE_ROWS),
        ).rowcount
        + connection.execute(
            "DELETE FROM push_funnel WHERE push_no IN (SELECT push_no FROM push_funnel"
            " WHERE push_no < coalesce((SELECT min(no) FROM push), 0) LIMIT ?)",
            (SLICE_ROWS,),
        ).rowcount
        + connection.execute(
            "DELETE FROM funnel WHERE (app_no, dimension, key, hour) IN"
            " (SELECT app_no, dimension, key, hour FROM funnel WHERE hour < ? LIMIT ?)",
            ((now_ms - keep.counts) // HOUR_MS, SLICE_ROWS),
        ).rowcount
        + connection.execute(
            "DELETE FROM fatigue_day WHERE (app_no, dimension, key, day) IN"
            " (SELECT app_no, dimension, key, day FROM fatigue_day WHERE day < ? LIMIT ?)",
            ((now_ms - keep.counts) // DAY_MS, SLICE_ROWS),
        ).rowcount
        + connection.execute(
            "DELETE FROM critical_use WHERE no IN (SELECT no FROM critical_use WHERE at <= ? LIMIT ?)",
            (now_ms - keep.counts, SLICE_ROWS),
        ).rowcount
        + remove_events(connection, now_ms - keep.events, SLICE_ROWS)
        + connection.execute(
            "DELETE FROM dead_letter WHERE no IN (SELECT no FROM dead_letter WHERE at <= ? LIMIT ?)",
            (now_ms - keep.deliveries, SLICE_ROWS),
        ).rowcount
        + connection.execute(
            "DELETE FROM invitation WHERE no IN (SELECT no FROM invitation WHERE expires_at <= ? LIMIT ?)",
            (now_ms - keep.deliveries, SLICE_ROWS),
        ).rowcount
        + remove_hours(connection, now_ms, SLICE_SETS)
        + _remove_devices(connection)
    )


def _remove_deliveries(connection: sqlite3.Connection, before: int) -> int:
    """Remove deliveries; how many, with their pushes.

    So one without deliveries is not taken for nothing to do.
    """
    pushes = connection.execute(
        f"SELECT no, final_counts, substr(content, 1, {len(MARK)}) = ? FROM push WHERE closed_at <= ?"
        " AND swept_at IS NULL ORDER BY closed_at LIMIT ?",
        (MARK, before, SLICE_PUSHES),
    ).fetchall()
    removed, sets_left = 0, SLICE_SETS
    for push_no, final_counts, texts in pushes:
        if final_counts is None:
            finish_row(connection, push_no)
            connection.execute(
                "UPDATE push SET final_counts = ? WHERE no = ?",
                (json.dumps(count_states(connection, push_no, ())), push_no),
            )
        room = SLICE_ROWS - removed
        count = connection.execute(
            "DELETE FROM delivery WHERE push_no = ?1 AND device_no IN"
            " (SELECT device_no FROM delivery WHERE push_no = ?1 LIMIT ?2)",
            (push_no, room),
        ).rowcount
        removed += count
        if count == room:  # there may be more of it
            break
        connection.execute("DELETE FROM failed_attempt WHERE push_no = ?", (push_no,))
        count = remove_sets(connection, push_no, sets_left)
        removed += count
        sets_left -= count
        if texts:
            count = remove_texts(connection, push_no, sets_left)
            removed += count
            sets_left -= count
        if not sets_left:
            break
        connection.execute("UPDATE push SET swept_at = closed_at WHERE no = ?", (push_no,))
        if removed >= SLICE_ROWS:
            break
    return removed + len(pushes)


def remove_beats(connection: sqlite3.Connection, app_no: int, before: int, count: int) -> None:
    """Remove the oldest pushes of an app that ended before a time, among `count`, and all there is of them.

    They are the server's own, and counted elsewhere (`heartbeat_states`). Writer thread.
    """
    rows = connection.execute(
        "SELECT no FROM (SELECT no, expires_at FROM push WHERE app_no = ? ORDER BY no LIMIT ?) WHERE expires_at <= ?",
        (app_no, count, before),
    ).fetchall()
    if rows:
        numbers = json.dumps([no for (no,) in rows])
        for table in ("delivery", "failed_attempt"):
            connection.execute(f"DELETE FROM {table} WHERE push_no IN (SELECT value FROM json_each(?))", (numbers,))
        connection.execute("DELETE FROM push WHERE no IN (SELECT value FROM json_each(?))", (numbers,))


def _bury_pushes(connection: sqlite3.Connection, now_ms: int, kept: int) -> int:
    buried = connection.execute(
        "UPDATE push SET gone_at = ?, target = '{}', content = '{}', final_counts = '{}' WHERE no IN"
        " (SELECT no FROM push WHERE swept_at <= ? AND gone_at IS NULL LIMIT ?) RETURNING no",
        (now_ms, now_ms - kept, SLICE_ROWS),
    ).fetchall()
    if buried:
        numbers = [no for (no,) in buried]
        remove_escalations(connection, numbers)
        forget_templates(connection, numbers)
        remove_parts(connection, numbers)
        remove_forecasts(connection, numbers)
    return len(buried)


def _remove_devices(connection: sqlite3.Connection) -> int:
    """Remove rows of removed devices that no delivery needs, and of their people.

    Those are devices that were removed before the oldest push with deliveries was accepted.
    """
    removed = connection.execute(
        "DELETE FROM device WHERE no IN (SELECT no FROM device WHERE removed_at < coalesce("
        " (SELECT accepted_at FROM push WHERE no = min(coalesce((SELECT min(push_no) FROM delivery), ?1),"
        "  coalesce((SELECT min(push_no) FROM outcome_set), ?1),"
        "  coalesce((SELECT min(push_no) FROM waiting_set), ?1))), ?1) LIMIT ?2) RETURNING no",
        (2**62, SLICE_ROWS),
    ).fetchall()
    if removed:
        numbers = json.dumps([no for (no,) in removed])
        for table in ("consent_record", "alert_use"):
            connection.execute(f"DELETE FROM {table} WHERE device_no IN (SELECT value FROM json_each(?))", (numbers,))
    return len(removed)
