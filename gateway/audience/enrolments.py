"""Quota of enrolled devices: an app has a share of the disk, and of all work that walks the devices.

The counts are in memory: to count a million rows takes longer than to enrol a device. What other nodes enrol and remove
is found when all are counted anew, now and then; as much passes the bound until then. Everything runs on the loop.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

from gateway.errors import Problem, problem
from gateway.store.audience.devices import count_devices
from gateway.store.database import Database

log = logging.getLogger(__name__)

DEVICES_OF_APP = 1_000_000
"""Devices of one app at most: with 1 KiB each a GiB of the disk; ten times the fleet that one server is meant for."""
LOG_MS = 60_000
"""Time between two lines in the log about an app."""


class EnrolmentQuota:
    """Counts the enrolled devices of every app against DEVICES_OF_APP. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._devices: Counter[int] = Counter()
        """Devices by app, those included that are on their way to the disk."""
        self._meanwhile: Counter[int] = Counter()
        """Changes since a new count of all has begun."""
        self._logged_at: dict[int, int] = {}
        self.refused = 0
        """Devices that were not enrolled, for metrics."""

    async def load(self, database: Database) -> None:
        """Count the devices that are enrolled; before the first request."""
        self._devices.update(await database.read(count_devices))

    def begin_count(self) -> None:
        """Say that all devices are being counted anew."""
        self._meanwhile.clear()

    def counted(self, devices: Mapping[int, int]) -> None:
        """Take what was counted by app.

        What has changed since `begin_count` is added: some of that twice, until the next count."""
        self._devices = Counter(devices)
        self._devices.update(self._meanwhile)

    def count(self, app_no: int) -> int:
        """The enrolled devices of an app."""
        return self._devices.get(app_no, 0)

    def reserve(self, app_no: int, wanted: int) -> int:
        """Reserve up to `wanted` enrolments; how many there are. Release those that do not come about."""
        granted = max(min(wanted, DEVICES_OF_APP - self._devices[app_no]), 0)
        self._add(app_no, granted)
        if granted < wanted:
            self.refused += wanted - granted
            now_ms = self._clock_ms()
            if now_ms - self._logged_at.get(app_no, -LOG_MS) >= LOG_MS:
                self._logged_at[app_no] = now_ms
                log.warning("app number %d has %d devices: no more are enrolled", app_no, self._devices[app_no])
        return granted

    def release(self, app_no: int, count: int) -> None:
        """Release enrolments that did not come about, or whose devices have been removed."""
        self._add(app_no, -count)

    def _add(self, app_no: int, count: int) -> None:
        self._devices[app_no] += count
        self._meanwhile[app_no] += count


def too_many_devices() -> Problem:
    return problem("too_many_devices", f"an app has at most {DEVICES_OF_APP} devices: remove some first")
