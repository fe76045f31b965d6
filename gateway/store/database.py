"""One SQLite file: one writer thread with group commit, a few readers with snapshots.

Laws
1. Everything that writes goes through the one writer. Operations run in the order of submission, those that an app asks
   for by itself in its turn (`write_queue`); a group of them shares one transaction and one fsync, and their callbacks
   come back on the loop in the order in which they ran, one thread hop per group. So `202` costs a share of an fsync,
   not an fsync.
2. A failing operation is rolled back alone and gets its own exception; its neighbours commit. For that the group is run
   again with a savepoint for each, which are not worth their statements while nothing fails. When the *commit* or the
   disk fails, the group is run again one by one, so that what needs no space (a read on the writer) is not taken down
   by what does.
3. Readers never block the writer nor wait for it (WAL); each read sees one snapshot.
4. Reads for an app take turns with those of other apps and are interrupted when they take long (`read_queue`). What the
   server reads for itself has a thread of its own, and so have look-ups of credentials: devices connect, and keys are
   known, however much is being read.

`synchronous=FULL` makes every commit an fsync of the WAL: an acknowledged write survives a power cut.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import NullPool
from sqlmodel import Session

from broker.sqlite_file import connect
from gateway.store.migrations import migrate
from gateway.store.read_queue import READ_SECONDS, ReadQueue
from gateway.store.server_time import StoredClock, read_stored_clock
from gateway.store.write_queue import WriteOperation, WriteQueue

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_OPERATIONS = 1_000
"""Operations of one transaction: bounds how long the first caller of a burst waits for the last."""
GROUP_SECONDS = 0.02
"""And the time after which no further one is begun in it: a few times what a commit takes."""
WAITING_WRITES_OF_APP = 1_000
"""Changes that one app asks for and that wait, a few kilobytes each."""
READERS = 3
"""Threads that read for apps, of which one app has two at most; the machine this is sized for has two cores."""
PROGRESS_STEPS = 20_000
"""Steps of SQLite's machine, about 1 ms, after which a read for an app looks whether it has taken too long."""
BUSY_MS = 10_000
"""How long a connection waits for another process (a hot backup, a migration) before it gives up."""
CACHE_KIB = 65_536
"""Page cache of the writer: the hot end of the delivery table and its mailbox index stay in memory."""
READER_CACHE_KIB = 4_096
"""Page cache of a reader. In WAL mode the next read after anybody's commit begins with an empty one, so it serves one
read; the rest would be memory that is filled and given back, and fragments."""
AUTOCHECKPOINT_PAGES = 4_000
"""16 MiB of WAL between checkpoints: a checkpoint's own fsync is shared by some hundred groups."""
CACHED_STATEMENTS = 256
"""Compiled statements of a connection: those of `rows.insert_rows`, 32 for each of two tables, and all others."""
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class StorageFull(Exception):
    """The disk has no room (or fails): nothing of the operation was stored."""


