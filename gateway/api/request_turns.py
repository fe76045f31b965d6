"""Turns at requests: some hundred connections that ask all the time keep nobody else waiting.

Requests are started REQUESTS_PER_TURN at a time in a turn of the loop, and devices are served in between.
Who has to wait stands in the queue of a share, and shares take turns, one request each: a share is a valid key, or an
address that has shown none. What waits is bounded by the number of connections, since each has one request under way.
A request that is long work does it in slices of a millisecond and gives way after each.

Everything here belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

REQUESTS_PER_TURN: Final = 4
"""Requests that are started in one turn of the loop. The dearest, `/metrics` and a device's preferences, hold it for 3
ms until they are answered or wait for something; a push takes 0.3 ms, beside which a further turn costs nothing."""
LARGE_BODY_REQUESTS: Final = REQUESTS_PER_TURN
"""Requests that a body of some thousand values counts for: parsing it takes a turn of its own."""
SLICE_SECONDS: Final = 0.002
"""Time from one slice of long work to the next, of all requests: half the time is left to others. Without
the pause the loop would hardly be without Python's lock, for which each statement of the writer's thread waits
`app.SWITCH_SECONDS`."""


class RequestTurns:
    """Turns of the *loop* for requests: so many in each, and the shares that wait take turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._requests_left = REQUESTS_PER_TURN
        """Requests that may still be started in this turn of the loop."""
        self._is_counting = False
        """The next turn has been asked for."""
        self._queues: dict[str, deque[tuple[int, Callable[[], None]]]] = {}
        """Queues by share, of shares that wait; the first is the next to have its turn."""
        self._next_slice_at = 0.0
        self.waiting = 0
        """Requests that wait for their turn, for metrics."""
        self.waited = 0
        """Requests that had to wait for another turn of the loop, for metrics."""

    def begin(self, share_of: Callable[[], str], run: Callable[[], None], cost: int = 1) -> None:  # Hot path.
        """Call `run` now, or in the share's turn. `share_of` is asked for the share only if it has to wait."""
        if self._requests_left > 0 and not self._queues:
            self._requests_left -= cost
            if not self._is_counting:
                self._is_counting = True
                self._loop.call_soon(self._next_turn)
            run()
            return
        self._queues.setdefault(share_of(), deque()).append((cost, run))
        self.waiting += 1
        self.waited += 1

    async def wait_for_large_body(self, share: str) -> None:
        """Return when the share may parse one."""
        turn = asyncio.Event()
        self.begin(lambda: share, turn.set, LARGE_BODY_REQUESTS)
        await turn.wait()

    async def next_slice(self) -> None:
        """Return when the caller may work for another millisecond."""
        now = self._loop.time()
        self._next_slice_at = max(now, self._next_slice_at) + SLICE_SECONDS
        await asyncio.sleep(self._next_slice_at - now)

    def _next_turn(self) -> None:
        self._requests_left = REQUESTS_PER_TURN
        while self._requests_left > 0 and self._queues:
            share = next(iter(self._queues))
            queue = self._queues.pop(share)
            cost, run = queue.popleft()
            if queue:
                self._queues[share] = queue  # behind the others
            self.waiting -= 1
            self._requests_left -= cost
            run()
        self._is_counting = self._requests_left < REQUESTS_PER_TURN
        if self._is_counting:
            self._loop.call_soon(self._next_turn)
