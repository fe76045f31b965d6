"""Invalidations: what a node knows in memory is given up before a change is answered, wherever that was stored.

Laws
1. Each change of what nodes keep in memory is noted by the transaction that stores it, under one lock (triggers in
   `store/postgresql/invalidations.sql`). So the numbers of invalidations rise in the order of commits, and one position
   for each node is enough.
2. A node begins to read before it loads anything: what is stored later is noted for it.
3. A request that has stored a change is answered when every node whose epoch has not ended has read up to there, and
   has done what follows from it (`confirm`). A node that does not answer costs the time until its lease has ended.

A node that reads nothing new costs one statement in READ_SECONDS. While somebody waits, its peers are asked to read at
once, and how far they are is looked up when they answer, else once in CONFIRM_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from broker.clock import boottime
from gateway.errors import problem
from gateway.latency import LatencyHistogram
from gateway.nodes.membership import Node
from gateway.nodes.peer_client import Ask, PeerUnavailable
from gateway.store.app_locks import NO_APP
from gateway.store.database import Database
from gateway.store.nodes.invalidations import (
    READ_INVALIDATIONS,
    Invalidation,
    InvalidationKind,
    begin_reading,
    last_invalidation,
    least_seen,
    note_seen,
    read_invalidations,
)

log = logging.getLogger(__name__)

READ_SECONDS = 0.1
"""Time between two looks for what is new: as much of the time that a change takes which has to be confirmed."""
CONFIRM_SECONDS = 0.05
"""Time between two looks at how far the others are, while somebody waits."""
VERB: Final = "changed"
NUDGE_SECONDS = 1.0
"""Time that a peer has to answer a nudge."""
LONGEST_SECONDS = 12.0
"""Time after which a request is answered 503: a node that does not answer is declared ended after 4 s, and another one
that ends meanwhile after 4 more."""


class Invalidations:
    """Reads what has changed elsewhere, and waits until others have read it. Loop."""

    def __init__(
        self, database: Database, own: Node, on_unreadable: Callable[[str], None], is_leased: Callable[[], bool]
    ) -> None:
        """`on_unreadable` is called with the reason when this node has not been able to read for LONGEST_SECONDS of its
        lease; `is_leased` says whether it has one."""
        self._on_unreadable, self._is_leased = on_unreadable, is_leased
        self._database = database
        self._own = own
        self._handlers: dict[str, Callable[[Invalidation], Awaitable[None]]] = {}
        self._seen = 0
        """Everything up to here is known here."""
        self._noted = 0
        """The same, as the others can read it."""
        self._peers: Callable[[], Sequence[Node]] = tuple
        self._ask: Ask | None = None
        self._lock = asyncio.Lock()
        """Held while something is read: it is done in order, and once."""
        self.waiting = 0
        """Requests that wait for other nodes, for metrics."""
        self.waits = LatencyHistogram()
        """Time that changes waited until all nodes knew them, for metrics."""
        self._read_at = boottime()
        """When everything was last read, in seconds of CLOCK_BOOTTIME."""

    def on(self, kind: InvalidationKind, handler: Callable[[Invalidation], Awaitable[None]]) -> None:
        """Have a handler called with each invalidation of a kind; it may come again. Before `begin`."""
        self._handlers[kind] = handler

    def nudge_by(self, peers: Callable[[], Sequence[Node]], ask: Ask) -> None:
        """Have peers asked to read at once, while somebody waits; `ask` is that of `PeerClient`. They read without it,
        a moment later."""
        self._peers, self._ask = peers, ask

    def behind_seconds(self) -> float:
        """Return the seconds since this node has last read what others have changed, to the end; for metrics."""
        return boottime() - self._read_at

    async def answer(self, body: bytes) -> bytes:
        """Answer a peer that waits: read what is new. Raises as `read`."""
        await self.read()
        return b""

    async def begin(self) -> None:
        """Begin to read, before anything is loaded that an invalidation could be about."""
        self._seen = self._noted = await self._database.write(
            partial(begin_reading, node_no=self._own.no, node_epoch=self._own.epoch), apps=NO_APP
        )

    async def run(self) -> None:
        """Read what is new, until cancelled.

        A node that cannot for LONGEST_SECONDS loses its lease: it believes what is no longer so, and every change waits
        for it. Time without a lease does not count: while the database is away nothing changes, and `Membership` says
        how long a node waits for it.
        """
        loop_seconds = asyncio.get_running_loop().time
        last_seconds = loop_seconds()
        while True:
            try:
                await self.read()
                last_seconds = loop_seconds()
            except Exception as error:  # above all a database that is away: it is tried again
                log.warning("what other nodes have changed cannot be read, trying again: %s", error)
                if not self._is_leased():
                    last_seconds = loop_seconds()
                if loop_seconds() - last_seconds > LONGEST_SECONDS:
                    self._on_unreadable(
                        f"what other nodes have changed could not be read for {LONGEST_SECONDS:g} s: {error}"
                    )
            await asyncio.sleep(READ_SECONDS)

    async def read(self) -> int:
        """Read what is new, do what follows, and tell the others; how far this node has come.

        Raises StorageError, and whatever a handler raises: then it is done again.
        """
        async with self._lock:
            more = True
            while more:
                found = await self._database.read_soon(partial(read_invalidations, after=self._seen))
                for one in found:
                    handler = self._handlers.get(one.kind)
                    if handler is not None:
                        await handler(one)
                    self._seen = one.no
                more = len(found) == READ_INVALIDATIONS
            if self._noted != self._seen:
                seen = self._seen
                await self._database.write(
                    partial(note_seen, node_no=self._own.no, node_epoch=self._own.epoch, seen=seen), apps=NO_APP
                )
                self._noted = seen
            self._read_at = boottime()
            return self._seen

    async def between_reads(self, load: Callable[[], Awaitable[None]]) -> None:
        """Load what invalidations are about while none is read.

        What is loaded is no older than what is known here, and what is stored meanwhile is read behind it. Raises as
        `load`."""
        async with self._lock:
            await load()

    async def confirm(self) -> None:
        """Wait until all live nodes know what is stored now. Call it when a change has committed.

        Raises Problem 503 if that takes too long, StorageError.
        """
        began = boottime()
        try:
            await self._wait_for_all()
        finally:
            self.waits.add((boottime() - began) * 1000, 1)

    async def _wait_for_all(self) -> None:
        target = await self._database.read_soon(last_invalidation)
        await self.read()
        if await self._is_seen(target):
            return
        deadline = asyncio.get_running_loop().time() + LONGEST_SECONDS
        nudges = {asyncio.ensure_future(self._nudge(peer)) for peer in self._peers()}
        self.waiting += 1
        try:
            while True:
                if nudges:  # until the peers have answered, or the next look is due
                    _, nudges = await asyncio.wait(nudges, timeout=CONFIRM_SECONDS)
                else:
                    await asyncio.sleep(CONFIRM_SECONDS)
                if await self._is_seen(target):
                    return
                if asyncio.get_running_loop().time() > deadline:
                    raise problem("unavailable", "this is stored, but not every node has confirmed that it knows it")
        finally:
            self.waiting -= 1
            for nudge in nudges:
                nudge.cancel()

    async def _is_seen(self, number: int) -> bool:
        """Whether all live nodes have read up to here."""
        least = await self._database.read_soon(least_seen)
        return least is None or least >= number

    async def _nudge(self, peer: Node) -> None:
        assert self._ask is not None, "there are peers"
        try:
            await self._ask(peer, VERB, b"", NUDGE_SECONDS)
        except PeerUnavailable as error:
            log.debug("node %d reads what has changed by itself: %s", peer.no, error)