class Database:
    """See the module. Made by `open`; every method belongs to the loop's thread."""

    def __init__(self, path: Path, engine: Engine, clock: Callable[[], int], loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self.groups = 0
        """Transactions committed, for metrics."""
        self.operations = 0
        """Operations in them."""
        self.on_group: Callable[[], None] = lambda: None
        """Called on the loop after a group's callbacks; set to the event feed's."""
        self._engine = engine
        self._clock = clock
        self._loop = loop
        self._queue = WriteQueue()
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, "database-reader")
        self._own_reader = ThreadPoolExecutor(1, "database-own-reader")
        self._look_ups = ThreadPoolExecutor(1, "database-look-up")
        self.reads = ReadQueue(self._readers, READERS, loop)
        self._local = threading.local()
        self._reader_connections: list[Any] = []
        self._writer = threading.Thread(target=self._write_groups, name="database-writer", daemon=True)
        self._writer.start()

    @classmethod
    async def open(cls, path: Path, make_clock: Callable[[StoredClock], Callable[[], int]]) -> Database:
        """Migrate under a lock, then start the threads.

        `make_clock` is given what earlier runs have left of server time and answers the clock of this run, so that time
        never goes back over a restart. Raises SchemaTooNew, StorageFull.
        """
        loop = asyncio.get_running_loop()
        stored_clock = await loop.run_in_executor(None, prepare, path)
        return cls(path, make_engine(path), make_clock(stored_clock), loop)

    # -- writing -----------------------------------------------------------------------------------------------------

    def submit(
        self,
        operation: Callable[[sqlite3.Connection], T],
        on_commit: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        app_no: int | None = None,
    ) -> None:
        """Run `operation` on the writer thread, in the turn of the app that asks for it if one does; exactly one of the
        callbacks follows on the loop.

        `on_commit` comes after the fsync. The operation must not keep the connection nor end the transaction (so no
        `executescript`), and may run twice (see the laws).
        """
        if self._closed:
            raise RuntimeError("the database is closed")
        self._queue.put(WriteOperation(operation, on_commit, on_error, app_no))

    async def write(self, operation: Callable[[sqlite3.Connection], T], app_no: int | None = None) -> T:
        """Wait for the commit. Raises the operation's own exception, or StorageFull; for an app Problem 503 when that
        has too many changes waiting.

        A caller that is cancelled does not take its operation back.
        """
        if app_no is not None and self._queue.waiting(app_no) >= WAITING_WRITES_OF_APP:
            raise self.reads.refusal(app_no, "writer_full", "too many changes of this app wait")
        future: asyncio.Future[T] = self._loop.create_future()

        def on_commit(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def on_error(error: BaseException) -> None:
            if not future.done():
                future.set_exception(error)

        self.submit(operation, on_commit, on_error, app_no)
        return await future

    async def write_models(self, operation: Callable[[Session], T], app_no: int) -> T:
        """The same for an app with a SQLModel session, for the paths where a row at a time is fine."""

        def run(_: sqlite3.Connection) -> T:
            return _in_session(self._writer_connection, operation)

        return await self.write(run, app_no)

    def _write_groups(self) -> None:
        self._writer_connection = self._engine.connect()
        raw = raw_connection(self._writer_connection)
        while group := self._queue.take(GROUP_OPERATIONS):
            self._run_group(raw, group)
            self._loop.call_soon_threadsafe(self._call_back, group)
        self._writer_connection.close()

    def _run_group(self, raw: sqlite3.Connection, group: list[WriteOperation]) -> None:
        try:
            self._run_together(raw, group)
        except Exception as error:  # whatever it is, the thread must live: everyone waits for it
            _roll_back(raw)
            if len(group) == 1 or _code(error) == sqlite3.SQLITE_BUSY:
                # Busy: another process kept the file locked for all of BUSY_MS; asking again would take as long each.
                for operation in group:
                    operation.error = _explained(error)
                return
            log.warning("a group of %d operations was refused (%s): running them one by one", len(group), error)
            for operation in group:
                operation.error = None
                self._run_group(raw, [operation])

    def _run_together(self, raw: sqlite3.Connection, group: list[WriteOperation]) -> None:
        raw.execute("BEGIN IMMEDIATE")
        before = raw.total_changes
        # Each statement less is one pass of the interpreter lock less, for which this thread may wait longer than for
        # the statement: so no savepoints, as long as nothing fails.
        try:
            deadline = time.monotonic() + GROUP_SECONDS
            for count, operation in enumerate(group, 1):
                operation.result = operation.run(raw)
                if not raw.in_transaction:
                    raise sqlite3.OperationalError("an operation has ended its group's transaction")
                if count < len(group) and time.monotonic() > deadline:
                    self._queue.put_back(group[count:])
                    del group[count:]
        except Exception as error:
            if len(group) == 1 or _code(error) in (*_FULL, sqlite3.SQLITE_BUSY):
                raise
            _roll_back(raw)
            raw.execute("BEGIN IMMEDIATE")
            before = raw.total_changes
            for operation in group:
                _run_in_savepoint(raw, operation)
        if raw.total_changes != before:
            raw.execute(
                "INSERT INTO clock (no, at) VALUES (1, ?) ON CONFLICT (no) DO UPDATE SET at = max(at, excluded.at)",
                (self._clock(),),
            )
        raw.execute("COMMIT")
        self.groups += 1
        self.operations += len(group)

    def _call_back(self, group: list[WriteOperation]) -> None:
        for operation in group:
            try:
                if operation.error is None:
                    operation.on_commit(operation.result)
                else:
                    operation.on_error(operation.error)
            except Exception:
                log.exception("a callback of the database failed")
        self.on_group()

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self, operation: Callable[[sqlite3.Connection], T], app_no: int | None = None) -> T:
        """Run `operation` on a reader thread over one snapshot: in the turn of the app that it is done for, or for the
        server itself. Raises its exception; for an app Problem 503 when that has too much to read."""
        if app_no is None:
            return await self._loop.run_in_executor(self._own_reader, self._read, operation)
        try:
            return await self.reads.run(app_no, lambda: self._read_in_time(operation))
        except Exception as error:
            if _code(error) == sqlite3.SQLITE_INTERRUPT:
                raise self.reads.refusal(app_no, "too_long", f"this takes longer than {READ_SECONDS:g} s") from None
            raise

    async def read_models(self, operation: Callable[[Session], T], app_no: int) -> T:
        """The same for an app, with a SQLModel session."""
        return await self.read(lambda _: _in_session(self._local.connection, operation), app_no)

    async def read_soon(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run a single statement, of some rows at most, on the thread that is kept for such look-ups."""
        return await self._loop.run_in_executor(self._look_ups, lambda: operation(self._reader()))

    def look_up(
        self,
        operation: Callable[[sqlite3.Connection], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """As `read_soon`; exactly one of the callbacks follows on the loop.

        Cheaper than that: no future. Nothing is promised about the order of the callback and those of `submit`.
        """

        def run() -> None:
            try:
                result = operation(self._reader())
            except Exception as error:
                self._loop.call_soon_threadsafe(on_error, error)
            else:
                self._loop.call_soon_threadsafe(on_done, result)

        self._look_ups.submit(run)

    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        raw = self._reader()
        raw.execute("BEGIN")
        try:
            return operation(raw)
        finally:
            _roll_back(raw)

    def _read_in_time(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        deadline = time.monotonic() + READ_SECONDS
        raw = self._reader()
        raw.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
        try:
            return self._read(operation)
        finally:
            raw.set_progress_handler(None, 0)

    def _reader(self) -> sqlite3.Connection:
        """This thread's connection."""
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self._engine.connect()
            raw_connection(self._local.connection).execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
            self._reader_connections.append(self._local.connection)
        return raw_connection(self._local.connection)

    async def close(self) -> None:
        """Everything submitted is committed and called back; then the threads end."""
        if self._closed:
            return
        self._closed = True
        self._queue.close()
        await self._loop.run_in_executor(None, self._writer.join)
        await asyncio.sleep(0)  # the last group's callbacks were scheduled before the thread ended
        self.reads.close()
        for threads in (self._readers, self._own_reader, self._look_ups):
            await self._loop.run_in_executor(None, threads.shutdown)
        for connection in self._reader_connections:
            connection.close()
        self._engine.dispose()


class _Connection(sqlite3.Connection):
    """SQLAlchemy may not end a transaction: groups and snapshots are begun and ended here, in SQL."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


def make_engine(path: Path) -> Engine:
    """A SQLAlchemy engine whose connections have our pragmas and leave transactions to us."""

    def open_file() -> sqlite3.Connection:
        return connect(
            path,
            timeout=BUSY_MS / 1000,
            check_same_thread=False,
            factory=_Connection,
            cached_statements=CACHED_STATEMENTS,
        )

    engine = create_engine("sqlite://", creator=open_file, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN and COMMIT ourselves: groups, savepoints, snapshots
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            # Off: on the hot tables every row would pay a look-up for what the code guarantees (a delivery is
            # inserted with its push, devices are never deleted while deliveries refer to them).
            "foreign_keys = OFF",
            "temp_store = MEMORY",
            f"cache_size = -{CACHE_KIB}",
            f"wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}",
            f"busy_timeout = {BUSY_MS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def prepare(path: Path) -> StoredClock:
    """Create or migrate the file; what it says of server time."""
    engine = make_engine(path)
    try:
        migrate(engine, path.with_name(path.name + ".migrate.lock"))
        with engine.connect() as connection:
            return read_stored_clock(raw_connection(connection))
    finally:
        engine.dispose()


def raw_connection(connection: Any) -> sqlite3.Connection:
    """The driver's connection under SQLAlchemy's."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection), "the pysqlite driver"
    return raw


def _run_in_savepoint(raw: sqlite3.Connection, operation: WriteOperation) -> None:
    raw.execute("SAVEPOINT operation")
    try:
        operation.result = operation.run(raw)
    except Exception as error:
        if not raw.in_transaction or _code(error) in _FULL:
            raise  # SQLite gave the whole transaction up, or the disk did
        operation.error = error
        raw.execute("ROLLBACK TO operation")
    raw.execute("RELEASE operation")


def _in_session(connection: Any, operation: Callable[[Session], T]) -> T:
    """Run in a session whose transaction is a savepoint of the one that is open on the raw connection."""
    with connection.begin(), Session(connection, join_transaction_mode="create_savepoint") as session:
        result = operation(session)
        session.commit()
        session.expunge_all()
        return result


def _roll_back(raw: sqlite3.Connection) -> None:
    if raw.in_transaction:
        raw.execute("ROLLBACK")


def _code(error: BaseException | None) -> int | None:
    """SQLite's primary result code for the *first* failure behind an error.

    SQLAlchemy wraps the driver's errors, and a disk that is full may be hidden by what follows from it (SQLite has
    rolled everything back, so the session finds no savepoint to return to).
    """
    code: int | None = None
    while error is not None:
        code = getattr(error, "sqlite_errorcode", code)
        error = error.__context__
    return code & 0xFF if code is not None else None


def _explained(error: Exception) -> Exception:
    return StorageFull(f"the disk has no room for it: {error}") if _code(error) in _FULL else error
