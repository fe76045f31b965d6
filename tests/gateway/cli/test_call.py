"""Calls from the terminal: what is sent, and what an answer means to a script."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.cli.fake_server import FakeServer


def answered(status: str = "answered", result: Any = None, state: str = "acted") -> dict[str, Any]:
    return {"status": status, "push_id": "p1", "state": state, "reason": "ttl_over", "result": result}


def test_a_call_prints_the_answer(fake: FakeServer) -> None:
    fake.answer = lambda request: answered(result={"volume": 3, "text": "\x1b[2J"})
    options = ["--data", '{"volume": 3}', "--wait", "1m", "--ttl", "2m", "--priority", "critical", "--deadline", "30s"]
    done = fake.run("call", "kiosk-1", "play", *options)
    assert fake.only.path == "/v1/devices/kiosk-1/call"
    expected = {"command": "play", "data": {"volume": 3}, "wait": 60, "ttl": 120, "priority": "critical"}
    assert fake.only.json == expected | {"deadline": 30}
    assert (done.exit_code, done.stdout) == (0, '{"volume": 3, "text": "\\u001b[2J"}\n')
    fake.run("call", "kiosk-1", "play")
    assert fake.requests[-1].json == {"command": "play", "wait": 10}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answered("queued", state="waiting"), "no answer in 10 s. What came of it: `fleetpush pushes deliveries p1`"),
        (answered("ended", state="expired"), "it was not carried out: expired (ttl_over)"),
        (answered(result={"error": "unknown command 'sing'"}), "the device could not do it: unknown command 'sing'"),
    ],
)
def test_what_was_not_done_is_1_and_json_all_the_same(fake: FakeServer, answer: dict[str, Any], says: str) -> None:
    fake.answer = lambda request: answer
    ended = fake.run("call", "kiosk-1", "sing", "--json")
    assert (ended.exit_code, json.loads(ended.stdout), ended.stderr) == (1, answer, f"fleetpush: {says}\n")


def test_who_would_wait_too_long_is_told_how(fake: FakeServer) -> None:
    ended = fake.run("call", "kiosk-1", "sing", "--wait", "1h")
    assert ended.exit_code == 2
    assert "--kind command" in ended.stderr
    assert fake.requests == []
