"""Sessions that no node has in memory: their expiry, their delayed wills, and what a node has left that ended.

Laws
1. Nothing is decided here: a session that is due is claimed as if its device had connected (`takeover`), and the broker
   that adopts it ends it, or publishes its will. So whoever connects meanwhile is served by one node all the same.
2. One node does it (`tasks`), which `load`s when it claims the task, and `follow`s a few times a second.
3. Once a node has ended, the sessions that it had connected begin to expire, and what it has published of wills is
   published once more: the ledger knows by their numbers what it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from broker.broker import Broker
from broker.reception import PACKET_ID_BITS
from gateway.device_topics import split_client_id
from gateway.nodes.membership import Membership
from gateway.nodes.takeover import Takeover
from gateway.store.access.credentials import find_devices
from gateway.store.app_locks import NO_APP
from gateway.store.database import Database
from gateway.store.nodes.broker_sessions import (
    SLICE_WILLS,
    SharedSessionStore,
    adopt_wills,
    begin_expiry,
    due_sessions,
    forget_messages_of_nobody,
)
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_SECONDS: float = 1.0
"""Time by which an expiry or a delayed will may be late: MQTT counts both in seconds."""
BATCH_SESSIONS = 500
"""Sessions that are claimed at a time; more wait for the next look."""


class DueSessions(NamedTuple):
    """Sessions that are due."""

    devices: list[tuple[int, str]]
    """Device number and client identifier of those that are to be claimed."""
    of_nobody: list[str]
    """Client identifiers whose device was removed: nobody claims those."""


class SessionDuty:
    """Looks for sessions that are due, and for what ended nodes have left. Loop."""

    def __init__(
        self,
        *,
        sessions: SharedSessionStore,
        database: Database,
        membership: Membership,
        takeover: Takeover,
        clock_ms: Callable[[], int],
    ) -> None:
        self._sessions = sessions
        self._database = database
        self._own = membership.own
        self._takeover = takeover
        self._broker: Broker
        self._clock_ms = clock_ms
        self._loop = asyncio.get_running_loop()
        self._next_look = 0.0
        self._has_ended = False
        """A node has ended since it was last seen to."""
        membership.follow(lambda joined: None, self._note_end)

    def connect(self, broker: Broker) -> None:
        """Connect to the broker, which is made later."""
        self._broker = broker

    def _note_end(self, _: object) -> None:
        self._has_ended = True

    async def load(self) -> None:
        """See to all that ended nodes have left; that is not much where there is nothing."""
        self._has_ended = False
        now_us = self._clock_ms() * 1_000
        while await self._run(partial(begin_expiry, now_us=now_us)):
            pass
        found = SLICE_WILLS
        while found == SLICE_WILLS:
            wills = await self._run(partial(adopt_wills, no=self._own.no, epoch=self._own.epoch))
            self._broker.wills.unconfirmed.extend(wills)
            found = len(wills)
        forget = partial(forget_messages_of_nobody, packet_id_bits=PACKET_ID_BITS)
        if forgotten := await self._database.write(forget, apps=NO_APP):
            log.info("%d QoS 2 messages of sessions that are gone were forgotten", forgotten)

    async def follow(self) -> None:
        """Look for sessions that are due, once in LOOK_SECONDS."""
        if self._has_ended:
            await self.load()
        if self._loop.time() < self._next_look:
            return
        self._next_look = self._loop.time() + LOOK_SECONDS / 2
        now_us = self._clock_ms() * 1_000
        found = await self._database.read(partial(_find_due, now_us=now_us))
        for client_id in found.of_nobody:
            self._broker.remove_session(client_id)
        self._takeover.claim_due(found.devices)

    async def _run(self, operation: Callable[[Transaction], T]) -> T:
        done: asyncio.Future[T] = self._loop.create_future()
        self._sessions.run(operation, lambda result: None if done.done() else done.set_result(result))
        return await done


def _find_due(transaction: Transaction, now_us: int) -> DueSessions:
    due = due_sessions(transaction, now_us, BATCH_SESSIONS)
    wanted: Sequence[tuple[str, str]] = [split_client_id(client_id) for client_id in due]
    found = find_devices(transaction, wanted) if due else {}
    devices = [(found[index][0], client_id) for index, client_id in enumerate(due) if index in found]
    return DueSessions(devices, [client_id for index, client_id in enumerate(due) if index not in found])
