"""Watches in the database: what is sent at least how often, and when it was heard last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.store.transaction import Transaction


class StoredWatch(NamedTuple):
    """A watch, as it is stored. Times are server time in milliseconds."""

    app_no: int
    app_id: str
    name: str
    content: str
    """`delivery.watches.WatchFields` as JSON."""
    created_at: int
    updated_at: int
    due_at: int
    heard_at: int | None
    silent_at: int | None


class HeardWatch(NamedTuple):
    """The times of a watch that have changed; of none that was replaced or removed since `updated_at`."""

    due_at: int
    heard_at: int | None
    silent_at: int | None
    app_no: int
    name: str
    updated_at: int


_WATCHES = (
    "SELECT w.app_no, a.id, w.id, w.content, w.created_at, w.updated_at, w.due_at, w.heard_at, w.silent_at"
    " FROM watch AS w JOIN application AS a ON a.no = w.app_no"
)


def stored_watches(transaction: Transaction) -> list[StoredWatch]:
    """Read the watches of all apps. Reader thread."""
    rows = transaction.execute(f"{_WATCHES} ORDER BY w.app_no, w.id")
    return [StoredWatch._make(row) for row in rows.fetchall()]


def stored_watch(transaction: Transaction, app_no: int, name: str) -> StoredWatch | None:
    """Read a watch; None if there is none of this name. A single statement."""
    row = transaction.execute(f"{_WATCHES} WHERE w.app_no = ? AND w.id = ?", (app_no, name)).fetchone()
    return None if row is None else StoredWatch._make(row)


def note_later_heard(transaction: Transaction, changed: Sequence[HeardWatch]) -> None:
    """Store when these watches were heard, unless another node has stored a later time. Writer thread."""
    transaction.executemany(
        "UPDATE watch SET due_at = ?, heard_at = ? WHERE app_no = ? AND id = ? AND updated_at = ?"
        " AND (heard_at IS NULL OR heard_at < ?)",
        [(one.due_at, one.heard_at, one.app_no, one.name, one.updated_at, one.heard_at) for one in changed],
    )


def note_silence(transaction: Transaction, app_no: int, name: str, updated_at: int, silent_at: int | None) -> bool:
    """Store that a watch is silent, or is not any more; False if it was replaced or removed meanwhile. Writer
    thread."""
    return (
        transaction.execute(
            "UPDATE watch SET silent_at = ? WHERE app_no = ? AND id = ? AND updated_at = ?",
            (silent_at, app_no, name, updated_at),
        ).rowcount
        == 1
    )


def note_heard(transaction: Transaction, changed: Sequence[HeardWatch]) -> None:
    """Store when these watches were heard, and whether they are silent. Writer thread."""
    transaction.executemany(
        "UPDATE watch SET due_at = ?, heard_at = ?, silent_at = ? WHERE app_no = ? AND id = ? AND updated_at = ?",
        changed,
    )


def count_other_watches(transaction: Transaction, app_no: int, name: str) -> tuple[int, int]:
    """Count the watches but for one: of its app, and of all. Writer thread."""
    of_app, of_all = transaction.execute(
        "SELECT count(*) FILTER (WHERE app_no = ?1), count(*) FROM watch WHERE app_no <> ?1 OR id <> ?2",
        (app_no, name),
    ).fetchone()
    return of_app, of_all


def replace_watch(
    transaction: Transaction, app_no: int, name: str, content: str, due_at: int, created_at: int, now_ms: int
) -> None:
    """Store a watch, in the place of the one of that name. Writer thread."""
    transaction.execute(
        "INSERT OR REPLACE INTO watch (app_no, id, content, due_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
        (app_no, name, content, due_at, created_at, now_ms),
    )


def remove_watch(transaction: Transaction, app_no: int, name: str) -> None:
    """Remove a watch. Writer thread."""
    transaction.execute("DELETE FROM watch WHERE app_no = ? AND id = ?", (app_no, name))
