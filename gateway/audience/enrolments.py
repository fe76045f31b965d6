"""Quota of enrolled devices: an app has a share of the disk, and of all work that walks the devices.

One server counts in memory, so that an enrolment asks nothing. Where other nodes enrol as well the operation that
enrols reads the set of all devices of the app, under the app's lock: a million are 16 segments of 8 KiB at most if they
came one after the other, where to count their rows would take longer than to enrol one. What is in memory is for
overviews then, and is counted anew now and then.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

from gateway.errors import Problem, problem
from gateway.store.audience.device_sets import live_devices
from gateway.store.audience.devices import count_devices
from gateway.store.database import Database
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

DEVICES_OF_APP = 1_000_000
"""Devices of one app at most: with 1 KiB each a GiB of the disk; ten times the fleet that one server is meant for."""
LOG_MS = 60_000
"""Time between two lines in the log about an app."""


class EnrolmentQuota:
    """Counts the enrolled devices of every app against DEVICES_OF_APP. Loop, but for `room`.

    `clock_ms` gives server time in milliseconds; `has_nodes`: other nodes enrol devices as well.
    """

    def __init__(self, clock_ms: Callable[[], int], *, has_nodes: bool = False) -> None:
        self._clock_ms = clock_ms
        self._has_nodes = has_nodes
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
        """Reserve up to `wanted` enrolments; how many there are. Release those that do not come about.

        With nodes all of them: `room` decides."""
        granted = wanted if self._has_nodes else _granted(wanted, self._devices[app_no])
        self._add(app_no, granted)
        if granted < wanted:
            self.note_refusals(app_no, wanted - granted)
        return granted

    def room(self, transaction: Transaction, app_no: int, reserved: int) -> int:
        """Count how many of the reserved devices may be enrolled, in the operation that does it. Writer thread.

        That operation holds the app's lock, so no other node enrols between this and its commit."""
        return _granted(reserved, len(live_devices(transaction, app_no))) if self._has_nodes else reserved

    def note_refusals(self, app_no: int, count: int) -> None:
        """Count devices for which there was no room, and log it now and then."""
        self.refused += count
        now_ms = self._clock_ms()
        if now_ms - self._logged_at.get(app_no, -LOG_MS) >= LOG_MS:
            self._logged_at[app_no] = now_ms
            log.warning("app number %d has %d devices: no more are enrolled", app_no, DEVICES_OF_APP)

    def release(self, app_no: int, count: int) -> None:
        """Release enrolments that did not come about, or whose devices have been removed."""
        self._add(app_no, -count)

    def _add(self, app_no: int, count: int) -> None:
        self._devices[app_no] += count
        self._meanwhile[app_no] += count


def _granted(wanted: int, devices: int) -> int:
    return max(min(wanted, DEVICES_OF_APP - devices), 0)


def too_many_devices() -> Problem:
    return problem("too_many_devices", f"an app has at most {DEVICES_OF_APP} devices: remove some first")
