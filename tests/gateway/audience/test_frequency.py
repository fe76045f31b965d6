"""Quiet hours on the wall clock of every zone, both nights of the year included; caps as rolling windows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.audience.frequency import WINDOWS_MS, Cap, Hours, free_at, is_quiet, quiet_until

MINUTE = 60_000
NIGHT = Hours(start="22:00", end="07:00")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca")


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def test_over_midnight() -> None:
    assert quiet_until(NIGHT, "UTC", at("2026-11-27T21:59:59+00:00")) is None
    assert quiet_until(NIGHT, "UTC", at("2026-11-27T22:00:00+00:00")) == at("2026-11-28T07:00:00+00:00")
    assert quiet_until(NIGHT, "UTC", at("2026-11-28T06:59:59+00:00")) == at("2026-11-28T07:00:00+00:00")
    assert quiet_until(NIGHT, "UTC", at("2026-11-28T07:00:00+00:00")) is None


def test_by_day_and_in_the_persons_own_zone() -> None:
    lunch = Hours(start="12:00", end="13:30")
    noon = at("2026-06-01T12:15:00+02:00")
    assert quiet_until(lunch, "Europe/Berlin", noon) == at("2026-06-01T13:30:00+02:00")
    assert quiet_until(lunch, "UTC", noon) is None


def test_clocks_set_forward() -> None:
    """Berlin, 29 March 2026: 01:59 is followed by 03:00."""
    before = at("2026-03-29T01:30:00+01:00")
    assert quiet_until(Hours(start="22:00", end="02:30"), "Europe/Berlin", before) == at("2026-03-29T03:00:00+02:00")
    assert quiet_until(NIGHT, "Europe/Berlin", before) == at("2026-03-29T07:00:00+02:00")


def test_clocks_set_forward_over_all_that_is_not_quiet() -> None:
    """A person who can be disturbed for one minute of the day, which this day leaves out."""
    hours = Hours(start="02:01", end="02:00")
    before = at("2026-03-28T02:01:00+01:00")
    assert quiet_until(hours, "Europe/Berlin", before) == at("2026-03-30T02:00:00+02:00")


def test_clocks_set_back() -> None:
    """Berlin, 25 October 2026: the hour from 02:00 comes twice, and is quiet twice."""
    hours = Hours(start="22:00", end="02:30")
    assert quiet_until(hours, "Europe/Berlin", at("2026-10-25T01:00:00+02:00")) == at("2026-10-25T02:30:00+02:00")
    assert quiet_until(hours, "Europe/Berlin", at("2026-10-25T02:45:00+02:00")) is None
    assert quiet_until(hours, "Europe/Berlin", at("2026-10-25T02:10:00+01:00")) == at("2026-10-25T02:30:00+01:00")


def test_clocks_set_back_out_of_quiet_hours() -> None:
    """Quiet from 02:01 on: at three it is two again, and for a minute a person can be disturbed."""
    hours = Hours(start="02:01", end="00:00")
    assert quiet_until(hours, "Europe/Berlin", at("2026-10-25T02:05:00+02:00")) == at("2026-10-25T02:00:00+01:00")
    assert quiet_until(hours, "Europe/Berlin", at("2026-10-25T02:05:00+01:00")) == at("2026-10-26T00:00:00+01:00")


wall_times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
SWITCHES = [at("2026-03-29T01:00:00+00:00"), at("2026-10-25T01:00:00+00:00"), at("2026-11-01T06:00:00+00:00")]
moments = st.integers(at("2026-01-01T00:00:00+00:00"), at("2027-01-01T00:00:00+00:00")) | st.builds(
    int.__add__, st.sampled_from(SWITCHES), st.integers(-36 * 60 * MINUTE, 36 * 60 * MINUTE)
)


@given(start=wall_times, end=wall_times, zone=st.sampled_from(ZONES), now=moments)
def test_quiet_until_is_the_first_moment_that_is_not_quiet(start: str, end: str, zone: str, now: int) -> None:
    if start == end:
        return
    hours = Hours(start=start, end=end)
    until = quiet_until(hours, zone, now)
    if until is None:
        assert not is_quiet(hours, zone, now)
        return
    assert is_quiet(hours, zone, now)
    assert until > now
    assert not is_quiet(hours, zone, until)
    assert all(is_quiet(hours, zone, moment) for moment in range(now, until, 5 * MINUTE))
    assert is_quiet(hours, zone, until - 1)


def test_hours_without_an_inside() -> None:
    for start, end in (("22:00", "22:00"), ("24:00", "07:00"), ("7:00", "08:00")):
        with pytest.raises(ValidationError):
            Hours(start=start, end=end)


def test_a_cap_is_a_rolling_window() -> None:
    caps = [Cap(count=2, per="hour"), Cap(count=3, per="day")]
    hour = WINDOWS_MS["hour"]
    assert free_at(caps, [], 0) is None
    assert free_at(caps, [0], 1) is None
    assert free_at(caps, [0, 10], 20) == hour
    assert free_at(caps, [0, 10], hour) is None
    assert free_at(caps, [0, 10, hour], hour) == WINDOWS_MS["day"]


@given(
    uses=st.lists(st.integers(0, 10**9), max_size=30).map(sorted),
    caps=st.lists(st.builds(Cap, count=st.integers(1, 5), per=st.sampled_from(["hour", "day", "week"])), min_size=1),
    now=st.integers(0, 2 * 10**9),
)
def test_one_more_fits_when_it_is_said_to(uses: list[int], caps: list[Cap], now: int) -> None:
    now = max(now, uses[-1] if uses else 0)
    free = free_at(caps, uses, now)
    moment = now if free is None else free

    def fits(at: int) -> bool:
        return all(sum(at - WINDOWS_MS[cap.per] < use <= at for use in uses) < cap.count for cap in caps)

    assert fits(moment)
    if free is not None:
        assert not fits(free - 1)


@pytest.mark.parametrize("text", ["", "7:00", "24:00", "07:60", "07:00\n", "seven", "0700"])
def test_a_time_of_day_has_two_digits_each(text: str) -> None:
    with pytest.raises(ValidationError, match="such as 07:30"):
        Hours(start=text, end="12:00")
