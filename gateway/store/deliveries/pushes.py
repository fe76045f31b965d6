"""Pushes by their numbers, which are given in the order in which they are stored."""

from __future__ import annotations

from gateway.store.transaction import Transaction


def push_number(transaction: Transaction, app_no: int, push_id: str) -> int | None:
    """The number of a push; None if the app has none of this id."""
    row = transaction.execute("SELECT no FROM push WHERE id = ? AND app_no = ?", (push_id, app_no)).fetchone()
    return row[0] if row is not None else None


def last_push_no(transaction: Transaction) -> int:
    """The number of the push that was stored last; 0 before the first."""
    row = transaction.execute("SELECT seq FROM sqlite_sequence WHERE name = 'push'").fetchone()
    return int(row[0]) if row is not None else 0


def push_id_of(transaction: Transaction, push_no: int) -> str:
    """The id of a push, which is there."""
    (push_id,) = transaction.execute("SELECT id FROM push WHERE no = ?", (push_no,)).fetchone()
    return str(push_id)
