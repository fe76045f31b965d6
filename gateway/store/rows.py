"""Many rows with few statements.

Each statement is a pass of the interpreter lock to and fro, for which the writer thread may wait longer than the
statement takes, and `executemany` is one for every row. Bound values are also three times as fast as a JSON array that
SQLite takes apart again (the table of pushes: 4.8 instead of 16.5 us a row).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from gateway.store.transaction import Transaction

CHUNK_ROWS = 256
"""Rows of a statement when there are very many: 4,096 of the 32,766 variables that SQLite takes, at 16 columns."""
FEW_ROWS = 32
"""Rows up to which one statement has just that many; the driver's cache has all of those compiled."""


def insert_rows(
    transaction: Transaction, table: str, columns: str, rows: Sequence[Sequence[Any]], conflict_clause: str = ""
) -> None:
    """Insert rows with few statements: `INSERT INTO table (columns)`, a value for each column in each row. Writer
    thread.

    `conflict_clause`: what follows `ON CONFLICT`, if a row may be there already.
    """
    start = 0
    while (left := len(rows) - start) > 0:
        count = CHUNK_ROWS if left >= CHUNK_ROWS else min(left, FEW_ROWS)
        values = tuple(chain.from_iterable(rows[start : start + count]))
        transaction.execute(_statement(table, columns, count, conflict_clause), values)
        start += count


@lru_cache(maxsize=256)
def _statement(table: str, columns: str, count: int, conflict_clause: str) -> str:
    row = f"({', '.join('?' * (columns.count(',') + 1))})"
    clause = f" ON CONFLICT {conflict_clause}" if conflict_clause else ""
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * count)}{clause}"
