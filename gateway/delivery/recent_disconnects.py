"""The last ends of each device's connections, in memory: why does this kiosk come and go?

The event log has each of them, as far as its interval has room (`connection_events`), for a week; but who asks about
one device has to look through it. Here are the last OF_DEVICE of each device, every one, since the process began, and
KEPT_DISCONNECTS in all, about 15 MB: beyond that those of the device leave whose last one is the longest ago, and
`since` says so. Nothing is written, and a device that has never been disconnected costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

OF_DEVICE_DISCONNECTS = 10
KEPT_DISCONNECTS = 50_000


class Disconnect(NamedTuple):
    """The end of a connection."""

    at: int
    """Server time in milliseconds."""
    lasted_ms: int
    reason: str
    """As of `device.disconnected` (`connection_events.REASONS`)."""
    detail: str
    """What else is known, or empty."""


class RecentDisconnects:
    """Keeps the last ends of connections of each device. Loop. `now_ms` is the server time of the start."""

    def __init__(self, now_ms: int) -> None:
        self.since = now_ms
        """Time up to which ends may be missing."""
        self._of: dict[int, tuple[Disconnect, ...]] = {}
        """By number of the device, the one that was disconnected last at the end."""
        self._count = 0

    def add(self, device_no: int, disconnect: Disconnect) -> None:
        """Note the end of a connection."""
        before = self._of.pop(device_no, ())
        kept = self._of[device_no] = (*before[1 - OF_DEVICE_DISCONNECTS :], disconnect)
        self._count += len(kept) - len(before)
        while self._count > KEPT_DISCONNECTS:
            oldest = self._of.pop(next(iter(self._of)))
            self._count -= len(oldest)
            self.since = max(self.since, oldest[-1].at)

    def of(self, device_no: int) -> tuple[Disconnect, ...]:
        """The last ends of a device's connections, the newest first."""
        return self._of.get(device_no, ())[::-1]
