"""The ledger's rows: one writer thread with group commit, a few readers with snapshots.

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
   `ledger_file.prepare` has copied and synced anew before anything is read.
6. Where other nodes write the same rows, a group first takes the locks of the apps that its operations have declared,
   and has them until its commit: for each app the nodes are one writer after the other (`app_locks`).

Where the rows are is the `Backend`'s matter: one file of SQLite (`ledger_file`), or a schema in PostgreSQL, where the
disk of these laws is the server, and its answer the sync (`postgresql.server`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from broker.sqlite_file import Fault
from gateway.latency import LatencyHistogram
from gateway.store.app_locks import NO_APP, NO_LOCKS, DeclaredApps, locks_for, with_app
from gateway.store.audited_writes import open_attempt
from gateway.store.backend import Backend
from gateway.store.errors import StorageDamaged, StorageError, StorageFailed
from gateway.store.ledger_file import LedgerFile
from gateway.store.read_queue import READ_SECONDS, ReadQueue
from gateway.store.server_time import STORE_TIME, StoredClock, read_stored_clock
from gateway.store.transaction import Transaction
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
CHECK_SECONDS = 1.0
"""Time between two checks of the log's size and the free pages."""
_OF_ALL = frozenset({Fault.FULL, Fault.FAILED, Fault.UNSYNCED, Fault.LOCKED})
"""Faults that are not of the operation in which they show: the disk's, or another process's."""


