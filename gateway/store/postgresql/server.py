"""A `Backend` in PostgreSQL: a schema of a database, which one server of ours has at a time.

Commits are as lasting as PostgreSQL's are: with `fsync`, `full_page_writes` and `synchronous_commit` on, as they are by
default. A connection that is lost costs what was under way: it was not stored, whoever asked is told so, and the next
statement connects again. A commit that is not answered may have happened, or not: each group of writes counts itself
where it is stored, and that count says which, when PostgreSQL answers again. If it does not for OUTCOME_SECONDS the
process ends, as after a failed sync of a file, and the next start begins from what is stored.

Nodes (docs/adr/0010-nodes.md) share the schema with each other, and with no server that is none. The last statement of
each group of theirs asks whether their lease holds (`store.nodes.leases`).

Any other server has the schema alone: the writer's connection holds an advisory lock, which PostgreSQL gives up with
it. What a server knows in memory is right only as long as no other one has written meanwhile. So each start has a
number in the schema, and a writer that connects again and finds another one there ends its process. So does one that
finds fewer groups than were confirmed to it, as behind a fail-over to a standby that was not synchronous, or a restored
backup: numbers that it has in memory are then given to other pushes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import psycopg
from psycopg import errors

from broker.sqlite_file import Fault
from gateway.store.app_locks import EVERY_APP, Apps
from gateway.store.errors import (
    STORAGE_ERRORS,
    StorageBusy,
    StorageContended,
    StorageError,
    StorageForbidden,
    StorageUnreachable,
    causes,
)
from gateway.store.migrations import HEAD, SchemaTooNew
from gateway.store.nodes import leases
from gateway.store.nodes.leases import NodeEpoch
from gateway.store.postgresql import server_starts
from gateway.store.postgresql.address import read_address
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.lease_connection import PostgresqlLeaseConnection
from gateway.store.postgresql.schema import prepare, require_program
from gateway.store.postgresql.upgrade import program_lock, stored_version
from gateway.store.server_time import STORE_TIME
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
    (errors.IdleInTransactionSessionTimeout, Fault.FAILED),
    (psycopg.OperationalError, Fault.FAILED),
    (psycopg.InterfaceError, Fault.FAILED),
)
LOCK_SECONDS = 5.0
"""Time that a start waits for the lock: PostgreSQL notices a moment later that a server was killed."""
_LOCK_PAUSE_SECONDS = 0.1
RETRY_SECONDS = 1.0
"""Time between two attempts to reach a PostgreSQL that is away."""
SIZE_SECONDS = 60.0
"""Time between two measurements of the database's size, which looks at each of its files, and of its settings."""
OUTCOME_SECONDS = 60.0
"""Time for which a commit that was not answered is asked after: longer than a fail-over takes."""
_WRITTEN = "another server has written to the schema while the connection was lost"
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
IDLE_MS = 2_000
"""Time after which PostgreSQL ends a group whose node has stopped in the middle of it, and gives up its locks."""
LOCK_MS = 2_500
"""Time that a group waits for a lock: longer than a node that has stopped keeps it, and shorter than a lease (3 s)."""
ANSWER_MS = 2_000
"""Time after which a peer that does not confirm what it was sent has gone: of PostgreSQL for a node, and of a node for
PostgreSQL. Shorter than a lease."""
_OF_A_WRITER = (
    f"idle_in_transaction_session_timeout={IDLE_MS}",
    f"lock_timeout={LOCK_MS}",
    f"tcp_user_timeout={ANSWER_MS}",
)
"""Settings of a node's writer."""
_PERMANENT = re.compile(r"password|pg_hba|does not exist|permission denied|not translate host name|SSL|authentication")
"""Refusals of a connection that stay until somebody changes something, in PostgreSQL's English."""


class CommitUnanswered(Exception):
    """The connection was lost while a commit was under way."""


class WrittenByAnother(Exception):
    """Another server has had the schema while the connection was lost."""


class CommitsLost(Exception):
    """PostgreSQL does not have groups any more whose commits it had confirmed."""


