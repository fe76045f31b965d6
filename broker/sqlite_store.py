"""The durable `SessionStore`: one SQLite file, written by group commit (`group_commit`).

The tables, and what a group does to them, are in `sqlite_tables`.

Laws
1. A barrier's callback runs after COMMIT with `synchronous=FULL`, that is after fsync.
2. The file belongs to one process (a lock beside it); others may read it, for a backup.
3. A sync that failed is not tried again: the kernel may have dropped pages that it could not write, and call the next
   sync a success. Nothing is acknowledged and nothing written any more, `lost` has the reason, and the program that
   runs the broker ends the process; the next start copies and syncs the file again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from broker import sqlite_tables
from broker.group_commit import Group, GroupCommit
from broker.packet_ids import LAST_PACKET_ID
from broker.sqlite_file import PAGE_BYTES, Fault, connect, fault_of, log_pages
from broker.sqlite_tables import SCHEMA, SCHEMA_VERSION, UPGRADES
from broker.store import StoredState
from broker.stored_values import seconds

logger = logging.getLogger(__name__)

EXIT_UNSYNCED = 74
"""The exit code of a process that ends because of law 3: EX_IOERR of sysexits.h. A service manager starts it again."""


class StoreInUse(Exception):
    """Another process has the file."""


class StoreTooNew(Exception):
    """The file was written by a later version of this program."""


class SqliteStore(GroupCommit):
    """The store of one broker. Open it on the *loop*; end it with `await close()`."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._path = path
        self._lock = _lock(path)
        try:
            self._connection = _open(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._writer.start()

    def restore(self) -> StoredState:
        return sqlite_tables.restore(self._connection)

    def claim_packet_ids(self, size: int) -> int:
        before = sqlite_tables.next_packet_id(self._connection)
        first = before if before + size - 1 <= LAST_PACKET_ID else 1
        following = first + size
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            sqlite_tables.set_next_packet_id(self._connection, following)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:  # a start needs no space
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            logger.error("the packet identifiers of this run cannot be reserved yet, trying again: %s", error)
            self._changed()
            self._collecting.next_packet_id = following
        else:
            self._unused_from = before
        return first

    def last_time(self) -> float:
        """Return the latest server time that an earlier run has stored, in seconds; 0 without one."""
        row = self._connection.execute("SELECT time FROM server").fetchone()
        return 0.0 if row is None else seconds(row[0])

    def _close_connection(self) -> None:
        if self._unused_from is not None:  # a start that fails, again and again, must not come round to ranges in use
            with suppress(sqlite3.Error):
                sqlite_tables.set_next_packet_id(self._connection, self._unused_from)
        self._connection.close()
        os.close(self._lock)

    def _commit(self, group: Group) -> str | None:
        """Commit a group; return the reason for a failure, or None. Runs on the *writer thread*."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            sqlite_tables.apply(connection, group)
            connection.execute("COMMIT")
        except Exception as error:
            # Not only SQLite's: a group that our own fault spoils must be as loud, and this thread must live on.
            self._given_up = fault_of(error) is Fault.UNSYNCED
            try:
                if not self._given_up and connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                logger.exception("a failed group could not be rolled back")
            return f"{type(error).__name__}: {error}"
        return None

    def _report_loss(self, error: str) -> None:
        super()._report_loss(f"{self._path}: the disk did not confirm what was written: {error}")


def void_sessions(path: Path) -> None:
    """Delete the sessions of a restored backup, a copy of the file from an earlier time.

    Clients have gone on since then: they have identifiers of messages that the copy does not know, and would take new
    messages under them for repetitions. Told that there is no session, they forget these identifiers [MQTT-3.2.2-5].
    Raises StoreTooNew, sqlite3.Error.
    """
    with closing(_open(path)) as connection:
        sqlite_tables.void_sessions(connection)
        connection.execute("PRAGMA journal_mode=DELETE")  # the file stands alone again


def stored_state(path: Path) -> StoredState:
    """Read what a broker that has ended has stored. Raises StoreTooNew, sqlite3.Error."""
    with closing(_open(path)) as connection:
        return sqlite_tables.restore(connection)


def _lock(path: Path) -> int:
    """Return an open descriptor with the lock, which the kernel releases when the process ends, however it ends."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise StoreInUse(str(path)) from None
        raise
    return descriptor


def _open(path: Path) -> sqlite3.Connection:
    # For its owner only; SQLite gives the log beside it the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # Made by one thread, used by another; never by two at a time.
    connection = connect(path, isolation_level=None, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreTooNew(f"{path} has schema {version}, this program knows {SCHEMA_VERSION}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        pages = log_pages(os.statvfs(path.parent))
        connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
        connection.execute(f"PRAGMA journal_size_limit={pages * PAGE_BYTES}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # law 3
        if not version:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT")
            _sync_directory(path.parent)
        else:
            for older in range(version, SCHEMA_VERSION):
                upgrade = f"{UPGRADES[older]} PRAGMA user_version={older + 1}"
                connection.executescript(f"BEGIN IMMEDIATE; {upgrade}; COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _sync_directory(directory: Path) -> None:
    """Sync a directory: a synced file is lost all the same if the power fails before its name is on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
