"""Working hours: which devices are there at a time of the simulation's own clock, each by the clock of its zone.

The clock begins at a date that the scenario fixes, and runs as many times faster as the server's. So a run repeats,
whatever time of day it is carried out at. It knows nothing of the server's time of day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_hours(text: str) -> tuple[time, time]:
    """The beginning and the end of `08:00-18:00`. Raises ValueError."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: write it as 08:00-18:00")
    begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if begin == end:
        raise ValueError(f"{text!r}: its ends are the same, and that is never or always")
    return begin, end


class WorkingHours:
    """The hours in which devices are connected."""

    def __init__(self, hours: str, zones: Sequence[str], begins: datetime, clock_speed: float) -> None:
        self._begin, self._end = parse_hours(hours)
        self._zones = [ZoneInfo(name) for name in zones]
        self._begins = begins
        self._speed = clock_speed

    def zone_of(self, index: int) -> str:
        """The time zone of a device."""
        return self._zones[index % len(self._zones)].key

    def off_duty(self, devices: int, seconds: float) -> set[int]:
        """The devices, of so many, that are away when so many seconds of ours have passed."""
        now = self._begins + timedelta(seconds=seconds * self._speed)
        away = {place for place, zone in enumerate(self._zones) if not self._is_working(now.astimezone(zone).time())}
        if not away:
            return set()
        return {index for index in range(devices) if index % len(self._zones) in away}

    def _is_working(self, clock: time) -> bool:
        if self._begin < self._end:
            return self._begin <= clock < self._end
        return clock >= self._begin or clock < self._end
