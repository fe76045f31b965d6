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
5. A sync that failed is not tried again: the kernel may have dropped what it could not write and call the next sync a
   success. The group's outcome is unknown, and is told so; nothing is written to the file any more, not even what
   closing it would write; `lost` says so, and the process ends. The next start begins from what the file holds, which
   `prepare` has copied and synced anew before anything is read.

`synchronous=FULL` makes every commit an fsync of the WAL: an acknowledged write survives a power cut.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from broker.sqlite_file import PAGE_BYTES, Fault, fault_of, log_pages
from gateway.latency import LatencyHistogram
from gateway.store.audited_writes import open_attempt
from gateway.store.connections import APP_READER_STATEMENTS, make_engine, raw_connection
from gateway.store.errors import StorageDamaged, StorageError, StorageFailed, explained
from gateway.store.migrations import migrate
from gateway.store.read_queue import READ_SECONDS, ReadQueue
from gateway.store.server_time import StoredClock, read_stored_clock
from gateway.store.write_queue import WriteOperation, WriteQueue

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_OPERATIONS = 1_000
"""Operations of one transaction: bounds how long the first caller of a burst waits for the last."""
GROUP_SECONDS = 0.02
"""Time after which no further operation is started in a transaction: a few times what a commit takes."""
WAITING_WRITES_OF_APP = 1_000
"""Changes that one app asks for and that wait, a few kilobytes each."""
READER_THREADS = 3
"""Threads that read for apps, of which one app has two at most; the machine this is sized for has two cores."""
PROGRESS_STEPS = 20_000
"""Steps of SQLite's machine, about 1 ms, after which a read for an app looks whether it has taken too long."""
BUSY_MS = 2_500
"""Time that a connection waits for another process's lock, twice for who is behind: a client's patience is 10 s."""
START_BUSY_MS = 10_000
"""Time that a start waits for it, when nobody waits yet: another start may be migrating."""
READER_CACHE_KIBIBYTES = 4_096
"""Page cache of a reader. In WAL mode the next read after anybody's commit begins with an empty one, so it serves one
read; the rest would be memory that is filled and given back, and fragments."""
CHECK_SECONDS = 1.0
"""Time between two checks of the log's size and the free pages."""
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
_OF_ALL = frozenset({Fault.FULL, Fault.FAILED, Fault.UNSYNCED, Fault.LOCKED})
"""Faults that are not of the operation in which they show: the disk's, or another process's."""


