"""Turns at the reader threads: no app's questions keep another app's from being answered.

Reads that are done for an app wait in a queue of that app. The app that has used the least reader time comes next, and
one app never has all threads, so a dashboard that asks for long lists waits for itself. A read that takes longer than
READ_SECONDS is interrupted, and a queue has room for a few dozen: who is refused is told when to come again.

Everything here belongs to the loop's thread; the work itself runs on the executor's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.errors import RetryableProblem

log = logging.getLogger(__name__)
T = TypeVar("T")

READ_SECONDS = 2.0
"""Time of one read for an app: a page of any list takes a tenth of that at most, with a million deliveries behind
it."""
WAITING_READS_OF_APP = 200
"""Reads of one app that wait: four connections of a browser on fifty screens."""
WAITING_READS = 1_000
"""Reads of all apps that wait, each a closure and a future: a megabyte."""
RETRY_SECONDS = 2.0
"""Time that a refused client is told to wait."""
LOG_SECONDS = 60.0
"""Time between two lines about the same app."""


@dataclass(slots=True, eq=False)
class _Waiting:
    work: Callable[[], Any]
    answer: asyncio.Future[Any]


class ReadQueue:
    """Gives apps turns at the reader threads. Loop.

    `threads` of the `executor` serve apps, at least two. `clock` gives seconds that only grow.
    """

    def __init__(
        self,
        executor: Executor,
        threads: int,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._threads = threads
        self._loop = loop
        self._clock = clock
        self._queues: dict[int, deque[_Waiting]] = {}
        """Reads by app, only of those that have something waiting."""
        self._running: Counter[int] = Counter()
        self._used: dict[int, float] = {}
        """Reader seconds by app; who comes back after a pause starts at what the last one served had."""
        self._served = 0.0
        self._logged_at: dict[int, float] = {}
        self.waiting = 0
        """Reads that wait, for metrics."""
        self.refused: dict[str, int] = {"queue_full": 0, "too_long": 0, "writer_full": 0}
        """Refusals with 503 for an app, changes that had no room included; for metrics."""

    async def run(self, app_no: int, work: Callable[[], T]) -> T:
        """The result of `work`, done on a reader thread in the app's turn. Raises its exception, or Problem 503."""
        queue = self._queues.get(app_no)
        if self.waiting >= WAITING_READS or (queue is not None and len(queue) >= WAITING_READS_OF_APP):
            raise self.refusal(app_no, "queue_full", "too much of this app is being read")
        if queue is None:
            queue = self._queues[app_no] = deque()
            if not self._running[app_no]:
                self._used[app_no] = max(self._used.get(app_no, 0.0), self._served)
        answer: asyncio.Future[T] = self._loop.create_future()
        queue.append(_Waiting(work, answer))
        self.waiting += 1
        self._start()
        return await answer

    def refusal(self, app_no: int, reason: str, text: str) -> RetryableProblem:
        """Count and log that a read of an app is not answered; the problem to raise."""
        self.refused[reason] += 1
        now = self._clock()
        if now - self._logged_at.get(app_no, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged_at[app_no] = now
            log.warning("app %d is answered 503: %s (%s)", app_no, text, reason)
        return RetryableProblem(
            "busy", f"{text}; ask for less at a time, and again as late as Retry-After says", RETRY_SECONDS
        )

    def _start(self) -> None:
        """Start what there is a thread for."""
        while self._running.total() < self._threads:
            app_no = min(
                (app_no for app_no in self._queues if self._running[app_no] < self._threads - 1),
                key=self._used.__getitem__,
                default=None,
            )
            if app_no is None:
                return
            queue = self._queues[app_no]
            next_one = queue.popleft()
            self.waiting -= 1
            if not queue:
                del self._queues[app_no]
            if next_one.answer.done():  # nobody waits for it any more
                continue
            self._running[app_no] += 1
            self._served = max(self._served, self._used[app_no])
            began = self._clock()
            done = self._executor.submit(next_one.work)
            done.add_done_callback(
                lambda done, app_no=app_no, one=next_one, began=began: self._loop.call_soon_threadsafe(  # type: ignore[misc]
                    self._ended, app_no, one.answer, began, done
                )
            )

    def _ended(self, app_no: int, answer: asyncio.Future[Any], began: float, done: Future[Any]) -> None:
        self._running[app_no] -= 1
        if not self._running[app_no]:
            del self._running[app_no]
        self._used[app_no] += self._clock() - began
        if not answer.done():
            error = done.exception()
            if error is None:
                answer.set_result(done.result())
            else:
                answer.set_exception(error)
        self._start()

    def close(self) -> None:
        """Drop all reads that wait."""
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            for waiting in queue:
                waiting.answer.cancel()
