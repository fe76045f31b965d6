"""Schedules over a clock that is moved by hand: due once, for everybody, whatever happens."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Problem
from gateway.store.deliveries.plan_parts import PlanKind
from gateway.store.plans.schedules import ScheduleState
from gateway.store.plans.waiting_devices import waiting_devices
from gateway.timestamps import wall_time
from tests.gateway.delivery.world import APP, items
from tests.gateway.plans.world import Killed, PlanWorld


def test_a_push_is_sent_when_it_is_due(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:00")
    schedule = world.schedule(send_at="2027-01-10T10:30:00+01:00")
    assert world.show(schedule)["next"] == ["2027-01-10T09:30:00.000Z"]
    world.passes_until("2027-01-10T09:29:59")
    assert world.sent(1) == []
    world.passes_until("2027-01-10T09:30")
    assert world.sent(1) == ["2027-01-10T09:30:00"]
    shown = world.show(schedule)
    assert (shown["state"], shown["next"]) == (ScheduleState.ENDED, [])
    (run,) = world.history(schedule)
    assert (run["state"], run["targeted"], run["counts"]["waiting"]) == ("done", 6, 6)
    pushed = world.run(world.reports.push(APP.no, run["push_ids"][0]))
    assert (pushed["schedule_id"], pushed["ttl"]) == (schedule, 86_400)


def test_a_repetition_is_sent_at_each_date_until_it_has_had_enough(world: PlanWorld) -> None:
    world.set_wall("2027-01-08T12:00")  # a Friday
    schedule = world.schedule(repeat={"cron": "0 9 * * 1-5", "zone": "Europe/Vienna", "count": 3})
    assert world.show(schedule)["next"] == [f"2027-01-{day}T08:00:00.000Z" for day in (11, 12, 13)]
    world.passes_until("2027-01-20T00:00", 3_600)
    assert world.sent(2) == [f"2027-01-{day}T08:00:00" for day in (11, 12, 13)]
    assert world.show(schedule)["state"] == "ended"


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Europe/Vienna", ["2027-03-27T01:30:00", "2027-03-28T01:00:00", "2027-03-29T00:30:00"]),
        ("Europe/Vienna", ["2027-10-30T00:30:00", "2027-10-31T00:30:00", "2027-11-01T01:30:00"]),
        ("America/Santiago", ["2027-09-04T06:30:00", "2027-09-05T05:30:00", "2027-09-06T05:30:00"]),
        ("Australia/Lord_Howe", ["2027-10-01T16:00:00", "2027-10-02T15:30:00", "2027-10-03T15:30:00"]),
        ("Australia/Lord_Howe", ["2027-04-02T15:30:00", "2027-04-03T16:00:00", "2027-04-04T16:00:00"]),
    ],
)
def test_each_day_has_its_push_where_clocks_are_set(world: PlanWorld, zone: str, expected: list[str]) -> None:
    world.zone(1, zone)
    for by_the_devices_clock in (False, True):
        world.set_wall(expected[0][:10] + "T00:20")
        before = len(world.sent(1))
        repeat = {"cron": "30 2 * * *", "zone": "device" if by_the_devices_clock else zone, "count": 3}
        world.schedule({"device": "d1"}, repeat=repeat)
        world.passes_until(expected[-1][:10] + "T20:00")
        assert world.sent(1)[before:] == expected


def test_each_device_is_sent_it_by_its_own_clock_once(world: PlanWorld) -> None:
    world.set_policy(timezone="Europe/Vienna")
    for device_no, zone in enumerate(["Asia/Tokyo", "Europe/Vienna", None, "America/Santiago", "Asia/Kolkata"], 1):
        world.zone(device_no, zone)
    world.set_wall("2027-01-10T12:00")
    schedule = world.schedule(send_at_local="09:00")
    world.passes_until("2027-01-12T12:00")
    assert [world.sent(device_no) for device_no in range(1, 7)] == [
        ["2027-01-11T00:00:00"],
        ["2027-01-11T08:00:00"],
        ["2027-01-11T08:00:00"],
        ["2027-01-11T12:00:00"],
        ["2027-01-11T03:30:00"],
        ["2027-01-11T08:00:00"],
    ]
    assert world.show(schedule)["state"] == "ended"
    assert len(world.history(schedule)[0]["push_ids"]) == 4


def test_a_device_that_travels_is_sent_it_once_and_not_left_out(world: PlanWorld) -> None:
    world.set_policy(timezone="Europe/Vienna")
    world.zone(1, "Asia/Tokyo")
    world.zone(2, "America/Santiago")
    world.set_wall("2027-01-10T12:00")
    world.schedule(send_at_local="2027-01-11T09:00")
    world.passes_until("2027-01-11T01:00")
    assert world.sent(1) == ["2027-01-11T00:00:00"]
    world.zone(1, "America/Santiago")  # where nine is still to come
    world.zone(2, "Asia/Tokyo")  # where nine was
    world.passes_until("2027-01-12T00:00")
    assert world.sent(1) == ["2027-01-11T00:00:00"]
    assert len(world.sent(2)) == 1


def test_a_device_that_travels_east_while_a_run_is_under_way_waits_a_quarter_of_an_hour(world: PlanWorld) -> None:
    world.set_policy(timezone="America/Santiago")
    world.zone(1, "Asia/Tokyo")
    world.set_wall("2027-01-10T12:00")
    world.schedule(send_at_local="2027-01-11T09:00")
    world.passes_until("2027-01-11T01:00", 60)
    world.zone(2, "Asia/Tokyo")
    world.passes_until("2027-01-11T01:16", 60)
    assert [at[:13] for at in world.sent(2)] == ["2027-01-11T01"]


def test_a_device_that_comes_in_an_eastern_zone_is_not_too_late(world: PlanWorld) -> None:
    world.set_policy(timezone="America/Santiago")
    world.set_wall("2027-01-10T22:00")
    world.schedule(send_at_local="2027-01-11T09:00")
    world.passes_until("2027-01-10T23:00")
    world.zone(1, "Asia/Tokyo")
    world.passes_until("2027-01-11T00:20", 60)
    assert [at[:15] for at in world.sent(1)] == ["2027-01-11T00:0"]


# -- missed ------------------------------------------------------------------------------------------------------------


def test_of_missed_dates_the_last_is_caught_up_while_its_ttl_lasts(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T00:30")
    hourly = world.schedule({"device": "d1"}, repeat={"cron": "0 * * * *", "zone": "UTC"}, ttl=3_000)
    command = world.schedule({"device": "d2"}, repeat={"cron": "0 * * * *", "zone": "UTC"}, kind="command")
    skipping = world.schedule({"device": "d3"}, repeat={"cron": "0 * * * *", "zone": "UTC"}, missed="skip")
    stale = world.schedule({"device": "d4"}, send_at="2027-01-10T02:00:00Z", ttl=60)
    world.now += 5 * 3_600_000  # away
    world.crash()
    world.due()
    assert world.sent(1) == ["2027-01-10T05:30:00"]
    (run,) = world.history(hourly)
    assert (run["due"], run["skipped_dates"], run["state"]) == ("2027-01-10T05:00:00.000Z", 4, "done")
    assert world.run(world.reports.push(APP.no, run["push_ids"][0]))["ttl"] == 3_000 - 1_800
    for schedule in (command, skipping, stale):
        (run,) = world.history(schedule)
        assert (run["state"], run["reason"], run["push_ids"]) == ("skipped", "missed", [])
    world.passes_until("2027-01-10T06:00")
    assert [len(world.sent(device_no)) for device_no in (1, 2, 3, 4)] == [2, 1, 1, 0]


def test_half_a_minute_late_is_not_missed(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T00:30")
    world.schedule({"device": "d1"}, send_at="2027-01-10T00:31:00Z", missed="skip", ttl=0)
    world.now += 90_000
    world.crash()
    world.due()
    assert len(world.sent(1)) == 1


def test_years_of_missed_minutes_are_not_walked_through(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T00:30")
    schedule = world.schedule({"device": "d1"}, repeat={"cron": "* * * * *", "zone": "UTC"})
    world.now += 3 * 365 * 86_400_000
    world.crash()
    world.due()
    assert world.history(schedule)[-1]["due"] == "2030-01-09T00:30:00.000Z"
    assert len(world.sent(1)) == 1


# -- windows and spreads -----------------------------------------------------------------------------------------------


def test_what_falls_outside_the_window_waits_for_it_and_comes_once(world: PlanWorld) -> None:
    window = {"from": "08:00", "to": "20:00", "zone": "Europe/Vienna"}
    world.set_wall("2027-01-10T16:30")
    hourly = world.schedule({"device": "d1"}, repeat={"cron": "0 * * * *", "zone": "UTC"}, window=window)
    world.schedule({"device": "d2"}, send_at="2027-01-10T20:00:00Z", window=window)
    short = world.schedule({"device": "d3"}, repeat={"cron": "0 21 * * *", "zone": "UTC"}, window=window, ttl=90_000)
    world.passes_until("2027-01-11T08:30")
    assert world.sent(1) == [f"2027-01-{at}:00:00" for at in ("10T17", "10T18", "11T07", "11T08")]
    assert world.sent(2) == ["2027-01-11T07:00:00"]
    assert world.history(hourly)[2]["skipped_dates"] == 12
    assert world.sent(3) == ["2027-01-11T07:00:00"]
    world.run(world.schedules.cancel(APP, short, recall=False))
    with pytest.raises(Problem, match="no date would ever be sent"):
        world.schedule(send_at="2027-01-11T20:00:00Z", window=window, ttl=3_600)


def test_a_window_by_the_devices_clocks_opens_for_each(world: PlanWorld) -> None:
    world.zone(1, "Asia/Tokyo")
    world.zone(2, "Europe/Vienna")
    world.set_wall("2027-01-10T20:00")
    world.schedule(window={"from": "08:00", "to": "20:00", "zone": "device"})
    world.passes_until("2027-01-11T12:00")
    assert [world.sent(number) for number in (1, 2, 3)] == [
        ["2027-01-10T23:00:00"], ["2027-01-11T07:00:00"], ["2027-01-11T08:00:00"]
    ]  # fmt: skip


def test_a_spread_gives_neighbours_different_times(world: PlanWorld) -> None:
    for _ in range(44):
        world.enrol()
    world.set_wall("2027-01-10T08:00")
    schedule = world.schedule(send_at="2027-01-10T08:10:00Z", spread=600)
    world.passes_until("2027-01-10T08:25", 20)
    (run,) = world.history(schedule)
    assert (len(run["push_ids"]), run["counts"]["waiting"]) == (10, 50)
    times = [world.sent(number) for number in range(1, 51)]
    assert {len(sent) for sent in times} == {1}
    assert all(left != right for left, right in pairwise(times))
    assert min(times)[0] == "2027-01-10T08:10:00"
    assert max(times)[0] == "2027-01-10T08:19:00"


def test_a_spread_that_was_interrupted_goes_on_in_the_time_that_is_left(world: PlanWorld) -> None:
    for _ in range(44):
        world.enrol()
    world.set_wall("2027-01-10T08:00")
    schedule = world.schedule(send_at="2027-01-10T08:10:00Z", spread=600)
    world.passes_until("2027-01-10T08:12")
    world.now += 4 * 60_000  # away
    world.crash()
    world.passes_until("2027-01-10T08:30", 20)
    (run,) = world.history(schedule)
    assert run["counts"]["waiting"] == 50
    assert len(run["push_ids"]) == 2 + 2 + 3, "two at 8:12, what was missed together, the rest in its turn"
    assert {len(world.sent(number)) for number in range(1, 51)} == {1}


@pytest.mark.parametrize("kill_at", range(1, 40))
def test_a_kill_at_any_write_neither_loses_nor_repeats(world: PlanWorld, kill_at: int) -> None:
    for _ in range(14):
        world.enrol()
    for device_no, zone in enumerate(["Asia/Tokyo", "Europe/Vienna", "America/Santiago"] * 5, 1):
        world.zone(device_no, zone)
    world.set_wall("2027-01-10T08:00")
    spread = world.schedule({"all": True}, send_at="2027-01-10T08:10:00Z", spread=60)
    local = world.schedule({"all": True}, send_at_local="2027-01-11T09:00")
    world.writes, world.kill_at = 0, kill_at
    try:
        pass_three_days(world)
    except Killed:
        world.loop.run_until_complete(cancel_tasks())
    world.kill_at = None
    world.crash()
    pass_three_days(world)
    assert {len(world.sent(number)) for number in range(1, 21)} == {2}
    for schedule in (spread, local):
        (run,) = world.history(schedule)
        assert (run["state"], run["counts"]["targeted"]) == ("done", 20)


def pass_three_days(world: PlanWorld) -> None:
    world.passes_until("2027-01-10T08:12", 15)
    world.passes_until("2027-01-12T12:00", 1_800)


async def cancel_tasks() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


def test_a_clock_that_is_set_back_fires_nothing_twice_and_loses_nothing(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule({"device": "d1"}, repeat={"cron": "0 * * * *", "zone": "UTC"})
    world.passes_until("2027-01-10T10:10")
    assert len(world.sent(1)) == 2
    world.set_wall("2027-01-10T08:50")
    world.due()
    world.passes_until("2027-01-10T12:10")
    dues = [run["due"] for run in world.history(schedule)]
    assert dues == [f"2027-01-10T{hour}:00:00.000Z" for hour in ("09", "10", "11", "12")]
    assert len(world.sent(1)) == 4


def test_a_clock_that_was_years_ahead_is_forgotten_when_the_schedule_is_resumed(world: PlanWorld) -> None:
    world.set_wall("2056-01-10T08:30")
    schedule = world.schedule({"device": "d1"}, repeat={"cron": "0 9 * * *", "zone": "UTC"})
    world.passes_until("2056-01-10T09:10")
    world.set_wall("2027-01-10T08:30")
    world.passes_until("2027-01-10T09:10")
    assert len(world.sent(1)) == 1
    world.run(world.schedules.pause(APP.no, schedule))
    world.run(world.schedules.resume(APP.no, schedule))
    world.passes_until("2027-01-11T09:10")
    assert len(world.sent(1)) == 2


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_run_whose_push_is_refused_fails_and_the_schedule_goes_on(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule(
        {"duty": "night"}, repeat={"cron": "0 * * * *", "zone": "UTC"}, notification={"title": "x"}
    )
    world.passes_until("2027-01-10T10:10")
    runs = world.history(schedule)
    assert [run["state"] for run in runs] == ["failed", "failed"]
    assert "duty_not_found" in runs[0]["problem"]
    assert world.show(schedule)["failures"] == 2
    told = [event["data"] for event in world.events() if event["type"] == "schedule.run"]
    assert [event["state"] for event in told] == ["running", "failed", "running", "failed"]


def test_a_full_disk_delays_and_loses_nothing(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    world.schedule({"device": "d1"}, send_at="2027-01-10T08:31:00Z")
    world.storage_left = False
    world.passes_until("2027-01-10T08:40")
    assert world.sent(1) == []
    world.storage_left = True
    world.due()
    assert len(world.sent(1)) == 1


# -- changes -----------------------------------------------------------------------------------------------------------


def test_a_paused_schedule_sends_nothing_until_it_is_resumed(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule({"device": "d1"}, repeat={"cron": "0 * * * *", "zone": "UTC"})
    world.passes_until("2027-01-10T09:10")
    world.run(world.schedules.pause(APP.no, schedule))
    world.passes_until("2027-01-10T11:10")
    assert len(world.sent(1)) == 1
    shown = world.run(world.schedules.resume(APP.no, schedule))
    assert shown["next"][0] == "2027-01-10T12:00:00.000Z"
    world.passes_until("2027-01-10T12:10")
    assert len(world.sent(1)) == 2


def test_a_cancelled_schedule_stops_what_is_under_way_and_recalls_if_asked(world: PlanWorld) -> None:
    for _ in range(44):
        world.enrol()
    world.set_wall("2027-01-10T08:00")
    schedule = world.schedule(send_at="2027-01-10T08:10:00Z", spread=600)
    world.passes_until("2027-01-10T08:12")
    answer = world.run(world.schedules.cancel(APP, schedule, recall=True))
    assert answer["stopped"] + answer["recalled"]["cancelled"] == 50
    world.passes_until("2027-01-10T08:40")
    (run,) = world.history(schedule)
    assert (run["state"], run["left_out"]) == ("cancelled", answer["stopped"])
    assert world.run(world.schedules.cancel(APP, schedule, recall=True))["stopped"] == 0
    with pytest.raises(Problem, match="schedule_ended"):
        world.run(world.schedules.pause(APP.no, schedule))


def test_a_run_at_once_is_besides_the_dates(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    schedule = world.schedule({"device": "d1"}, repeat={"cron": "0 9 * * *", "zone": "UTC", "count": 1})
    world.run(world.schedules.run_now(APP.no, schedule))
    world.due()
    assert world.sent(1) == ["2027-01-10T08:30:00"]
    world.passes_until("2027-01-10T09:10")
    assert len(world.sent(1)) == 2
    assert [run["asked"] for run in world.history(schedule)] == [True, False]


def test_every_page_of_runs_knows_what_was_handed_over(world: PlanWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.plans.schedules.COUNTED_PARTS", 1)
    world.connect(1)
    world.set_wall("2027-01-10T08:00")
    schedule = world.schedule({"device": "d1"}, repeat={"cron": "0 * * * *", "zone": "UTC", "count": 2})
    world.passes_until("2027-01-10T10:01", 60)
    cursor, counts = None, []
    for _ in range(2):
        page = world.run(world.schedules.runs(APP.no, schedule, 10, cursor))
        cursor = page.next_cursor
        counts += [(run["counts"]["sent"], run["counts"]["waiting"]) for run in items(page)]
    assert counts == [(1, 0), (1, 0)]
    assert cursor is None


def test_an_apps_thousand_schedules_do_not_keep_another_ones_waiting(world: PlanWorld) -> None:
    world.set_wall("2027-01-10T08:30")
    first = [world.schedule({"device": "d1"}, send_at="2027-01-10T09:00:00Z") for _ in range(40)]
    world.connection.execute("INSERT INTO application (no, id, created_at) VALUES (9, 'other', 0)")
    world.connection.execute("UPDATE schedule SET app_no = 9 WHERE no = (SELECT max(no) FROM schedule)")
    world.passes_until("2027-01-10T09:00")
    order = [
        app_no
        for (app_no,) in world.connection.execute(
            "SELECT s.app_no FROM schedule_run AS r JOIN schedule AS s ON s.no = r.schedule_no ORDER BY r.no"
        )
    ]
    assert len(order) == len(first)
    assert order.index(9) < 8


# -- the law -----------------------------------------------------------------------------------------------------------

ZONES = ["Asia/Tokyo", "Europe/Vienna", "America/Santiago", "Australia/Lord_Howe", None]
moves = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([30, 600, 3_600, 40_000, 90_000])),
    st.tuples(st.just("away"), st.sampled_from([20, 300, 7_200, 100_000])),
    st.tuples(st.just("kill"), st.integers(1, 6)),
    st.tuples(st.just("set"), st.sampled_from([-7_200, -90, 3_600, 90_000])),
    st.tuples(st.just("travel"), st.integers(1, 6), st.sampled_from(ZONES)),
    st.tuples(st.just("remove"), st.integers(1, 6)),
    st.tuples(st.just("pause")),
)
plans = st.fixed_dictionaries(
    {},
    optional={
        "spread": st.sampled_from([5, 600, 7_200]),
        "window": st.fixed_dictionaries(
            {"from": st.just("08:00"), "to": st.just("20:00"), "zone": st.sampled_from(["device", "Europe/Vienna"])}
        ),
        "ttl": st.sampled_from([0, 60, 86_400]),
    },
)
times = st.sampled_from(
    [
        {"send_at_local": "09:00"},
        {"send_at": "2027-03-28T01:30:00Z"},
        {"repeat": {"cron": "30 2 * * *", "zone": "device"}},
        {"repeat": {"cron": "0 */3 * * *", "zone": "Europe/Vienna"}},
        {},
    ]
)


@settings(max_examples=12, deadline=None)
@given(times, plans, st.sampled_from(["catch_up", "skip"]), st.lists(moves, max_size=12))
def test_each_device_of_a_run_is_in_one_part_or_left_out_whatever_happens(
    when: dict[str, Any], plan: dict[str, Any], missed: str, moved: list[tuple[Any, ...]]
) -> None:
    offsets = wall_time.offsets()
    world = PlanWorld(devices=6, mailbox_limit=10_000)
    try:
        world.set_wall("2027-03-27T20:00")
        for number, zone in enumerate(ZONES, 1):
            world.zone(number, zone)
        try:
            schedule = world.schedule(missed=missed, **(when | plan or {"spread": 60}))
        except Problem:  # its ttl is over before the window opens
            return
        for move in moved:
            follow(world, schedule, move)
        world.passes_for(2 * 86_400)
        check_runs(world)
    finally:
        world.close()
        wall_time.set_offsets(offsets)


def follow(world: PlanWorld, schedule: str, move: tuple[Any, ...]) -> None:
    match move:
        case "pass", seconds:
            world.passes_for(seconds)
        case "away", seconds:
            world.now += seconds * 1_000
            world.crash()
        case "kill", writes:
            world.kill_at = world.writes + writes
            try:
                world.passes_for(20_000)
            except Killed:
                world.loop.run_until_complete(cancel_tasks())
            world.kill_at = None
            world.crash()
        case "set", seconds:
            wall_time.set_offsets([(0, world.wall() - world.now + seconds * 1_000)])
        case "travel", number, zone:
            world.zone(number, zone)
        case "remove", number:
            if world.row("SELECT removed_at FROM device WHERE no = ?", number) == (None,):
                world.remove(number)
        case ("pause",):
            try:
                world.run(world.schedules.pause(APP.no, schedule))
                world.passes_for(4_000)
                world.run(world.schedules.resume(APP.no, schedule))
            except Problem:  # it has ended
                pass
    world.due()


def check_runs(world: PlanWorld) -> None:
    dates = [date for (date,) in world.connection.execute("SELECT date FROM schedule_run ORDER BY no")]
    assert dates == sorted(set(dates)), "no date was begun twice"
    for no, targeted, left_out, state in world.connection.execute(
        "SELECT no, targeted, left_out, state FROM schedule_run"
    ).fetchall():
        given = [
            device_no
            for (device_no,) in world.connection.execute(
                "SELECT d.device_no FROM plan_part AS t JOIN whole_delivery AS d ON d.push_no = t.push_no"
                " WHERE t.run_no = ?",
                (no,),
            )
        ]
        assert len(set(given)) == len(given), "nobody is in two parts"
        removed = world.row("SELECT count(*) FROM device WHERE removed_at IS NOT NULL")[0]
        waiting = len(waiting_devices(world.connection, PlanKind.SCHEDULE, no))
        assert waiting == 0 or state == "running"
        assert targeted - removed <= len(given) + left_out + waiting <= targeted
