"""Duties, and pushes to them: what their commands send, and how they print it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.cli.fake_server import FakeServer

DUTY: dict[str, Any] = {
    "name": "night",
    "description": None,
    "steps": [{"device": "d1", "wait_s": 60}, {"devices": ["d2", "d3"], "wait_s": 120}, {"tag": "a:b", "wait_s": 5}],
    "repeat": 2,
    "acts": ["take"],
    "opened": True,
    "running": 1,
}
COUNTS = {"targeted": 2, "waiting": 0, "delivered": 2}


def test_steps_are_written_as_people_do(fake: FakeServer) -> None:
    fake.answer = lambda request: DUTY
    steps = ["--step", "d1@60s", "--step", "d2,d3@2m", "--step", "tag:a:b@5", "--step", "d4"]
    ended = fake.run("duties", "set", "night", *steps, "--repeat", "2", "--act", "take", "--opened")
    assert ended.exit_code == 0
    assert (fake.only.method, fake.only.path) == ("PUT", "/v1/duties/night")
    assert fake.only.json == {
        "steps": [*DUTY["steps"], {"device": "d4"}],
        "repeat": 2,
        "acts": ["take"],
        "opened": True,
    }
    assert "d1@60s, d2,d3@120s, tag:a:b@5s" in ended.stdout


def test_a_list_of_duties(fake: FakeServer) -> None:
    fake.answer = lambda request: {"items": [DUTY], "next_cursor": None}
    assert fake.run("duties", "list").stdout.splitlines()[1] == "night\td1@60s, d2,d3@120s, tag:a:b@5s\t2\t1\t"


def test_a_list_of_pushes_to_duties(fake: FakeServer) -> None:
    act = {"push_id": "p1", "device_id": "d1", "event": "acted", "action": "take"}
    common = {"duty": "night", "sent_at": "10:00", "next_at": None, "ended_at": None, "reason": None, "acted": None}
    items = [
        {**common, "push_id": "p3", "state": "running", "step": 2, "round": 2, "next_at": "10:05"},
        {**common, "push_id": "p2", "state": "exhausted", "step": 3, "round": 1, "ended_at": "10:04", "reason": "ttl"},
        {**common, "push_id": "p1", "state": "acted", "step": 1, "round": 1, "ended_at": "10:03", "acted": act},
    ]
    fake.answer = lambda request: {"items": items, "next_cursor": None}
    ended = fake.run("duties", "escalations", "--state", "running")
    assert fake.only.path == "/v1/escalations"
    assert fake.only.query["state"] == "running"
    assert ended.stdout.splitlines()[1:] == [
        "p3\tnight\t10:00\trunning\t2, round 2\t10:05\t",
        "p2\tnight\t10:00\texhausted (ttl)\t3\t\t10:04",
        "p1\tnight\t10:00\tacted by d1 (take)\t1\t\t10:03",
    ]
    fake.answer = lambda request: {"items": [], "next_cursor": None}
    assert fake.run("duties", "escalations").stderr == "No pushes to duties.\n"


@pytest.mark.parametrize("step", ["", "@5s", "d1@soon"])
def test_a_step_that_is_none(fake: FakeServer, step: str) -> None:
    ended = fake.run("duties", "set", "night", "--step", step)
    assert ended.exit_code == 2
    assert "--step" in ended.stderr
    assert fake.requests == []


def test_a_push_to_a_duty(fake: FakeServer) -> None:
    fake.answer = lambda request: {"push_id": "p1", "targeted": 0, "suppressed": 0, "unknown": []}
    ended = fake.run("push", "--duty", "night", "Help")
    assert fake.only.json["target"] == {"duty": "night"}
    assert "the next one follows at once" in ended.stderr
    assert fake.run("push", "--duty", "night", "--all", "Help").exit_code == 2


def test_a_push_to_a_duty_is_shown_step_by_step(fake: FakeServer) -> None:
    steps = [
        {"step": 1, "round": 1, "push_id": "p1", "target": {"device": "d1"}, "counts": COUNTS},
        {"step": 1, "round": 2, "push_id": "p2", "target": {"tag": "guards"}, "counts": COUNTS},
    ]
    escalation: dict[str, Any] = {"duty": "night", "state": "acted", "next_at": None, "steps": steps}
    escalation["acted"] = {"device_id": "d1", "action": "take", "event": "acted"}
    push = {"push_id": "p1", "counts": COUNTS, "reached": {"delivered": 2}, "escalation": escalation}
    fake.answer = lambda request: push
    lines = fake.run("pushes", "show", "p1").stdout.splitlines()
    assert lines[-4:] == [
        "duty             night",
        "escalation       acted by d1 (take)",
        "step 1           p1 to d1: 2 targeted: 2 delivered",
        "step 1, round 2  p2 to tag:guards: 2 targeted: 2 delivered",
    ]
    fake.answer = lambda request: {
        **push,
        "escalation": {**escalation, "state": "running", "acted": None, "next_at": "2026-12-01T11:00:00.000Z"},
    }
    assert "running, the next step at 2026-12-01T11:00:00.000Z" in fake.run("pushes", "show", "p1").stdout
