"""Schedules that cannot go on, that are changed, and that are many."""

from __future__ import annotations

import json
import logging
from itertools import takewhile
from typing import Any

import pytest

from gateway.errors import Problem, RetryableProblem
from gateway.plans import schedule_runner
from gateway.plans.schedule_runner import UNSEEN_SCHEDULES, Found
from gateway.plans.schedules import ScheduleFields
from gateway.plans.timing import Timing
from gateway.store.transaction import Transaction
from tests.gateway.delivery.world import APP
from tests.gateway.plans.world import PlanWorld, instant

WORKING_HOURS = {"from": "08:00", "to": "20:00", "zone": "device"}
HOURLY = {"cron": "0 * * * *", "zone": "UTC"}


def change(world: PlanWorld, schedule_id: str, **push: Any) -> dict[str, Any]:
    """Change fields of a schedule's push; None takes one away."""
    fields = world.run(world.schedules.fields(APP.no, schedule_id))
    merged = {name: value for name, value in (fields["push"] | push).items() if value is not None}
    body = ScheduleFields.model_validate_json(json.dumps(fields | {"push": merged}))
    return world.run(world.schedules.change(APP, schedule_id, body))


# -- changes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        {"repeat": None, "send_at": "2027-01-10T12:30:00Z"},
        {"repeat": None, "send_at_local": "12:30"},
        {"repeat": {"cron": "30 12 * * *", "zone": "UTC", "count": 1}},
        {"repeat": {"cron": "30 12 * * *", "zone": "device", "count": 1}},
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "device"])
def test_a_changed_schedule_has_the_dates_that_it_shows(world: PlanWorld, zone: str, times: dict[str, Any]) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule(repeat={"cron": "0 9,10,11 * * *", "zone": zone})
    world.passes_until("2027-01-10T11:10")
    assert change(world, schedule, **times)["next"] == ["2027-01-10T12:30:00.000Z"]
    world.passes_until("2027-01-11T12:00")
    assert world.sent(1) == [f"2027-01-10T{at}:00" for at in ("09:00", "10:00", "11:00", "12:30")]
    assert world.show(schedule)["state"] == "ended"


