"""Saved segments, as rows: expressions over devices with a name. Times are server time in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from gateway.store.transaction import Transaction

_SELECT: Final = "SELECT id, expression, created_at, updated_at FROM saved_segment WHERE app_no = ?"


class NamedSegment(NamedTuple):
    """A segment as it was saved last."""

    name: str
    expression: str
    created_at: int
    updated_at: int


def count_other_segments(transaction: Transaction, app_no: int, name: str) -> int:
    """Count the segments of an app that have another name."""
    (others,) = transaction.execute(
        "SELECT count(*) FROM saved_segment WHERE app_no = ? AND id <> ?", (app_no, name)
    ).fetchone()
    return int(others)


def save_segment(transaction: Transaction, app_no: int, name: str, expression: str, now_ms: int) -> NamedSegment:
    """Save a segment in the place of the one of its name, which keeps the time at which it was made. Writer thread."""
    transaction.execute(
        "INSERT INTO saved_segment (app_no, id, expression, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)"
        " ON CONFLICT DO UPDATE SET expression = excluded.expression, updated_at = excluded.updated_at",
        (app_no, name, expression, now_ms),
    )
    return NamedSegment(*transaction.execute(f"{_SELECT} AND id = ?", (app_no, name)).fetchone())


def saved_segment(transaction: Transaction, app_no: int, name: str) -> NamedSegment | None:
    """Return the segment of a name; None if the app has none."""
    row = transaction.execute(f"{_SELECT} AND id = ?", (app_no, name)).fetchone()
    return None if row is None else NamedSegment(*row)


def segment_expression(transaction: Transaction, app_no: int, name: str) -> str | None:
    """Return the expression of a segment; None if the app has none of this name."""
    row = transaction.execute(
        "SELECT expression FROM saved_segment WHERE app_no = ? AND id = ?", (app_no, name)
    ).fetchone()
    return None if row is None else str(row[0])


def segments_behind(transaction: Transaction, app_no: int, after: str, limit: int) -> Iterator[NamedSegment]:
    """Yield segments of an app behind a name, in the order of their names."""
    rows = transaction.execute(f"{_SELECT} AND id > ? ORDER BY id LIMIT ?", (app_no, after, limit))
    return map(NamedSegment._make, rows)


def remove_segment(transaction: Transaction, app_no: int, name: str) -> bool:
    """Remove a segment; False if there was none. Writer thread."""
    removed = transaction.execute("DELETE FROM saved_segment WHERE app_no = ? AND id = ?", (app_no, name))
    return removed.rowcount > 0
