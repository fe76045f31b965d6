"""Schedules within hours: nothing outside of them, of what waits for one opening the last, whatever is late."""

from __future__ import annotations

import pytest

from gateway.errors import Problem
from tests.gateway.delivery.world import APP
from tests.gateway.plans.world import PlanWorld

DAYTIME = {"from": "08:00", "to": "20:00", "zone": "UTC"}
EACH_DAYTIME = DAYTIME | {"zone": "device"}


def times_of_day(world: PlanWorld, devices: int) -> list[str]:
    return sorted({at[11:16] for number in range(1, devices + 1) for at in world.sent(number)})


def test_of_dates_that_wait_for_an_opening_each_zone_is_sent_the_last(world: PlanWorld) -> None:
    world.zone(1, "Asia/Tokyo")
    world.zone(2, "Europe/Vienna")
    world.set_wall("2027-01-10T20:30")
    schedule = world.schedule(repeat={"cron": "0 * * * *", "zone": "UTC"}, window=EACH_DAYTIME)
    world.passes_until("2027-01-11T09:30")
    assert world.sent(1)[:3] == [f"2027-01-{at}:00:00" for at in ("10T23", "11T00", "11T01")]
    assert world.sent(2) == [f"2027-01-11T0{hour}:00:00" for hour in (7, 8, 9)]
    assert world.sent(3) == [f"2027-01-11T0{hour}:00:00" for hour in (8, 9)]
    runs = world.history(schedule)
    assert runs[0]["reason"] == "superseded"
    assert sum(run["state"] == "running" for run in runs) <= 1, "those that are superseded have ended"


def test_a_repetition_by_the_minute_has_no_window_by_the_devices_clocks(world: PlanWorld) -> None:
    with pytest.raises(Problem, match="at most 24 dates a day"):
        world.schedule(repeat={"cron": "* * * * *", "zone": "UTC"}, window=EACH_DAYTIME)


@pytest.mark.parametrize("window", [DAYTIME, EACH_DAYTIME])
def test_a_spread_is_over_when_the_window_closes(world: PlanWorld, window: dict[str, str]) -> None:
    for _ in range(44):
        world.enrol()
    world.set_wall("2027-01-10T18:00")
    world.schedule(send_at="2027-01-10T19:00:00Z", spread=36_000, window=window)
    world.passes_until("2027-01-11T12:00", 60)
    assert {len(world.sent(number)) for number in range(1, 51)} == {1}
    assert times_of_day(world, 50) == [f"19:{minute:02}" for minute in range(0, 60, 6)]


def test_what_was_missed_waits_for_the_next_opening(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T18:00")
    world.schedule({"device": "d1"}, send_at="2027-01-10T19:00:00Z", window=DAYTIME)
    short = world.schedule({"device": "d2"}, send_at="2027-01-10T19:00:00Z", window=DAYTIME, ttl=13 * 3_600)
    order = world.schedule({"device": "d3"}, send_at="2027-01-10T19:00:00Z", window=DAYTIME, kind="command")
    world.now += 5 * 3_600_000  # away
    world.crash()
    world.passes_until("2027-01-11T12:00")
    assert [world.sent(number) for number in (1, 2, 3)] == [["2027-01-11T08:00:00"], [], []]
    assert [world.history(schedule)[0]["reason"] for schedule in (short, order)] == ["outside_window", "missed"]


def test_the_rest_of_a_run_that_was_paused_is_not_sent_at_night(world: PlanWorld) -> None:
    for _ in range(44):
        world.enrol()
    world.set_wall("2027-01-10T18:00")
    schedule = world.schedule(send_at="2027-01-10T19:00:00Z", spread=1_800, window=DAYTIME)
    world.passes_until("2027-01-10T19:10", 60)
    world.run(world.schedules.pause(APP.no, schedule))
    world.passes_until("2027-01-10T23:00")
    world.run(world.schedules.resume(APP.no, schedule))
    world.passes_until("2027-01-11T12:00")
    assert {len(world.sent(number)) for number in range(1, 51)} == {1}
    assert times_of_day(world, 50) == ["08:00", "19:00", "19:03", "19:06", "19:09"]
