"""Instants and clocks: when is 09:00 in a zone, when does a cron expression fit, when do hours begin.

Pure functions. An *instant* is milliseconds of the wall clock (Unix epoch, UTC); a *local time* is a datetime without a
zone, as the clocks of a zone show it. The rules of a zone are those that tzdata had when it was first asked for.

Rules where clocks are set, which are those of Debian's cron:
1. A local time that is left out (clocks are set forward) is due at the first instant after the gap, once.
2. A local time that comes twice (clocks are set back) is due at the first.
3. A cron expression whose minute or hour begins with a star names no times of day but an interval: it follows what the
   clocks show. It has no date in a gap, and both in the hour that comes twice.

cronsim reads the expressions and knows the calendar (`L`, `5#2`). It walks without a zone here and the rules are
applied on top: its own way with zones leaves out minutes where clocks are set by less than an hour (Lord Howe).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

from gateway.delivery.push_timing import Window, names_times_of_day

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
PROBE_MS = 7 * DAY_MS
"""Distance at which clocks are looked at for whether they were set: no zone sets them twice within a week."""
EAST_MS = 14 * HOUR_MS
"""No clock is further ahead of UTC (Kiritimati)."""
WEST_MS = 12 * HOUR_MS
"""No clock is further behind UTC."""
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # local times have no zone


def naive(milliseconds: int) -> datetime:
    """A local time from milliseconds, as if its clock showed UTC."""
    return _EPOCH + timedelta(0, 0, milliseconds * 1000)


def naive_ms(local: datetime) -> int:
    """Milliseconds of a local time, as if its clock showed UTC."""
    return (local - _EPOCH) // timedelta(milliseconds=1)


def offset_ms(zone: ZoneInfo, instant: int) -> int:
    """The milliseconds by which the clocks of a zone are ahead of UTC at an instant."""
    offset = datetime.fromtimestamp(instant // 1000, zone).utcoffset()
    assert offset is not None, "every zone has one"
    return offset // timedelta(milliseconds=1)


def local_of(zone: ZoneInfo, instant: int) -> datetime:
    """The local time that the clocks of a zone show at an instant."""
    return naive(instant + offset_ms(zone, instant))


def clock_change(zone: ZoneInfo, after: int, until: int) -> int | None:
    """The first instant behind `after`, at `until` at the latest, at which clocks of the zone show another offset."""
    before, low = offset_ms(zone, after), after
    while low < until:
        high = min(low + PROBE_MS, until)
        if offset_ms(zone, high) != before:
            while high - low > 1:
                middle = (low + high) // 2
                if offset_ms(zone, middle) == before:
                    low = middle
                else:
                    high = middle
            return high
        low = high
    return None


def instant_of(zone: ZoneInfo, local: datetime) -> int:
    """The instant of a local time: the first if it comes twice, the first after the gap if it is left out."""
    before, after = local.replace(tzinfo=zone).utcoffset(), local.replace(tzinfo=zone, fold=1).utcoffset()
    assert before is not None, "every zone has one"
    first = naive_ms(local - before)
    if before == after:
        return first
    assert after is not None, "every zone has one"
    second = naive_ms(local - after)
    if first > second:  # left out (PEP 495: by the offset before the gap it is after it)
        change = clock_change(zone, second, first)
        assert change is not None, "the offsets differ"
        return change
    return first


def next_local(cron: str, after: datetime) -> datetime | None:
    """The first local time behind `after` that fits a cron expression."""
    return next(CronSim(cron, after), None)


def cron_dates(cron: str, zone: ZoneInfo, after: int) -> Iterator[int]:
    """The instants behind `after` at which a cron expression is due by the clocks of a zone, in order."""
    return _dates_by_time(cron, zone, after) if names_times_of_day(cron) else _dates_by_clock(cron, zone, after)


def _dates_by_time(cron: str, zone: ZoneInfo, after: int) -> Iterator[int]:
    for local in CronSim(cron, local_of(zone, after)):
        instant = instant_of(zone, local)
        if instant > after:  # else another one of the same gap, or it comes twice and was due at the first
            yield instant
            after = instant


def _dates_by_clock(cron: str, zone: ZoneInfo, after: int) -> Iterator[int]:
    while True:  # once for each stretch between two changes of the clocks
        offset = offset_ms(zone, after)
        change: int | None = None
        for local in CronSim(cron, naive(after + offset)):
            instant = naive_ms(local) - offset
            change = clock_change(zone, after, instant)
            if change is not None:
                break
            yield instant
            after = instant
        if change is None:
            return
        after = change - 1
        offset = offset_ms(zone, change)
        first = naive(change + offset)
        if next_local(cron, first - timedelta(seconds=1)) == first:
            yield change
        after = change


def latest_cron_date(cron: str, zone: ZoneInfo, at: int) -> int | None:
    """The last instant, `at` included, at which a cron expression was due by the clocks of a zone."""
    for local in CronSim(cron, local_of(zone, at) + timedelta(seconds=1), reverse=True):
        found: int | None = None
        # From before any change of the clocks around it; none sets them by more than a day.
        for instant in cron_dates(cron, zone, min(instant_of(zone, local), at) - 3 * HOUR_MS):
            if instant > at:
                break
            found = instant
        if found is not None:
            return found
    return None


def latest_local(cron: str, at: datetime) -> datetime | None:
    """The last local time, `at` included, that fits a cron expression."""
    return next(CronSim(cron, at + timedelta(seconds=1), reverse=True), None)


# -- windows -----------------------------------------------------------------------------------------------------------


def is_inside(window: Window, zone: ZoneInfo, instant: int) -> bool:
    """Whether the clocks of a zone are within the hours of a window."""
    shown = local_of(zone, instant).strftime("%H:%M")
    if window.start < window.to:
        return window.start <= shown < window.to
    return shown >= window.start or shown < window.to


def _edges(shown: str, zone: ZoneInfo, instant: int, days: range, period: tuple[int, int]) -> list[int]:
    """Instants at which hours may begin or end.

    When the clocks of a zone show a time, on these days around an instant, and when they are set within a period.
    """
    hour, minute = map(int, shown.split(":"))
    today = local_of(zone, instant).replace(hour=hour, minute=minute, second=0, microsecond=0)
    found = [instant_of(zone, today + timedelta(days=day)) for day in days]
    change = clock_change(zone, *period)
    return found if change is None else [*found, change]


@lru_cache(maxsize=4_096)  # devices of one zone, and dates of one day, ask the same
def opening(window: Window, zone: ZoneInfo, instant: int) -> int:
    """The first instant, this one or later, at which the clocks of a zone are within the hours of a window."""
    if is_inside(window, zone, instant):
        return instant
    # Three days, because a window may lie in what the clocks leave out.
    found = _edges(window.start, zone, instant, range(-1, 4), (instant, instant + 3 * DAY_MS))
    return min(begin for begin in found if begin > instant and is_inside(window, zone, begin))


@lru_cache(maxsize=4_096)  # as above
def closing(window: Window, zone: ZoneInfo, instant: int) -> int:
    """The first instant behind this one, which is within the hours of a window, that is not."""
    found = _edges(window.to, zone, instant, range(3), (instant, instant + DAY_MS))
    return min(end for end in found if end > instant and not is_inside(window, zone, end))


def last_inside(window: Window, zone: ZoneInfo, instant: int) -> int:
    """The last instant, this one or earlier, at which the clocks of a zone are within the hours of a window."""
    if is_inside(window, zone, instant):
        return instant
    found = _edges(window.to, zone, instant, range(-4, 2), (instant - 3 * DAY_MS, instant))
    return max(end - 1 for end in found if end <= instant and is_inside(window, zone, end - 1))
