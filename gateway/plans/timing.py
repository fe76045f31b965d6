"""The dates of a schedule: which is next, from when on it is due for a device, and what lies behind it.

Pure. A *date* is a number that grows from date to date: for a schedule by one clock its instant, for one by the
devices' own clocks what those show (`naive_ms`). When a date is due depends on a device's zone then: a run goes around
the earth within 26 hours.

Laws
1. Dates only grow. What is behind the last one that was begun is never due again, whatever becomes of the clocks.
2. A date outside the window is due when the window opens. Of several dates that are due by then the last one is begun,
   and the others are skipped.
3. Nothing is due for a device that was due for it before the schedule was made, changed or resumed (`since`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from gateway.audience.time_zones import time_zone
from gateway.delivery.push import PushRequest
from gateway.delivery.push_timing import DEVICE_ZONE, MAX_DATES, Repeat, Window
from gateway.plans.due_times import (
    DAY_MS,
    EAST_MS,
    WEST_MS,
    closing,
    cron_dates,
    instant_of,
    is_inside,
    last_inside,
    latest_cron_date,
    latest_local,
    local_of,
    naive,
    naive_ms,
    opening,
)

GRACE_MS = 60_000
"""What is late by less is on time: a restart takes seconds, and a cron expression counts minutes."""
LOOK_MS = 900_000
"""Time between two looks at the zones of an app while a date may come due in one of them: they are apart by a quarter
of an hour at least, and a device may have come in another one."""
WALKED_DATES = MAX_DATES
"""Dates that one look walks through; a server that was away for longer goes on with the last one."""
SHOWN_DATES = 5
WALKED_DATES_LISTED = 100
WALKED_DATES_SHOWN = 8_000
"""Dates that are walked through for those: five days of minutes, of which a window leaves one. Of each schedule in a
list one date is shown, which is nearly always the next."""
SHOWN_MS = 50 * 366 * DAY_MS
"""How far ahead of these dates the last one is: as far as a cron expression must have one. Where the window lets none
of a yearly repetition through, the walk would come to the end of the calendar."""
LOOKS_SHOWN = 20_000
LOOKS_LISTED = 5_000
"""Of these dates, those that are looked at, times the zones that they are looked at in: each takes up to 50 µs, and
devices of an app may be in hundreds of zones."""


@dataclass(slots=True, frozen=True)
class Timing:
    """The times at which a push is to be sent. Instants are milliseconds of the wall clock.

    `default_zone`: of devices that have none. `since`: the instant at which the schedule was made, changed or resumed.
    """

    at: int
    """The instant, if there is neither `local` nor `repeat`."""
    local: str | None
    repeat: Repeat | None
    window: Window | None
    ttl_ms: int
    default_zone: str
    since: int

    @classmethod
    def of(cls, request: PushRequest, default_zone: str, since: int) -> Timing:
        """The timing that a request asks for; of one that names no time: now."""
        return cls(
            since if request.send_at is None else int(request.send_at.timestamp() * 1000),
            request.send_at_local,
            request.repeat,
            request.window,
            request.ttl * 1000,
            default_zone,
            since,
        )

    @property
    def is_by_device(self) -> bool:
        """Whether a date is due at different times for devices of different zones."""
        return self.is_local or (self.window is not None and self.window.zone == DEVICE_ZONE)

    @property
    def is_local(self) -> bool:
        """Whether its dates are what the devices' own clocks show."""
        return self.local is not None or (self.repeat is not None and self.repeat.zone == DEVICE_ZONE)

    def due(self, date: int, zone_name: str) -> int | None:
        """The instant from which on a date is due for devices of a zone; None: it was over at `since`."""
        zone = time_zone(zone_name)
        instant = self._instant(date, zone)
        return None if instant is None else self._opened(instant, zone)

    def is_stale(self, date: int, zone_name: str) -> bool:
        """Whether the lifetime of a push is over before the window opens."""
        zone = time_zone(zone_name)
        instant = self._instant(date, zone)
        if instant is None:
            return False
        waits = self._opened(instant, zone) - instant
        return waits > 0 and waits >= self.ttl_ms

    def _instant(self, date: int, zone: ZoneInfo) -> int | None:
        """The instant of a date in a zone, without regard to the window; None: it was over at `since`."""
        if not self.is_local:
            return date
        instant = instant_of(zone, naive(date)) if self.local is None else self._due_local(self.local, zone)
        return instant if instant > self.since else None

    def _due_local(self, local: str, zone: ZoneInfo) -> int:
        if "T" in local:
            return instant_of(zone, datetime.fromisoformat(local))
        today = datetime.combine(local_of(zone, self.since).date(), time.fromisoformat(local))
        instant = instant_of(zone, today)
        return instant if instant > self.since else instant_of(zone, today + timedelta(days=1))

    def _opened(self, instant: int, zone: ZoneInfo) -> int:
        if self.window is None:
            return instant
        return opening(self.window, zone if self.window.zone == DEVICE_ZONE else time_zone(self.window.zone), instant)

    def hours(self, due: int, zone_name: str, wall_ms: int) -> tuple[int | None, int | None]:
        """Find when the window is open next for devices of a zone, and when it closes on those due at an instant.

        None and None if there is none. The first is `wall_ms` if it is open then.
        """
        if self.window is None:
            return None, None
        zone = time_zone(zone_name if self.window.zone == DEVICE_ZONE else self.window.zone)
        closes = closing(self.window, zone, due) if is_inside(self.window, zone, due) else None
        # By the minute, so that those who ask within it share the answer.
        opens = opening(self.window, zone, wall_ms - wall_ms % 60_000)
        return max(opens, wall_ms), closes

    def first_due(self, date: int, zones: Sequence[str]) -> int | None:
        """The first instant at which a date is due for devices of these zones."""
        found = [due for zone in zones if (due := self.due(date, zone)) is not None]
        return min(found, default=None)

    # -- dates

    def dates(self, after: int | None) -> Iterator[int]:
        """The dates behind this one; all of them for None. Without regard to how many there may be."""
        if self.repeat is None:
            only = self._only_date()
            if after is None or only > after:
                yield only
            return
        for date in self._repeated(self.repeat, after):
            if self._is_over(date):
                return
            yield date

    def _only_date(self) -> int:
        if self.local is None:
            return self.at
        return naive_ms(datetime.fromisoformat(self.local)) if "T" in self.local else self.since

    def _repeated(self, repeat: Repeat, after: int | None) -> Iterator[int]:
        if repeat.zone != DEVICE_ZONE:
            yield from cron_dates(
                repeat.cron, time_zone(repeat.zone), self.since if after is None else max(after, self.since)
            )
            return
        # In the west, a date may be due that is over in the east.
        first = self.since - WEST_MS
        for local in CronSim(repeat.cron, naive(first if after is None else max(after, first))):
            yield naive_ms(local)

    def _is_over(self, date: int) -> bool:
        assert self.repeat is not None, "it repeats"
        if self.repeat.until is None:
            return False
        # By the devices' clocks: as those show it that have no zone of their own.
        instant = instant_of(time_zone(self.default_zone), naive(date)) if self.is_local else date
        return instant > int(self.repeat.until.timestamp() * 1000)

    def _latest(self, wall_ms: int) -> int | None:
        """The last date that is due everywhere by wall_ms, of those that repeat."""
        repeat = self.repeat
        assert repeat is not None, "it repeats"
        if repeat.until is not None:
            wall_ms = min(wall_ms, int(repeat.until.timestamp() * 1000))
        if self.is_local:
            at = wall_ms - WEST_MS - (DAY_MS if self.window is not None else 0)
            local = latest_local(repeat.cron, naive(at))
            return None if local is None else naive_ms(local)
        if self.window is not None and self.window.zone != DEVICE_ZONE:
            wall_ms = last_inside(self.window, time_zone(self.window.zone), wall_ms)
        elif self.window is not None:
            wall_ms -= 2 * DAY_MS
        return latest_cron_date(repeat.cron, time_zone(repeat.zone), wall_ms)

    # -- what is next

    def find_next(self, last: int | None, used: int, zones: Sequence[str], wall_ms: int) -> NextDate:
        """Find what is to be begun, and what is skipped before it, at a time.

        `last`: the date that was begun or skipped last. `used`: how many dates there were. `zones`: those of the
        devices that there are; the default one is always among them.
        """
        if not self.is_by_device:
            zones = zones[:1]
        left = self._left(used)
        over = False
        """Whether a date is over for all of these zones: a device may come in one for which it is not."""
        for date in self.dates(last) if left > 0 else ():
            due = self.first_due(date, zones)
            if due is None:
                over = over or wall_ms < date + WEST_MS
            elif due > wall_ms:
                wake = self._wake(date, due, wall_ms)
                return NextDate(0, None, None, min(wake, wall_ms + LOOK_MS) if over else wake)
            else:
                begin, skipped = self._last_due_everywhere(date, zones, wall_ms, left - 1)
                return NextDate(skipped, begin, self.first_due(begin, zones), wall_ms)
        return NextDate(0, None, None, wall_ms + LOOK_MS if over else None)

    def _last_due_everywhere(self, begin: int, zones: Sequence[str], wall_ms: int, left: int) -> tuple[int, int]:
        """The last date behind one that is due which is due in all zones, and how many it skips; or that one itself."""
        # Nowhere is a date behind these due; and those that are due everywhere come before those that are not.
        behind = takewhile(lambda date: date <= wall_ms + EAST_MS, self.dates(begin))
        later = list(islice(behind, min(left, WALKED_DATES)))
        skipped = bisect_left(later, True, key=lambda date: not self._is_due_everywhere(date, zones, wall_ms))
        if skipped:
            begin = later[skipped - 1]
        if skipped >= WALKED_DATES:
            begin = max(begin, self._latest(wall_ms) or begin)
        return begin, skipped

    def _left(self, used: int) -> int:
        """Dates that there may still be."""
        if self.repeat is None:
            return 1 - min(used, 1)
        return self.repeat.count - used if self.repeat.count is not None else 2**62

    def _is_due_everywhere(self, date: int, zones: Sequence[str], wall_ms: int) -> bool:
        return all(due is None or due <= wall_ms for due in (self.due(date, zone) for zone in zones))

    def _wake(self, date: int, due: int, wall_ms: int) -> int:
        """The instant of the next look, before a date is due for any of the devices that there are."""
        if not self.is_local:
            return min(due, wall_ms + LOOK_MS) if self.is_by_device else due
        # A device may come in a zone in which it is due earlier.
        begins = date if self.local is not None and "T" not in self.local else date - EAST_MS
        return min(due, max(begins, wall_ms + LOOK_MS))

    def next_date(self, date: int) -> int | None:
        """The date behind this one, if there is one."""
        return next(self.dates(date), None)

    def upcoming(self, last: int | None, used: int, zones: Sequence[str], count: int = SHOWN_DATES) -> list[int]:
        """The first instants of the next dates, without those that are too late for the window."""
        if not self.is_by_device:
            zones = zones[:1]
        found: list[int] = []
        walked, looks = WALKED_DATES_SHOWN if count > 1 else WALKED_DATES_LISTED, 0
        behind: int | None = None
        near = takewhile(lambda date: date <= self.since + SHOWN_MS, self.dates(last))
        for date in islice(near, max(0, min(self._left(used), walked))):
            if behind is not None and date <= behind:
                continue
            due = self.first_due(date, [zone for zone in zones if not self.is_stale(date, zone)])
            if due is not None and (not found or due > found[-1]):
                found.append(due)
            looks += len(zones)
            if len(found) == count or looks >= (LOOKS_SHOWN if count > 1 else LOOKS_LISTED):
                break
            if not self.is_local:
                # Up to then dates wait for the same opening; or, if this one does not last until there, nor do they.
                behind = due if due is not None else (self.first_due(date, zones) or date) - self.ttl_ms
        return found


@dataclass(slots=True, frozen=True)
class NextDate:
    """Result of a look at the dates of a schedule."""

    skipped: int
    """Dates before the one to begin, which it takes the place of."""
    begin: int | None
    """The date to begin now."""
    due: int | None
    """The instant at which that was due first."""
    wake: int | None
    """The instant of the next look; None: there are no more dates."""
