"""Many rows with few statements.

Each statement is a pass of the interpreter lock to and fro, for which the writer thread may wait longer than the
statement takes, and `executemany` is one for every row. Bound values are also three times as fast as a JSON array that
SQLite takes apart again (the table of pushes: 4.8 instead of 16.5 us a row).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

CHUNK_ROWS = 256
"""Rows of a statement when there are very many: 4,096 of the 32,766 variables that SQLite takes, at 16 columns."""
FEW_ROWS = 32
"""Rows up to which one statement has just that many; the driver's cache has all of those compiled."""


def insert_rows(connection: sqlite3.Connection, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows with few statements: `INSERT INTO table (columns)`, a value for each column in each row. Writer
    thread."""
    _store(connection, f"INSERT INTO {table} ({columns})", columns, rows)


def replace_rows(connection: sqlite3.Connection, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows, in the place of those with the same key, with few statements. Writer thread."""
    _store(connection, f"REPLACE INTO {table} ({columns})", columns, rows)


def _store(connection: sqlite3.Connection, into: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    start = 0
    while (left := len(rows) - start) > 0:
        count = CHUNK_ROWS if left >= CHUNK_ROWS else min(left, FEW_ROWS)
        values = tuple(chain.from_iterable(rows[start : start + count]))
        connection.execute(_statement(into, columns.count(",") + 1, count), values)
        start += count


@lru_cache(maxsize=256)
def _statement(into: str, columns: int, count: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{into} VALUES {', '.join([row] * count)}"
