"""Caps that adapt: the rule against figures, its bounds, and a channel that holds itself back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.audience.cap_segments import MAX_CAP_SEGMENTS
from gateway.audience.frequency import AdaptiveCap
from gateway.audience.policy import AdaptedCap, ChannelFields, NewChannel, Policy
from gateway.delivery.adaptive_caps import COOLING_DAYS, Reason, decide, steps_of
from gateway.delivery.fatigue import Figures
from gateway.errors import Problem, RetryableProblem
from gateway.store.analytics.alert_days import BUCKETS, bucket_of
from gateway.store.analytics.funnels import DAY_MS
from tests.gateway.delivery.world import APP, START, World

YESTERDAY = START // DAY_MS - 1
BOUNDS = AdaptiveCap()


def figures(**rates: tuple[float, float, float]) -> list[Figures]:
    """Figures of buckets with 10,000 device-days and alerts: what was opted out of, dismissed and opened, in a
    thousand, by bucket (`b3`)."""
    found = [Figures(Counter()) for _ in BUCKETS]
    for name, (opted_out, dismissed, opened) in rates.items():
        found[int(name[1:])] = Figures(
            Counter(
                device_days=10_000,
                alerts=10_000,
                opted_out=round(opted_out * 10),
                dismissed=round(dismissed * 10),
                opened=round(opened * 10),
            )
        )
    return found


CALM = (1, 100, 100)
LEAVING = (10, 100, 100)
ANNOYED = (1, 200, 100)
BORED = (1, 100, 50)


@pytest.mark.parametrize(
    ("known", "per_day", "days", "expected", "reason"),
    [
        ({}, 4, 30, 4, "not_enough"),
        ({"b4": LEAVING}, 4, 30, 4, "not_enough"),
        ({"b3": CALM, "b4": LEAVING}, 4, 0, 2, "more_opted_out"),
        ({"b2": CALM, "b4": LEAVING}, 4, 0, 2, "more_opted_out"),
        ({"b3": CALM, "b4": ANNOYED}, 4, 30, 2, "more_dismissed"),
        ({"b2": CALM, "b3": LEAVING}, 8, 30, 4, "more_opted_out"),
        ({"b1": CALM, "b2": LEAVING}, 1, 30, 1, "at_floor"),
        ({"b2": CALM, "b3": LEAVING, "b4": LEAVING}, 4, 30, 2, "more_opted_out"),
        ({"b3": CALM, "b4": CALM}, 4, 30, 8, "no_harm"),
        ({"b3": LEAVING, "b4": CALM}, 4, 30, 8, "no_harm"),
        ({"b3": CALM, "b4": BORED}, 4, 30, 4, "opened_less"),
        ({"b3": CALM, "b4": CALM}, 4, COOLING_DAYS - 1, 4, "changed_lately"),
        ({"b2": CALM, "b3": CALM}, 4, 30, 4, "cap_not_reached"),
        ({"b3": CALM, "b4": CALM, "b5": LEAVING}, 4, 30, 4, "more_known_worse"),
        ({"b4": CALM, "b5": CALM}, 8, 30, 8, "at_ceiling"),
    ],
)
def test_the_rule(known: Any, per_day: int, days: int, expected: int, reason: Reason) -> None:
    found = decide(figures(**known), BOUNDS, per_day, days)
    assert (found.per_day, found.reason) == (expected, reason)


def test_steps_double_between_the_bounds() -> None:
    assert steps_of(AdaptiveCap()) == [1, 2, 4, 8]
    assert steps_of(AdaptiveCap(floor_per_day=3, ceiling_per_day=8)) == [3, 6, 8]
    assert steps_of(AdaptiveCap(floor_per_day=5, ceiling_per_day=5)) == [5]
    assert [bucket_of(7 * step) for step in (1, 2, 4, 8)] == [2, 3, 4, 5], "a step is a bucket"


bounds = st.tuples(st.integers(1, 50), st.integers(1, 50)).map(
    lambda pair: AdaptiveCap(floor_per_day=min(pair), ceiling_per_day=max(pair))
)
rates = st.sampled_from([CALM, LEAVING, ANNOYED, BORED])


@given(
    bounds=bounds,
    known=st.dictionaries(st.sampled_from(["b0", "b1", "b2", "b3", "b4", "b5"]), rates),
    position=st.integers(0, 9),
    days=st.integers(-5, 40),
)
def test_a_cap_stays_within_its_bounds_and_goes_one_step(
    bounds: AdaptiveCap, known: dict[str, Any], position: int, days: int
) -> None:
    steps = steps_of(bounds)
    per_day = steps[min(position, len(steps) - 1)]
    found = decide(figures(**known), bounds, per_day, days)
    assert bounds.floor_per_day <= found.per_day <= bounds.ceiling_per_day
    assert abs(steps.index(found.per_day) - steps.index(per_day)) <= 1
    if found.per_day > per_day:
        assert days >= COOLING_DAYS
    # The model: what is known, up to the bucket of the cap, and the one before.
    top = bucket_of(per_day * 7)
    there = [bucket for bucket in range(top + 1) if f"b{bucket}" in known]
    if len(there) < 2:
        assert found.per_day == per_day
        return
    present, below = (known[f"b{bucket}"] for bucket in (there[-1], there[-2]))
    lower = [known[f"b{bucket}"] for bucket in there[:-1]]
    worse = any(present[0] > each[0] or present[1] > each[1] for each in lower)
    if worse:
        assert found.per_day == (per_day if per_day == steps[0] else steps[steps.index(per_day) - 1])
    else:
        assert found.per_day >= per_day
        assert found.per_day == per_day or (there[-1] == top and present[2] >= below[2])


def test_from_anywhere_the_cap_comes_to_what_people_stand() -> None:
    """People leave from 15 a week on: whatever the beginning, after some weeks it is two a day."""
    for start in steps_of(BOUNDS):
        per_day, since = start, 0
        for day in range(60):
            present = bucket_of(7 * per_day)
            known = {f"b{bucket}": LEAVING if bucket >= 4 else CALM for bucket in range(present + 1)}
            found = decide(figures(**known), BOUNDS, per_day, day - since)
            if found.per_day != per_day:
                per_day, since = found.per_day, day
        assert per_day in (2, 4), "it tries four now and then, since what is not sent is not known"


def channel(world: World, caps: Any = "adaptive") -> dict[str, Any]:
    new = NewChannel.model_validate({"id": "offers", "name": "Offers", "caps": caps})
    return world.run(world.policies.add_channel(APP.no, new))


def store_figures(world: World, **rates: tuple[float, float, float]) -> None:
    content = json.dumps([tally for (tally,) in figures(**rates)])
    world.connection.execute(
        "INSERT OR REPLACE INTO fatigue_day VALUES (1, 'channel', 'offers', ?, ?)", (YESTERDAY, content)
    )


def review(world: World, day: int = YESTERDAY) -> dict[str, Any]:
    world.run(world.adaptive_caps.review(day))
    return world.policies.channel(APP.no, "offers")


def test_a_channel_holds_itself_back_and_says_so(world: World) -> None:
    made = channel(world)
    assert made["caps"]["adaptive"] == {"floor_per_day": 1, "ceiling_per_day": 8, "start_per_day": None}
    assert made["effective_caps"]["limits"] == [{"count": 8, "per": "day"}]
    assert (made["adapted"]["per_day"], made["adapted"]["decision"]) == (8, None)
    store_figures(world, b4=CALM, b5=LEAVING)
    held = review(world)
    assert held["effective_caps"]["limits"] == [{"count": 4, "per": "day"}]
    decision = held["adapted"]["decision"]
    assert (decision["from_per_day"], decision["to_per_day"], decision["reason"]) == (8, 4, "more_opted_out")
    assert decision["present"] == {
        "bucket": "29+",
        "device_days": 10_000,
        "alerts": 10_000,
        "rates": {"opened": 0.1, "opted_out": 0.01, "dismissed": 0.1},
    }
    (event,) = [event for event in world.events() if event["type"] == "channel.caps_adapted"]
    assert event["data"] == {"channel": "offers", **decision}
    assert review(world) == held, "a day is looked at once"
    world.connect()
    sent = []
    for _ in range(5):
        sent.append(world.alert(channel="offers"))
        world.acknowledge_all()
    assert world.received() == sent[:4]
    assert world.state(sent[4]) == ("suppressed", "capped")
    world.crash()
    assert world.policies.channel(APP.no, "offers") == held
    assert review(world) == held


def test_nothing_is_decided_by_old_figures_or_without_enough(world: World) -> None:
    channel(world)
    store_figures(world, b4=CALM, b5=LEAVING)
    assert review(world, YESTERDAY - 1)["adapted"]["decision"] is None
    store_figures(world, b5=LEAVING)
    found = review(world)
    assert (found["adapted"]["per_day"], found["adapted"]["decision"]["reason"]) == (8, "not_enough")
    assert [event for event in world.events() if event["type"] == "channel.caps_adapted"] == []


def test_other_bounds_begin_anew_and_fixed_caps_undo_it(world: World) -> None:
    channel(world)
    store_figures(world, b4=CALM, b5=LEAVING)
    assert review(world)["adapted"]["per_day"] == 4

    def change(**fields: Any) -> dict[str, Any]:
        changed = ChannelFields.model_validate({"name": "Offers", **fields})
        return world.run(world.policies.change_channel(APP.no, "offers", changed))

    assert change(caps="adaptive", sound="bell")["adapted"]["per_day"] == 4, "another field leaves it alone"
    begun = {"adaptive": {"ceiling_per_day": 6, "start_per_day": 5}, "limits": [{"count": 1, "per": "hour"}]}
    found = change(caps=begun)
    assert found["effective_caps"]["limits"] == [{"count": 1, "per": "hour"}, {"count": 5, "per": "day"}]
    fixed = change(caps={"limits": [{"count": 3, "per": "day"}]})
    assert (fixed["adapted"], fixed["effective_caps"]["limits"]) == (None, [{"count": 3, "per": "day"}])
    assert world.row("SELECT count(*) FROM adapted_cap") == (0,)
    assert change(caps="adaptive")["adapted"]["per_day"] == 8
    world.run(world.policies.remove_channel(APP.no, "offers"))
    assert channel(world)["adapted"]["per_day"] == 8


def at_once(world: World, monkeypatch: pytest.MonkeyPatch, *coroutines: Any) -> None:
    """Have these stored one after the other, before any of them hears of it."""
    all_stored = asyncio.Event()
    write = world.writer.write

    async def write_and_wait(operation: Any, app_no: int | None = None, **declared: Any) -> Any:
        result = await write(operation, app_no, **declared)
        await all_stored.wait()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(world.writer, "write", write_and_wait)
        tasks = []
        for coroutine in coroutines:
            tasks.append(world.loop.create_task(coroutine))
            world.loop.run_until_complete(asyncio.sleep(0))
        all_stored.set()
        for task in tasks:
            world.loop.run_until_complete(task)
    world.settle()


@pytest.mark.parametrize("adapts_first", [True, False])
@pytest.mark.parametrize(("fields", "expected"), [({"caps": "adaptive", "sound": "bell"}, 4), ({"caps": None}, None)])
def test_a_change_that_is_stored_at_the_same_time_is_not_undone(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    adapts_first: bool,
    fields: dict[str, Any],
    expected: int | None,
) -> None:
    channel(world)
    adapted = AdaptedCap(4, {"reason": "more_opted_out"}, YESTERDAY, world.now)
    logged: list[int] = []
    moves = [
        world.policies.adapt(APP.no, "offers", adapted, lambda connection: logged.append(1)),
        world.policies.change_channel(APP.no, "offers", ChannelFields.model_validate({"name": "Offers", **fields})),
    ]
    at_once(world, monkeypatch, *(moves if adapts_first else reversed(moves)))
    for _ in range(2):
        found = world.policies.channel(APP.no, "offers")
        assert (None if found["adapted"] is None else found["adapted"]["per_day"]) == expected
        assert found["sound"] == fields.get("sound")
        assert world.row("SELECT count(*) FROM adapted_cap") == (0 if expected is None else 1,)
        world.crash()
    assert len(logged) == (1 if expected or adapts_first else 0)


def test_what_caps_may_be() -> None:
    impossible: list[Any] = [{}, {"limits": [], "groups": []}, {"excess": "drop"}, "adapted"]
    for caps in impossible:
        with pytest.raises(ValidationError):
            ChannelFields.model_validate({"name": "Offers", "caps": caps})
    for bounds in ({"floor_per_day": 4, "ceiling_per_day": 2}, {"start_per_day": 9}, {"ceiling_per_day": 51}):
        with pytest.raises(ValidationError):
            AdaptiveCap.model_validate(bounds)
    with pytest.raises(ValidationError, match="for the caps of a channel"):
        Policy.model_validate({"caps": {"adaptive": {}}})


def test_groups_have_caps_of_their_own(world: World) -> None:
    world.connection.execute(
        "INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'vip', 1), (1, 'beta', 1), (1, 'beta', 2)"
    )
    day = {"count": 1, "per": "day"}
    groups = [{"tag": "vip", "limits": []}, {"tag": "beta", "limits": [{"count": 2, "per": "day"}]}]
    world.set_policy(caps={"limits": [day], "groups": groups, "excess": "drop"})
    for number in (1, 2, 3):
        world.connect(number)
    sent = [world.push({"all": True}, notification={"title": "Hi"}).push_id for _ in range(3)]
    assert world.received(1) == sent, "the first group that it is in counts: no limit"
    assert world.received(2) == sent[:2]
    assert world.received(3) == sent[:1]


def test_a_new_tag_lets_through_what_a_cap_has_held(world: World) -> None:
    world.set_policy(
        caps={"limits": [{"count": 1, "per": "day"}], "groups": [{"tag": "vip", "limits": []}], "excess": "defer"}
    )
    world.connect()
    first, held = world.alert(), world.alert()
    assert world.received() == [first]
    world.connection.execute("INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'vip', 1)")
    world.alert_limiter.device_changed(1)
    world.settle()
    assert world.received() == [first, held]


def test_people_are_shown_the_limits_that_hold_for_them(world: World) -> None:
    world.connection.execute("INSERT INTO device_tag (app_no, tag, device_no) VALUES (1, 'vip', 1)")
    channel(world, {"adaptive": {"start_per_day": 4}, "groups": [{"tag": "vip", "limits": []}]})
    vip, other = (world.run(world.preferences.document(APP.no, number))["channels"][0] for number in (1, 2))
    assert vip["caps"] is None
    assert other["caps"] == {"limits": [{"count": 4, "per": "day"}], "excess": "drop"}


def save_segment(world: World, name: str, expression: str) -> None:
    world.connection.execute(
        "INSERT OR REPLACE INTO saved_segment (app_no, id, expression, created_at, updated_at) VALUES (1, ?, ?, 0, 0)",
        (name, expression),
    )


def test_devices_of_a_segment_have_caps_of_their_own(world: World) -> None:
    save_segment(world, "vip", "attributes.model == 'K2'")
    world.connection.execute("UPDATE device SET attributes = json_object('model', 'K2') WHERE no = 1")
    day = {"count": 1, "per": "day"}
    world.set_policy(caps={"limits": [day], "groups": [{"segment": "vip", "limits": []}], "excess": "drop"})
    for number in (1, 2):
        world.connect(number)

    def sent() -> list[list[str]]:
        before = [len(world.received(number)) for number in (1, 2)]
        world.push({"all": True}, notification={"title": "Hi"})
        for number in (1, 2):
            world.acknowledge_all(number)
        return [world.received(number)[count:] for number, count in zip((1, 2), before, strict=True)]

    assert list(map(len, sent())) == [1, 1]
    assert list(map(len, sent())) == [1, 0]
    world.crash()
    world.run(world.policies.segments.load(world.policies.cap_segments()))
    for number in (1, 2):
        world.connect(number)
    assert list(map(len, sent())) == [1, 0]
    world.connection.execute("UPDATE device SET attributes = '{}' WHERE no = 1")
    assert list(map(len, sent())) == [1, 0], "as of some minutes ago"
    refresh(world)
    assert list(map(len, sent())) == [0, 0]
    world.connection.execute("UPDATE device SET attributes = json_object('model', 'K2') WHERE no = 2")
    refresh(world)
    assert list(map(len, sent())) == [0, 1]
    world.connection.execute("DELETE FROM saved_segment")
    refresh(world)
    assert list(map(len, sent())) == [0, 0], "nobody is in a segment that was removed"


def refresh(world: World) -> None:
    world.run(world.policies.segments.refresh(world.policies.cap_segments()))


def test_a_segment_that_cannot_be_searched_stays_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    save_segment(world, "all", "!online || online")
    world.set_policy(caps={"groups": [{"segment": "all", "limits": []}]})
    assert len(world.policies.segments.members(APP.no, "all")) == 3

    async def busy(app_no: int, name: str) -> Any:
        raise RetryableProblem("busy", "too much is being read", 2)

    with monkeypatch.context() as patch:
        patch.setattr(world.targets, "of_segment", busy)
        refresh(world)
        assert len(world.policies.segments.members(APP.no, "all")) == 3
        with pytest.raises(Problem, match="too much"):
            world.set_policy(caps={"groups": [{"segment": "all", "limits": []}]})
    world.set_policy()
    refresh(world)
    assert not world.policies.segments.members(APP.no, "all"), "forgotten"


def test_caps_name_segments_that_there_are_and_not_too_many(world: World) -> None:
    for fields in ({}, {"tag": "a", "segment": "b"}):
        with pytest.raises(ValidationError, match="a tag or a segment"):
            Policy.model_validate({"caps": {"groups": [{**fields, "limits": []}]}})
    with pytest.raises(Problem, match="no segment 'vip'"):
        world.set_policy(caps={"groups": [{"segment": "vip", "limits": []}]})
    for number in range(MAX_CAP_SEGMENTS + 1):
        save_segment(world, f"s{number}", "online")
    groups = [{"segment": f"s{number}", "limits": []} for number in range(MAX_CAP_SEGMENTS + 1)]
    world.set_policy(caps={"groups": groups[:MAX_CAP_SEGMENTS]})
    world.set_policy(caps={"groups": groups[1:]})
    with pytest.raises(Problem, match="at most 20 segments"):
        channel(world, {"groups": groups[:1]})
    channel(world, {"groups": groups[1:3]})
