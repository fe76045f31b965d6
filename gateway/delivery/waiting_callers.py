"""Callers whose requests wait for a device: places for them, of which an app has a share.

A command and its answer (`calls`) and a push whose sender waits until it is delivered (`awaited_pushes`) keep a request
open for up to two minutes each, while its device decides how long that is. They share the places: who waits costs the
server the same, whatever for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import problem

log = logging.getLogger(__name__)

MAX_WAITING_CALLERS = 1_000
"""Callers that wait at a time, of everybody: some ten kilobytes each, connection and task included."""
MAX_WAITING_CALLERS_OF_APP = 250
"""Callers of one app that wait, so that a fleet which answers nothing leaves room for others."""
LOG_MS = 60_000
"""Time between two lines about the same app: who is refused comes again at once, and as often as they may ask."""


class WaitingCallers:
    """Gives places to callers that wait for their devices. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._of_app: dict[int, int] = {}
        self._count = 0
        self._logged_at: dict[int, int] = {}
        self.refused = 0
        """Callers that were refused because too many waited, for metrics."""

    @contextmanager
    def place(self, app_no: int, instead: str) -> Iterator[None]:
        """Have a place while the block runs. Raises Problem 429, which names what to do `instead`."""
        of_app = self._of_app.get(app_no, 0)
        if self._count >= MAX_WAITING_CALLERS or of_app >= MAX_WAITING_CALLERS_OF_APP:
            self.refused += 1
            now_ms = self._clock_ms()
            if now_ms - self._logged_at.get(app_no, -LOG_MS) >= LOG_MS:
                self._logged_at[app_no] = now_ms
                log.warning("app %d: callers are refused: %d wait, %d of this app", app_no, self._count, of_app)
            raise problem(
                "too_many_calls", f"{of_app} callers of this app wait for their devices: wait for some, or {instead}"
            )
        self._of_app[app_no] = of_app + 1
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._of_app[app_no] -= 1
            if not self._of_app[app_no]:
                del self._of_app[app_no]
