"""Hours of presence, and the forecasts that are made of them, against a model with a set of hours for each device."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from pyroaring import BitMap

from gateway.store.analytics.presence_hours import HOUR_MS, KEPT_HOURS, read_hour, remove_hours
from tests.gateway.delivery.world import APP, START, World

DAY, WEEK = 24, 168
HOUR_SECONDS = 3600
NEXT_HOUR = START // HOUR_MS + 1
DEVICES = 3


def wait_until(world: World, hour: int, *, ticks: bool = True) -> None:
    """Have the hours pass, the server running (or not), to a minute behind the beginning of this one."""
    while world.now < hour * HOUR_MS:
        world.now = hour * HOUR_MS if not ticks else min(world.now // HOUR_MS + 1, hour) * HOUR_MS
        if ticks:
            world.presence_hours.tick()
            world.writer.drain()
    world.now = hour * HOUR_MS + 60_000


def come(world: World, device_no: int) -> None:
    """A device connects, and is noted."""
    world.connect(device_no)
    world.timers.later_turn()
    world.settle()


def forecast(world: World, ttl_hours: float, device_no: int | None = None) -> tuple[int, int, int]:
    """(likely, will expire, of unknown presence)."""
    target = {"all": True} if device_no is None else {"device": f"d{device_no}"}
    found = world.run(world.forecast.of(APP, world.request(target, ttl=round(ttl_hours * HOUR_SECONDS))))
    assert found["likely"] + found["will_expire"] + found["unknown_presence"] == found["targeted"]
    return found["likely"], found["will_expire"], found["unknown_presence"]


class Model:
    """What a forecast should be, from a set of hours for each device."""

    def __init__(self) -> None:
        self.seen: dict[int, set[int]] = {}
        self.enrolled: dict[int, int] = {}
        """Milliseconds."""

    def samples(self, device_no: int, now_ms: int, hours: int, steps: Sequence[int]) -> list[bool]:
        first = now_ms // HOUR_MS
        return [
            any(first - back + hour in self.seen[device_no] for hour in range(hours))
            for back in steps
            if back >= hours
            and self.enrolled[device_no] < (first - back) * HOUR_MS
            and sum(first - back + hour >= NEXT_HOUR - 1 for hour in range(hours)) * 2 >= hours
        ]

    def forecast(self, now_ms: int, ttl_ms: int, online: set[int]) -> tuple[int, int, int]:
        likely, unknown = 0.0, 0
        hours = min((now_ms + ttl_ms) // HOUR_MS - now_ms // HOUR_MS + 1, KEPT_HOURS)
        for device_no in self.seen:
            came = self.samples(device_no, now_ms, hours, range(WEEK, 4 * WEEK + 1, WEEK)) or self.samples(
                device_no, now_ms, hours, range(DAY, WEEK, DAY)
            )
            if device_no in online:
                likely += 1
            elif ttl_ms and came:
                likely += sum(came) / len(came)
            elif ttl_ms:
                unknown += 1
        return round(likely), len(self.seen) - round(likely) - unknown, unknown


visits = st.lists(
    st.tuples(st.integers(0, 5 * WEEK), st.one_of(st.integers(0, 3), st.integers(0, 2 * WEEK))), max_size=6
)


@given(
    st.lists(visits, min_size=DEVICES, max_size=DEVICES),
    st.lists(st.integers(-1, 5 * WEEK), min_size=DEVICES, max_size=DEVICES),
    st.integers(1, 5 * WEEK),
    st.sampled_from([0, 0.5, 1, 5, DAY, 2 * DAY, WEEK - 1, WEEK, 3 * WEEK, 10 * WEEK]),
    st.sets(st.integers(0, 5 * WEEK), max_size=2),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_forecast_is_what_a_model_says(
    visited: list[list[tuple[int, int]]], enrolled: list[int], length: int, ttl_hours: float, restarts: set[int]
) -> None:
    """Devices come and stay, the server restarts; the hours pass, up to five weeks."""
    world, model = World(devices=DEVICES), Model()
    try:
        for device_no, hour in enumerate(sorted(enrolled), 1):  # numbers are given in order
            model.seen[device_no], model.enrolled[device_no] = set(), (NEXT_HOUR + hour) * HOUR_MS
            world.connection.execute(
                "UPDATE device SET created_at = ? WHERE no = ?", (model.enrolled[device_no], device_no)
            )
        leaves: dict[int, int] = {}
        for hour in range(NEXT_HOUR, NEXT_HOUR + length):
            wait_until(world, hour)
            for device_no in leaves:
                model.seen[device_no].add(hour)
            for device_no in [device_no for device_no, at in leaves.items() if at <= hour]:
                world.disconnect(device_no)
                del leaves[device_no]
            if hour - NEXT_HOUR in restarts:
                world.presence_hours.flush()
                world.writer.drain()
                leaves.clear()
                world.crash()
            for device_no, times in enumerate(visited, 1):
                for start, stay in times:
                    if start == hour - NEXT_HOUR and device_no not in leaves:
                        come(world, device_no)
                        model.seen[device_no].add(hour)
                        leaves[device_no] = hour + stay
        expected = model.forecast(world.now, round(ttl_hours * HOUR_MS), set(leaves))
        assert forecast(world, ttl_hours) == expected
    finally:
        world.close()


def test_who_comes_at_night_is_not_expected_at_noon(world: World) -> None:
    for week in range(4):
        wait_until(world, NEXT_HOUR + week * WEEK + 14)
        come(world, 1)
        world.disconnect(1)
    wait_until(world, NEXT_HOUR + 4 * WEEK)
    assert forecast(world, 5, 1) == (0, 1, 0)
    assert forecast(world, 14, 1) == (1, 0, 0)
    wait_until(world, NEXT_HOUR + 4 * WEEK + 14)
    assert forecast(world, 0.1, 1) == (1, 0, 0)
    assert forecast(world, 0, 1) == (0, 1, 0), "now or never"
    come(world, 1)
    assert forecast(world, 0, 1) == (1, 0, 0)


def test_of_a_new_device_nothing_is_known_before_a_day_is_over(world: World) -> None:
    world.connection.execute("UPDATE device SET created_at = ?", (world.now,))
    come(world, 1)
    world.disconnect(1)
    wait_until(world, NEXT_HOUR + 6)
    assert forecast(world, 1) == (0, 0, 3)
    wait_until(world, NEXT_HOUR + DAY)
    assert forecast(world, 2) == (0, 3, 0), "as on the day before"
    wait_until(world, NEXT_HOUR + 2 * DAY - 1)
    assert forecast(world, 1) == (0, 3, 0)


def test_what_was_written_outlives_a_kill_and_an_outage_says_nothing(world: World) -> None:
    for week in range(3):
        wait_until(world, NEXT_HOUR + week * WEEK)
        come(world, 1)
        world.now += 301_000
        world.presence_hours.tick()
        world.settle()
        come(world, 2)  # forgotten: not written before the kill
        world.crash()
    wait_until(world, NEXT_HOUR + 3 * WEEK + 2, ticks=False)  # the server does not run in the fourth week
    world.crash()
    wait_until(world, NEXT_HOUR + 4 * WEEK)
    assert forecast(world, 0.1, 1) == (1, 0, 0)
    assert forecast(world, 0.1, 2) == (0, 1, 0)


def test_who_came_while_the_disk_had_no_room_is_said_of_no_later_hour(world: World) -> None:
    wait_until(world, NEXT_HOUR)
    world.storage_left = False
    come(world, 1)
    world.disconnect(1)
    wait_until(world, NEXT_HOUR + 1)
    world.storage_left = True
    come(world, 2)
    world.presence_hours.flush()
    world.settle()
    assert read_hour(world.connection, NEXT_HOUR) == []
    assert read_hour(world.connection, NEXT_HOUR + 1) == [(0, BitMap([2]))]


def test_an_hour_in_which_nobody_comes_writes_one_row_and_no_more(world: World) -> None:
    wait_until(world, NEXT_HOUR)
    for _ in range(11):
        world.now += 301_000
        world.presence_hours.tick()
        assert len(world.writer.queue) <= (1 if _ == 0 else 0)
        world.settle()
    world.presence_hours.flush()
    assert world.writer.queue == []


@pytest.mark.parametrize("device_no", [5, 65_536 * 70 + 5])
def test_a_set_is_written_a_segment_at_a_time(world: World, device_no: int) -> None:
    world.enrol(device_no)
    come(world, device_no)
    world.presence_hours.flush()
    assert len(world.writer.queue) == 1 + (device_no >> 16) // 64
    world.settle()
    rows = world.connection.execute("SELECT segment FROM presence_hour ORDER BY segment").fetchall()
    assert rows == ([(0,), (70,)] if device_no >> 16 else [(0,)])


def test_four_weeks_are_kept(world: World) -> None:
    come(world, 1)
    wait_until(world, NEXT_HOUR + KEPT_HOURS + 10)
    removed = [remove_hours(world.connection, world.now, 8) for _ in range(3)]
    assert removed == [8, 3, 0]
    assert world.row("SELECT min(hour), max(hour) FROM presence_hour") == (
        NEXT_HOUR + 10,
        NEXT_HOUR + KEPT_HOURS + 9,
    )
