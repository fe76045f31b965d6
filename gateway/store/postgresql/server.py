"""A `Backend` in PostgreSQL: a schema of a database, which one server of ours has at a time.

Commits are as lasting as PostgreSQL's are: with `fsync`, `full_page_writes` and `synchronous_commit` on, as they are by
default. A commit that is not answered may have happened, or not: as after a failed sync of a file, the process ends,
and the next start begins from what is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import psycopg
from psycopg import errors

from broker.sqlite_file import Fault
from gateway.store.errors import STORAGE_ERRORS, StorageBusy, StorageError
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.schema import prepare
from gateway.store.server_time import StoredClock, read_stored_clock
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

SCHEMA = "fleetpush"
_OF_A_SERVER = 0x666C_6565_7470_7573
"""The advisory lock of who has the schema ("fleetpus"), beside the schema's own number."""
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
"""Settings without which an answered commit may be lost in a power cut."""
_FAULTS: tuple[tuple[type[psycopg.Error], Fault], ...] = (
    (errors.DiskFull, Fault.FULL),
    (errors.LockNotAvailable, Fault.LOCKED),
    (errors.DataCorrupted, Fault.DAMAGED),
    (errors.IndexCorrupted, Fault.DAMAGED),
    (errors.InsufficientPrivilege, Fault.FORBIDDEN),
    (errors.ReadOnlySqlTransaction, Fault.FORBIDDEN),
    (errors.QueryCanceled, Fault.FAILED),
    (psycopg.OperationalError, Fault.FAILED),
    (psycopg.InterfaceError, Fault.FAILED),
)


class CommitUnanswered(Exception):
    """The connection was lost while a commit was under way."""


class PostgresqlServer:
    """A `Backend`: the schema of a database at a URL (`postgresql://user@host/database`)."""

    def __init__(self, url: str, schema: str = SCHEMA) -> None:
        self._url = url
        self._schema = schema

    @classmethod
    def open(cls, url: str, schema: str = SCHEMA) -> PostgresqlServer:
        """Make the schema if there is none. Raises SchemaTooNew, MigrationFailed, StorageError."""
        try:
            prepare(url, schema)
        except psycopg.Error as error:
            raise _explained(error) from error
        return cls(url, schema)

    @property
    def name(self) -> str:
        return f"schema {self._schema} of PostgreSQL"

    def stored_clock(self) -> StoredClock:
        connection = self._connected()
        try:
            return read_stored_clock(connection)
        finally:
            connection.close()

    def connect_writer(self) -> Transaction:
        """The connection that keeps other servers away. Raises StorageBusy when there is one."""
        connection = self._connected()
        self._lock_schema(connection)
        for setting in DURABLE:
            (value,) = connection.execute(f"SHOW {setting}").fetchone()
            if value == "off":
                log.critical(
                    "PostgreSQL has %s = off: what was accepted may be lost in a power cut; set it to on", setting
                )
        return connection

    def connect_reader(self, *, for_apps: bool) -> Transaction:
        return self._connected()

    def _connected(self) -> Transaction:
        try:
            return Connection(self._url, self._schema)
        except psycopg.Error as error:
            raise _explained(error) from error

    def _lock_schema(self, connection: Transaction) -> None:
        """Held as long as the connection: PostgreSQL gives it up with that, whatever becomes of us."""
        (taken,) = connection.execute(
            "SELECT pg_try_advisory_lock(? # hashtext(?))", (_OF_A_SERVER, self._schema)
        ).fetchone()
        if not taken:
            connection.close()
            raise StorageBusy(f"another server has {self.name}: end that one first")

    def begin(self, connection: Transaction) -> None:
        raw = cast(Connection, connection)
        if raw.is_lost:
            raw.connect_again()
            self._lock_schema(connection)
            log.warning("the connection to PostgreSQL was lost, and is there again")
        connection.execute("BEGIN")

    def begin_snapshot(self, connection: Transaction) -> None:
        raw = cast(Connection, connection)
        if raw.is_lost:
            raw.connect_again()
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def commit(self, connection: Transaction) -> None:
        try:
            connection.execute("COMMIT")
        except psycopg.OperationalError as error:
            if cast(Connection, connection).is_lost:
                raise CommitUnanswered(str(error)) from error
            raise

    def roll_back(self, connection: Transaction) -> None:
        if not cast(Connection, connection).is_lost and connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error as error:  # what led here is the cause, and is told
                log.error("a transaction could not be rolled back: %s", error)

    @contextmanager
    def limited(self, connection: Transaction, seconds: float) -> Iterator[None]:
        raw = cast(Connection, connection)
        if raw.is_lost:
            raw.connect_again()
        connection.execute(f"SET statement_timeout = {int(seconds * 1000)}")
        yield

    def was_interrupted(self, error: BaseException) -> bool:
        return any(isinstance(cause, errors.QueryCanceled) for cause in _causes(error))

    def fault_of(self, error: BaseException) -> Fault | None:
        return _fault_of(error)

    def explained(self, error: BaseException) -> BaseException:
        return _explained(error)

    def free_bytes_after_upkeep(self, connection: Transaction) -> int:
        """PostgreSQL's own vacuum keeps its files."""
        return 0

    def give_back(self, connection: Transaction, *, all_bytes: bool) -> int:
        return 0


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__context__


def _fault_of(error: BaseException) -> Fault | None:
    """The fault of the first failure: in a transaction that has failed, every further statement does."""
    fault: Fault | None = None
    for cause in _causes(error):
        if isinstance(cause, CommitUnanswered):
            return Fault.UNSYNCED
        if isinstance(cause, psycopg.Error):
            fault = next((fault for kind, fault in _FAULTS if isinstance(cause, kind)), None)
    return fault


def _explained(error: BaseException) -> BaseException:
    fault = _fault_of(error)
    if fault is None or isinstance(error, StorageError):
        return error
    return STORAGE_ERRORS[fault](str(error).partition("\n")[0])