class PostgresqlServer:
    """A `Backend`: the schema of a database at a URL (`postgresql://user@host/database`). Raises BadAddress."""

    counts_groups = True
    unconfirmed = "PostgreSQL did not confirm a commit"

    def __init__(self, url: str, schema: str = SCHEMA, *, has_nodes: bool = False) -> None:
        self._node: NodeEpoch | None = None
        self._address = read_address(url)
        if has_nodes:
            self._address = self._address.with_parameters(tcp_user_timeout=ANSWER_MS)
        self.has_nodes = has_nodes
        self._schema = schema
        self._start_no = 0
        self._group: int | None = None
        """Which group of writes is under way, by the count where it is stored; None: it has changed nothing yet."""
        self._confirmed = 0
        """Groups whose commits were confirmed."""
        self._size_bytes = 0
        self._next_measurement = 0.0
        self._next_try = 0.0
        self._refusal = ""
        self.trouble: str | None = None
        self.is_durable = True

    @classmethod
    def open(cls, url: str, schema: str = SCHEMA, *, fresh: bool = True, has_nodes: bool = False) -> PostgresqlServer:
        """Make the schema if there is none and there may be none (`fresh`). `has_nodes`: others write to it as well.

        Raises BadAddress, NoSchema, SchemaTooNew, SchemaUnsuitable, MigrationFailed, StorageError.
        """
        server = cls(url, schema, has_nodes=has_nodes)
        try:
            prepare(server._address, schema, fresh=fresh)
        except psycopg.Error as error:
            raise _explained(error) from error
        return server

    def connect_lease(self) -> PostgresqlLeaseConnection:
        """A connection for leases, which connects when it is first used."""
        return PostgresqlLeaseConnection(self._address, self._schema, _explained)

    def connect_sessions(self) -> Transaction:
        """A connection for MQTT sessions, which are written beside the ledger. Raises StorageError."""
        return self._connected(*_OF_A_WRITER)

    def share(self, node: NodeEpoch) -> None:
        """Share the schema with other nodes, as this one; before any connection is made."""
        self._node = node

    @property
    def name(self) -> str:
        return f"schema {self._schema} of PostgreSQL ({self._address.place})"

    def connect_writer(self) -> Transaction:
        """The connection that keeps other servers away, or those that are no nodes. Raises StorageBusy when there is
        one."""
        connection = self._connected(*(_OF_A_WRITER if self.has_nodes else ()))
        try:
            self._lock_schema(connection, time.monotonic() + LOCK_SECONDS)
            self._lock_version(connection)
            if not self.has_nodes:
                self._start_no = server_starts.add_start(connection)
                leases.end_all(connection)
            leases.keep_last_time(connection)
            self._check_durability(connection)
        except Exception as error:
            connection.close()
            raise _explained(error) from error
        return connection

    def _check_durability(self, connection: Transaction) -> None:
        """See whether a committed group survives a power cut, and say so when it no longer does."""
        values = [connection.execute(f"SHOW {setting}").fetchone()[0] for setting in DURABLE]
        off = [setting for setting, value in zip(DURABLE, values, strict=True) if value == "off"]
        if self.is_durable:
            for setting in off:
                log.critical(
                    "PostgreSQL has %s = off: what was accepted may be lost in a power cut; set it to on", setting
                )
        self.is_durable = not off

    def connect_reader(self, *, for_apps: bool) -> Transaction:
        return self._connected()

    def _connected(self, *settings: str) -> Transaction:
        try:
            return Connection(self._address, self._schema, *settings)
        except psycopg.Error as error:
            raise _explained(error) from error

    def _lock_schema(self, connection: Transaction, deadline: float) -> None:
        """Held as long as the connection, by one server, or by all nodes. Raises StorageBusy after `deadline`
        (monotonic seconds)."""
        function = "pg_try_advisory_lock_shared" if self.has_nodes else "pg_try_advisory_lock"
        while True:
            (taken,) = connection.execute(
                f"SELECT {function}(? # hashtext(?))", (_OF_A_SERVER, self._schema)
            ).fetchone()
            if taken:
                return
            if time.monotonic() >= deadline:
                if self.has_nodes:
                    raise StorageBusy(f"a server that is no node has {self.name}: end that one first")
                raise StorageBusy(
                    f"another server has {self.name}: end that one first, or make each a node (--node-url)"
                )
            time.sleep(_LOCK_PAUSE_SECONDS)

    def _lock_version(self, connection: Transaction) -> None:
        """Keep an upgrade away on whose schema this program cannot run, as long as the connection lasts. Raises
        SchemaTooNew when that has come first."""
        lock = program_lock(self._schema, HEAD)
        connection.execute("SELECT pg_advisory_lock_shared(hashtextextended(?, 0))", (lock,))
        require_program(stored_version(connection))

    def begin(self, connection: Transaction, apps: Apps, shared: frozenset[int]) -> None:
        """Begin a transaction with the locks of its apps, before the snapshot of its first statement is taken.

        So it sees all that was committed under them before. With REPEATABLE READ the lock's own statement would take
        the snapshot, too early.
        """
        raw = cast(Connection, connection)
        self._group = None
        raw.notice_end()
        if raw.is_lost:
            self._restore_writer(raw)
        if not self.has_nodes:
            connection.execute(_BEGIN)
        elif apps or shared:
            raw.begin(f"{_BEGIN}; {_lock_statement(apps, shared)}")
        else:
            raw.begin(_BEGIN)

    def _restore_writer(self, raw: Connection) -> None:
        """Connect again, unless another server has had the schema meanwhile, or something is lost. Raises
        WrittenByAnother, CommitsLost."""
        if self.trouble is None:
            self.trouble = "the connection to PostgreSQL is lost; it is made again as soon as that answers"
            log.error("the connection to PostgreSQL is lost: nothing is accepted until it answers again")
        self._connect_again(raw)
        connection = cast(Transaction, raw)
        try:
            self._lock_schema(connection, time.monotonic())
            try:
                self._lock_version(connection)
            except SchemaTooNew as error:
                raise WrittenByAnother(str(error)) from error
            groups = self._recorded_groups(connection)
            if groups is None and not self.has_nodes:
                raise WrittenByAnother(_WRITTEN)  # nodes do write, and are told by the row of their epoch
            if groups is not None and groups < self._confirmed:
                raise CommitsLost(f"it has {groups} groups of {self._confirmed} that it had confirmed")
        except Exception:
            raw.close()  # or the next group would write without the lock
            raise
        self.trouble = None
        log.warning("PostgreSQL answers again")

    def reconnect(self, connection: Transaction) -> None:
        raw = cast(Connection, connection)
        raw.notice_end()
        if raw.is_lost:
            try:
                self._connect_again(raw)
            except psycopg.Error as error:
                raise _explained(error) from error

    def _connect_again(self, raw: Connection) -> None:
        """Any thread. A server that is away is asked once a second, by whoever comes first: one that does not even
        refuse takes seconds to be given up. Raises psycopg.Error, StorageUnreachable."""
        if time.monotonic() < self._next_try:
            raise StorageUnreachable(self._refusal)
        try:
            raw.connect_again()
        except psycopg.Error as error:
            self._refusal = one_line(error)
            self._next_try = time.monotonic() + RETRY_SECONDS
            raise

    def begin_snapshot(self, connection: Transaction) -> None:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def record_group(self, connection: Transaction, now_ms: int) -> None:
        """Count the group. Raises StorageUnreachable if this node's epoch has ended, and WrittenByAnother if another
        server has the schema: then nothing of the group may be stored."""
        node = self._node
        if node is not None:
            self._group = leases.record_group(connection, node.no, node.epoch, now_ms)
            if self._group is None:
                self.trouble = "this node's lease has ended"
                node.on_ended("another node has declared it ended")
                raise StorageUnreachable(self.trouble)
        elif self.has_nodes:  # one without a row
            connection.execute(STORE_TIME, (now_ms,))
        else:
            self._group = server_starts.record_group(connection, self._start_no, now_ms)
            if self._group is None:
                raise WrittenByAnother(_WRITTEN)

    def commit(self, connection: Transaction) -> None:
        """End a group. Raises CommitUnanswered if nobody says whether it happened, StorageUnreachable if it has not,
        CommitsLost."""
        try:
            connection.execute("COMMIT")
        except psycopg.OperationalError as error:
            raw = cast(Connection, connection)
            if not raw.is_lost or self._group is None:  # nothing was to be stored
                raise
            if not self._is_stored(raw, self._group, error):
                raise StorageUnreachable(f"the connection was lost before the commit: {one_line(error)}") from error
        if self._group is not None:
            self._confirmed = self._group

    def _recorded_groups(self, connection: Transaction) -> int | None:
        """Count the groups that are stored of this start, or in this epoch; None: it has ended, or there is none."""
        if self._node is not None:
            return leases.recorded_groups(connection, self._node.no, self._node.epoch)
        return None if self.has_nodes else server_starts.recorded_groups(connection, self._start_no)

    def _is_stored(self, raw: Connection, group: int, lost: psycopg.Error) -> bool:
        """Ask whether the commit of a group happened that was not answered. Raises CommitUnanswered."""
        deadline = time.monotonic() + OUTCOME_SECONDS
        while True:
            try:
                self._restore_writer(raw)
                groups = self._recorded_groups(cast(Transaction, raw))
            except (psycopg.Error, StorageError) as error:
                if time.monotonic() >= deadline:
                    raise CommitUnanswered(one_line(lost)) from error
                time.sleep(_LOCK_PAUSE_SECONDS)
                continue
            if groups is None:  # its epoch has ended: whoever reads the row next may be anybody
                raise CommitUnanswered(one_line(lost)) from lost
            log.warning("a commit was not answered, and it %s", "is stored" if groups == group else "has not happened")
            return groups == group

    def roll_back(self, connection: Transaction) -> None:
        if not cast(Connection, connection).is_lost and connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error as error:  # what led here is the cause, and is told
                log.error("a transaction could not be rolled back: %s", error)

    @contextmanager
    def limited(self, connection: Transaction, seconds: float) -> Iterator[None]:
        try:
            cast(Connection, connection).limit_statements(int(seconds * 1000))
        except psycopg.Error as error:  # nothing of a read was asked yet
            raise _explained(error) from error
        yield

    def was_interrupted(self, error: BaseException) -> bool:
        return any(isinstance(cause, errors.QueryCanceled) for cause in causes(error))

    def fault_of(self, error: BaseException) -> Fault | None:
        return _fault_of(error)

    def explained(self, error: BaseException) -> BaseException:
        return _explained(error)

    def free_bytes_after_upkeep(self, connection: Transaction) -> int:
        """PostgreSQL's own vacuum keeps its files; measure their size now and then, and look at its settings."""
        if time.monotonic() >= self._next_measurement:
            self._next_measurement = time.monotonic() + SIZE_SECONDS
            (self._size_bytes,) = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            self._check_durability(connection)
        return 0

    def size_bytes(self) -> int:
        return self._size_bytes

    def give_back(self, connection: Transaction, *, all_bytes: bool) -> int:
        return 0


