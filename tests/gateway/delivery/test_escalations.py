"""Escalations: step after step until somebody acts, whatever is killed in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.delivery import duties, escalation_progress, escalations
from gateway.delivery.duties import DutyFields
from gateway.delivery.retention import RetentionPeriods, remove_slice
from gateway.delivery.submission import AcceptedPush
from gateway.errors import Problem
from gateway.store.audience.device_sets import add_to_sets
from gateway.store.errors import StorageFull
from tests.gateway.delivery.world import ALERT, APP, World, items

STEPS = [{"device": "d1", "wait_s": 10}, {"devices": ["d2", "d3"], "wait_s": 20}]


@pytest.fixture
def world() -> Iterator[World]:
    world = World(devices=4)
    yield world
    world.close()


def set_duty(world: World, name: str = "desk", **fields: Any) -> None:
    duty = DutyFields.model_validate({"steps": STEPS, **fields})
    world.run(world.duties.put(APP.no, name, duty))


def escalate(world: World, **fields: Any) -> str:
    return world.push({"duty": "desk"}, **{"notification": ALERT} | fields).push_id


def escalation(world: World, push_id: str) -> dict[str, Any]:
    found: dict[str, Any] = world.run(world.reports.push(APP.no, push_id))["escalation"]
    return found


def state(world: World, push_id: str) -> str:
    return str(escalation(world, push_id)["state"])


def steps(world: World, push_id: str) -> list[str]:
    """The pushes of an escalation that were sent, in order."""
    return [step["push_id"] for step in escalation(world, push_id)["steps"]]


def acts(world: World, push_id: str, device_no: int, event: str = "acted", action: str | None = "take") -> None:
    receipt = {"push_id": push_id, "event": event} | ({} if action is None else {"action": action})
    assert world.says("receipts", receipt, device_no) == 0
    world.passes(0)


def duty_events(world: World) -> list[tuple[str, dict[str, Any]]]:
    return [(event["type"], event["data"]) for event in world.events() if event["type"].startswith("duty.")]


def test_a_push_goes_from_step_to_step_until_somebody_acts(world: World) -> None:
    set_duty(world)
    for device_no in (1, 2):
        world.connect(device_no)
    first = escalate(world)
    world.acknowledge(1)
    assert world.received(1) == [first]
    assert world.received(2) == []
    world.passes(9)
    assert steps(world, first) == [first]
    world.passes(1)
    _, second = steps(world, first)
    assert world.received(2) == [second]
    world.acknowledge(2)
    acts(world, second, 2)
    found = escalation(world, first)
    assert found["state"] == "acted"
    assert found["acted"] == {"push_id": second, "device_id": "d2", "event": "acted", "action": "take"}
    assert found["next_at"] is None
    assert world.counts(second) == {"targeted": 2, "acted": 1, "cancelled": 1}
    assert world.state(second, 3) == ("cancelled", "recalled")
    assert world.cleared == [(first, None), (second, "d2")], "the one on which somebody acted shows what it did"
    world.passes(1_000)
    assert len(steps(world, first)) == 2
    assert [name for name, _ in duty_events(world)] == ["duty.escalated", "duty.acted"]
    world.check_events()


def test_the_report_of_an_escalation(world: World) -> None:
    set_duty(world, repeat=1)
    first = escalate(world)
    world.passes(10)
    found = escalation(world, first)
    assert {name: found[name] for name in ("duty", "state", "step", "round", "reason", "acted")} == {
        "duty": "desk",
        "state": "running",
        "step": 2,
        "round": 1,
        "reason": None,
        "acted": None,
    }
    one, two = found["steps"]
    assert (one["target"], two["target"]) == ({"device": "d1"}, {"devices": ["d2", "d3"]})
    assert (one["targeted"], two["targeted"], two["counts"]["waiting"]) == (1, 2, 2)
    assert world.run(world.reports.push(APP.no, two["push_id"]))["escalation_of"] == first
    listed = items(world.run(world.reports.pushes(APP.no, 10, None)))
    assert [push.get("escalation_of") for push in listed] == [first, None]
    assert listed[1]["escalation"]["step"] == 2
    world.passes(20)
    assert [(step["step"], step["round"]) for step in escalation(world, first)["steps"]] == [(1, 1), (2, 1), (1, 2)]


def test_nobody_acts(world: World) -> None:
    set_duty(world, repeat=1)
    first = escalate(world)
    for seconds in (10, 20, 10):
        assert state(world, first) == "running"
        world.passes(seconds)
    assert state(world, first) == "running"
    world.passes(20)
    found = escalation(world, first)
    assert (found["state"], found["reason"], len(found["steps"])) == ("exhausted", "steps", 4)
    assert duty_events(world)[-1] == (
        "duty.exhausted",
        {"push_id": first, "duty": "desk", "reason": "steps", "steps": 4},
    )
    assert world.cleared == [], "it stays: somebody may still act"
    acts(world, found["steps"][3]["push_id"], 3)
    assert state(world, first) == "acted"
    assert world.escalations.running == 0
    assert world.escalations.ended == {"acted": 1, "exhausted": 1, "recalled": 0, "superseded": 0}


def test_no_step_is_sent_when_the_lifetime_is_over(world: World) -> None:
    set_duty(world)
    first = escalate(world, ttl=15)
    world.passes(10)
    later = steps(world, first)[1]
    (ttl,) = world.row("SELECT ttl FROM push WHERE id = ?", later)
    assert ttl == 5, "of the whole, not of each step"
    second = escalate(world, ttl=7)
    world.passes(10)
    found = escalation(world, second)
    assert (found["state"], found["reason"], len(found["steps"])) == ("exhausted", "ttl", 1)


def test_a_step_for_nobody_is_over_at_once(world: World) -> None:
    set_duty(world, steps=[{"tag": "ghosts"}, {"device": "gone"}, {"device": "d1", "wait_s": 10}])
    accepted = world.push({"duty": "desk"}, notification=ALERT)
    assert (accepted.targeted, accepted.unknown) == (0, ())
    world.passes(0)
    world.passes(0)
    assert [step["targeted"] for step in escalation(world, accepted.push_id)["steps"]] == [0, 0, 1]
    world.passes(9)
    assert state(world, accepted.push_id) == "running"


def test_a_step_that_all_refuse_is_over_at_once(world: World) -> None:
    set_duty(world)
    world.says("settings", {"consent": "denied"}, 1)
    first = escalate(world)
    assert world.counts(first) == {"targeted": 1, "suppressed": 1}
    world.passes(0)
    assert len(steps(world, first)) == 2


def test_the_first_devices_of_a_tag_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duties, "STEP_DEVICES", 2)
    add_to_sets(world.connection, APP.no, {"guards": [2, 3, 4]})
    set_duty(world, steps=[{"tag": "guards"}])
    (step,) = escalation(world, escalate(world))["steps"]
    assert (step["targeted"], step["left_out"], step["target"]) == (2, 1, {"tag": "guards"})


@pytest.mark.parametrize(
    ("duty", "event", "action", "expected"),
    [
        ({"acts": ["take"]}, "acted", "take", "acted"),
        ({"acts": ["take"]}, "acted", "later", "running"),
        ({}, "acted", "later", "acted"),
        ({}, "opened", None, "running"),
        ({"opened": True, "acts": ["take"]}, "opened", None, "acted"),
        ({"opened": True}, "displayed", None, "running"),
        ({"opened": True}, "dismissed", None, "running"),
    ],
)
def test_what_counts_as_an_act(
    world: World, duty: dict[str, Any], event: str, action: str | None, expected: str
) -> None:
    set_duty(world, **duty)
    first = escalate(world)
    acts(world, first, 1, event, action)
    assert state(world, first) == expected


def test_whoever_acts_first_has_acted(world: World) -> None:
    set_duty(world)
    first = escalate(world)
    world.passes(10)
    second = steps(world, first)[1]
    receipts = [{"push_id": second, "event": "acted", "action": "take"}]
    world.says_at_once(("receipts", receipts), ("receipts", receipts), device_no=2)
    acts(world, second, 3)
    acts(world, first, 1)
    assert escalation(world, first)["acted"]["device_id"] == "d2"
    assert [name for name, _ in duty_events(world)].count("duty.acted") == 1
    assert world.counts(second) == {"targeted": 2, "acted": 2}


def test_a_recall_takes_all_steps_back(world: World) -> None:
    set_duty(world)
    world.connect(1)
    first = escalate(world)
    world.passes(10)
    second = steps(world, first)[1]
    assert world.run(world.escalations.recall(APP, first)) == {"cancelled": 2, "in_flight": 1, "too_late": 0}
    world.settle()
    assert state(world, first) == "recalled"
    assert world.counts(second) == {"targeted": 2, "cancelled": 2}
    assert sorted(world.cleared) == sorted([(first, None), (second, None)])
    world.passes(1_000)
    assert len(steps(world, first)) == 2
    assert world.escalations.running == 0
    assert world.run(world.escalations.recall(APP, "unknown")) is None


def test_a_recalled_step_is_that_step_alone(world: World) -> None:
    set_duty(world)
    first = escalate(world)
    world.passes(10)
    second = steps(world, first)[1]
    assert world.run(world.escalations.recall(APP, second)) == {"cancelled": 2, "in_flight": 0, "too_late": 0}
    assert state(world, first) == "running"


def test_a_newer_push_with_the_collapse_key_goes_on_instead(world: World) -> None:
    set_duty(world)
    first = escalate(world, collapse_key="door-7")
    world.passes(10)
    other = escalate(world)
    newer = escalate(world, collapse_key="door-7")
    world.passes(0)
    assert [state(world, push_id) for push_id in (first, other, newer)] == ["superseded", "running", "running"]
    assert world.state(first, 1) == ("superseded", "collapse_key")
    assert world.counts(steps(world, first)[1]) == {"targeted": 2, "cancelled": 2}
    acts(world, first, 1)
    assert state(world, first) == "superseded"


def test_all_steps_have_one_collapse_key(world: World) -> None:
    set_duty(world, steps=[{"device": "d1", "wait_s": 10}], repeat=2)
    first = escalate(world)
    world.passes(10)
    world.passes(10)
    assert [world.counts(push_id) for push_id in steps(world, first)] == [
        {"targeted": 1, "superseded": 1},
        {"targeted": 1, "superseded": 1},
        {"targeted": 1, "waiting": 1},
    ]
    world.connect(1)
    assert len(world.received(1)) == 1
    assert {json.loads(one.payload)["collapse_key"] for one in world.engine.session("d1").handed_over} == {
        world.run(world.reports.push(APP.no, first))["collapse_key"]
    }


def test_a_push_goes_on_with_its_duty_as_it_was(world: World) -> None:
    set_duty(world)
    first = escalate(world)
    set_duty(world, steps=[{"device": "d4"}])
    world.run(world.duties.remove(APP.no, "desk"))
    world.passes(10)
    assert escalation(world, first)["steps"][1]["target"] == {"devices": ["d2", "d3"]}
    with pytest.raises(Problem) as refusal:
        escalate(world)
    assert refusal.value.code == "duty_not_found"


def test_too_many_are_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escalations, "RUNNING_ESCALATIONS", 1)
    set_duty(world)
    first = escalate(world)
    with pytest.raises(Problem) as refusal:
        escalate(world)
    assert (refusal.value.code, refusal.value.status, refusal.value.retryable) == ("too_many_escalations", 429, True)
    assert world.escalations.refused == 1
    acts(world, first, 1)
    escalate(world)


def test_the_same_request_is_one_escalation(world: World) -> None:
    set_duty(world)
    options: dict[str, Any] = {"idempotency_key": "k", "body_hash": b"h", "notification": ALERT}
    first = world.run(world.accept({"duty": "desk"}, **options))
    assert world.run(world.accept({"duty": "desk"}, **options)) == first
    assert world.escalations.running == 1


def test_many_are_seen_to_some_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escalation_progress, "DUE_STEPS", 2)
    monkeypatch.setattr(escalations, "DUE_STEPS", 2)
    set_duty(world)
    pushes = [escalate(world) for _ in range(5)]
    world.passes(10)
    assert [len(steps(world, push_id)) for push_id in pushes] == [2, 2, 1, 1, 1]
    world.passes(0)
    world.passes(0)
    assert [len(steps(world, push_id)) for push_id in pushes] == [2, 2, 2, 2, 2]


def test_apps_have_their_steps_in_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escalation_progress, "DUE_STEPS", 2)
    monkeypatch.setattr(escalations, "DUE_STEPS", 2)
    set_duty(world)
    many = [escalate(world) for _ in range(5)]
    world.now += 1_000
    other = escalate(world)
    world.connection.execute("INSERT INTO application (no, id, created_at) VALUES (2, 'other', 0)")
    world.connection.execute("UPDATE escalation SET app_no = 2 WHERE push_no = (SELECT max(push_no) FROM escalation)")
    world.passes(10)
    assert [len(steps(world, push_id)) for push_id in (*many, other)] == [2, 1, 1, 1, 1, 2]


def test_all_apps_together_have_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escalations, "ALL_ESCALATIONS", 1)
    set_duty(world)
    escalate(world)
    with pytest.raises(Problem, match="too_many_escalations"):
        escalate(world)


def test_steps_wait_for_room_on_the_disk(world: World) -> None:
    set_duty(world)
    first = escalate(world)
    world.storage_left = False
    world.passes(60)
    assert len(steps(world, first)) == 1
    world.storage_left = True
    world.passes(0)
    assert len(steps(world, first)) == 2
    world.passes(19)
    assert state(world, first) == "running", "the wait begins when the step was sent"


def test_what_the_disk_refuses_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    set_duty(world)
    first = escalate(world)

    def refuse(*_: Any) -> None:
        raise StorageFull

    with monkeypatch.context() as patched:
        patched.setattr(escalations, "advance", refuse)
        world.passes(10)
    assert len(steps(world, first)) == 1
    world.timers.later_turn()
    world.passes(0)
    assert len(steps(world, first)) == 2


def test_a_restart_goes_on_in_the_middle(world: World) -> None:
    set_duty(world)
    first = escalate(world)
    world.passes(10)
    world.crash()
    assert world.escalations.running == 1
    world.passes(19)
    assert state(world, first) == "running"
    world.crash()
    world.now += 3_600_000
    world.passes(0)
    assert (state(world, first), len(steps(world, first))) == ("exhausted", 2)


def test_what_was_not_cleared_is_cleared_by_the_next_start(world: World) -> None:
    set_duty(world)
    first = escalate(world)
    world.passes(10)
    world.on_clear = lambda step, told: None  # type: ignore[method-assign]  # killed before anybody was told
    acts(world, first, 1)
    del world.on_clear
    world.crash()
    world.passes(0)
    assert world.cleared == [(first, "d1"), (steps(world, first)[1], None)]
    world.crash()
    world.passes(0)
    assert len(world.cleared) == 2, "once"


def test_a_forecast_is_of_the_first_step(world: World) -> None:
    set_duty(world, steps=[{"devices": ["d1", "gone"]}, {"device": "d2"}])
    found = world.run(world.forecast.of(APP, world.request({"duty": "desk"}, notification=ALERT)))
    assert (found["targeted"], found["unknown"]) == (1, ["gone"])
    with pytest.raises(Problem) as refusal:
        world.run(world.forecast.of(APP, world.request({"duty": "other"}, notification=ALERT)))
    assert refusal.value.code == "duty_not_found"


def test_an_escalation_is_kept_as_long_as_the_counts_of_its_push(world: World) -> None:
    set_duty(world)
    first = escalate(world, ttl=60)
    world.passes(10)
    kept = RetentionPeriods(deliveries=1_000, counts=100_000, idempotency=1, uplink=1, events=1)
    world.passes(90)
    while remove_slice(world.connection, kept, world.now):
        pass
    assert [step["counts"]["expired"] for step in escalation(world, first)["steps"]] == [1, 2]
    world.passes(200)
    while remove_slice(world.connection, kept, world.now):
        pass
    assert world.row("SELECT count(*) FROM escalation") == world.row("SELECT count(*) FROM escalation_step") == (0,)
    with pytest.raises(Problem) as refusal:
        escalation(world, first)
    assert refusal.value.code == "gone"


WAITS = {0: 10, 1: 20, 2: 0, 3: 10, 4: 20, 5: 0}
"""Seconds behind each step of the machine's duty: the third is for nobody."""


