"""Connections to the ledger's file: their pragmas, and who begins and ends transactions.

Whoever opens the file does so here, so that there is one answer to what a commit is worth (`synchronous = FULL`: an
fsync of the write-ahead log) and how long one waits for another process.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from broker.sqlite_file import PAGE_BYTES, connect, log_pages
from gateway.store.set_functions import add_set_functions

CACHE_KIBIBYTES = 65_536
"""Page cache of the writer: the hot end of the delivery table and its mailbox index stay in memory."""
CACHED_STATEMENTS = 256
"""Compiled statements of a connection: those of `store/rows`, 32 for each of four tables, and all others."""
APP_READER_STATEMENTS = 16
"""Compiled statements of a connection that reads for apps: what a person looks at takes some ten. That of an expression
over devices may have 90,000 characters, takes 1.3 MiB, and is another one for each expression."""


class _Connection(sqlite3.Connection):
    """SQLAlchemy may not end a transaction: groups and snapshots are begun and ended here, in SQL."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


def open_ledger(path: Path, busy_ms: int, cached_statements: int = CACHED_STATEMENTS) -> sqlite3.Connection:
    """A connection with our pragmas and functions, which leaves transactions to us. Raises sqlite3.Error.

    `busy_ms`: milliseconds that it waits for another process's lock. `cached_statements`: compiled statements that it
    keeps.
    """
    connection = connect(
        path,
        timeout=busy_ms / 1000,
        check_same_thread=False,
        factory=_Connection,
        cached_statements=cached_statements,
        isolation_level=None,  # we say BEGIN and COMMIT ourselves: groups, savepoints, snapshots
    )
    add_set_functions(connection)
    pages = log_pages(os.statvfs(path.parent))
    if path.stat().st_size == 0:
        # Before anything else; see `give_back`. Not of any other file: it would write to that.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        # Off: on the hot tables every row would pay a look-up for what the code guarantees (a delivery is
        # inserted with its push, devices are never deleted while deliveries refer to them).
        "foreign_keys = OFF",
        "temp_store = MEMORY",
        f"cache_size = -{CACHE_KIBIBYTES}",
        f"wal_autocheckpoint = {pages}",
        f"journal_size_limit = {pages * PAGE_BYTES}",
        f"busy_timeout = {busy_ms}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def make_engine(path: Path, busy_ms: int) -> Engine:
    """A SQLAlchemy engine of such connections, for who migrates."""
    return create_engine("sqlite://", creator=lambda: open_ledger(path, busy_ms), poolclass=NullPool)


def first_damage(path: Path) -> str | None:
    """Say the first that SQLite's own check finds wrong in a file; None: nothing. Raises sqlite3.Error,
    FileNotFoundError."""
    with closing(connect(path, must_exist=True)) as database:
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    return None if verdict == "ok" else str(verdict.splitlines()[-1])


def raw_connection(connection: Any) -> sqlite3.Connection:
    """The driver's connection under SQLAlchemy's."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection), "the pysqlite driver"
    return raw