def _lock_statement(apps: Apps, shared: frozenset[int]) -> str:
    if apps is EVERY_APP:
        return "SELECT lock_apps(NULL, NULL)"
    numbers = sorted(apps | shared)
    listed = ",".join(map(str, numbers))
    exclusively = ",".join("t" if app_no in apps else "f" for app_no in numbers)
    return f"SELECT lock_apps('{{{listed}}}', '{{{exclusively}}}')"


def _fault_of(error: BaseException) -> Fault | None:
    """The fault of the first failure: in a transaction that has failed, every further statement does."""
    fault: Fault | None = None
    for cause in causes(error):
        if isinstance(cause, CommitUnanswered | WrittenByAnother | CommitsLost):
            return Fault.UNSYNCED
        if isinstance(cause, StorageError):
            return cause.fault
        if isinstance(cause, psycopg.Error):
            fault = next((fault for kind, fault in _FAULTS if isinstance(cause, kind)), None)
    return fault


def _explained(error: BaseException) -> BaseException:
    fault = _fault_of(error)
    if fault is None or isinstance(error, StorageError):
        return error
    first = next((cause for cause in reversed(list(causes(error))) if isinstance(cause, psycopg.Error)), error)
    text = one_line(first)
    if fault is Fault.FAILED and _is_of_the_connection(first):
        return StorageForbidden(text) if _PERMANENT.search(text) else StorageUnreachable(text)
    return StorageContended(text) if isinstance(first, errors.LockNotAvailable) else STORAGE_ERRORS[fault](text)


def _is_of_the_connection(error: BaseException) -> bool:
    """Connections that are refused or end have no code, one of two classes, or that of a group that took too long."""
    code = getattr(error, "sqlstate", None)
    return code is None or code.startswith(("08", "57P", "25P03"))


def one_line(error: BaseException) -> str:
    """Format the text of an error of the driver, which may have lines of its own, for a message."""
    return " ".join(str(error).split())
