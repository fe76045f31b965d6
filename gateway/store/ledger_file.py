"""The ledger in one file of SQLite: what `Database` is built on by default.

`synchronous=FULL` makes every commit an fsync of the WAL: an acknowledged write survives a power cut.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from sqlalchemy.exc import SQLAlchemyError

from broker.sqlite_file import PAGE_BYTES, Fault, fault_of, log_pages
from gateway.store.app_locks import Apps
from gateway.store.connections import APP_READER_STATEMENTS, CACHED_STATEMENTS, make_engine, open_ledger, raw_connection
from gateway.store.errors import causes, explained
from gateway.store.migrations import migrate
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

PROGRESS_STEPS = 20_000
"""Steps of SQLite's machine, about 1 ms, after which a read for an app looks whether it has taken too long."""
BUSY_MS = 2_500
"""Time that a connection waits for another process's lock, twice for who is behind: a client's patience is 10 s."""
START_BUSY_MS = 10_000
"""Time that a start waits for it, when nobody waits yet: another start may be migrating."""
READER_CACHE_KIBIBYTES = 4_096
"""Page cache of a reader. In WAL mode the next read after anybody's commit begins with an empty one, so it serves one
read; the rest would be memory that is filled and given back, and fragments."""
LOG_BUSY_MS = 100
"""Time that the writer waits for readers when it cuts a log that has grown; it tries again at the next check."""
VACUUM_PAGES = 256
"""Pages that one operation gives back to the disk, 1 MiB: about 10 ms of the writer."""
KEPT_FREE_PAGES = 4_096
"""16 MiB of free pages are kept, and a quarter of the file: what comes tomorrow goes into them."""
INCREMENTAL = 2
"""`PRAGMA auto_vacuum` of a file that can give back pages."""
LOG_BOUND_FACTOR = 2
"""A log of so many times its pages between checkpoints has been let grow by a reader, and is cut."""


class LedgerFile:
    """A `Backend`: the file at `path`, which `prepare` has brought up to date."""

    unconfirmed = "the disk did not confirm a commit"
    has_nodes = False
    counts_groups = False
    trouble = None
    is_durable = True  # every connection is made with `synchronous=FULL`

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._log_bytes = log_pages(os.statvfs(path.parent)) * PAGE_BYTES

    @classmethod
    def open(cls, path: Path, fresh: bool) -> LedgerFile:
        """Raises what `prepare` raises."""
        prepare(path, fresh)
        return cls(path)

    @property
    def name(self) -> str:
        return str(self._path)

    def connect_writer(self) -> Transaction:
        """A connection that has read the file: it needs room for the log's index, and a disk may be full."""
        try:
            connection = open_ledger(self._path, BUSY_MS)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except Exception as error:
            raise explained(error) from error
        return connection

    def connect_reader(self, *, for_apps: bool) -> Transaction:
        connection = open_ledger(self._path, BUSY_MS, APP_READER_STATEMENTS if for_apps else CACHED_STATEMENTS)
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIBIBYTES}")
        return connection

    def reconnect(self, connection: Transaction) -> None:
        """A file is not lost."""

    def begin(self, connection: Transaction, apps: Apps, shared: frozenset[int]) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def begin_snapshot(self, connection: Transaction) -> None:
        connection.execute("BEGIN")

    def record_group(self, connection: Transaction, now_ms: int) -> None:
        raise AssertionError("nobody else writes to the file")

    def commit(self, connection: Transaction) -> None:
        connection.execute("COMMIT")

    def roll_back(self, connection: Transaction) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:  # what led here is the cause, and is told
                log.error("a transaction could not be rolled back: %s", error)

    @contextmanager
    def limited(self, connection: Transaction, seconds: float) -> Iterator[None]:
        raw = cast(sqlite3.Connection, connection)
        deadline = time.monotonic() + seconds
        raw.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
        try:
            yield
        finally:
            raw.set_progress_handler(None, 0)

    def was_interrupted(self, error: BaseException) -> bool:
        return any(getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT for cause in causes(error))

    def fault_of(self, error: BaseException) -> Fault | None:
        return fault_of(error)

    def explained(self, error: BaseException) -> BaseException:
        return explained(error)

    def free_bytes_after_upkeep(self, connection: Transaction) -> int:
        """Count the free pages, and cut a log that readers let grow."""
        free_bytes = int(connection.execute("PRAGMA freelist_count").fetchone()[0]) * PAGE_BYTES
        try:
            log_bytes = self._log.stat().st_size
        except FileNotFoundError:
            return free_bytes
        if log_bytes > LOG_BOUND_FACTOR * self._log_bytes:
            connection.execute(f"PRAGMA busy_timeout = {LOG_BUSY_MS}")
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        return free_bytes

    def size_bytes(self) -> int:
        return sum(part.stat().st_size for part in (self._path, self._log) if part.exists())

    def give_back(self, connection: Transaction, *, all_bytes: bool) -> int:
        (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        surplus = free - (0 if all_bytes else max(KEPT_FREE_PAGES, pages // 4))
        if mode != INCREMENTAL or surplus <= 0:
            return 0
        given: int = min(surplus, VACUUM_PAGES)
        connection.execute(f"PRAGMA incremental_vacuum({given})").fetchall()
        return given


def prepare(path: Path, fresh: bool = True, keep_old: bool = True) -> None:
    """Create or migrate the file.

    Everything in the log goes into the file and is synced (law 5 of `database`): what an earlier run wrote but could
    not sync is in the kernel's memory only, until it is written anew. Raises what `migrate` raises, StorageError.
    """
    engine = make_engine(path, START_BUSY_MS)
    try:
        migrate(engine, path, fresh=fresh, keep_old=keep_old)
        with engine.connect() as connection:
            # A file that may only be read is refused now; BEGIN IMMEDIATE alone does not mind.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
            connection.exec_driver_sql("ROLLBACK")
            _empty_log(raw_connection(connection))
    except (sqlite3.Error, SQLAlchemyError) as error:
        found = explained(error)
        if found is error:
            raise
        raise found from error
    finally:
        engine.dispose()


def _empty_log(raw: sqlite3.Connection) -> None:
    try:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if fault_of(error) is not Fault.FULL:
            raise
        log.warning("the disk is full: the ledger's log stays as it is until there is room")
