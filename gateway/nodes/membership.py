"""Membership of this node among the others: its lease, renewed while it runs, and who else is there.

Laws
1. Nobody compares clocks, only lengths of time on a clock of its own (CLOCK_BOOTTIME, which goes on in suspend). A
   lease lasts LEASE_SECONDS from before its last confirmed renewal was sent. Whoever has seen another's row unchanged
   for ENDED_SECONDS since an answer showed it declares that one ended, by a statement that finds the row unchanged.
2. Without a lease nothing is handed over: `may_serve` says so from the very moment, whatever the loop was doing, or
   the machine. Who is declared ended has lost its lease for good, and so has who cannot renew it while others can: it
   ends the process (`lost`). While nobody can renew, because the database is away, nobody is ended either: the node
   waits for it with its sockets open, for WAIT_SECONDS at most, and serves on if its epoch has not ended. A row
   that is older than it was ends the process as well: the database has lost what it had confirmed, and numbers that are
   in memory here are given to other pushes.
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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from broker.clock import boottime
from gateway import data_directory
from gateway.nodes.fleet_time import FleetLine, LineSearch, step_ms
from gateway.store.errors import StorageBusy
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
WAIT_SECONDS = 60.0
"""Time for which a node waits without a lease for a database that is away: longer than a fail-over takes."""
_RETRY_SECONDS = 0.1
_LINE_PAUSE_SECONDS = 0.05
"""Time between two looks for the server time of others."""
_LINE_SECONDS = 15.0
"""Time for which a start waits for others that are starting."""
_WATCH_SECONDS = 0.1
_END_SECONDS = 2.0
_EXPIRED: Final = f"no renewal of its lease was confirmed for {LEASE_SECONDS:g} s"
_DECLARED: Final = "another node has declared it ended"
_COMMITS_LOST: Final = "the database has lost renewals of leases that it had confirmed"


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

    def __init__(self, connection: LeaseConnection, registered: _Registered, loop: asyncio.AbstractEventLoop) -> None:
        self.own = registered.own
        self.line = registered.line
        """Server time as the nodes that serve have it; None: there were none."""
        self.lost: asyncio.Future[str] = loop.create_future()
        """The reason why the lease is over, as soon as it is: the process ends, as after a kill."""
        self._connection = connection
        self._until = registered.until
        """The end of the lease, in seconds of CLOCK_BOOTTIME."""
        self._held_since = boottime()
        """Since when the lease has been without a gap."""
        self._is_over = False
        self._is_database_away: Callable[[], Awaitable[bool]] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._loop = loop
        self._peers: dict[int, Node] = {}
        self._followers: list[tuple[Callable[[Node], None], Callable[[Node], None]]] = []
        self.declared = 0
        """Epochs of other nodes that this one has declared ended, for metrics."""
        self._watched: dict[int, _Watched] = {}
        self._asked_at: float | None = None
        """Since when a renewal waits for its answer."""
        self._clock_ms: Callable[[], int] = lambda: 0
        self._advance: Callable[[float], None] | None = None
        self._compared_at: float | None = None
        """When server time was last compared with that of others."""
        self._has_stored_time = False
        self._wall = 0.0, 0.0
        """What the database's clock showed, in seconds, and when."""
        self._note_wall(registered.rows)
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._note_peers(registered.rows)
        self._thread = threading.Thread(target=self._renew_until_over, name="node-lease", daemon=True)
        self._thread.start()
        self._watch_timer = loop.call_later(_WATCH_SECONDS, self._watch)

    @classmethod
    async def join(cls, connection: LeaseConnection, data_dir: Path, url: str) -> Membership:
        """Register the node that `data_dir` is, and begin to renew its lease. Raises StorageError, OSError.

        An earlier epoch of the same directory has ended then; the caller holds the directory.
        """
        loop = asyncio.get_running_loop()
        registered = await loop.run_in_executor(None, _register, connection, data_dir, url)
        return cls(connection, registered, loop)

    def store_time_of(self, clock_ms: Callable[[], int], advance: Callable[[float], None] | None = None) -> None:
        """Have the renewals store server time (milliseconds), now that it is chosen; others may choose theirs then.

        `advance` moves it forward by seconds, where others are ahead; None: it is moved by nobody but its owner. Both
        are called on a thread.
        """
        self._advance = advance
        self._clock_ms = clock_ms
        self._wake.set()

    def wall_seconds(self) -> float:
        """Return what the database's clock shows: the wall of all nodes. Any thread."""
        shown, at = self._wall
        return shown + boottime() - at

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

    def is_first(self) -> bool:
        """Whether no node with a lower number is there, for what one of them does and two do no harm with."""
        return all(no > self.own.no for no in self._peers)

    def follow(self, on_joined: Callable[[Node], None], on_ended: Callable[[Node], None]) -> None:
        """Be told of nodes that begin an epoch, and of epochs that end, from now on. `peers` are as after it then."""
        self._followers.append((on_joined, on_ended))

    def may_serve(self) -> bool:
        """Whether the lease holds at this moment. Any thread."""
        return not self._is_over and boottime() < self._until

    def wait_while(self, is_database_away: Callable[[], Awaitable[bool]]) -> None:
        """Have a node that cannot renew its lease wait while this is true, instead of ending."""
        self._is_database_away = is_database_away

    def renewed_ago(self) -> float:
        """Return the seconds since the last renewal that was confirmed."""
        return boottime() - self._until + LEASE_SECONDS

    def leased_for(self) -> float:
        """Return the seconds for which the lease has been without a gap; 0: there is none."""
        return boottime() - self._held_since if self.may_serve() else 0.0

    def seconds_left(self) -> float:
        """Return how long this node may serve if no further renewal is confirmed; 0: no more."""
        return 0.0 if self._is_over else max(self._until - boottime(), 0.0)

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
        if self._waiting is not None:
            self._waiting.cancel()
        self._ending.set()
        self._wake.set()
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
        now = boottime()
        if self._is_over:
            return
        if now >= self._until and (self._waiting is None or self._waiting.done()):
            self._waiting = self._loop.create_task(self._wait_without_lease(), name="lease")
        if self._asked_at is not None and now - self._asked_at > UNANSWERED_SECONDS:
            self._connection.abort()
        self._watch_timer = self._loop.call_later(_WATCH_SECONDS, self._watch)

    async def _wait_without_lease(self) -> None:
        """Wait for a renewal as long as nobody can renew, and then for another one; or lose the lease."""
        log.error("node %d: %s: nothing is handed over", self.own.no, _EXPIRED)
        ends_at = boottime() + WAIT_SECONDS
        while boottime() < ends_at:
            is_away = self._is_database_away is not None and await self._is_database_away()
            if self._is_database_away is not None:
                await asyncio.sleep(RENEWAL_SECONDS)
            if self.may_serve():
                log.warning("node %d has renewed its lease, and serves on", self.own.no)
                return
            if not is_away:
                break
        self.lose(_EXPIRED)

    def _renew_until_over(self) -> None:
        """The thread: renew, and declare ended whoever does not."""
        pause = RENEWAL_SECONDS
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._ending.is_set() or self._is_over:
                return
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
        sent = self._asked_at = boottime()
        try:
            at = self._clock_ms()
            rows = self._connection.run(partial(leases.renew, no=self.own.no, epoch=self.own.epoch, at=at))
            if at and not self._has_stored_time:
                self._connection.run(leases.unlock_line)
                self._has_stored_time = True
        finally:
            self._asked_at = None
        if rows is None:
            return None
        answered = boottime()
        if any((row.epoch, row.renewals) < self._watched[row.no][:2] for row in rows if row.no in self._watched):
            self.lose(_COMMITS_LOST)
            return rows
        # Who could not renew saw nobody who could: it counts anew for how long the others have not.
        before, self._watched = ({} if answered >= self._until else self._watched), {}
        if sent >= self._until:
            self._held_since = answered
        self._until = sent + LEASE_SECONDS
        for row in rows:
            is_own = row.no == self.own.no  # which shows what it was before this renewal
            seen, watched = _Watched(row.epoch, row.renewals + is_own, answered), before.get(row.no)
            is_same = watched is not None and watched[:2] == seen[:2]
            self._watched[row.no] = watched if is_same and watched is not None else seen
        self._note_wall(rows)
        serving = [row for row in rows if row.no == self.own.no or not self._declare_ended(row, sent)]
        self._keep_up(serving, answered)
        return serving

    def _declare_ended(self, row: NodeRow, sent: float) -> bool:
        """Has this peer not renewed for so long, and did this node end it? `sent`: when its row was asked for."""
        if sent - self._watched[row.no].since < ENDED_SECONDS:
            return False
        if not self._connection.run(partial(leases.declare_ended, no=row.no, epoch=row.epoch, renewals=row.renewals)):
            return False
        self.declared += 1
        log.warning("node %d (%s) has not renewed its lease: declared ended", row.no, row.url)
        return True

    def _keep_up(self, rows: list[NodeRow], answered: float) -> None:
        """Go faster for a while, if others are ahead."""
        before, self._compared_at = self._compared_at, answered
        if self._advance is None or before is None:
            return
        # A row that has not been renewed says nothing of now: its node may be about to end.
        renewed = [row for row in rows if row.no in self._watched and self._watched[row.no].since == answered]
        step = step_ms(renewed, self.own.no, self._clock_ms(), answered - before)
        if step:
            self._advance(step / 1000)

    def _note_wall(self, rows: list[NodeRow]) -> None:
        if rows:
            self._wall = rows[0].database_ms / 1000, boottime()

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


