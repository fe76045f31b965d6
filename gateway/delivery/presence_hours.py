"""Hours in which devices were connected: what a forecast knows of when they come.

For each hour there is one set of the devices that were connected in it, whichever their app, in segments of 65,536
numbers (`device_sets`): not a row for each device, of which a million would be written anew each hour. They are kept
for four weeks: long enough to average over, and short enough to follow a fleet that changes. The same hour of earlier
weeks is looked for by its distance, so it takes no clock on the wall and no time zone; when clocks are set to summer
time, habits move by an hour and the sets follow within the four weeks.

Laws
1. CONNECT pays nothing. `device_activity` notes who has connected when it writes that down, a batch at a time; who
   stays is taken from the set of connected devices when an hour begins.
2. A segment is written when it has grown, every WRITE_MS at most, and when its hour is over: devices that stay
   connected are written once an hour, some bytes for a thousand that were enrolled together. At most 8 KiB are a
   segment's, so a million devices that come and go at random are 128 KiB every five minutes, and a hundred megabytes
   of disk in four weeks; 26 if ten thousand of them are always there, and the others never.
3. Not promises: a kill forgets up to WRITE_MS of an hour. What was written is gone on with after a restart.
4. Segment 0 has a row for each hour in which the server ran, empty or not. An hour without one says nothing of anybody,
   such as one that the disk had no room for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pyroaring import BitMap

from gateway.delivery.device_activity import DeviceActivity
from gateway.delivery_handles import DEVICE_MASK
from gateway.store.analytics.presence_hours import HOUR_MS, KEPT_HOURS, PresenceSample, read_hour, write_hour
from gateway.store.app_locks import NO_APP
from gateway.store.audience.device_sets import SEGMENT_BITS
from gateway.store.database import Database

log = logging.getLogger(__name__)

DAY_HOURS = 24
WRITE_MS = 300_000
"""Time between two writes: what a kill forgets, and a twelfth of an hour at most."""
WRITTEN_SEGMENTS = 64
"""Segments of one operation, four million devices: 512 KiB at most."""


class PresenceHours:
    """Records in which hours devices are connected. Loop.

    `connected` gives the numbers of the connected devices, a set that is not changed afterwards. `clock_ms` gives
    server time in milliseconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        activity: DeviceActivity,
        connected: Callable[[], BitMap],
        clock_ms: Callable[[], int],
        storage_left: Callable[[], bool],
    ) -> None:
        """`storage_left` says whether the disk has room to accept more: until then nothing is written unasked."""
        self._database = database
        self._storage_left = storage_left
        self._activity = activity
        self._connected = connected
        self._clock_ms = clock_ms
        self._hour = clock_ms() // HOUR_MS
        self._seen = BitMap()
        self._written: dict[int, int] = {}
        """Devices of the present hour on disk, by segment. A set only grows, so their number tells whether it has."""
        self._submitted = -1
        """Devices of the present hour when it was last submitted; -1: it has to be."""
        self._write_at = clock_ms() + WRITE_MS

    async def load(self) -> None:
        """Go on with the hour that an earlier run has begun; before the first connection."""
        hour = self._hour
        for segment, devices in await self._database.read(lambda transaction: read_hour(transaction, hour)):
            self._seen |= devices
            self._written[segment] = len(devices)

    def tick(self) -> None:
        """Write what has been seen, when it is time. Called a few times a second."""
        now_ms = self._clock_ms()
        if now_ms // HOUR_MS == self._hour and now_ms < self._write_at:
            return
        if self._storage_left():
            self.flush()
        self._write_at = now_ms + WRITE_MS
        if now_ms // HOUR_MS != self._hour:
            self._hour = now_ms // HOUR_MS
            self._activity.came = BitMap()  # in an hour that there was no room to write
            self._seen, self._written, self._submitted = self._connected(), {}, -1

    def flush(self) -> None:
        """Submit what has been seen of the present hour, as far as it is not written."""
        came, self._activity.came = self._activity.came, BitMap()
        self._seen |= came
        if len(self._seen) == self._submitted:
            return
        self._submitted = len(self._seen)
        hour, written = self._hour, self._written
        seen = BitMap(self._seen)
        segments = (seen.max() >> SEGMENT_BITS) + 1 if seen else 1
        for first in range(0, segments, WRITTEN_SEGMENTS):
            numbers = range(first, min(first + WRITTEN_SEGMENTS, segments))
            self._database.submit(
                partial(write_hour, hour=hour, seen=seen, segments=numbers, written=written),
                written.update,
                self._not_stored,
                apps=NO_APP,
            )

    def _not_stored(self, error: BaseException) -> None:
        self._submitted = -1
        log.warning("presence of devices not stored, trying again: %s", error)


# -- what a forecast asks ----------------------------------------------------------------------------------------------


class ExpectedReach(NamedTuple):
    """Devices that will come within a window, as far as earlier windows tell."""

    expected: float
    """Sum over the devices of the part of their samples in which they came."""
    unknown: BitMap
    """Devices of which there is no sample."""


def sampled_windows(now_ms: int, ttl_ms: int, step_hours: int, count: int) -> list[range]:
    """Hours of the windows that lie 1 to `count` steps before that of a push, the latest first.

    Only those that are over; a window of more hours than are kept is cut there.
    """
    first = now_ms // HOUR_MS
    hours = min((now_ms + ttl_ms) // HOUR_MS - first + 1, KEPT_HOURS)
    return [
        range(first - back, first - back + hours)
        for back in range(step_hours, count * step_hours + 1, step_hours)
        if hours <= back
    ]


def expected_reach(devices: BitMap, samples: Sequence[PresenceSample]) -> ExpectedReach:
    """Average how many of the devices came in the samples, which are the latest first.

    Of each device those count that began after it had been enrolled.
    """
    expected = 0.0
    unknown = _between(devices, samples[0].enrolled_to if samples else 0, DEVICE_MASK)
    for count in range(1, len(samples) + 1):
        after = samples[count].enrolled_to if count < len(samples) else 0
        cohort = _between(devices, after, samples[count - 1].enrolled_to)
        if cohort:
            came = sum(sample.seen.intersection_cardinality(cohort) for sample in samples[:count])
            expected += came / count
    return ExpectedReach(expected, unknown)


def _between(devices: BitMap, after: int, last: int) -> BitMap:
    """Select the devices with numbers behind `after`, up to `last`."""
    found = BitMap(devices)
    found.remove_range(0, after + 1)
    found.remove_range(last + 1, DEVICE_MASK + 1)
    return found
