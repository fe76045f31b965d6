"""The one place that reads time: server time, which never goes back, does not jump and does not stop in suspend.

Server time = its origin + CLOCK_BOOTTIME since then. The origin is the wall clock at the first start after the
machine's boot, or the last stored time if that is later. A server that starts again under the same boot goes on by
`boot_origin`, so that the time it was down counts exactly, whatever the wall clock says. So a wall clock that jumps
changes nothing, one that was set back between two runs neither revives nor kills anything, and a machine that was
suspended for an hour is an hour older when it wakes. `speed` makes time pass faster, for simulations.

Lifetimes are distances on this clock. Times for people and for other machines have to follow the wall clock; the
gateway adds the difference between the two when it shows a time (`gateway/timestamps.py`).
"""

from __future__ import annotations

import time
from pathlib import Path

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has it; elsewhere the monotonic clock, which may stop in suspend."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str | None:
    """Return a name for the present boot of this machine; None if the system has none."""
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None


def boottime() -> float:
    """Return the seconds since the machine's boot, those in suspend included."""
    return time.clock_gettime(_BOOTTIME)


class ServerClock:
    """Server clock: call it, or `now`, for server time in seconds since the Unix epoch."""

    __slots__ = ("_origin", "_speed", "_started")

    def __init__(self, last_stored: float = 0.0, speed: float = 1.0, boot_origin: float | None = None) -> None:
        """Start the clock where earlier runs have left it.

        `last_stored` is the latest server time that an earlier run has stored (seconds; 0 without one), `boot_origin`
        that of an earlier run under the same boot. Raises ValueError for a `speed` of 0 or less.
        """
        if speed <= 0:
            raise ValueError(f"the clock's speed must be above 0, not {speed}")
        self._started = time.clock_gettime(_BOOTTIME)
        began = time.time() if boot_origin is None else boot_origin + self._started
        self._origin = max(began, last_stored)
        self._speed = speed

    def now(self) -> float:
        """Return server time in seconds."""
        return self._origin + (time.clock_gettime(_BOOTTIME) - self._started) * self._speed

    __call__ = now

    def advance(self, seconds: float) -> None:
        """Go forward by a part of a second, behind clocks that this one has to keep up with."""
        assert seconds >= 0, "server time never goes back"
        self._origin += seconds

    @property
    def boot_origin(self) -> float:
        """Server time at the machine's boot, at speed 1, from which a later run under the same boot goes on."""
        return self._origin - self._started
