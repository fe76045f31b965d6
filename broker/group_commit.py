"""Group commit of session state: one writer thread, and a group of changes for each commit.

Changes are collected in a `Group` on the *loop*. The *writer thread* commits one group at a time; changes that come
meanwhile are the next group, so that the busier the broker is, the more one sync of the disk carries. Where groups go
is the store's own matter (`sqlite_store`, or the embedder's database).

Laws
1. A barrier's callback runs after its group's COMMIT, and in the order the barriers were set. If everything is stored
   already, it runs at once.
2. A group that cannot be written (disk full, I/O error) is tried again until it can. Nothing is acknowledged meanwhile,
   so the clients keep their messages: the loser of a slow disk is the publisher's pace, never a promise.
3. A group has the last state of each row that changed, not the way there: it may be written twice.

A group is handed over in the loop's next turn after a barrier was asked for; without one it waits for
`LINGER_SECONDS`. Price: a session that changed costs about 400 bytes until its group is
committed, a row 200.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from broker.message import Message
from broker.store import PublishedWill, SharedSessions, StoredOutbound, StoredSession, StoredState, StoredSubscription

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.01
"""Time that changes without a barrier wait for others: about one fsync on a slow disk."""
RETRY_SECONDS = 1.0
"""Pause between attempts to write a group that failed."""


class SessionChanges:
    """The net effect of a group on one session. `wiped`: all its older rows go first."""

    __slots__ = ("outbound", "received", "session", "subscriptions", "wiped")

    def __init__(self) -> None:
        self.wiped = False
        self.session: StoredSession | None = None
        """The session's own facts, without its lists."""
        self.subscriptions: dict[str, StoredSubscription | None] = {}
        self.outbound: dict[int, StoredOutbound | None] = {}
        self.received: dict[int, bool] = {}


class Group:
    """The changes of one commit, and the callbacks that wait for it."""

    __slots__ = (
        "callbacks",
        "changed",
        "messages",
        "next_packet_id",
        "operations",
        "released",
        "retained",
        "sessions",
        "time",
        "wills",
    )

    def __init__(self) -> None:
        self.changed = False
        self.sessions: dict[str, SessionChanges] = {}
        self.messages: dict[int, Message | None] = {}
        self.retained: dict[str, Message | None] = {}
        self.time: float | None = None
        self.next_packet_id: int | None = None
        self.wills: dict[int, PublishedWill | None] = {}
        self.released: set[str] = set()
        """Clients whose sessions have left memory, with a store that is shared."""
        self.operations: list[Callable[[Any], None]] = []
        """What a store of the embedder does besides, in the transaction of the group."""
        self.callbacks: list[Callable[[], None]] = []


class GroupCommit:
    """A store that commits groups: everything of `SessionStore` but what reads. End it with `await close()`.

    Methods run on the *loop*; groups are committed on the *writer thread*, which a subclass starts when it can commit.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.shared: SharedSessions | None = None
        """See `SessionStore.shared`."""
        self._unused_from: int | None = None
        """First packet identifier of this run, as long as no session can have been sent any."""
        self._clock: Callable[[], float] | None = None
        self._collecting = Group()
        self._writing: Group | None = None
        self._hand_over: asyncio.Handle | None = None
        self._write_scheduled = False
        self._closing = False
        self._idle: asyncio.Future[None] | None = None
        self._groups: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._stop_retrying = threading.Event()
        self._given_up = False
        """Nothing is written any more, because nobody knows what is stored. Set on the *writer thread*."""
        self.error: str | None = None
        """Reason for the failure of the last attempt to write; None if it succeeded."""
        self.lost: asyncio.Future[str] = loop.create_future()
        """Resolves with the reason when nothing is written any more."""
        self._writer = threading.Thread(target=self._write_groups, name="broker-store", daemon=True)

    def restore(self) -> StoredState:
        """See `SessionStore`."""
        raise NotImplementedError

    def claim_packet_ids(self, size: int) -> int:
        """See `SessionStore`."""
        raise NotImplementedError

    def _commit(self, group: Group) -> str | None:
        """Commit a group; return the reason for a failure, or None. Runs on the *writer thread*."""
        raise NotImplementedError

    def _close_connection(self) -> None:
        """Release what the writer thread has used, which has ended."""
        raise NotImplementedError

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Store server time with every group, for the next run."""
        self._clock = clock

    # -- `SessionStore` ------------------------------------------------------------------------------------------------

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

    async def close(self) -> None:
        """Write the rest, run the callbacks that wait for it, and end the writer.

        A store that refuses the last group is tried once more and then given up: nothing of it was acknowledged. One
        that is `lost` stays open: closing it would write.
        """
        self._closing = True
        if self._given_up:
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
        self._close_connection()

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
                if self._given_up:
                    self._loop.call_soon_threadsafe(self._report_loss, error)
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

    def _report_loss(self, error: str) -> None:
        """Report that nothing is written any more. Runs on the *loop*."""
        self.lost.set_result(error)
        if self._idle is not None:
            self._idle.set_result(None)
