"""Dates by clocks that are set, against a slow model: every minute is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.delivery.push_timing import Window
from gateway.plans.due_times import (
    clock_change,
    cron_dates,
    instant_of,
    last_inside,
    latest_cron_date,
    local_of,
    opening,
)

MINUTE_MS = 60_000
CHANGES = {
    "Europe/Vienna": ("2027-03-28T01:00", "2027-10-31T01:00"),
    "America/Santiago": ("2027-09-05T04:00", "2027-04-04T03:00"),
    "Australia/Lord_Howe": ("2027-10-02T15:30", "2027-04-03T15:00"),
}
"""Zone: when its clocks are set forward and back, in UTC; the last by half an hour."""
AROUND = [(zone, at) for zone, both in CHANGES.items() for at in both]


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def fits(field: str, value: int, first: int) -> bool:
    """Whether a value fits a field of numbers, lists, ranges and steps."""
    for choice in field.split(","):
        span, _, step = choice.partition("/")
        low, _, high = span.partition("-")
        if span == "*":
            if (value - first) % int(step or 1) == 0:
                return True
        elif int(low) <= value <= int(high or low) and (value - int(low)) % int(step or 1) == 0:
            return True
    return False


def fits_cron(cron: str, local: datetime) -> bool:
    minute, hour, day, month, weekday = cron.split()
    assert (day, month) == ("*", "*")
    return fits(minute, local.minute, 0) and fits(hour, local.hour, 0) and fits(weekday, local.isoweekday() % 7, 0)


def minutes_shown(zone: ZoneInfo, first: int, last: int) -> list[tuple[int, datetime]]:
    """Each minute's instant, with what the clocks show."""
    return [
        (instant, datetime.fromtimestamp(instant / 1000, zone).replace(tzinfo=None, fold=0))
        for instant in range(first, last, MINUTE_MS)
    ]


def dates_by_the_minute(cron: str, zone: ZoneInfo, first: int, last: int) -> list[int]:
    """The model: walk minute by minute, behind `first`."""
    is_interval = cron.startswith("*") or cron.split()[1].startswith("*")
    found: list[int] = []
    shown_before: set[datetime] = set()
    previous: datetime | None = None
    for instant, local in minutes_shown(zone, first - 3 * 3_600_000, last):
        due = fits_cron(cron, local)
        if not is_interval:
            due = due and local not in shown_before
            if previous is not None and local > previous + timedelta(minutes=1):
                left_out = previous + timedelta(minutes=1)
                while left_out < local:
                    due = due or fits_cron(cron, left_out)
                    left_out += timedelta(minutes=1)
        if due and instant > first:
            found.append(instant)
        shown_before.add(local)
        previous = local
    return found


minutes = st.one_of(
    st.integers(0, 59).map(str),
    st.lists(st.integers(0, 59), min_size=2, max_size=4, unique=True).map(lambda found: ",".join(map(str, found))),
    st.sampled_from(["*/7", "*/10", "*/30", "0-29/5", "15-45"]),
)
hours = st.one_of(st.integers(0, 4).map(str), st.sampled_from(["0-3", "1,2", "2,3", "*", "*/2", "22-23"]))
weekdays = st.sampled_from(["*", "*", "0", "0,6", "1-5"])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(AROUND), minutes, hours, weekdays, st.integers(-2_000, 300))
def test_dates_of_a_cron_expression_are_those_of_the_model(
    around: tuple[str, str], minute: str, hour: str, weekday: str, start: int
) -> None:
    name, change = around
    zone, cron = ZoneInfo(name), f"{minute} {hour} * * {weekday}"
    first = utc(change) + start * MINUTE_MS
    last = utc(change) + 30 * 60 * MINUTE_MS
    expected = dates_by_the_minute(cron, zone, first, last)
    found = []
    for instant in cron_dates(cron, zone, first):
        if instant >= last:
            break
        found.append(instant)
    assert found == expected
    if expected:
        assert latest_cron_date(cron, zone, last - 1) == expected[-1]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(AROUND), st.times(), st.times(), st.integers(-1_800, 1_800))
def test_a_window_opens_and_closes_as_in_the_model(
    around: tuple[str, str], start: object, end: object, minute: int
) -> None:
    name, change = around
    zone = ZoneInfo(name)
    start_text, end_text = f"{start:%H:%M}", f"{end:%H:%M}"
    if start_text == end_text:
        return
    window = Window.model_validate({"from": start_text, "to": end_text, "zone": name})
    at = utc(change) + minute * MINUTE_MS

    def inside(local: datetime) -> bool:
        text = f"{local:%H:%M}"
        return start_text <= text < end_text if start_text < end_text else not end_text <= text < start_text

    day = 2 * 86_400_000
    later = [instant for instant, local in minutes_shown(zone, at, at + day) if inside(local)]
    earlier = [instant for instant, local in minutes_shown(zone, at - day, at + 1) if inside(local)]
    assert opening(window, zone, at) == later[0]
    assert last_inside(window, zone, at) // MINUTE_MS == earlier[-1] // MINUTE_MS


@pytest.mark.parametrize(("name", "forward", "back"), [(name, *both) for name, both in CHANGES.items()])
def test_a_time_that_is_left_out_is_due_after_the_gap_and_one_that_comes_twice_at_the_first(
    name: str, forward: str, back: str
) -> None:
    zone = ZoneInfo(name)
    gap, overlap = utc(forward), utc(back)
    left_out = local_of(zone, gap - MINUTE_MS) + timedelta(minutes=11)
    assert instant_of(zone, left_out) == gap
    twice = local_of(zone, overlap)
    assert instant_of(zone, twice) < overlap
    assert local_of(zone, instant_of(zone, twice)) == twice
    cron = f"{left_out.minute},{left_out.minute + 5} {left_out.hour} * * *"
    dates = list(islice(cron_dates(cron, zone, gap - 3_600_000), 2))
    assert dates[0] == gap, "both times of the gap are due once, together"
    assert dates[1] > gap + 80_000_000


def test_a_change_of_the_clocks_is_found_to_the_millisecond() -> None:
    for name, at in AROUND:
        change = utc(at)
        assert clock_change(ZoneInfo(name), change - 40 * 86_400_000, change + 86_400_000) == change


def test_expressions_of_the_calendar_are_those_of_cron() -> None:
    zone = ZoneInfo("Europe/Vienna")
    last_days = [
        local_of(zone, at).date().isoformat() for at in islice(cron_dates("0 9 L * *", zone, utc("2027-01-01")), 3)
    ]
    assert last_days == ["2027-01-31", "2027-02-28", "2027-03-31"]
    assert next(cron_dates("0 12 29 2 *", zone, utc("2027-01-01")), None) == utc("2028-02-29T11:00")
