"""Numbers that rows are given before they are stored: those of pushes and devices.

Over a file the one writer goes on behind the last number. In PostgreSQL other nodes store as well, so each number comes
from the table's sequence: nobody else is given it, also if it is rolled back. Drawn while the app's lock is held they
rise, within the app, in the order of the commits; between them are those of other apps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from gateway.store.transaction import Transaction

NumberedTable: TypeAlias = Literal["device", "event", "push"]


def has_sequences(transaction: Transaction) -> bool:
    """Whether numbers come from sequences, and others may be drawing some."""
    return bool(getattr(transaction, "has_sequences", False))


def draw_numbers(transaction: Transaction, table: NumberedTable, count: int) -> Sequence[int]:
    """Draw the next numbers of a table, in rising order. Writer thread.

    Over a file those that are not used are drawn again.
    """
    if has_sequences(transaction):
        drawn = transaction.execute(f"SELECT nextval('{table}_no_seq') FROM generate_series(1, ?)", (count,))
        return sorted(no for (no,) in drawn.fetchall())
    last = last_number(transaction, table)
    return range(last + 1, last + 1 + count)


def last_number(transaction: Transaction, table: NumberedTable) -> int:
    """The last number that was given in a table, of all apps and of rows that have gone as well; 0 before the first.

    With several nodes smaller ones may still be on their way to the disk: it is no position to read on from.
    """
    row = transaction.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return int(row[0]) if row is not None else 0
