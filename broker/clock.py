"""The one place that reads time: server time, which never goes back.

Server time = max(wall clock at start, last stored time) + monotonic clock since then. So a wall clock that jumps while
the server runs changes nothing, and one that was set back between two runs neither revives nor kills anything: the
second run starts where the first had stored that it was. `speed` makes it pass faster, for simulations.

The price: after the wall clock was set right, server time stays off by the old error until the next start (set
forward) or until real time has caught up (set back). Deadlines here are distances, and those stay exact.
"""

from __future__ import annotations

import time


class ServerClock:
    """Call it, or `now`, for server time in seconds since the Unix epoch."""

    __slots__ = ("_origin", "_speed", "_started")

    def __init__(self, last_stored: float = 0.0, speed: float = 1.0) -> None:
        """`last_stored`: the latest server time that an earlier run left on disk; 0 when there was none."""
        if speed <= 0:
            raise ValueError(f"the clock's speed must be above 0, not {speed}")
        self._origin = max(time.time(), last_stored)
        self._speed = speed
        self._started = time.monotonic()

    def now(self) -> float:
        return self._origin + (time.monotonic() - self._started) * self._speed

    __call__ = now