class Database:
    """The ledger's file: everything that writes and reads it goes through here. Loop.

    Made by `open`; the module has the laws.
    """

    def __init__(
        self,
        path: Path,
        backend: Backend,
        writer_connection: Transaction,
        clock_ms: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        on_full: Callable[[], bool],
    ) -> None:
        self.path = path
        """Where the ledger's file is, or would be."""
        self.groups = 0
        """Transactions committed, for metrics."""
        self.operations = 0
        """Operations in them."""
        self.commits = LatencyHistogram()
        """Time that commits took which had something to write, for metrics: above all the disk's sync."""
        self.lock_waits = LatencyHistogram()
        """Time that groups waited until they had the locks of their apps, where other nodes take them, too."""
        self._under_way: list[WriteOperation] = []
        """The group that the writer runs."""
        self._group_followers: list[Callable[[], None]] = []
        self._on_full = on_full
        self.free_bytes = 0
        """Bytes of the pages that are free inside the file, as of the last check."""
        self.trouble: StorageError | None = None
        self._is_asking = False
        """Error that keeps the file from being trusted, since it was seen; a new start may mend it."""
        self.lost: asyncio.Future[str] = loop.create_future()
        """Reason why nothing is written any more, if a sync has failed (law 5)."""
        self._backend = backend
        self._writer_connection = writer_connection
        self._clock_ms = clock_ms
        self._loop = loop
        self._queue = WriteQueue()
        self._closed = False
        self._unsynced = False
        self._readers = ThreadPoolExecutor(READER_THREADS, "database-reader")
        self._own_reader = ThreadPoolExecutor(1, "database-own-reader")
        self._look_ups = ThreadPoolExecutor(1, "database-look-up")
        self._new_reader = ThreadPoolExecutor(1, "database-new-reader")
        self.reads = ReadQueue(self._readers, READER_THREADS, loop)
        self._local = threading.local()
        self._reader_connections: list[Transaction] = []
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
        backend = await loop.run_in_executor(None, LedgerFile.open, path, fresh)
        return await cls.over(backend, path, make_clock, on_full)

    @classmethod
    async def over(
        cls,
        backend: Backend,
        path: Path,
        make_clock: Callable[[StoredClock], Callable[[], int]],
        on_full: Callable[[], bool],
    ) -> Database:
        """Start the threads over a backend that is prepared; as `open`."""
        loop = asyncio.get_running_loop()
        writer_connection, stored_clock = await loop.run_in_executor(None, _connect_writer, backend)
        return cls(path, backend, writer_connection, make_clock(stored_clock), loop, on_full)

    def unready(self) -> str | None:
        """Explain why nothing can be stored at the moment; None: it can, as far as is known."""
        return self._backend.trouble if self.trouble is None else self.trouble.detail

    @property
    def is_durable(self) -> bool:
        """Whether the database's settings let what is committed survive a power cut, as of a minute ago."""
        return self._backend.is_durable

    def ask_again(self) -> None:
        """Have the writer ask a database that was away, even if nothing else is written.

        A balancer may send nothing here until it has answered.
        """
        if self._backend.trouble is not None and not self._is_asking:
            self._is_asking = True
            self.submit(lambda transaction: None, self._on_asked, self._on_asked, apps=NO_APP)

    def _on_asked(self, _: object) -> None:
        self._is_asking = False

    def size_bytes(self) -> int:
        """Bytes that the database takes."""
        return self._backend.size_bytes()

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
        operation: Callable[[Transaction], T],
        on_commit: Callable[[T], None],
        on_error: Callable[[BaseException], None],
        app_no: int | None = None,
        *,
        apps: DeclaredApps = None,
        is_shared: bool = False,
        uses_reserve: bool = True,
    ) -> None:
        """Run `operation` on the writer thread, in the turn of the app that asks for it if one does.

        `apps`: the apps whose rows it may write. Unless they are said they are the app that asks, and every app if none
        does. `is_shared`: it writes nothing, and these are the apps whose rows it reads (`app_locks`).

        On a full disk the reserve is not given up for an operation with `uses_reserve=False`: one that may be refused,
        or done later. It is for what was accepted.

        Exactly one of the callbacks follows on the loop, `on_commit` after the fsync. The operation must not keep the
        connection nor end the transaction (so no `executescript`), and may run twice (see the laws).
        """
        if self._closed:
            raise RuntimeError("the database is closed")
        self._queue.put(WriteOperation(operation, on_commit, on_error, app_no, uses_reserve, apps, is_shared))

    async def write(
        self,
        operation: Callable[[Transaction], T],
        app_no: int | None = None,
        *,
        apps: DeclaredApps = None,
        is_shared: bool = False,
        is_audited: bool = True,
    ) -> T:
        """Run `operation` on the writer thread and wait for the commit; `apps` and `is_shared` are those of `submit`.

        In a request that may change something its entry in the audit log is written with it (`audited_writes`), unless
        it is not what the request is about (`is_audited`). A
        caller that is cancelled does not take its operation back. Raises the operation's own exception, or
        StorageError; for an app Problem 503 when that has too many changes waiting.
        """
        attempt = open_attempt() if is_audited else None
        if attempt is not None:
            operation = attempt.audited(operation, app_no, self._clock_ms)
            apps = with_app(apps, app_no, attempt.app_no)
        if app_no is not None and self._queue.waiting(app_no) >= WAITING_WRITES_OF_APP:
            raise self.reads.refusal(app_no, "writer_full", "too many changes of this app wait")
        future: asyncio.Future[T] = self._loop.create_future()

        def on_commit(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def on_error(error: BaseException) -> None:
            if not future.done():
                future.set_exception(error)

        self.submit(operation, on_commit, on_error, app_no, apps=apps, is_shared=is_shared)
        return await future

    def _write_groups(self) -> None:
        raw = self._writer_connection
        next_look = 0.0
        while group := self._queue.next_group(GROUP_OPERATIONS):
            self._under_way = group
            self._run_group(raw, group)
            self._under_way = []
            self._loop.call_soon_threadsafe(self._call_back, group)
            if time.monotonic() >= next_look and not self._unsynced:
                next_look = time.monotonic() + CHECK_SECONDS
                self._measure_free_bytes(raw)
        if not self._unsynced:
            self._writer_connection.close()

    def _run_group(self, raw: Transaction, group: list[WriteOperation]) -> None:
        if self._unsynced:
            for operation in group:
                operation.error = StorageFailed("an earlier commit was not confirmed; the server is ending")
            return
        try:
            self._run_together(raw, group)
        except Exception as error:  # whatever it is, the thread must live: everyone waits for it
            fault = self._backend.fault_of(error)
            if fault is Fault.UNSYNCED:
                self._give_up(error)
            else:
                self._backend.roll_back(raw)
            if fault is Fault.FULL and all(operation.uses_reserve for operation in group) and self._on_full():
                for operation in group:
                    operation.error = None
                self._run_group(raw, group)
                return
            if len(group) == 1 or fault in (Fault.UNSYNCED, Fault.LOCKED) or self._backend.trouble is not None:
                # Locked: another process has had the file for all of BUSY_MS; asking again would take as long each.
                # Trouble: nobody is there to ask.
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

    def _measure_free_bytes(self, raw: Transaction) -> None:
        """Writer thread, between groups."""
        try:
            self.free_bytes = self._backend.free_bytes_after_upkeep(raw)
        except Exception as error:  # whatever it is, the thread must live
            if self._backend.fault_of(error) is Fault.UNSYNCED:
                self._give_up(error)
            else:
                self._explained(error)

    async def maintain_file(self) -> None:
        """Have the writer maintain the file, even if nothing else is written.

        A disk that was full may not be any more.
        """
        await self.write(lambda transaction: None, apps=NO_APP)

    async def give_back(self, *, all_pages: bool = False) -> int:
        """Give a slice of the free pages back to the disk, beyond what is kept for tomorrow or all of them; how many.

        A file that was made without `auto_vacuum` gives none: its free pages are used again, but stay in the file.
        """
        return await self.write(
            lambda connection: self._backend.give_back(connection, all_bytes=all_pages), apps=NO_APP
        )

    def _give_up(self, error: Exception) -> None:
        """Write nothing any more, and let the process end (law 5). Writer thread."""
        self._unsynced = True
        self.trouble = StorageFailed(f"{self._backend.unconfirmed}; the server is ending")
        self._loop.call_soon_threadsafe(
            self.lost.set_result, f"{self._backend.name}: {self._backend.unconfirmed}: {error}"
        )

    def _explained(self, error: BaseException) -> BaseException:
        """The error that the callers are told. Any thread."""
        found = self._backend.explained(error)
        if isinstance(found, StorageDamaged) and self.trouble is None:
            self.trouble = found
            log.critical(
                "%s is damaged (%s): stop the server, check the disk, restore a backup", self._backend.name, found
            )
        return found

    def _run_together(self, raw: Transaction, group: list[WriteOperation]) -> None:
        if self._backend.has_nodes:
            apps, shared = locks_for(group)
            asked = time.monotonic()
            self._backend.begin(raw, apps, shared)
            self.lock_waits.add((time.monotonic() - asked) * 1000, 1)
        else:
            apps, shared = NO_LOCKS
            self._backend.begin(raw, apps, shared)
        before = raw.total_changes
        # Each statement less is one pass of the interpreter lock less, for which this thread may wait longer than for
        # the statement: so no savepoints, as long as nothing fails.
        try:
            deadline = time.monotonic() + GROUP_SECONDS
            for count, operation in enumerate(group, 1):
                operation.result = operation.run(raw)
                if not raw.in_transaction:
                    raise RuntimeError("an operation has ended its group's transaction")
                if count < len(group) and time.monotonic() > deadline:
                    self._queue.put_back(group[count:])
                    del group[count:]
        except Exception as error:
            if len(group) == 1 or self._backend.fault_of(error) in _OF_ALL:
                raise
            self._backend.roll_back(raw)
            self._backend.begin(raw, apps, shared)
            before = raw.total_changes
            for operation in group:
                self._run_in_savepoint(raw, operation)
        has_changed = raw.total_changes != before
        if has_changed:
            if self._backend.counts_groups:
                self._backend.record_group(raw, self._clock_ms())
            else:
                raw.execute(STORE_TIME, (self._clock_ms(),))
        began = time.monotonic()
        self._backend.commit(raw)
        if has_changed:
            self.commits.add((time.monotonic() - began) * 1000, 1)
        self.groups += 1
        self.operations += len(group)

    def _run_in_savepoint(self, raw: Transaction, operation: WriteOperation) -> None:
        raw.execute("SAVEPOINT operation")
        try:
            operation.result = operation.run(raw)
        except Exception as error:
            if not raw.in_transaction or self._backend.fault_of(error) in _OF_ALL:
                raise  # the database gave the whole transaction up, or the disk did
            operation.error = error
            raw.execute("ROLLBACK TO operation")
        raw.execute("RELEASE operation")

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

    async def read(self, operation: Callable[[Transaction], T], app_no: int | None = None) -> T:
        """Run `operation` on a reader thread over one snapshot, in the turn of the app that it is done for.

        Without an app the server reads for itself. Raises the operation's exception, or StorageError; for an app
        Problem 503 when that has too much to read.
        """
        if app_no is None:
            return await self._loop.run_in_executor(self._own_reader, self._read, operation)
        try:
            return await self.reads.run(app_no, lambda: self._read_in_time(operation))
        except Exception as error:
            if self._backend.was_interrupted(error):
                raise self.reads.refusal(app_no, "too_long", f"this takes longer than {READ_SECONDS:g} s") from None
            raise

    async def read_soon(self, operation: Callable[[Transaction], T]) -> T:
        """Run a single statement, of some rows at most, on the thread that is kept for such look-ups."""

        def run() -> T:
            try:
                return operation(self._reader())
            except Exception as error:
                raise self._explained(error) from error

        return await self._loop.run_in_executor(self._look_ups, run)

    def look_up(
        self,
        operation: Callable[[Transaction], T],
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

    def read_new(
        self,
        operation: Callable[[Transaction], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Run `operation` over one snapshot, on the thread that is kept for what other nodes have stored.

        Exactly one of the callbacks follows on the loop; as to order it is as with `look_up`.
        """

        def run() -> None:
            try:
                result = self._read(operation)
            except Exception as error:
                self._loop.call_soon_threadsafe(on_error, error)
            else:
                self._loop.call_soon_threadsafe(on_done, result)

        self._new_reader.submit(run)

    def _read(self, operation: Callable[[Transaction], T], raw: Transaction | None = None) -> T:
        """Over this connection of the thread, if it was taken already."""
        try:
            if raw is None:
                raw = self._reader()
            self._backend.begin_snapshot(raw)
            try:
                return operation(raw)
            finally:
                self._backend.roll_back(raw)
        except Exception as error:
            found = self._explained(error)
            if found is error:
                raise
            raise found from error

    def _read_in_time(self, operation: Callable[[Transaction], T]) -> T:
        raw = self._reader(for_apps=True)
        with self._backend.limited(raw, READ_SECONDS):
            return self._read(operation, raw)

    def _reader(self, *, for_apps: bool = False) -> Transaction:
        """The reader connection of this thread, which is for apps if it is one of theirs."""
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self._backend.connect_reader(for_apps=for_apps)
            self._reader_connections.append(self._local.connection)
        else:
            self._backend.reconnect(self._local.connection)
        return self._local.connection  # type: ignore[no-any-return]  # what was put there

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
        for threads in (self._readers, self._own_reader, self._look_ups, self._new_reader):
            await self._loop.run_in_executor(None, threads.shutdown)
        if self._unsynced:
            return
        for connection in self._reader_connections:
            connection.close()


def _connect_writer(backend: Backend) -> tuple[Transaction, StoredClock]:
    """The writer's connection, and what earlier runs have left of server time. Raises StorageError."""
    connection = backend.connect_writer()
    try:
        return connection, read_stored_clock(connection)
    except Exception as error:
        connection.close()
        raise backend.explained(error) from error
