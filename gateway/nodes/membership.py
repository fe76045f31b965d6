"""Membership of this node among the others: its lease, renewed while it runs, and who else is there.

Laws
1. Nobody compares clocks, only lengths of time on a clock of its own (CLOCK_BOOTTIME, which goes on in suspend). A
   lease lasts LEASE_SECONDS from before its last confirmed renewal was sent. Whoever has seen another's row unchanged
   for ENDED_SECONDS since an answer showed it declares that one ended, by a statement that finds the row unchanged.
2. A lease that is over is lost for good, and ends the process (`lost`). Until it has ended, `may_serve` keeps
   everything from being handed over: from the very moment, whatever the loop was doing, or the machine.
3. An epoch that others name has ended when its row says so, and not because it is unknown here: `is_live` is as of the
   last renewal.

The renewals are a thread's, with a connection of its own: a loop or a writer that is busy for seconds keeps its lease.
The rest runs on the loop.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from gateway import data_directory
from gateway.store.nodes import leases
from gateway.store.nodes.leases import LeaseConnection, NodeEpoch, NodeRow

log = logging.getLogger(__name__)

LEASE_SECONDS = 3.0
"""Time for which a renewal lets a node serve."""
RENEWAL_SECONDS = 0.5
"""Time between two renewals: five may fail before the lease is over."""
ENDED_SECONDS = 4.0
"""Time without a renewal after which others end a node's epoch. The second beside LEASE_SECONDS is for clocks that
drift, and for a node that is paused between a look at its lease and what it does then."""
UNANSWERED_SECONDS = 1.0
"""Time after which a renewal that gets no answer is given up, and tried over a new connection."""
_RETRY_SECONDS = 0.1
_WATCH_SECONDS = 0.1
_END_SECONDS = 2.0
_EXPIRED: Final = f"no renewal of its lease was confirmed for {LEASE_SECONDS:g} s"
_DECLARED: Final = "another node has declared it ended"
_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _boottime() -> float:
    return time.clock_gettime(_BOOTTIME)


@dataclass(slots=True, frozen=True)
class Node:
    """A node in one of its epochs."""

    no: int
    epoch: int
    url: str
    """Where its HTTP port is for other nodes, without a path."""
    secret: str
    """What it is asked with; new in each epoch."""


class _Watched(NamedTuple):
    """How long a peer's row has been as it is."""

    epoch: int
    renewals: int
    since: float
    """CLOCK_BOOTTIME, in seconds, when an answer first showed it so."""


