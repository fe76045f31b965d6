"""The durable `SessionStore`: one SQLite file, one writer thread, group commit.

Changes are collected in a `Group` on the *loop*. The *writer thread* commits one group at a time; changes that come
meanwhile are the next group, so that the busier the broker is, the more one sync of the disk carries. The tables and
what a group does to them are in `sqlite_tables`.

Laws
1. A barrier's callback runs after COMMIT with `synchronous=FULL`, that is after fsync, and in the order the barriers
   were set. If everything is on disk already, it runs at once.
2. A group that cannot be written (disk full, I/O error) is tried again until it can. Nothing is acknowledged meanwhile,
   so the clients keep their messages: the loser of a slow disk is the publisher's pace, never a promise.
3. The file belongs to one process (a lock beside it); others may read it, for a backup.
4. A sync that failed is not tried again: the kernel may have dropped pages that it could not write, and call the next
   sync a success. Nothing is acknowledged and nothing written any more, `lost` has the reason, and the program that
   runs the broker ends the process; the next start copies and syncs the file again.

A group is handed over in the loop's next turn after a barrier was asked for; without one it waits for
`LINGER_SECONDS`. Price: a session that changed costs about 400 bytes until its group is
committed, a row 200.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from broker import sqlite_tables
from broker.message import Message
from broker.packet_ids import LAST_PACKET_ID
from broker.sqlite_file import PAGE_BYTES, Fault, connect, fault_of, log_pages
from broker.sqlite_tables import SCHEMA, SCHEMA_VERSION, UPGRADES, Group, SessionChanges
from broker.store import PublishedWill, StoredOutbound, StoredSession, StoredState, StoredSubscription

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.01
"""Time that changes without a barrier wait for others: about one fsync on a slow disk."""
RETRY_SECONDS = 1.0
"""Pause between attempts to write a group that failed."""

EXIT_UNSYNCED = 74
"""The exit code of a process that ends because of law 4: EX_IOERR of sysexits.h. A service manager starts it again."""


class StoreInUse(Exception):
    """Another process has the file."""


class StoreTooNew(Exception):
    """The file was written by a later version of this program."""


class SqliteStore:
    """The store of one broker. Open it on the *loop*; end it with `await close()`.

    Methods run on the *loop*; groups are committed on the *writer thread*.
    """

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._path = path
        self._lock = _lock(path)
        try:
            self._connection = _open(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._clock: Callable[[], float] | None = None
        self._collecting = Group()
        self._writing: Group | None = None
        self._hand_over: asyncio.Handle | None = None
        self._write_scheduled = False
        self._closing = False
        self._unused_from: int | None = None
        """First packet identifier of this run, as long as no session can have been sent any."""
        self._idle: asyncio.Future[None] | None = None
        self._groups: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._stop_retrying = threading.Event()
        self._unsynced = False
        self.error: str | None = None
        """Reason for the failure of the last attempt to write; None if it succeeded."""
        self.lost: asyncio.Future[str] = loop.create_future()
        """Resolves with the reason when a sync has failed and nothing is written any more (law 4)."""
        self._writer = threading.Thread(target=self._write_groups, name="broker-store", daemon=True)
        self._writer.start()

    # -- `SessionStore` ------------------------------------------------------------------------------------------------

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

    def save_session(self, session: StoredSession) -> None:
        self._unused_from = None
        if session.will is not None:  # a snapshot: the will's due time changes under the same object
            session = replace(session, will=replace(session.will))
        self._changes_of(session.client_id).session = session

    def delete_session(self, client_id: str) -> None:
        self._changed()
        changes = self._collecting.sessions[client_id] = SessionChanges()
        changes.wiped = True

    def save_subscription(self, client_id: str, subscription: StoredSubscription) -> None:
        self._changes_of(client_id).subscriptions[subscription.topic_filter] = subscription

    def delete_subscription(self, client_id: str, topic_filter: str) -> None:
        self._changes_of(client_id).subscriptions[topic_filter] = None

    def save_message(self, message_key: int, message: Message) -> None:
        self._changed()
        self._collecting.messages[message_key] = message

    def delete_message(self, message_key: int) -> None:
        self._changed()
        messages = self._collecting.messages
        if messages.get(message_key) is not None:
            del messages[message_key]  # a key is saved once: it was never on disk
        else:
            messages[message_key] = None

    def save_outbound(self, client_id: str, outbound: StoredOutbound) -> None:
        self._changes_of(client_id).outbound[outbound.sequence] = outbound

    def delete_outbound(self, client_id: str, sequence: int) -> None:
        self._changes_of(client_id).outbound[sequence] = None

    def save_received(self, client_id: str, packet_id: int) -> None:
        self._changes_of(client_id).received[packet_id] = True

    def delete_received(self, client_id: str, packet_id: int) -> None:
        self._changes_of(client_id).received[packet_id] = False

    def save_retained(self, message: Message) -> None:
        self._changed()
        self._collecting.retained[message.topic] = message

    def delete_retained(self, topic: str) -> None:
        self._changed()
        self._collecting.retained[topic] = None

    def save_published_will(self, will: PublishedWill) -> None:
        self._changed()
        self._collecting.wills[will.number] = will

    def delete_published_will(self, number: int) -> None:
        self._changed()
        self._collecting.wills[number] = None

    def barrier(self, callback: Callable[[], None]) -> None:  # Hot path of ordinary messages.
        if self._collecting.changed:
            self._collecting.callbacks.append(callback)
            self._write_next_turn()
        elif self._writing is not None:
            self._writing.callbacks.append(callback)  # read on this thread only, when the writer thread has reported
        else:
            callback()

    # -- beside the protocol -------------------------------------------------------------------------------------------

    def last_time(self) -> float:
        """Return the latest server time that an earlier run has stored, in seconds; 0 without one."""
        row = self._connection.execute("SELECT time FROM server").fetchone()
        return 0.0 if row is None else sqlite_tables.seconds(row[0])

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Store server time with every group, for `last_time` of the next run."""
        self._clock = clock

    async def close(self) -> None:
        """Write the rest, run the callbacks that wait for it, and close the file.

        A disk that refuses the last group is tried once more and then given up: nothing of it was acknowledged.
        After a failed sync the file stays open: closing it would write.
        """
        self._closing = True
        if self._unsynced:
            return
        self._stop_retrying.set()
        if self._collecting.changed:
            self._write_next_turn()
        if self._collecting.changed or self._writing is not None:
            self._idle = self._loop.create_future()
            await self._idle
        if self.lost.done():  # meanwhile
            return
        self._groups.put(None)
        self._writer.join()
        if self._unused_from is not None:  # a start that fails, again and again, must not come round to ranges in use
            with suppress(sqlite3.Error):
                sqlite_tables.set_next_packet_id(self._connection, self._unused_from)
        self._connection.close()
        os.close(self._lock)

    # -- gathering -----------------------------------------------------------------------------------------------------

    def _changes_of(self, client_id: str) -> SessionChanges:
        self._changed()
        sessions = self._collecting.sessions
        changes = sessions.get(client_id)
        if changes is None:
            changes = sessions[client_id] = SessionChanges()
        return changes

    def _changed(self) -> None:
        group = self._collecting
        if not group.changed:
            group.changed = True
            if self._writing is None:
                self._hand_over = self._loop.call_later(LINGER_SECONDS, self._write)

    def _write_next_turn(self) -> None:
        """Hand over in the loop's next turn, because a barrier waits; other callers of this turn share the group."""
        if self._writing is None and not self._write_scheduled:
            self._write_scheduled = True
            if self._hand_over is not None:
                self._hand_over.cancel()
            self._hand_over = self._loop.call_soon(self._write)

    def _write(self) -> None:
        group = self._collecting
        self._collecting = Group()
        self._hand_over = None
        self._write_scheduled = False
        self._writing = group
        if self._clock is not None:
            group.time = self._clock()
        self._groups.put(group)

    def _written(self, error: str | None) -> None:
        """Run the callbacks of a group after its COMMIT. Runs on the *loop*.

        Changes and barriers of a callback belong to the next group. With `error` (close() was called and the disk still
        refuses) no callback runs.
        """
        group = self._writing
        assert group is not None, "the writer thread reports once per group"
        if error is None:
            # By index: a barrier that a callback asks for without changing anything joins this very list.
            at = 0
            while at < len(group.callbacks):
                callback = group.callbacks[at]
                at += 1
                try:
                    callback()
                except Exception:
                    logger.exception("a barrier's callback failed")
        self._writing = None
        if self._collecting.changed:
            if self._collecting.callbacks or self._closing:
                self._write()
            else:
                self._hand_over = self._loop.call_later(LINGER_SECONDS, self._write)
        elif self._idle is not None:
            self._idle.set_result(None)

    # -- the writer thread ---------------------------------------------------------------------------------------------

    def _write_groups(self) -> None:
        """Commit groups in their order until the end. Runs on the *writer thread*."""
        while (group := self._groups.get()) is not None:
            while (error := self._commit(group)) is not None:
                if self.error != error:
                    logger.error("sessions cannot be stored, nothing is acknowledged until they can: %s", error)
                self.error = error
                if self._unsynced:
                    self._loop.call_soon_threadsafe(self._report_unsynced, error)
                    return
                if self._stop_retrying.wait(RETRY_SECONDS):
                    error = self._commit(group)
                    break
            if error is None and self.error is not None:
                logger.warning("sessions are stored again")
                self.error = None
            try:
                self._loop.call_soon_threadsafe(self._written, error)
            except RuntimeError:
                return  # the loop was closed without close(): no callback can run

    def _commit(self, group: Group) -> str | None:
        """Commit a group; return the reason for a failure, or None. Runs on the *writer thread*."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            sqlite_tables.apply(connection, group)
            connection.execute("COMMIT")
        except Exception as error:
            # Not only SQLite's: a group that our own fault spoils must be as loud, and this thread must live on.
            self._unsynced = fault_of(error) is Fault.UNSYNCED
            try:
                if not self._unsynced and connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                logger.exception("a failed group could not be rolled back")
            return f"{type(error).__name__}: {error}"
        return None

    def _report_unsynced(self, error: str) -> None:
        """Report a failed sync (law 4). Runs on the *loop*."""
        self.lost.set_result(f"{self._path}: the disk did not confirm what was written: {error}")
        if self._idle is not None:
            self._idle.set_result(None)


def void_sessions(path: Path) -> None:
    """Delete the sessions of a restored backup, a copy of the file from an earlier time.

    Clients have gone on since then: they have identifiers of messages that the copy does not know, and would take new
    messages under them for repetitions. Told that there is no session, they forget these identifiers [MQTT-3.2.2-5].
    Raises StoreTooNew, sqlite3.Error.
    """
    with closing(_open(path)) as connection:
        sqlite_tables.void_sessions(connection)
        connection.execute("PRAGMA journal_mode=DELETE")  # the file stands alone again


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
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # law 4
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