class Escalating(RuleBasedStateMachine):
    """One escalation at a time, any order of commits, callbacks, acts and kills."""

    @initialize(opened=st.booleans())
    def start(self, opened: bool) -> None:
        self.world = World(devices=3, mailbox_limit=50)
        set_duty(self.world, steps=[*STEPS, {"tag": "ghosts"}], repeat=1, acts=["take"], opened=opened)
        self.opened = opened
        self.tasks: list[asyncio.Task[AcceptedPush]] = []
        self.acted = False
        """A receipt that counts was answered while nothing else had ended it."""
        self.recalled = False

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.end()
        finally:
            for task in self.tasks:
                task.cancel()
            self.world.loop.run_until_complete(asyncio.sleep(0))
            self.world.close()

    @property
    def pushes(self) -> list[tuple[int, str, int, int]]:
        """Step, push id, time and number of devices of each step on disk."""
        return self.world.connection.execute(
            "SELECT s.step, p.id, p.accepted_at, p.targeted - p.suppressed FROM escalation_step AS s"
            " JOIN push AS p ON p.no = s.push_no ORDER BY s.step"
        ).fetchall()

    @property
    def stored_state(self) -> str | None:
        row = self.world.row("SELECT state FROM escalation")
        return None if row is None else str(row[0])

    @precondition(lambda self: not self.pushes and not self.tasks)
    @rule()
    def escalate(self) -> None:
        request = World.request({"duty": "desk"}, notification=ALERT)
        self.tasks.append(self.world.loop.create_task(self.world.acceptance.accept(APP, request)))
        self.world.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def commit(self) -> None:
        self.world.writer.commit_group(1)

    @rule()
    def call_back(self) -> None:
        self.world.writer.call_back()
        self.world.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def turn(self) -> None:
        self.world.timers.turn()

    @rule()
    def everything_moves(self) -> None:
        self.world.settle()
        self.world.loop.run_until_complete(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0, 1, 9, 10, 20, 100]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += seconds * 1_000
        self.world.ledger.sweep()
        self.world.escalations.tick()

    @rule(device=st.integers(1, 3))
    def connect(self, device: int) -> None:
        self.world.engine.connect(self.world.identities[device], 1)

    @rule(device=st.integers(1, 3))
    def disconnect(self, device: int) -> None:
        self.world.engine.disconnect_device(self.world.identities[device].client_id)

    @precondition(lambda self: self.pushes)
    @rule(
        step=st.integers(0, 5),
        device=st.integers(1, 3),
        event=st.sampled_from(["acted", "opened", "displayed"]),
        action=st.sampled_from(["take", "later"]),
    )
    def receipt(self, step: int, device: int, event: str, action: str) -> None:
        pushes = self.pushes
        push_id = pushes[step % len(pushes)][1]
        known = self.world.row(
            "SELECT 1 FROM delivery AS d JOIN push AS p ON p.no = d.push_no WHERE p.id = ? AND d.device_no = ?",
            push_id,
            device,
        )
        counts = (event == "opened" and self.opened) or (event == "acted" and action == "take")
        self.world.says("receipts", {"push_id": push_id, "event": event, "action": action}, device)
        if counts and known and self.stored_state not in ("recalled",):
            self.acted = True
            assert self.stored_state == "acted", "the act is stored with its receipt"

    @precondition(lambda self: self.pushes and not self.recalled)
    @rule()
    def recall(self) -> None:
        self.world.run(self.world.escalations.recall(APP, self.pushes[0][1]))
        self.recalled = True

    @rule()
    def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.world.loop.run_until_complete(asyncio.sleep(0))
        self.tasks = []
        self.world.crash()
        self.world.run(self.world.connections.recover())

    @invariant()
    def each_step_is_sent_once_and_in_its_time(self) -> None:
        if not hasattr(self, "world"):
            return
        pushes = self.pushes
        assert [step for step, *_ in pushes] == list(range(len(pushes)))
        assert len(pushes) <= 6
        for (step, _, at, reach), (_, _, following, _) in pairwise(pushes):
            assert following - at >= (WAITS[step] * 1_000 if reach else 0)
        (count,) = self.world.row("SELECT count(*) FROM push")
        assert count == len(pushes), "no push without its step"

    @invariant()
    def what_has_ended_has_ended(self) -> None:
        if not hasattr(self, "world") or self.stored_state is None:
            return
        state, due_at, step = self.world.row("SELECT state, due_at, step FROM escalation")
        assert (state == "running") == (due_at is not None)
        assert step == len(self.pushes) - 1
        if self.acted:
            assert state == "acted"

    def end(self) -> None:
        """Nothing more is done: it comes to its end by itself, and everything adds up."""
        world = self.world
        world.settle()
        for _ in range(12):
            world.timers.later_turn()
            world.passes(30)
        if self.stored_state is None:
            return
        assert self.stored_state in ("acted", "exhausted", "recalled")
        assert world.escalations.running == 0
        told = [name for name, _ in duty_events(world)]
        assert told.count("duty.escalated") == len(self.pushes) - 1
        assert told.count("duty.acted") == (self.stored_state == "acted")
        assert told.count("duty.exhausted") <= 1
        for _, push_id, _, _ in self.pushes:
            counts = world.counts(push_id)  # they sum to what was targeted
            if self.stored_state != "exhausted":
                assert "waiting" not in counts
        (uncleared,) = world.row("SELECT count(*) FROM escalation WHERE cleared = 0")
        assert not uncleared
        world.check_events()


Escalating.TestCase.settings = settings(stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestEscalating = Escalating.TestCase