class Membership:
    """The lease of this node, and its peers, from `join` to `end`. Loop, where nothing else is said."""

    def __init__(
        self, connection: LeaseConnection, own: Node, until: float, rows: list[NodeRow], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.own = own
        self.lost: asyncio.Future[str] = loop.create_future()
        """The reason why the lease is over, as soon as it is: the process ends, as after a kill."""
        self._connection = connection
        self._until = until
        """The end of the lease, in seconds of CLOCK_BOOTTIME."""
        self._is_over = False
        self._loop = loop
        self._peers: dict[int, Node] = {}
        self._followers: list[tuple[Callable[[Node], None], Callable[[Node], None]]] = []
        self._watched: dict[int, _Watched] = {}
        self._asked_at: float | None = None
        """Since when a renewal waits for its answer."""
        self._clock_ms: Callable[[], int] = lambda: 0
        self._ending = threading.Event()
        self._note_peers(rows)
        self._thread = threading.Thread(target=self._renew_until_over, name="node-lease", daemon=True)
        self._thread.start()
        self._watch_timer = loop.call_later(_WATCH_SECONDS, self._watch)

    @classmethod
    async def join(cls, connection: LeaseConnection, data_dir: Path, url: str) -> Membership:
        """Register the node that `data_dir` is, and begin to renew its lease. Raises StorageError, OSError.

        An earlier epoch of the same directory has ended then; the caller holds the directory.
        """
        loop = asyncio.get_running_loop()
        own, until, rows = await loop.run_in_executor(None, _register, connection, data_dir, url)
        return cls(connection, own, until, rows, loop)

    def store_time_of(self, clock_ms: Callable[[], int]) -> None:
        """Have the renewals store server time, now that it is known (milliseconds)."""
        self._clock_ms = clock_ms

    @property
    def writer_epoch(self) -> NodeEpoch:
        """The epoch that the writer's groups are stored under."""
        return NodeEpoch(no=self.own.no, epoch=self.own.epoch, on_ended=self.lose)

    def peers(self) -> Sequence[Node]:
        """List the other nodes, as of the last renewal, by number."""
        return list(self._peers.values())

    def is_live(self, no: int, epoch: int) -> bool:
        """Whether this epoch was live at the last renewal. One that has begun since then is not known yet."""
        node = self.own if no == self.own.no else self._peers.get(no)
        return node is not None and node.epoch == epoch

    def follow(self, on_joined: Callable[[Node], None], on_ended: Callable[[Node], None]) -> None:
        """Be told of nodes that begin an epoch, and of epochs that end, from now on. `peers` are as after it then."""
        self._followers.append((on_joined, on_ended))

    def may_serve(self) -> bool:
        """Whether the lease holds at this moment. Any thread."""
        return not self._is_over and _boottime() < self._until

    def lose(self, reason: str) -> None:
        """End the lease for good. Any thread."""
        self._is_over = True
        try:
            self._loop.call_soon_threadsafe(self._note_loss, reason)
        except RuntimeError:  # the loop is closed: there is nothing left to end
            log.info("the lease of node %d is over after the end: %s", self.own.no, reason)

    async def end(self) -> None:
        """Renew no more, and end this epoch, so that nobody has to wait for its lease. What has to be stored is."""
        self._watch_timer.cancel()
        self._ending.set()
        try:
            await asyncio.wait_for(asyncio.to_thread(self._end_epoch), _END_SECONDS)
        except TimeoutError:
            self._connection.abort()
            log.warning("node %d ends without a word to the others: PostgreSQL does not answer", self.own.no)

    # -- the lease -----------------------------------------------------------------------------------------------------

    def _note_loss(self, reason: str) -> None:
        if not self.lost.done() and not self._ending.is_set():
            self.lost.set_result(reason)

    def _watch(self) -> None:
        """See that the lease is over, whatever the thread waits for, and do not let it wait for ever."""
        now = _boottime()
        if now >= self._until:
            self.lose(_EXPIRED)
        if self._is_over:
            return
        if self._asked_at is not None and now - self._asked_at > UNANSWERED_SECONDS:
            self._connection.abort()
        self._watch_timer = self._loop.call_later(_WATCH_SECONDS, self._watch)

    def _renew_until_over(self) -> None:
        """The thread: renew, and declare ended whoever does not."""
        pause = RENEWAL_SECONDS
        while not self._ending.wait(pause) and not self._is_over:
            try:
                rows = self._renew()
            except Exception as error:  # whatever it is, only the time decides
                if pause == RENEWAL_SECONDS:
                    log.warning("the lease of node %d was not renewed, trying again: %s", self.own.no, error)
                pause = _RETRY_SECONDS
                continue
            pause = RENEWAL_SECONDS
            if rows is None:
                self.lose(_DECLARED)
                return
            try:
                self._loop.call_soon_threadsafe(self._note_peers, rows)
            except RuntimeError:  # the loop is closed
                return

    def _renew(self) -> list[NodeRow] | None:
        """Renew the lease; who is left, or None if it has ended. Raises StorageError."""
        sent = self._asked_at = _boottime()
        try:
            renewed = partial(leases.renew, no=self.own.no, epoch=self.own.epoch, at=self._clock_ms())
            rows = self._connection.run(renewed)
        finally:
            self._asked_at = None
        if rows is None:
            return None
        if sent >= self._until:  # it was over: that is final
            self.lose(_EXPIRED)
            return rows
        self._until = sent + LEASE_SECONDS
        answered = _boottime()
        before, self._watched = self._watched, {}
        for row in rows:
            seen, watched = _Watched(row.epoch, row.renewals, answered), before.get(row.no)
            is_same = watched is not None and watched[:2] == seen[:2]
            self._watched[row.no] = watched if is_same and watched is not None else seen
        return [row for row in rows if row.no == self.own.no or not self._declare_ended(row, sent)]

    def _declare_ended(self, row: NodeRow, sent: float) -> bool:
        """Has this peer not renewed for so long, and did this node end it? `sent`: when its row was asked for."""
        if sent - self._watched[row.no].since < ENDED_SECONDS:
            return False
        if not self._connection.run(partial(leases.declare_ended, no=row.no, epoch=row.epoch, renewals=row.renewals)):
            return False
        log.warning("node %d (%s) has not renewed its lease: declared ended", row.no, row.url)
        return True

    def _end_epoch(self) -> None:
        self._thread.join()
        try:
            self._connection.run(partial(leases.end, no=self.own.no, epoch=self.own.epoch))
        except Exception as error:
            log.warning("node %d ends without a word to the others: %s", self.own.no, error)
        self._connection.close()

    # -- peers ---------------------------------------------------------------------------------------------------------

    def _note_peers(self, rows: list[NodeRow]) -> None:
        found = {row.no: Node(row.no, row.epoch, row.url, row.secret) for row in rows if row.no != self.own.no}
        before, self._peers = self._peers, found
        ended = [node for no, node in before.items() if found.get(no) != node]
        joined = [node for no, node in found.items() if before.get(no) != node]
        for on_joined, on_ended in self._followers:
            for call, nodes in ((on_ended, ended), (on_joined, joined)):
                for node in nodes:
                    try:
                        call(node)
                    except Exception:
                        log.exception("a follower of the nodes failed")


def _register(connection: LeaseConnection, data_dir: Path, url: str) -> tuple[Node, float, list[NodeRow]]:
    """Begin an epoch; the node, the end of its lease, and who is there."""
    known = _known(data_dir)
    identity = secrets.token_hex(16) if known is None else known[1]
    secret = secrets.token_urlsafe(32)
    sent = _boottime()
    no, epoch = connection.run(partial(leases.register, known=known, identity=identity, url=url, secret=secret))
    if known is None or known[0] != no:
        data_directory.write_private(data_dir / data_directory.NODE_FILE, f"{no} {identity}\n")
    rows = connection.run(partial(leases.renew, no=no, epoch=epoch, at=0))
    return Node(no, epoch, url, secret), sent + LEASE_SECONDS, rows or []


def _known(data_dir: Path) -> tuple[int, str] | None:
    """Number and identity that the directory has had; None: it is no node yet."""
    try:
        no, identity = (data_dir / data_directory.NODE_FILE).read_text().split()
        return int(no), identity
    except (FileNotFoundError, ValueError):
        return None
