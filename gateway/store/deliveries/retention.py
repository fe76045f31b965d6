"""The rows of pushes that have ended, until nothing of them is left: closed, counted, removed, buried, forgotten.

What is kept for how long, and how much of it leaves at once, is `delivery/retention`'s.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.push_texts import MARK
from gateway.store.numbers import has_sequences
from gateway.store.transaction import Transaction

READ_PUSHES = 1_000
"""Open pushes that one read looks at, about 2 ms: nobody waits for a reader."""
FORGET = "DELETE FROM push WHERE no IN (SELECT no FROM push WHERE gone_at <= ? LIMIT ?)"


class ClosedPush(NamedTuple):
    """A push that has ended, whose deliveries are still there."""

    push_no: int
    final_counts: str | None
    """Its counts by state as JSON; None: they have not been kept yet."""
    has_texts: bool


def find_finished(
    transaction: Transaction, before: int, after: tuple[int, int]
) -> tuple[list[tuple[int, int]], tuple[int, int] | None]:
    """Find open pushes whose deliveries had all ended by `before`, with the last change of each. Reader thread.

    Answers where to read on as well (None: that was all). Of those of READ_PUSHES that come after (end of life,
    number). What has ended does not wait again, so what is found here may be closed later.
    """
    rows = transaction.execute(
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


def close_pushes(transaction: Transaction, finished: list[tuple[int, int]]) -> None:
    """Close pushes, with the last change of each (ms). Writer thread."""
    transaction.execute(
        "UPDATE push SET closed_at = found.value ->> 1 FROM json_each(?) AS found"
        " WHERE push.no = found.value ->> 0 AND closed_at IS NULL",
        (json.dumps(finished),),
    )


def closed_pushes(transaction: Transaction, before: int, count: int) -> list[ClosedPush]:
    """Find up to `count` pushes that ended by a time and are not swept, the earliest first. Writer thread."""
    rows = transaction.execute(
        f"SELECT no, final_counts, substr(content, 1, {len(MARK)}) = ? FROM push WHERE closed_at <= ?"
        " AND swept_at IS NULL ORDER BY closed_at LIMIT ?",
        (MARK, before, count),
    )
    return [ClosedPush(no, final_counts, bool(texts)) for no, final_counts, texts in rows.fetchall()]


def keep_counts(transaction: Transaction, push_no: int, counts: dict[str, int]) -> None:
    """Keep the counts of a push by state, for when its deliveries have left. Writer thread."""
    transaction.execute("UPDATE push SET final_counts = ? WHERE no = ?", (json.dumps(counts), push_no))


def remove_rows(transaction: Transaction, push_no: int, count: int) -> int:
    """Remove up to `count` rows of deliveries of a push that has ended; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM delivery WHERE push_no = ?1 AND device_no IN"
        " (SELECT device_no FROM delivery WHERE push_no = ?1 LIMIT ?2)",
        (push_no, count),
    ).rowcount


def note_swept(transaction: Transaction, push_no: int) -> None:
    """Note that nothing is left of the deliveries of a push. Writer thread."""
    transaction.execute("UPDATE push SET swept_at = closed_at WHERE no = ?", (push_no,))


def bury_pushes(transaction: Transaction, now_ms: int, before: int, count: int) -> list[int]:
    """Make tombstones of up to `count` pushes that were swept by a time; their numbers. Writer thread."""
    rows = transaction.execute(
        "UPDATE push SET gone_at = ?, target = '{}', content = '{}', final_counts = '{}' WHERE no IN"
        " (SELECT no FROM push WHERE swept_at <= ? AND gone_at IS NULL LIMIT ?) RETURNING no",
        (now_ms, before, count),
    )
    return [no for (no,) in rows.fetchall()]


def forget_pushes(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` tombstones that were made by a time; how many. Writer thread."""
    return transaction.execute(FORGET, (before, count)).rowcount


def remove_beats(transaction: Transaction, app_no: int, before: int, count: int) -> None:
    """Remove the oldest pushes of an app that ended before a time, among `count`, and all there is of them.

    They are the server's own, and counted elsewhere (`heartbeat_states`). Writer thread.
    """
    rows = transaction.execute(
        "SELECT no FROM (SELECT no, expires_at FROM push WHERE app_no = ? ORDER BY no LIMIT ?) WHERE expires_at <= ?",
        (app_no, count, before),
    ).fetchall()
    if rows:
        numbers = json.dumps([no for (no,) in rows])
        for table in ("delivery", "failed_attempt"):
            transaction.execute(f"DELETE FROM {table} WHERE push_no IN (SELECT value FROM json_each(?))", (numbers,))
        transaction.execute("DELETE FROM push WHERE no IN (SELECT value FROM json_each(?))", (numbers,))


def remove_device_rows(transaction: Transaction, count: int) -> int:
    """Remove rows of up to `count` removed devices that no delivery needs, and what there is of them; how many.

    Those are devices that were removed before the oldest push with deliveries was accepted. Writer thread.
    """
    removed = transaction.execute(
        "DELETE FROM device WHERE no IN (SELECT no FROM device WHERE removed_at < coalesce("
        " (SELECT accepted_at FROM push WHERE no = min(coalesce((SELECT min(push_no) FROM delivery), ?1),"
        "  coalesce((SELECT min(push_no) FROM outcome_set), ?1),"
        "  coalesce((SELECT min(push_no) FROM waiting_set), ?1))), ?1) LIMIT ?2) RETURNING no",
        (2**62, count),
    ).fetchall()
    if removed:
        numbers = json.dumps([no for (no,) in removed])
        # Which node serves a device only PostgreSQL has.
        for table in ("consent_record", "alert_use", *(("connection",) if has_sequences(transaction) else ())):
            transaction.execute(f"DELETE FROM {table} WHERE device_no IN (SELECT value FROM json_each(?))", (numbers,))
    return len(removed)