class Database:
    """The ledger's file: everything that writes and reads it goes through here. Loop.

    Made by `open`; the module has the laws.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        writer_connection: Connection,
        clock_ms: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        on_full: Callable[[], bool],
    ) -> None:
        self.path = path
        self.groups = 0
        """Transactions committed, for metrics."""
        self.operations = 0
        """Operations in them."""
        self.commits = LatencyHistogram()
        """Time that commits took which had something to write, for metrics: above all the disk's sync."""
        self._under_way: list[WriteOperation] = []
        """The group that the writer runs."""
        self._group_followers: list[Callable[[], None]] = []
        self._on_full = on_full
        self.free_bytes = 0
        """Bytes of the pages that are free inside the file, as of the last check."""
        self.trouble: StorageError | None = None
        """Error that keeps the file from being trusted, since it was seen; a new start may mend it."""
        self.lost: asyncio.Future[str] = loop.create_future()
        """Reason why nothing is written any more, if a sync has failed (law 5)."""
        self._engine = engine
        self._engine_for_apps = make_engine(path, BUSY_MS, APP_READER_STATEMENTS)
        self._writer_connection = writer_connection
        self._clock_ms = clock_ms
        self._loop = loop
        self._queue = WriteQueue()
        self._closed = False
        self._log = path.with_name(f"{path.name}-wal")
        self._log_bytes = log_pages(os.statvfs(path.parent)) * PAGE_BYTES
        self._unsynced = False
        self._readers = ThreadPoolExecutor(READER_THREADS, "database-reader")
        self._own_reader = ThreadPoolExecutor(1, "database-own-reader")
        self._look_ups = ThreadPoolExecutor(1, "database-look-up")
        self.reads = ReadQueue(self._readers, READER_THREADS, loop)
        self._local = threading.local()
        self._reader_connections: list[Any] = []
        self._writer = threading.Thread(target=self._write_groups, name="database-writer", daemon=True)
        self._writer.start()

    @classmethod
    async def open(
        cls,
        path: Path,
        make_clock: Callable[[StoredClock], Callable[[], int]],
        *,
        on_full: Callable[[], bool],
        fresh: bool = True,
    ) -> Database:
        """Migrate the file under a lock, then start the threads.

        `fresh`: the file may be made or filled, if there is nothing. `make_clock` is given what earlier runs have left
        of server time and answers the clock of this run, so that time never goes back over a restart. `on_full` is
        called on the writer thread when the disk is full, and answers whether it has made room. Raises what `migrate`
        raises, StorageError.
        """
        loop = asyncio.get_running_loop()
        stored_clock = await loop.run_in_executor(None, prepare, path, fresh)
        engine = make_engine(path, BUSY_MS)
        # Here, where who starts hears of it: the connection needs room for the log's index, and a disk may be full.
        writer_connection = await loop.run_in_executor(None, _connect, engine)
        return cls(path, engine, writer_connection, make_clock(stored_clock), loop, on_full)

    def follow_groups(self, on_group: Callable[[], None]) -> None:
        """Call this on the loop after the callbacks of each group, from now on."""
        self._group_followers.append(on_group)

    def backlog(self) -> tuple[int, float]:
        """Count the operations that the writer has not finished; the age of the oldest in seconds, 0 if there is none.

        For metrics: while a disk does not answer, this says since when.
        """
        count, oldest = self._queue.backlog()
        group = list(self._under_way)
        since = [operation.put_at for operation in group]
        if oldest is not None:
            since.append(oldest)
        return count + len(group), max(time.monotonic() - min(since), 0.0) if since else 0.0

    # -- writing -----------------------------------------------------------------------------------------------------

    def submit(
        self,
        operation: Callable[[sqlite3.Connection], T],
        on_commit: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        app_no: int | None = None,
        *,
        uses_reserve: bool = True,
    ) -> None:
        """Run `operation` on the writer thread, in the turn of the app that asks for it if one does.

        On a full disk the reserve is not given up for an operation with `uses_reserve=False`: one that may be refused,
        or done later. It is for what was accepted.

        Exactly one of the callbacks follows on the loop, `on_commit` after the fsync. The operation must not keep the
        connection nor end the transaction (so no `executescript`), and may run twice (see the laws).
        """
        if self._closed:
            raise RuntimeError("the database is closed")
        self._queue.put(WriteOperation(operation, on_commit, on_error, app_no, uses_reserve))

    async def write(self, operation: Callable[[sqlite3.Connection], T], app_no: int | None = None) -> T:
        """Run `operation` on the writer thread and wait for the commit.

        In a request that may change something its entry in the audit log is written with it (`audited_writes`). A
        caller that is cancelled does not take its operation back. Raises the operation's own exception, or
        StorageError; for an app Problem 503 when that has too many changes waiting.
        """
        attempt = open_attempt()
        if attempt is not None:
            operation = attempt.audited(operation, app_no, self._clock_ms)
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

    def _write_groups(self) -> None:
        raw = raw_connection(self._writer_connection)
        next_look = 0.0
        while group := self._queue.next_group(GROUP_OPERATIONS):
            self._under_way = group
            self._run_group(raw, group)
            self._under_way = []
            self._loop.call_soon_threadsafe(self._call_back, group)
            if time.monotonic() >= next_look and not self._unsynced:
                next_look = time.monotonic() + CHECK_SECONDS
                self._maintain_file(raw)
        if not self._unsynced:
            self._writer_connection.close()

    def _run_group(self, raw: sqlite3.Connection, group: list[WriteOperation]) -> None:
        if self._unsynced:
            for operation in group:
                operation.error = StorageFailed("the disk has not confirmed an earlier commit; the server is ending")
            return
        try:
            self._run_together(raw, group)
        except Exception as error:  # whatever it is, the thread must live: everyone waits for it
            fault = fault_of(error)
            if fault is Fault.UNSYNCED:
                self._give_up(error)
            else:
                _roll_back(raw)
            if fault is Fault.FULL and all(operation.uses_reserve for operation in group) and self._on_full():
                for operation in group:
                    operation.error = None
                self._run_group(raw, group)
                return
            if len(group) == 1 or fault in (Fault.UNSYNCED, Fault.LOCKED):
                # Locked: another process has had the file for all of BUSY_MS; asking again would take as long each.
                for operation in group:
                    operation.error = self._explained(error)
                return
            log.warning("a group of %d operations was refused (%s): running them one by one", len(group), error)
            for operation in group:
                operation.error = None
                self._run_group(raw, [operation])
        for operation in group:
            if operation.error is not None:
                operation.error = self._explained(operation.error)

    def _maintain_file(self, raw: sqlite3.Connection) -> None:
        """Count the free pages, and cut a log that readers let grow. Writer thread, between groups."""
        try:
            self.free_bytes = raw.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_BYTES
            if self._log.stat().st_size > LOG_BOUND_FACTOR * self._log_bytes:
                raw.execute(f"PRAGMA busy_timeout = {LOG_BUSY_MS}")
                try:
                    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    raw.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        except FileNotFoundError:
            pass
        except (sqlite3.Error, OSError) as error:
            if fault_of(error) is Fault.UNSYNCED:
                self._give_up(error)
            else:
                self._explained(error)

    async def maintain_file(self) -> None:
        """Have the writer maintain the file, even if nothing else is written.

        A disk that was full may not be any more.
        """
        await self.write(lambda connection: None)

    async def give_back(self, *, all_pages: bool = False) -> int:
        """Give a slice of the free pages back to the disk, beyond what is kept for tomorrow or all of them; how many.

        A file that was made without `auto_vacuum` gives none: its free pages are used again, but stay in the file.
        """
        return await self.write(lambda connection: _vacuum_slice(connection, all_pages))

    def _give_up(self, error: Exception) -> None:
        """Write nothing any more, and let the process end (law 5). Writer thread."""
        self._unsynced = True
        self.trouble = StorageFailed("the disk does not confirm what is written; the server is ending")
        self._loop.call_soon_threadsafe(
            self.lost.set_result, f"{self.path}: the disk did not confirm a commit: {error}"
        )

    def _explained(self, error: BaseException) -> BaseException:
        """The error that the callers are told. Any thread."""
        found = explained(error)
        if isinstance(found, StorageDamaged) and self.trouble is None:
            self.trouble = found
            log.critical("%s is damaged (%s): stop the server, check the disk, restore a backup", self.path, found)
        return found

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
            if len(group) == 1 or fault_of(error) in _OF_ALL:
                raise
            _roll_back(raw)
            raw.execute("BEGIN IMMEDIATE")
            before = raw.total_changes
            for operation in group:
                _run_in_savepoint(raw, operation)
        has_changed = raw.total_changes != before
        if has_changed:
            raw.execute(
                "INSERT INTO clock (no, at) VALUES (1, ?) ON CONFLICT (no) DO UPDATE SET at = max(at, excluded.at)",
                (self._clock_ms(),),
            )
        began = time.monotonic()
        raw.execute("COMMIT")
        if has_changed:
            self.commits.add((time.monotonic() - began) * 1000, 1)
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
        for on_group in self._group_followers:
            on_group()

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self, operation: Callable[[sqlite3.Connection], T], app_no: int | None = None) -> T:
        """Run `operation` on a reader thread over one snapshot, in the turn of the app that it is done for.

        Without an app the server reads for itself. Raises the operation's exception, or StorageError; for an app
        Problem 503 when that has too much to read.
        """
        if app_no is None:
            return await self._loop.run_in_executor(self._own_reader, self._read, operation)
        try:
            return await self.reads.run(app_no, lambda: self._read_in_time(operation))
        except Exception as error:
            if _is_interrupted(error):
                raise self.reads.refusal(app_no, "too_long", f"this takes longer than {READ_SECONDS:g} s") from None
            raise

    async def read_soon(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run a single statement, of some rows at most, on the thread that is kept for such look-ups."""

        def run() -> T:
            try:
                return operation(self._reader())
            except Exception as error:
                raise self._explained(error) from error

        return await self._loop.run_in_executor(self._look_ups, run)

    def look_up(
        self,
        operation: Callable[[sqlite3.Connection], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Run a single statement as `read_soon` does, without a future.

        Exactly one of the callbacks follows on the loop. The order of that callback and those of `submit` is not
        promised.
        """

        def run() -> None:
            try:
                result = operation(self._reader())
            except Exception as error:
                self._loop.call_soon_threadsafe(on_error, self._explained(error))
            else:
                self._loop.call_soon_threadsafe(on_done, result)

        self._look_ups.submit(run)

    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            raw = self._reader()
            raw.execute("BEGIN")
            try:
                return operation(raw)
            finally:
                _roll_back(raw)
        except Exception as error:
            found = self._explained(error)
            if found is error:
                raise
            raise found from error

    def _read_in_time(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        deadline = time.monotonic() + READ_SECONDS
        raw = self._reader(self._engine_for_apps)
        raw.set_progress_handler(lambda: time.monotonic() > deadline, PROGRESS_STEPS)
        try:
            return self._read(operation)
        finally:
            raw.set_progress_handler(None, 0)

    def _reader(self, engine: Engine | None = None) -> sqlite3.Connection:
        """The reader connection of this thread, made by this engine if it is the first time."""
        if getattr(self._local, "connection", None) is None:
            self._local.connection = (engine or self._engine).connect()
            raw_connection(self._local.connection).execute(f"PRAGMA cache_size = -{READER_CACHE_KIBIBYTES}")
            self._reader_connections.append(self._local.connection)
        return raw_connection(self._local.connection)

    async def close(self) -> None:
        """Everything submitted is committed and called back; then the threads end.

        After a failed sync the connections stay open: closing the last one would write to the file.
        """
        if self._closed:
            return
        self._closed = True
        self._queue.close()
        await self._loop.run_in_executor(None, self._writer.join)
        await asyncio.sleep(0)  # the last group's callbacks were scheduled before the thread ended
        self.reads.close()
        for threads in (self._readers, self._own_reader, self._look_ups):
            await self._loop.run_in_executor(None, threads.shutdown)
        if self._unsynced:
            return
        for connection in self._reader_connections:
            connection.close()
        self._engine.dispose()


def _connect(engine: Engine) -> Connection:
    """A connection that has read the file. Raises StorageError."""
    try:
        connection = engine.connect()
        raw_connection(connection).execute("SELECT count(*) FROM sqlite_master").fetchone()
    except Exception as error:
        raise explained(error) from error
    return connection


def prepare(path: Path, fresh: bool = True, keep_old: bool = True) -> StoredClock:
    """Create or migrate the file; the stored server time.

    Everything in the log goes into the file and is synced (law 5): what an earlier run wrote but could not sync is in
    the kernel's memory only, until it is written anew. Raises what `migrate` raises, StorageError.
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
            return read_stored_clock(raw_connection(connection))
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


def _run_in_savepoint(raw: sqlite3.Connection, operation: WriteOperation) -> None:
    raw.execute("SAVEPOINT operation")
    try:
        operation.result = operation.run(raw)
    except Exception as error:
        if not raw.in_transaction or fault_of(error) in _OF_ALL:
            raise  # SQLite gave the whole transaction up, or the disk did
        operation.error = error
        raw.execute("ROLLBACK TO operation")
    raw.execute("RELEASE operation")


def _vacuum_slice(connection: sqlite3.Connection, all_pages: bool) -> int:
    """Give a slice of free pages back to the disk (`give_back`). Writer thread."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    surplus = free - (0 if all_pages else max(KEPT_FREE_PAGES, pages // 4))
    if mode != INCREMENTAL or surplus <= 0:
        return 0
    given: int = min(surplus, VACUUM_PAGES)
    connection.execute(f"PRAGMA incremental_vacuum({given})").fetchall()
    return given


def _roll_back(raw: sqlite3.Connection) -> None:
    if raw.in_transaction:
        try:
            raw.execute("ROLLBACK")
        except sqlite3.Error as error:  # what led here is the cause, and is told
            log.error("a transaction could not be rolled back: %s", error)


def _is_interrupted(error: BaseException | None) -> bool:
    """Did the progress handler end the statement? Whatever its error became on the way."""
    while error is not None:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return True
        error = error.__context__
    return False
