"""Retention: what may leave the database, in slices small enough that nobody notices.

Deliveries are removed some time after their push has fully ended; its counts are kept as JSON on the push row for
longer, then the row becomes a tombstone that answers 410. Idempotency records, uplink messages and the rows of
removed devices go by age. The conservation law holds over all of it: counts before and after a removal are the same.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from gateway.delivery.reports import count_states
from gateway.store.database import Database

SLICE = 2_000
"""Rows that one operation removes: about 10 ms of the writer."""
MAX_PAUSE, MIN_PAUSE = 60.0, 1.0
"""Seconds between two runs: a minute late is early where things are kept for days."""


@dataclass(slots=True, frozen=True)
class Keep:
    """How long, in milliseconds."""

    deliveries: int
    counts: int
    idempotency: int
    uplink: int


class Retention:
    def __init__(self, database: Database, keep: Keep) -> None:
        self._database = database
        self._keep = keep
        shortest = min(keep.deliveries, keep.counts, keep.idempotency, keep.uplink)
        self.pause = max(min(MAX_PAUSE, shortest / 1000), MIN_PAUSE)
        """Seconds until `run` is due again: what is kept for seconds is not kept for a minute."""

    async def run(self, now: int) -> int:
        """Remove everything that is due, slice by slice; how many rows."""
        removed = 0
        while True:
            count = await self._database.write(lambda connection: remove_slice(connection, self._keep, now))
            removed += count
            if count == 0:
                return removed


def remove_slice(connection: sqlite3.Connection, keep: Keep, now: int) -> int:
    """One slice of whatever is due first; rows removed, 0 when nothing is due."""
    return (
        _close_finished(connection, now - keep.deliveries)
        + _remove_deliveries(connection, now - keep.deliveries)
        + _bury_pushes(connection, now - keep.counts)
        + connection.execute(
            "DELETE FROM idempotency_record WHERE (app_no, key) IN"
            " (SELECT app_no, key FROM idempotency_record WHERE created_at <= ? LIMIT ?)",
            (now - keep.idempotency, SLICE),
        ).rowcount
        + connection.execute(
            "DELETE FROM uplink_message WHERE no IN (SELECT no FROM uplink_message WHERE received_at <= ? LIMIT ?)",
            (now - keep.uplink, SLICE),
        ).rowcount
    )


def _close_finished(connection: sqlite3.Connection, before: int) -> int:
    """A push whose deliveries have all ended before its ttl is over is closed at its last change."""
    row = connection.execute(
        "SELECT p.no, (SELECT max(max(coalesce(d.delivered_at, 0), coalesce(d.displayed_at, 0),"
        " coalesce(d.dismissed_at, 0), coalesce(d.opened_at, 0), coalesce(d.acted_at, 0), coalesce(d.ended_at, 0)))"
        " FROM delivery AS d WHERE d.push_no = p.no) AS last"
        " FROM push AS p WHERE p.closed_at IS NULL AND p.accepted_at <= ?1"
        " AND NOT EXISTS (SELECT 1 FROM delivery AS d WHERE d.push_no = p.no AND +d.state = 0)"
        " AND coalesce(last, 0) <= ?1 LIMIT 1",
        (before,),
    ).fetchone()
    if row is None:
        return 0
    connection.execute("UPDATE push SET closed_at = max(accepted_at, coalesce(?, 0)) WHERE no = ?", (row[1], row[0]))
    return 1


def _remove_deliveries(connection: sqlite3.Connection, before: int) -> int:
    row = connection.execute(
        "SELECT no, final_counts FROM push WHERE closed_at <= ? AND swept_at IS NULL ORDER BY closed_at LIMIT 1",
        (before,),
    ).fetchone()
    if row is None:
        return 0
    push_no, final_counts = row
    if final_counts is None:
        connection.execute(
            "UPDATE push SET final_counts = ? WHERE no = ?",
            (json.dumps(count_states(connection, push_no, ())), push_no),
        )
    removed = connection.execute(
        "DELETE FROM delivery WHERE push_no = ?1 AND device_no IN"
        " (SELECT device_no FROM delivery WHERE push_no = ?1 LIMIT ?2)",
        (push_no, SLICE),
    ).rowcount
    if removed < SLICE:
        connection.execute("UPDATE push SET swept_at = closed_at WHERE no = ?", (push_no,))
    return removed + 1


def _bury_pushes(connection: sqlite3.Connection, before: int) -> int:
    return connection.execute(
        "UPDATE push SET gone_at = ?1, target = '{}', content = '{}', final_counts = '{}' WHERE no IN"
        " (SELECT no FROM push WHERE swept_at <= ?1 AND gone_at IS NULL LIMIT ?2)",
        (before, SLICE),
    ).rowcount