class _Registered(NamedTuple):
    """An epoch that has begun."""

    own: Node
    until: float
    """The end of its lease."""
    rows: list[NodeRow]
    line: FleetLine | None


def _register(connection: LeaseConnection, data_dir: Path, url: str) -> _Registered:
    """Begin an epoch, and find the server time that it goes on with. Raises StorageError, OSError."""
    known = _known(data_dir)
    identity = secrets.token_hex(16) if known is None else known[1]
    secret = secrets.token_urlsafe(32)
    no, epoch = connection.run(partial(leases.register, known=known, identity=identity, url=url, secret=secret))
    if known is None or known[0] != no:
        data_directory.write_private(data_dir / data_directory.NODE_FILE, f"{no} {identity}\n")
    search = LineSearch(no)
    give_up_at = boottime() + _LINE_SECONDS
    while True:
        is_ours = connection.run(leases.lock_line)
        sent = boottime()
        rows = connection.run(partial(leases.renew, no=no, epoch=epoch, at=0))
        if rows is None:
            raise StorageBusy(f"node {no} was declared ended while it started")
        if is_ours and search.add(rows, sent, boottime()):
            return _Registered(Node(no, epoch, url, secret), sent + LEASE_SECONDS, rows, search.line)
        if sent >= give_up_at:
            raise StorageBusy("another node has begun to start, and does not go on")
        time.sleep(_LINE_PAUSE_SECONDS)


def _known(data_dir: Path) -> tuple[int, str] | None:
    """Number and identity that the directory has had; None: it is no node yet."""
    try:
        no, identity = (data_dir / data_directory.NODE_FILE).read_text().split()
        return int(no), identity
    except (FileNotFoundError, ValueError):
        return None
