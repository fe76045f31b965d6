"""Caps, quiet hours and the ration of what is critical: checked at hand-over, held across losses and crashes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.audience.frequency import MAX_CAP_ALERTS, WINDOWS_MS, Hours, is_quiet
from gateway.audience.policy import ChannelFields, NewChannel, Policy
from tests.gateway.delivery.machinery import HandOver
from tests.gateway.delivery.test_consent import full_disk
from tests.gateway.delivery.world import ALERT, APP, START, World, items

HOUR, DAY = 3_600, 86_400
NIGHT = {"start": "22:00", "end": "07:00"}
"""START is a morning: 08:00 UTC."""


def cap(count: int, per: str, excess: str = "drop") -> dict[str, Any]:
    return {"limits": [{"count": count, "per": per}], "excess": excess}


def until_evening(world: World, hour: int = 23) -> None:
    world.passes((hour - 8) * HOUR)


def not_before(world: World, push_id: str, device_no: int = 1) -> str | None:
    page = items(world.run(world.reports.deliveries(APP.no, push_id, 1000, None)))
    found: str | None = next(item["not_before"] for item in page if item["device_id"] == f"d{device_no}")
    return found


@pytest.fixture
def world() -> Any:
    world = World(window=10, mailbox_limit=50)
    assert datetime.fromtimestamp(START / 1000, UTC).hour == 8
    yield world
    world.close()


def test_one_too_many_is_dropped_with_its_reason(world: World) -> None:
    world.set_policy(caps=cap(2, "hour"))
    world.connect()
    sent = [world.alert() for _ in range(3)]
    assert world.received() == sent[:2]
    assert world.state(sent[2]) == ("suppressed", "capped")
    assert world.push().push_id in world.received(), "data disturbs nobody"
    world.passes(HOUR + 1)
    again = world.alert()
    assert world.received()[-1] == again


def some_of_each(world: World, **fields: Any) -> list[str]:
    """Alerts and data in turn, all of one priority."""
    return [world.alert(**fields) if number % 2 == 0 else world.push(**fields).push_id for number in range(6)]


@pytest.mark.parametrize("priority", ["critical", "normal"])
@pytest.mark.parametrize(
    "choice",
    [
        {"channels": {"unrelated": True}},
        {"channels": {"unrelated": False}},
        {"channels": {"offers": True}},
        {"consent": "granted"},
        {"quiet_hours": None},
    ],
    ids=str,
)
def test_a_choice_that_changes_nothing_for_an_alert_leaves_it_in_its_place(
    world: World, choice: dict[str, Any], priority: str
) -> None:
    world.set_policy(caps=cap(1, "hour", "defer"))
    held = [world.alert({"device": "d2"}) for _ in range(2)]
    world.set_policy()
    assert world.ledger.limited, "something is checked at hand-over somewhere"
    before = some_of_each(world, priority=priority, channel="offers")
    world.says("settings", choice)
    world.says("settings", {"channels": {"offers": False}}, 3)
    world.says("report", {"timezone": "Europe/Berlin"})
    world.set_policy(critical={"per_day": 3})
    after = some_of_each(world, priority=priority, channel="offers")
    world.connect()
    world.acknowledge_all()
    assert world.received() == before + after
    world.connect(2)
    assert world.received(2) == held, "what is not limited any more comes in its order"


def test_a_critical_alert_is_judged_for_those_alone_who_have_muted_its_channel(world: World) -> None:
    world.set_policy(critical={"per_day": 1})
    world.says("settings", {"channels": {"offers": False}}, 2)
    everybody = {"priority": "critical", "channel": "offers", "notification": ALERT}
    sent = [
        world.push({"all": True}, kind=kind, **everybody).push_id for kind in ("alert", "silent", "alert", "silent")
    ]
    for device_no in (1, 2):
        world.connect(device_no)
        world.acknowledge_all(device_no)
    assert world.received(1) == sent
    assert world.received(2) == [sent[0], sent[1], sent[3]]
    assert world.state(sent[2], 2) == ("suppressed", "channel_muted")
    now = [world.push({"all": True}, kind=kind, **everybody).push_id for kind in ("alert", "silent")]
    assert world.received(1) == sent + now
    assert world.received(2) == [sent[0], sent[1], sent[3], now[1]]
    assert world.state(now[0], 2) == ("suppressed", "channel_muted")


@pytest.mark.parametrize("online", [True, False])
def test_a_critical_push_of_a_muted_channel_keeps_its_place(world: World, online: bool) -> None:
    world.says("settings", {"channels": {"offers": False}})
    if online:
        world.connect()
    requests = [
        world.request(notification=ALERT, kind=kind, channel="offers", priority="critical", ttl=ttl)
        for kind, ttl in (("silent", DAY), ("alert", DAY), ("silent", DAY), ("in_app", 60), ("command", 60))
    ]
    accepting = [world.loop.create_task(world.acceptance.accept(APP, request)) for request in requests]
    world.run(asyncio.sleep(0))
    world.settle()
    sent = [world.loop.run_until_complete(task).push_id for task in accepting]
    if not online:
        world.connect()
    while len(world.received()) < 5:
        world.acknowledge_all()
    assert world.received() == sent
    assert world.row("SELECT count(*) FROM critical_use") == (2,)
    world.acknowledge_all()
    assert [world.state(push_id) for push_id in sent] == [("delivered", None)] * 5
    again = [world.alert(channel="offers", priority="critical") for _ in range(2)]
    assert world.received()[5:] == again


def test_a_critical_alert_that_waits_is_judged_when_its_channel_is_muted(world: World) -> None:
    world.set_policy(critical={"per_day": 0})
    waiting = world.alert(channel="offers", priority="critical")
    world.says("settings", {"channels": {"offers": False}})
    world.connect()
    assert world.state(waiting) == ("suppressed", "channel_muted")


def test_what_a_cap_has_held_back_comes_as_a_digest_after_a_choice_too(world: World) -> None:
    offers_digested(world)
    world.connect()
    first, *others = (world.alert(channel="offers") for _ in range(3))
    world.says("settings", {"channels": {"news": False}, "quiet_hours": None})
    assert world.received() == [first]
    world.passes(HOUR + 1)
    assert [world.state(push_id) for push_id in others] == [("superseded", "digested")] * 2


def test_what_was_let_through_before_a_crash_is_part_of_no_digest(world: World) -> None:
    """It counts already, and may have arrived: the digest would be one too many."""
    offers_digested(world)
    world.connect()
    first, *others = (world.alert(channel="offers") for _ in range(3))
    assert world.received() == [first]
    world.crash()
    world.run(world.policies.add_channel(1, NewChannel(id="news", name="News")))  # everything is checked anew
    world.connect()
    assert world.received() == [first]
    assert [world.state(push_id) for push_id in others] == [("waiting", None)] * 2


def test_one_too_many_waits_for_the_next_free_time(world: World) -> None:
    world.set_policy(caps=cap(1, "hour", "defer"))
    world.connect()
    first, second, third = (world.alert() for _ in range(3))
    assert world.received() == [first]
    assert not_before(world, second) == "2027-01-15T09:00:00.000Z"
    mailbox = world.run(world.reports.mailbox(1, 10, None))["items"]
    assert mailbox[1]["not_before"] == "2027-01-15T09:00:00.000Z"
    world.passes(HOUR - 1)
    assert world.received() == [first]
    world.passes(1)
    assert world.received() == [first, second]
    world.passes(HOUR)
    assert world.received() == [first, second, third]
    world.acknowledge_all()
    assert world.state(third) == ("delivered", None)


def test_ten_days_offline_do_not_arrive_at_once(world: World) -> None:
    world.set_policy(caps=cap(2, "day"))
    waiting = [world.alert(ttl=30 * DAY, priority=priority) for priority in ("low", "normal", "high", "normal")]
    assert {world.state(push_id) for push_id in waiting} == {("waiting", None)}, "checked when it is handed over"
    world.passes(10 * DAY)
    world.connect()
    assert world.received() == [waiting[2], waiting[1]], "the most urgent first"
    assert world.state(waiting[0]) == world.state(waiting[3]) == ("suppressed", "capped")


def test_the_cap_of_a_channel_and_of_the_app(world: World) -> None:
    offers = NewChannel.model_validate({"id": "offers", "name": "Offers", "caps": cap(1, "day")})
    world.run(world.policies.add_channel(APP.no, offers))
    world.set_policy(caps=cap(3, "day"))
    world.connect()
    sent = [world.alert(channel=channel) for channel in ("offers", "offers", "news", "news", "news")]
    assert world.received() == [sent[0], sent[2], sent[3]]
    assert world.state(sent[1]) == world.state(sent[4]) == ("suppressed", "capped")


def offers_digested(world: World) -> None:
    fields = {"id": "offers", "name": "offers of today", "caps": cap(1, "hour", "digest")}
    world.run(world.policies.add_channel(APP.no, NewChannel.model_validate(fields)))


def test_what_is_too_much_comes_as_one(world: World) -> None:
    offers_digested(world)
    world.connect()
    first = world.alert(channel="offers")
    others = [
        world.push(notification={"title": f"Bread {price} €"}, channel="offers", priority=priority, ttl=ttl).push_id
        for price, priority, ttl in ((1, "normal", 7_200), (2, "high", 9_000), (3, "low", 8_000))
    ]
    news = world.alert(channel="news")
    assert world.received() == [first, news]
    world.passes(HOUR)
    digest = json.loads(world.engine.session("d1").handed_over[-1].payload)
    assert digest["notification"] == {"title": "3 offers of today", "body": "Bread 2 €\nBread 1 €\nBread 3 €"}
    assert digest["data"] == {"digest": [others[1], others[0], others[2]]}
    assert (digest["channel"], digest["priority"], digest["expires_in"]) == ("offers", "high", 5_400)
    for push_id in others:
        assert world.state(push_id) == ("superseded", "digested")
        page = items(world.run(world.reports.deliveries(APP.no, push_id, 10, None)))
        assert page[0]["replaced_by"] == digest["push_id"]
        assert world.counts(push_id) == {"targeted": 1, "superseded": 1}
    world.acknowledge_all()
    assert world.state(digest["push_id"]) == ("delivered", None)
    assert world.state(world.alert(channel="offers")) == ("waiting", None), "it counts as one"
    later = world.push().push_id
    assert world.received()[-1] == later, "numbers of pushes go on"


def test_one_that_waited_comes_as_itself(world: World) -> None:
    offers_digested(world)
    world.connect()
    world.alert(channel="offers")
    second = world.alert(channel="offers")
    world.passes(HOUR)
    assert world.received()[-1] == second


def test_a_digest_that_is_lost_is_sent_again_once(world: World) -> None:
    offers_digested(world)
    world.connect()
    for _ in range(3):
        world.alert(channel="offers")
    world.passes(HOUR)
    digest = world.received()[-1]
    world.crash()
    world.connect()
    assert world.received()[-1] == digest
    world.acknowledge_all()
    assert world.state(digest) == ("delivered", None)
    assert world.push().push_id != digest


def test_a_resend_counts_once(world: World) -> None:
    world.set_policy(caps=cap(2, "hour"))
    world.connect()
    first = world.alert()
    world.disconnect()
    world.connect()
    second, third = world.alert(), world.alert()
    assert world.received() == [first, first, second]
    assert world.state(third) == ("suppressed", "capped")


def test_what_is_sent_again_counts_from_then_on(world: World) -> None:
    world.set_policy(caps=cap(1, "hour"))
    world.connect()
    first = world.alert()
    world.disconnect()
    world.passes(2 * HOUR)
    world.connect()
    second = world.alert()
    assert world.received() == [first, first]
    assert world.state(second) == ("suppressed", "capped")


@pytest.mark.parametrize("returns_after", [0, 15 * HOUR])
def test_what_may_have_arrived_with_qos_2_is_not_judged_again(world: World, returns_after: int) -> None:
    """It goes out under the identifier that it had, whatever the hour; and counts from then on."""
    world.set_policy(caps=cap(1, "hour"), quiet_hours=NIGHT)
    world.connect(granted=2)
    sent = world.alert(qos=2, ttl=DAY)
    (first,) = world.engine.session("d1").inflight
    world.disconnect()
    world.passes(returns_after)
    world.connect(granted=2)
    (again,) = world.engine.session("d1").inflight
    assert (again.handle, again.qos) == (first.handle, 2)
    assert world.received() == [sent, sent]
    world.acknowledge()
    assert world.state(sent) == ("delivered", None)
    (at,) = world.row("SELECT at FROM alert_use")
    assert at == START + returns_after * 1_000


def test_a_crash_forgets_no_use(world: World) -> None:
    world.set_policy(caps=cap(1, "hour"))
    world.connect()
    first = world.alert()
    world.acknowledge()
    world.crash()
    world.connect()
    assert world.state(world.alert()) == ("suppressed", "capped")
    assert world.state(first) == ("delivered", None)


def test_no_more_alerts_are_counted_than_a_limit_looks_back_at(world: World) -> None:
    """A device of a group without limits has thousands in a week, and each alert would read all of them."""
    world.connection.execute("INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'vip', 1)")
    world.set_policy(caps={"limits": [{"count": 1, "per": "week"}], "groups": [{"tag": "vip", "limits": []}]})
    new = NewChannel.model_validate({"id": "rare", "name": "Rare", "caps": cap(3, "week")})
    world.run(world.policies.add_channel(APP.no, new))
    world.connection.executemany(
        "INSERT INTO alert_use (device_no, push_no, channel, at) VALUES (1, ?, ?, ?)",
        [(-number, "rare" if number > 1_290 else None, world.now - number * 1_000) for number in range(1, 1_301)],
    )
    world.connect()
    assert world.state(world.alert())[0] == "sent"
    found = "SELECT count(*) FROM alert_use WHERE channel"
    assert world.row(f"{found} IS NULL") == (MAX_CAP_ALERTS,)
    assert world.row(f"{found} = 'rare'") == (4,), "the last three, and one that may be checked again"
    assert world.state(world.alert(channel="rare")) == ("suppressed", "capped")


def test_quiet_hours_defer_to_their_end(world: World) -> None:
    world.set_policy(quiet_hours=NIGHT)
    world.connect()
    until_evening(world)
    push_id, data = world.alert(), world.push().push_id
    assert world.received() == [data]
    assert not_before(world, push_id) == "2027-01-16T07:00:00.000Z"
    world.passes(8 * HOUR - 1)
    assert world.received() == [data]
    world.passes(1)
    assert world.received() == [data, push_id]


def test_quiet_hours_may_drop(world: World) -> None:
    world.set_policy(quiet_hours={**NIGHT, "excess": "drop"})
    world.connect()
    until_evening(world)
    assert world.state(world.alert()) == ("suppressed", "quiet_hours")


def test_the_ttl_of_what_is_deferred_runs(world: World) -> None:
    world.set_policy(quiet_hours=NIGHT)
    world.connect()
    until_evening(world)
    short = world.alert(ttl=HOUR)
    world.passes(HOUR)
    assert world.state(short) == ("expired", "ttl")
    world.passes(8 * HOUR)
    assert world.received() == []


def test_quiet_hours_are_on_the_wall_of_the_person(world: World) -> None:
    world.set_policy(quiet_hours=NIGHT, timezone="America/New_York")
    world.says("report", {"timezone": "Asia/Tokyo"}, device_no=2)
    for device_no in (1, 2):
        world.connect(device_no)
    push_id = world.alert({"all": True}, ttl=3 * DAY)
    assert world.received(1) == [], "03:00 in New York"
    assert world.received(2) == [push_id], "17:00 in Tokyo"
    world.says("report", {"timezone": "Europe/Berlin"}, device_no=1)
    assert world.received(1) == [push_id], "who has moved is checked anew"


def test_quiet_hours_of_a_channel_replace_those_of_the_app(world: World) -> None:
    fields = {"id": "news", "name": "News", "quiet_hours": {"start": "08:00", "end": "09:00"}}
    world.run(world.policies.add_channel(APP.no, NewChannel.model_validate(fields)))
    world.set_policy(quiet_hours=NIGHT)
    world.connect()
    news, other = world.alert(channel="news"), world.alert()
    assert world.received() == [other]
    world.passes(HOUR)
    assert world.received() == [other, news]


def test_a_persons_own_quiet_hours(world: World) -> None:
    world.connect()
    assert world.says("settings", {"quiet_hours": {"start": "07:30", "end": "09:30"}}) == 0
    push_id = world.alert()
    assert world.received() == []
    world.connect(2)
    assert world.alert({"device": "d2"}) in world.received(2)
    world.says("settings", {"consent": "granted"})
    assert world.received() == [], "not named: it stays as it is"
    world.says("settings", {"quiet_hours": None})
    assert world.received() == [push_id]


def test_what_was_accepted_by_day_does_not_arrive_at_night(world: World) -> None:
    world.set_policy(quiet_hours=NIGHT)
    push_id = world.alert(ttl=3 * DAY)
    until_evening(world)
    world.connect()
    assert world.received() == []
    world.passes(8 * HOUR)
    assert world.received() == [push_id]
    world.disconnect()
    until_evening(world)
    world.connect()
    assert world.received() == [push_id], "nor again, after it was lost"


def test_new_rules_are_for_what_waits_as_well(world: World) -> None:
    waiting = [world.alert(ttl=3 * DAY) for _ in range(3)]
    world.set_policy(caps=cap(1, "hour"))
    world.connect()
    assert world.received() == waiting[:1]
    later = [world.alert({"device": "d2"}, ttl=3 * DAY) for _ in range(3)]
    world.set_policy()
    world.connect(2)
    assert world.received(2) == later, "and so is their end"


def test_a_change_of_rules_lets_through_what_was_deferred(world: World) -> None:
    world.set_policy(caps=cap(1, "day", "defer"))
    world.connect()
    sent = [world.alert(ttl=3 * DAY) for _ in range(3)]
    world.set_policy(caps=cap(2, "day", "defer"))
    assert world.received() == sent[:2]
    world.set_policy()
    assert world.received() == sent


def test_now_or_never_does_not_wait(world: World) -> None:
    world.set_policy(caps=cap(1, "hour", "defer"))
    assert world.state(world.alert(ttl=0)) == ("expired", "ttl"), "nobody is there"
    world.connect()
    first, second = world.alert(ttl=0), world.alert(ttl=0)
    assert world.received() == [first]
    assert world.state(second) == ("suppressed", "capped")
    world.passes(HOUR)
    world.engine.session("d1").window = 1
    assert world.state(world.alert(ttl=0)) == ("expired", "ttl"), "and no room"


def test_what_has_no_room_follows_when_there_is(world: World) -> None:
    world.set_policy(caps=cap(5, "hour"))
    world.engine.session("d1").window = 1
    world.connect()
    sent = [world.alert() for _ in range(3)]
    assert world.received() == sent[:1]
    world.acknowledge()
    assert world.received() == sent[:2]
    world.acknowledge()
    assert world.received() == sent


def test_new_caps_hold_for_all_that_waits_though_the_server_is_killed_meanwhile(world: World) -> None:
    waiting = [world.alert() for _ in range(3)]
    world.loop.run_until_complete(world.policies.set_policy(APP.no, Policy.model_validate({"caps": cap(1, "day")})))
    world.crash()  # the rules are on disk, and nothing has been put under them
    world.connect()
    assert world.received() == waiting[:1]


def test_what_is_deferred_stays_so_over_a_restart(world: World) -> None:
    world.set_policy(caps=cap(1, "day", "defer"))
    world.connect()
    _, later = world.alert(), world.alert()
    deferred = not_before(world, later)
    world.crash()
    assert deferred is not None
    assert not_before(world, later) == deferred


def test_new_caps_are_tried_again_when_the_disk_was_full(world: World) -> None:
    waiting = [world.alert() for _ in range(3)]
    with full_disk(world):
        world.set_policy(caps=cap(1, "day"))
    world.timers.later_turn()
    world.settle()
    world.connect()
    assert world.received() == waiting[:1]


def test_critical_passes_rationed_and_each_use_is_kept(world: World) -> None:
    world.set_policy(quiet_hours=NIGHT, caps=cap(1, "day"), critical={"per_day": 2})
    world.says("settings", {"channels": {"safety": False}})
    world.connect()
    muted = world.alert(priority="critical", channel="safety")
    until_evening(world)
    night = world.alert(priority="critical")
    third = world.alert(priority="critical")
    assert world.received() == [muted, night]
    assert world.state(third) == ("suppressed", "capped"), "the ration is used: like any other"
    uses = world.run(world.alert_limiter.critical_uses(APP.no, 10, None))["items"]
    assert [(use["push_id"], use["passed"]) for use in uses] == [(night, "capped"), (muted, "channel_muted")]
    world.passes(DAY)
    assert world.alert(priority="critical") in world.received()


def test_critical_sent_again_is_no_other_use(world: World) -> None:
    world.set_policy(quiet_hours={**NIGHT, "excess": "drop"}, critical={"per_day": 1})
    world.connect()
    until_evening(world)
    push_id = world.alert(priority="critical")
    for _ in range(3):
        world.disconnect()
        world.connect()
    assert world.received() == [push_id] * 4
    assert world.state(push_id) == ("sent", None)
    assert len(world.run(world.alert_limiter.critical_uses(APP.no, 10, None))["items"]) == 1
    assert [event["type"] for event in world.events()].count("policy.critical") == 1


def test_critical_sent_again_uses_the_ration_from_then_on(world: World) -> None:
    world.set_policy(caps=cap(1, "week"), critical={"per_day": 1})
    world.connect()
    world.alert()
    again = world.alert(priority="critical", ttl=10 * DAY)
    world.passes(18 * HOUR)
    world.disconnect()
    world.connect()
    world.passes(18 * HOUR)
    assert world.received()[-1] == again
    late = world.alert(priority="critical")
    assert world.state(late) == ("suppressed", "capped"), "the other one has passed within 24 hours"


def test_critical_that_passes_nothing_uses_no_ration(world: World) -> None:
    world.set_policy(quiet_hours=NIGHT, critical={"per_day": 0})
    world.connect()
    push_id = world.alert(priority="critical")
    assert world.received() == [push_id]
    assert world.run(world.alert_limiter.critical_uses(APP.no, 10, None))["items"] == []


def test_a_muted_channel_without_ration(world: World) -> None:
    world.set_policy(critical={"per_day": 0})
    world.says("settings", {"channels": {"safety": False}})
    world.connect()
    for kind in ("alert", "in_app"):
        assert world.state(world.alert(kind=kind, priority="critical", channel="safety")) == (
            "suppressed",
            "channel_muted",
        )


def test_denied_is_denied_for_critical_too(world: World) -> None:
    world.says("settings", {"consent": "denied"})
    assert world.state(world.alert(priority="critical")) == ("suppressed", "no_consent")


def test_a_large_fleet_is_judged_in_turns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.alert_limiter.CHECKED_DEVICES", 2)
    monkeypatch.setattr("gateway.delivery.alert_limiter.CHECKED_ROWS", 3)
    world.set_policy(caps=cap(4, "hour"))
    waiting = [world.alert({"all": True}) for _ in range(4)]
    for device_no in (1, 2, 3):
        world.connect(device_no)
    for device_no in (1, 2, 3):
        assert world.received(device_no) == waiting
    last = world.alert({"all": True})
    assert [world.state(last, device_no) for device_no in (1, 2, 3)] == [("suppressed", "capped")] * 3


def test_an_app_without_rules_has_no_gate(world: World) -> None:
    world.connect()
    world.alert()
    assert not world.ledger.limited
    assert world.row("SELECT count(*) FROM whole_delivery WHERE not_before IS NOT NULL") == (0,)


class Schedules(RuleBasedStateMachine):
    """Random schedules of pushes, settings and clock jumps: no device ever gets more than its cap, nothing inside its
    quiet hours, nothing muted, except rationed `critical`; nothing is dropped that the policy said to defer."""

    device_numbers = st.sampled_from([1, 2])
    zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])

    some_caps = st.fixed_dictionaries(
        {
            "limits": st.lists(
                st.fixed_dictionaries({"count": st.integers(1, 3), "per": st.sampled_from(["hour", "day", "week"])}),
                min_size=1,
                max_size=2,
            ),
            "excess": st.sampled_from(["drop", "defer", "digest"]),
        }
    )
    some_quiet = st.sampled_from([None, NIGHT, {"start": "12:00", "end": "14:00", "excess": "drop"}])

    def __init__(self) -> None:
        super().__init__()
        self.world = World(devices=2, window=4, mailbox_limit=50)
        self.world.engine.on_hand_over = self.handed_over
        self.policy = Policy()
        self.offers: ChannelFields | None = None
        self.zone = {1: "UTC", 2: "UTC"}
        self.hours: dict[int, Hours | None] = {1: None, 2: None}
        self.muted = {1: False, 2: False}
        self.pushes: dict[str, dict[str, Any]] = {}
        self.arrivals: dict[int, list[tuple[int, str, bool]]] = {1: [], 2: []}
        """(time, push, whether it counted then: alerts count from when there are caps and they are under rules)."""
        self.passed: dict[int, list[tuple[int, str]]] = {1: [], 2: []}
        self.mistakes: list[str] = []
        self.dropping = {"capped": False, "quiet_hours": False}

    @initialize(caps=some_caps, quiet=some_quiet, ration=st.integers(0, 2))
    def begins(self, caps: Any, quiet: Any, ration: int) -> None:
        self.app_rules(caps, quiet, ration)
        for device_no in (1, 2):
            self.comes(device_no)

    # -- what is checked at the moment of each hand-over

    def handed_over(self, client_id: str, hand_over: HandOver) -> None:
        device_no = int(client_id[1:])
        push_id = json.loads(hand_over.payload)["push_id"]
        if push_id not in self.pushes and "digest" in (hand_over.payload.decode()):
            self.note_digest(json.loads(hand_over.payload))
        push = self.pushes.get(push_id) or self.coming
        now = self.world.now
        broken = self.broken(device_no, push_id, push, now)
        counted = bool(push["gated"] and self.world.policies.of(APP.no).counts)
        self.arrivals[device_no].append((now, push_id, counted))
        if not broken:
            return
        today = {other for at, other in self.passed[device_no] if at > now - WINDOWS_MS["day"]} - {push_id}
        if push["priority"] == "critical" and len(today) < self.policy.critical.per_day:
            self.passed[device_no].append((now, push_id))
        else:
            self.mistakes.append(f"{push} to d{device_no} at {now}: {broken}")

    def note_digest(self, push: dict[str, Any]) -> None:
        facts = {"kind": "alert", "channel": push.get("channel"), "priority": push["priority"], "gated": True}
        self.pushes[push["push_id"]] = {**facts, "ttl": push["expires_in"]}

    def broken(self, device_no: int, push_id: str, push: dict[str, Any], now: int) -> list[str]:
        broken = []
        if push["channel"] == "offers" and self.muted[device_no] and push["kind"] in ("alert", "in_app"):
            broken.append("muted")
        if push["kind"] != "alert":
            return broken
        of_channel = self.offers if push["channel"] == "offers" else None
        quiet = of_channel.quiet_hours if of_channel and of_channel.quiet_hours else self.policy.quiet_hours
        hours = [each for each in (quiet, self.hours[device_no]) if each is not None]
        broken += ["quiet" for each in hours if is_quiet(each, self.zone[device_no], now)]
        for caps, channel in ((self.policy.caps, None), (of_channel.caps if of_channel else None, "offers")):
            for limit in caps.limits if caps else ():
                others = {
                    other
                    for at, other, counted in self.arrivals[device_no]
                    if counted and at > now - WINDOWS_MS[limit.per] and other != push_id and self.counts(other, channel)
                }
                if len(others) >= limit.count:
                    broken.append(f"more than {limit}")
        return broken

    def counts(self, push_id: str, channel: str | None) -> bool:
        push = self.pushes.get(push_id) or self.coming
        return bool(push["kind"] == "alert" and channel in (None, push["channel"]))

    # -- moves

    @rule(
        to=st.sampled_from([{"device": "d1"}, {"devices": ["d1", "d2"]}, {"all": True}]),
        kind=st.sampled_from(["alert", "alert", "alert", "in_app", "silent"]),
        channel=st.sampled_from([None, "offers"]),
        priority=st.sampled_from(["critical", "high", "normal", "normal"]),
        ttl=st.sampled_from([0, 1_800, DAY, 30 * DAY]),
        count=st.sampled_from([1, 1, 3]),
    )
    def sends(self, to: dict[str, Any], kind: str, channel: str | None, priority: str, ttl: int, count: int) -> None:
        for _ in range(count):
            self.send(to, kind, channel, priority, ttl)

    def send(self, to: dict[str, Any], kind: str, channel: str | None, priority: str, ttl: int) -> None:
        fields = {} if channel is None else {"channel": channel}
        limited = self.world.policies.is_limited(APP.no, kind, channel)
        self.coming = {"kind": kind, "channel": channel, "priority": priority, "ttl": ttl, "gated": limited}
        accepted = self.world.push(to, kind=kind, notification=ALERT, priority=priority, ttl=ttl, **fields)
        self.pushes[accepted.push_id] = self.coming

    @rule(seconds=st.sampled_from([1, 60, 1_800, HOUR, 5 * HOUR, DAY, 8 * DAY]))
    def time_passes(self, seconds: int) -> None:
        self.world.passes(seconds)

    @rule(caps=st.none() | some_caps, quiet=some_quiet, ration=st.integers(0, 2))
    def app_rules(self, caps: Any, quiet: Any, ration: int) -> None:
        self.policy = Policy.model_validate({"caps": caps, "quiet_hours": quiet, "critical": {"per_day": ration}})
        self.note_drops()
        self.note_gated()
        self.world.run(self.world.policies.set_policy(APP.no, self.policy))
        self.world.settle()

    @rule(
        caps=st.sampled_from([None, cap(1, "day", "defer"), cap(2, "hour", "drop")]),
        quiet=st.sampled_from([None, {"start": "06:00", "end": "09:30"}]),
    )
    def channel_rules(self, caps: Any, quiet: Any) -> None:
        fields = ChannelFields.model_validate({"name": "Offers", "caps": caps, "quiet_hours": quiet})
        self.offers = fields
        self.note_drops()
        self.note_gated()
        policies = self.world.policies
        if "offers" in policies.of(APP.no).channels:
            self.world.run(policies.change_channel(APP.no, "offers", fields))
        else:
            self.world.run(policies.add_channel(APP.no, NewChannel(id="offers", **fields.__dict__)))
        self.world.settle()

    def note_gated(self) -> None:
        """What waits when rules come is under them."""
        rules = [fields for fields in (self.policy, self.offers) if fields is not None]
        if self.world.policies.timed or any(fields.caps or fields.quiet_hours for fields in rules):
            for push in self.pushes.values():
                push["gated"] = True

    def note_drops(self) -> None:
        for fields in (self.policy, self.offers):
            if fields is not None:
                self.dropping["capped"] |= fields.caps is not None and fields.caps.excess == "drop"
                self.dropping["quiet_hours"] |= fields.quiet_hours is not None and fields.quiet_hours.excess == "drop"

    @rule(device_no=device_numbers, hours=st.sampled_from([None, {"start": "18:00", "end": "10:00"}]))
    def own_hours(self, device_no: int, hours: dict[str, str] | None) -> None:
        self.hours[device_no] = None if hours is None else Hours.model_validate(hours)
        self.world.says("settings", {"quiet_hours": hours}, device_no)

    @rule(device_no=device_numbers, muted=st.booleans())
    def mutes(self, device_no: int, muted: bool) -> None:
        self.muted[device_no] = muted
        self.world.says("settings", {"channels": {"offers": not muted}}, device_no)

    @rule(device_no=device_numbers, zone=zones)
    def moves(self, device_no: int, zone: str) -> None:
        self.zone[device_no] = zone
        self.world.says("report", {"timezone": zone}, device_no)

    @rule(device_no=device_numbers)
    def comes(self, device_no: int) -> None:
        if not self.session(device_no).connected:
            self.world.connect(device_no)

    @rule(device_no=device_numbers, seconds=st.sampled_from([0, HOUR, 9 * HOUR]))
    def returns(self, device_no: int, seconds: int) -> None:
        """What it had not acknowledged may be sent again."""
        self.goes(device_no)
        self.world.passes(seconds)
        self.comes(device_no)

    @rule(device_no=device_numbers)
    def goes(self, device_no: int) -> None:
        if self.session(device_no).connected:
            self.world.disconnect(device_no)

    @rule(device_no=device_numbers)
    def acknowledges(self, device_no: int) -> None:
        if self.session(device_no).connected:
            self.world.acknowledge_all(device_no)

    @rule()
    def crashes(self) -> None:
        self.note_gated()
        self.world.crash()
        self.world.engine.on_hand_over = self.handed_over

    def session(self, device_no: int) -> Any:
        return self.world.engine.session(self.world.identities[device_no].client_id)

    # -- what always holds

    @invariant()
    def nothing_reaches_anybody_against_the_rules(self) -> None:
        assert self.mistakes == []

    @invariant()
    def every_end_has_its_reason(self) -> None:
        for state, reason, ttl in self.world.connection.execute(
            "SELECT d.state, d.reason, p.ttl FROM whole_delivery AS d JOIN push AS p ON p.no = d.push_no"
        ):
            assert (state == 30) == (reason in ("channel_muted", "capped", "quiet_hours")), (state, reason)
            if reason in self.dropping and ttl:
                assert self.dropping[reason], "dropped, though no policy ever said so"

    def teardown(self) -> None:
        """In the end everything has gone its way: nothing is kept for ever that may come, and the counts sum."""
        for _ in range(40):
            for device_no in (1, 2):
                self.comes(device_no)
                self.acknowledges(device_no)
            self.world.passes(2 * DAY)
        assert self.mistakes == []
        for push_id in self.pushes:
            assert not {"waiting", "sent"} & self.world.counts(push_id).keys()
        self.world.check_events()
        self.world.close()


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(TestSchedules.settings, stateful_step_count=40, deadline=None)