def test_a_new_name_gives_no_more_dates(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule(repeat=HOURLY | {"count": 2})
    world.passes_until("2027-01-10T09:10")
    change(world, schedule, data=2)
    world.passes_until("2027-01-10T15:00")
    assert len(world.sent(1)) == 2


def test_a_single_time_that_begins_while_it_is_changed_stays(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule(send_at="2027-01-10T09:00:00Z")
    read = world.run(world.schedules._open(APP.no, schedule))
    world.passes_until("2027-01-10T09:00")
    world.connection.execute("UPDATE schedule SET state = 'active', ended_at = NULL")  # its run is under way
    with pytest.raises(Problem, match="it has begun"):
        world.run(world.schedules._change(read, {"used": 0}, must_not_begin=True))


@pytest.mark.parametrize("times", [{"repeat": HOURLY}, {"send_at": "2027-01-10T09:00:00Z"}])
def test_a_date_that_is_due_is_not_lost_by_a_change_of_the_text(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch, times: dict[str, Any]
) -> None:
    resolve = world.runner._targets.resolve
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule(**times)

    async def resolve_and_change(app_no: int, target: Any) -> Any:
        found = await resolve(app_no, target)
        monkeypatch.setattr(world.runner._targets, "resolve", resolve)
        world.now += 1
        fields = await world.schedules.fields(APP.no, schedule)
        body = json.dumps(fields | {"push": fields["push"] | {"ttl": 77}})
        await world.schedules.change(APP, schedule, ScheduleFields.model_validate_json(body))
        return found

    monkeypatch.setattr(world.runner._targets, "resolve", resolve_and_change)
    world.passes_until("2027-01-10T09:01")
    (run,) = world.history(schedule)
    assert run["state"] == "done"
    assert world.run(world.reports.push(APP.no, run["push_ids"][0]))["ttl"] == 77


@pytest.mark.parametrize("at", ["9999-12-31T23:59", "0001-01-01T00:00", "2029-01-10T09:00"])
def test_a_local_time_lies_within_a_year(world: PlanWorld, at: str) -> None:
    world.set_wall("2027-01-10T08:30")
    with pytest.raises(Problem, match="a year at most"):
        world.schedule(send_at_local=at)


@pytest.mark.parametrize("cron", ["0 21 1 1 *", "*/59 21 29 2 1#5"])
def test_dates_of_which_the_window_lets_none_through_are_refused(world: PlanWorld, cron: str) -> None:
    window = {"from": "08:00", "to": "20:00", "zone": "UTC"}
    with pytest.raises(Problem, match="no date would ever be sent"):
        world.schedule(repeat={"cron": cron, "zone": "Europe/London"}, window=window, ttl=60)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_target_that_takes_too_long_is_tried_more_and_more_seldom_and_fails_in_the_end(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = 0

    async def too_long(app_no: int, target: object) -> None:
        nonlocal tried
        tried += 1
        raise RetryableProblem("busy", "this takes longer than 2 s", 2.0)

    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule(send_at="2027-01-10T09:00:00Z", ttl=600)
    monkeypatch.setattr(world.runner._targets, "resolve", too_long)
    with caplog.at_level(logging.WARNING):
        world.passes_until("2027-01-10T08:59")
        world.passes_until("2027-01-10T09:20", 0.5)
    assert 35 < tried < 50
    assert len(caplog.records) == 10, "a line a minute"
    (run,) = world.history(schedule)
    assert (run["state"], run["problem"][:4]) == ("failed", "busy")


def test_a_schedule_whose_zone_is_gone_says_so_and_is_paused(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule(repeat=HOURLY | {"zone": "Europe/Vienna"})
    other = world.schedule({"device": "d1"}, repeat=HOURLY)
    world.connection.execute("UPDATE schedule SET push = replace(push, 'Europe/Vienna', 'Europe/Gone')")
    world.crash()
    world.passes_until("2027-01-10T10:10")
    shown = {each["schedule_id"]: each for each in map(json.loads, page(world))}
    assert (shown[schedule]["state"], shown[schedule]["failures"], shown[schedule]["next"]) == ("paused", 1, [])
    (run,) = world.history(schedule)
    assert "no longer valid" in run["problem"]
    assert len(world.history(other)) == len(world.sent(1)) == 2
    change(world, schedule, repeat=HOURLY)
    world.run(world.schedules.resume(APP.no, schedule))
    world.passes_until("2027-01-10T11:10")
    assert len(world.sent(2)) == 1


def test_a_run_under_way_whose_zone_is_gone_fails_and_the_changed_schedule_goes_on(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    world.zone(1, "Asia/Tokyo")
    schedule = world.schedule(repeat={"cron": "0 8 * * *", "zone": "Asia/Tokyo"}, window=WORKING_HOURS)
    world.passes_until("2027-01-11T00:10")
    assert [len(world.sent(number)) for number in (1, 2)] == [1, 0]
    change(world, schedule, repeat=HOURLY, window=None)
    world.connection.execute("UPDATE schedule_run SET push = replace(push, 'Asia/Tokyo', 'Asia/Gone')")
    world.crash()
    world.passes_until("2027-01-11T02:10")
    states = [run["state"] for run in world.history(schedule)]
    assert states == ["failed", "done", "done"]
    assert world.show(schedule)["state"] == "active"


def page(world: PlanWorld) -> list[bytes]:
    return list(world.run(world.schedules.page(APP.no, None, 10, None)).items)


# -- many --------------------------------------------------------------------------------------------------------------


def test_twenty_thousand_schedules_are_looked_at_some_at_a_time_those_that_are_due_first(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set_wall("2027-01-10T08:30")
    due = [world.schedule({"device": "d2"}, send_at="2027-01-10T08:31:00Z") for _ in range(10)]
    world.connection.execute("UPDATE schedule SET no = no + 100000")
    later = world.schedule({"device": "d1"}, send_at="2027-01-11T09:00:00Z")
    world.connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 19990)"
        " INSERT INTO schedule (no, id, app_no, push, missed, state, since, wake, created_at, updated_at)"
        " SELECT 100 + i, 's' || i, app_no, push, missed, state, since, wake, created_at, updated_at FROM n, schedule"
        " WHERE id = ?",
        (later,),
    )
    world.now += 60_000
    world.crash()
    looked: list[int] = []
    find = world.runner._find

    def find_and_note(no: int, connection: Transaction) -> Found | None:
        looked.append(no)
        return find(no, connection)

    monkeypatch.setattr(world.runner, "_find", find_and_note)
    world.due()
    assert len(world.sent(2)) == len(due), "they do not wait for the others"
    assert len(set(looked)) <= UNSEEN_SCHEDULES + len(due)
    assert len(looked) <= UNSEEN_SCHEDULES + 5 * len(due), "of those that are due, each step"
    world.connection.execute("DELETE FROM schedule WHERE no BETWEEN 1200 AND 20090")
    for _ in range(20_001 // UNSEEN_SCHEDULES):
        world.due()
    numbers = {no for (no,) in world.connection.execute("SELECT no FROM schedule WHERE wake IS NOT NULL")}
    assert len(numbers) > 1_000
    assert numbers <= set(looked), "each has been looked at"
    before = len(looked)
    world.due()
    assert len(looked) == before, "once"


def test_a_schedule_has_a_few_runs_under_way(world: PlanWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_runner, "RUNS_UNDER_WAY", 5)
    world.set_wall("2027-01-10T08:30")
    with pytest.raises(Problem, match="more than 64 runs"):
        world.schedule(repeat={"cron": "* * * * *", "zone": "UTC"}, spread=86_400)
    world.schedule(repeat={"cron": "*/30 * * * *", "zone": "UTC"}, spread=86_400)
    for _ in range(10):
        world.enrol()
    schedule = world.schedule(repeat={"cron": "0 0-23 * * *", "zone": "device"}, spread=86_400)
    for _ in range(5 + 2):
        world.run(world.schedules.run_now(APP.no, schedule))
        world.due()
    ran = world.history(schedule)
    assert [run["state"] for run in ran] == ["running"] * 5 + ["failed"] * 2
    assert "are under way" in ran[-1]["problem"]


def test_dates_are_found_by_few_looks_in_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    due = Timing.due

    def counted(timing: Timing, date: int, zone: str) -> int | None:
        nonlocal looks
        looks += 1
        return due(timing, date, zone)

    monkeypatch.setattr(Timing, "due", counted)
    zones = [f"Etc/GMT{hours:+}" for hours in range(-14, 13, 3)]
    since = instant("2027-01-10T08:30")
    request = PlanWorld.request(
        {"all": True},
        repeat={"cron": "*/7 * * * *", "zone": "UTC"},
        window={"from": "08:00", "to": "08:01", "zone": "device"},
    )
    timing = Timing.of(request, "UTC", since)
    shown = timing.upcoming(None, 0, zones)
    assert len(shown) == 5
    assert looks <= 10 * len(zones)
    looks = 0
    now = since + 4 * 86_400_000
    found = timing.find_next(None, 0, zones, now)
    assert looks <= 15 * len(zones), "by halves"
    assert found.begin is not None
    first, *behind = takewhile(lambda date: date < now, timing.dates(None))
    everywhere = [date for date in behind if all((timing.due(date, zone) or 0) <= now for zone in zones)]
    assert (found.begin, found.skipped) == (everywhere[-1], len(everywhere)), "the last that is due in all zones"
    assert first < found.begin
