"""The queue of acceptance: pushes to few devices together, those to many a few at a time, apps in turn.

One operation of the writer stores what `next_batches` gives. A push to one device takes 20 us of it, one to ten
thousand a tenth of a second, and some of those together would keep everybody waiting. So pushes to few devices and the
rest have turns, and of the rest one operation stores OPERATION_DELIVERIES at most, of one app, or a single push.

Laws
1. Pushes of one kind, few or many, and of one app leave in the order in which they came.
2. An operation takes pushes when it begins, not when it is submitted: it stores what has come while it waited for the
   writer. Pushes to few devices are taken whatever is under way; those to many only when the callback of the operation
   that took some before has been called, because it says which apps have to wait (`behind`).

How many devices a tag, a topic or `all` selects is known when it has been stored; until then it counts as too many.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass

from gateway.delivery.submission import PendingPush

BATCH_PUSHES = 500
"""Pushes that one operation stores, about 8 ms; more wait for the next, and others have their turn in between."""
OPERATION_DELIVERIES = 5_000
"""Deliveries that one operation stores, unless a single push has more: about 50 ms."""
FEW_DELIVERIES = 100
"""Deliveries of a push that may still be stored with the pushes to one device each."""
SET_DELIVERIES = 250
"""Deliveries that take as long to store as a push of which they are a set, however many it has."""
PREPARED_DELIVERIES = OPERATION_DELIVERIES // 8
"""Deliveries that a push which is not prepared counts as: of a batch so many are prepared for one operation. Each may
hold a set of 128 KiB, and 4 MiB of texts, until it is stored."""
MAX_SELECTIONS = 10_000
"""Tags and topics whose number of devices is remembered, about 2 MB; over it all are forgotten."""


@dataclass(slots=True, eq=False)
class PushBatch:
    """Pushes that one operation stores, and the future that their sender awaits."""

    pending_pushes: list[PendingPush]
    stored: asyncio.Future[None]
    deliveries: int = 0
    is_few: bool = False
    """Whether it is stored with other pushes to few devices."""


class AcceptanceQueue:
    """Pushes that wait to be stored, in the order in which operations store them. Loop, but for `next_batches`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held while batches come or go: the loop puts them, the writer thread takes them."""
        self._few: deque[PushBatch] = deque()
        self._many: dict[int, deque[PushBatch]] = {}
        """Batches by app, only of those that have something waiting; the first is the next to have its turn."""
        self._few_are_next = True
        self._many_under_way = False
        """Pushes to many devices have been taken and their operation has not been called back."""
        self._selected: dict[tuple[int, str | None, str | None], int] = {}
        """App number, tag and topic, none of both for `all`: as how many deliveries that counted lately."""
        self.divided = 0
        """Operations that left pushes to many devices to a later one, for metrics."""

    def has_next(self, behind: Container[int] = ()) -> bool:
        """Whether `next_batches` would give something now."""
        if self._few:
            return True
        with self._lock:
            return self._next_app(behind) is not None

    def _next_app(self, behind: Container[int]) -> int | None:
        """The app whose pushes to many devices are next."""
        if self._many_under_way or not self._many:
            return None
        return next((app_no for app_no in self._many if app_no not in behind), None)

    def deliveries(self, pending: PendingPush) -> int:
        """Count the deliveries that a push will have, as far as that is known; those of a set count as a few."""
        if pending.selection is not None:
            return min(len(pending.selection), OPERATION_DELIVERIES)
        target = pending.target
        if target is not None and not pending.is_prepared:
            return PREPARED_DELIVERIES
        if pending.listed is not None:
            return len(pending.listed)
        assert target is not None, "it selects"
        return self._selected.get((pending.app.no, target.tag, target.topic), OPERATION_DELIVERIES)

    def put(self, pending_pushes: list[PendingPush], stored: asyncio.Future[None]) -> None:
        batch = PushBatch(pending_pushes, stored, sum(map(self.deliveries, pending_pushes)))
        batch.is_few = len(pending_pushes) == 1 and batch.deliveries <= FEW_DELIVERIES
        with self._lock:
            if batch.is_few:
                self._few.append(batch)
            else:
                self._many.setdefault(pending_pushes[0].app.no, deque()).append(batch)

    def next_batches(self, behind: Container[int] = ()) -> list[PushBatch]:
        """Take the batches that one operation stores. Writer thread, when the operation begins.

        None if nothing waits, or only pushes to many devices: of `behind` apps, or while others are under way.
        """
        with self._lock:
            app_no = self._next_app(behind)
            if self._few and (self._few_are_next or app_no is None):
                self._few_are_next = False
                return self._of_few()
            self._few_are_next = True
            if app_no is None:
                return []
            self._many_under_way = True
            return self._of_app(app_no)

    def called_back(self, batches: Iterable[PushBatch]) -> None:
        """Learn that the operation that took these has ended, and what its pushes to selected devices cost."""
        for batch in batches:
            self._many_under_way = self._many_under_way and batch.is_few
            for pending in batch.pending_pushes:
                if pending.listed is None and pending.selection is None and pending.push_no:
                    if len(self._selected) >= MAX_SELECTIONS:
                        self._selected.clear()
                    cost = min(pending.targeted, SET_DELIVERIES) if pending.in_sets else pending.targeted
                    target = pending.target
                    assert target is not None, "it selects"
                    self._selected[pending.app.no, target.tag, target.topic] = cost

    def _of_few(self) -> list[PushBatch]:
        chosen: list[PushBatch] = []
        deliveries = 0
        while self._few and len(chosen) < BATCH_PUSHES and deliveries <= OPERATION_DELIVERIES:
            chosen.append(self._few.popleft())
            deliveries += chosen[-1].deliveries
        return chosen

    def _of_app(self, app_no: int) -> list[PushBatch]:
        waiting = self._many.pop(app_no)
        chosen = [waiting.popleft()]
        pushes, deliveries = len(chosen[0].pending_pushes), chosen[0].deliveries
        while waiting:
            pushes += len(waiting[0].pending_pushes)
            deliveries += waiting[0].deliveries
            if pushes > BATCH_PUSHES or deliveries > OPERATION_DELIVERIES:
                self.divided += 1
                break
            chosen.append(waiting.popleft())
        if waiting:
            self._many[app_no] = waiting  # behind the others
        return chosen
