"""Pushes whose senders wait until they are delivered: `POST /v1/pushes?wait=SECONDS`, to a single device.

Such a push is accepted like any other, and its answer is given later: when the delivery has gone further than to the
connection, when it has ended, or when the seconds are over. Who stops waiting, or goes away, takes nothing back.

What is on disk decides. An acknowledgement wakes its sender when it is there (`Ledger.awaited`), a matter of one look
into a dictionary for a group of outcomes. Everything else that may happen to a delivery (it expires, is recalled or
superseded, its device is removed, a receipt comes without an acknowledgement) is looked for every LOOK_SECONDS while
anybody waits: one statement for all of them, so that nothing else has to know of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import closing
from typing import Any, NamedTuple

from gateway.delivery.ledger import Ledger
from gateway.delivery.reports import Reports
from gateway.delivery.submission import AcceptedPush, PendingPush
from gateway.delivery.waiting_callers import WaitingCallers
from gateway.delivery_states import DeliveryState
from gateway.errors import problem
from gateway.store.database import Database
from gateway.store.deliveries.pushes import push_number
from gateway.store.deliveries.whole_deliveries import moved_on
from gateway.store.protocols import Timers

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Time between two looks, the same as between two of the ledger's at what has expired."""
MAX_WAIT_SECONDS = 60
"""Seconds: proxies commonly give up on a silent request after as many."""


class AwaitedPush(NamedTuple):
    """A push that was accepted, and its delivery if that is more than waiting or sent."""

    accepted: AcceptedPush
    delivery: dict[str, Any] | None
    """As the API shows it."""


class AwaitedPushes:
    """Accepts pushes to single devices, and waits until they are delivered or have ended. Loop."""

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        reports: Reports,
        callers: WaitingCallers,
        timers: Timers,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._reports = reports
        self._callers = callers
        self._timers = timers
        self._waiting: dict[int, list[asyncio.Event]] = {}
        """Senders by push number: more than one when they repeat a request."""
        self._is_scheduled = False
        """A look is due or under way."""

    @property
    def waiting(self) -> int:
        """Senders that wait, for metrics."""
        return sum(map(len, self._waiting.values()))

    async def accept(
        self, pending: PendingPush, accepting: Coroutine[Any, Any, AcceptedPush], wait_seconds: float
    ) -> AwaitedPush:
        """Have a push stored by `accepting`, and wait for its delivery.

        Raises Problem as that, 422 for a push that is not for a single device, and 429 when too many wait; then it is
        not stored.
        """
        with closing(accepting):
            return await self._accept(pending, accepting, wait_seconds)

    async def _accept(
        self, pending: PendingPush, accepting: Coroutine[Any, Any, AcceptedPush], wait_seconds: float
    ) -> AwaitedPush:
        if pending.listed is None or len(pending.listed) != 1:
            raise problem(
                "invalid_request",
                "wait: only a push to one device can be waited for, which the target names; leave wait out,"
                " and look with GET /v1/pushes/{push_id}",
            )
        with self._callers.place(pending.app.no, "send without wait"):
            accepted = await accepting
            return AwaitedPush(accepted, await self._delivery(pending.app.no, accepted.push_id, wait_seconds))

    async def _delivery(self, app_no: int, push_id: str, wait_seconds: float) -> dict[str, Any] | None:
        """The delivery, when it is more than waiting or sent; None if it is not within the seconds."""
        push_no = await self._database.read_soon(lambda transaction: push_number(transaction, app_no, push_id))
        if push_no is None:  # a repetition of what retention has removed
            return None
        event = asyncio.Event()
        self._add(push_no, event)
        try:
            async with asyncio.timeout(wait_seconds):
                while True:
                    event.clear()
                    found = await self._reports.single_delivery(push_no)  # at first: it may have been faster than we
                    if found is None or found.state not in (DeliveryState.WAITING, DeliveryState.SENT):
                        return None if found is None else found.description
                    await event.wait()
        except TimeoutError:
            return None
        finally:
            self._remove(push_no, event)

    def _add(self, push_no: int, event: asyncio.Event) -> None:
        self._waiting.setdefault(push_no, []).append(event)
        self._ledger.awaited[push_no] = lambda: self._wake(push_no)
        self._schedule()

    def _remove(self, push_no: int, event: asyncio.Event) -> None:
        events = self._waiting[push_no]
        events.remove(event)
        if not events:
            del self._waiting[push_no], self._ledger.awaited[push_no]

    def _wake(self, push_no: int) -> None:
        for event in self._waiting.get(push_no, ()):
            event.set()

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            self._timers.call_later(LOOK_SECONDS, self._find_changed)

    def _find_changed(self) -> None:
        """Look which of the awaited pushes have changed otherwise than by an acknowledgement."""
        awaited = list(self._waiting)

        def on_done(changed: list[int]) -> None:
            self._is_scheduled = False
            for push_no in changed:
                self._wake(push_no)
            self._schedule()

        def on_error(error: BaseException) -> None:
            log.warning("awaited pushes cannot be looked at, trying again: %s", error)
            on_done([])

        self._database.look_up(lambda transaction: moved_on(transaction, awaited), on_done, on_error)
