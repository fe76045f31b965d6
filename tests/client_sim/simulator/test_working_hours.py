"""Working hours: who is there at which time of the simulation's own day."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from client_sim.simulator.working_hours import WorkingHours, parse_hours

MONDAY = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
HOUR = 3_600.0


def test_each_device_has_the_hours_of_its_zone() -> None:
    hours = WorkingHours("08:00-18:00", ["Europe/Berlin", "America/New_York"], MONDAY, clock_speed=60)
    minute = HOUR / 60
    assert hours.zone_of(3) == "America/New_York"
    assert hours.off_duty(4, 0) == {0, 1, 2, 3}
    assert hours.off_duty(4, 1 * minute) == {1, 3}, "8 in Berlin, 2 in New York"
    assert hours.off_duty(4, 7 * minute) == set(), "14 and 8"
    assert hours.off_duty(4, 11 * minute) == {0, 2}, "the end is excluded"
    assert hours.off_duty(4, 25 * minute) == {1, 3}, "every day"


def test_a_night_shift_goes_over_midnight() -> None:
    hours = WorkingHours("22:00-06:00", ["UTC"], MONDAY, clock_speed=1)
    assert [len(hours.off_duty(1, at * HOUR)) for at in (-0.01, 0, 15.99, 16, 23.99, 24)] == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("text", ["8-18", "08:00-24:00", "08:00-08:00", "08:00", "08:00-18:60"])
def test_hours_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_hours(text)
