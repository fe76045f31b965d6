"""Campaigns in a terminal: what their commands send, how they are shown, and how one is watched to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from gateway.api.campaign_examples import ANSWERS, BODIES
from gateway.cli import campaigns
from tests.gateway.cli.fake_server import FakeServer, Request

RUNNING: dict[str, Any] = ANSWERS["Campaign"]
COMPLETED = {**RUNNING, "state": "completed", "phase": None, "ended_at": "2026-12-01T12:00:00.000Z"}
PAUSED = {**RUNNING, "state": "paused", "phase": None, "reason": "stop: failed >= 2 (2), of group 1"}


def test_a_campaign_is_made_of_a_file(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda request: RUNNING
    plan = BODIES["post", "/v1/campaigns"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ended = fake.run("campaigns", "create", str(tmp_path / "plan.json"), "--idempotency-key", "u7")
    assert ended.stdout.split() == [RUNNING["campaign_id"]], "alone, for scripts"
    assert (fake.only.path, fake.only.json, fake.only.headers["idempotency-key"]) == ("/v1/campaigns", plan, "u7")


def test_a_campaign_whose_answer_is_lost_is_made_once(fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    for _ in range(2):
        lost = iter([True, False])

        def answer(request: Request, lost: Iterator[bool] = lost) -> Any:
            if next(lost):
                raise httpx2.ReadError("gone")
            return RUNNING

        fake.answer = answer
        assert fake.run("campaigns", "create", str(tmp_path / "plan.json")).exit_code == 0
    first, again, other, _ = (request.headers["idempotency-key"] for request in fake.requests)
    assert first == again
    assert first != other, "another campaign"


def test_commands_say_what_they_are_told(fake: FakeServer) -> None:
    fake.answer = lambda request: PAUSED
    for words, body in (
        (["pause", "c1", "--reason", "lunch"], {"reason": "lunch"}),
        (["resume", "c1"], {"next_group": False}),
        (["resume", "c1", "--next-group"], {"next_group": True}),
        (["abort", "c1"], {}),
    ):
        ended = fake.run("campaigns", *words)
        assert fake.requests[-1].path == f"/v1/campaigns/c1/{words[0]}"
        assert fake.requests[-1].json == body
        assert "stop: failed >= 2" in ended.stdout
    fake.run("campaigns", "approve", "c1")
    assert fake.requests[-1].body == b""


def test_a_forecast_is_a_table(fake: FakeServer, tmp_path: Path) -> None:
    fake.answer = lambda request: ANSWERS["CampaignForecast"]
    (tmp_path / "plan.json").write_text("{}")
    shown = fake.run("campaigns", "forecast", str(tmp_path / "plan.json")).stdout
    assert "1\tcanary\t1\twhen its conditions and time say so" in shown


def test_a_campaign_is_watched_to_its_end(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaigns, "WATCH_INTERVAL_SECONDS", 0)
    answers = iter([RUNNING, RUNNING, COMPLETED])
    fake.answer = lambda request: next(answers)
    ended = fake.run("campaigns", "watch", "c1")
    assert ended.exit_code == 0
    assert ended.stdout.splitlines() == [
        "running group 1 of 3 (observing); 1 targeted: 1 waiting",
        "completed group 1 of 3; 1 targeted: 1 waiting",
    ]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (PAUSED, "paused: stop: failed >= 2 (2), of group 1"),
        ({**RUNNING, "state": "awaiting_approval", "phase": None}, "another key has to approve it"),
    ],
)
def test_a_campaign_that_needs_somebody_is_no_success(fake: FakeServer, found: dict[str, Any], says: str) -> None:
    fake.answer = lambda request: found
    ended = fake.run("campaigns", "watch", "c1")
    assert ended.exit_code == 1
    assert says in ended.stderr


def test_watching_ends_in_time(fake: FakeServer) -> None:
    def answer(request: Request) -> Any:
        return RUNNING

    fake.answer = answer
    ended = fake.run("campaigns", "watch", "c1", "--timeout", "0")
    assert (ended.exit_code, "not at its end after 0 s" in ended.stderr) == (1, True)


def group(size: int, **counts: int) -> dict[str, Any]:
    known = {**RUNNING["group_results"][0]["counts"], "waiting": 0} | counts
    reached = {name: counts.get(name, 0) for name in ("delivered", "acted")}
    reached["delivered"] += reached["acted"]
    return {**RUNNING["group_results"][0], "size": size, "counts": known, "reached": reached}


def test_a_bar_shows_how_far_a_group_has_come() -> None:
    bar = campaigns.draw_bar({**group(100, targeted=50, acted=20, refused=10, delivered=10, waiting=10), "failed": 10})
    assert bar.plain == "█" * 9 + "▓" * 3 + "▒" * 3 + "░" * 15
    assert campaigns.draw_bar({**group(0), "failed": 0}).plain == "░" * 30
    assert len(campaigns.draw_bar({**group(7, targeted=7, acted=3, expired=4), "failed": 1}).plain) == 30


def test_a_campaign_is_drawn() -> None:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(campaigns.draw_campaign(RUNNING))
    drawn = capture.get().splitlines()
    assert drawn[0].rstrip() == "running group 1 of 3 (observing); 1 targeted: 1 waiting"
    assert drawn[1].split() == ["›", "1", "canary", "▒" * 30, "1/1", "1", "targeted:", "1", "waiting"]


def test_a_campaign_shows_how_far_its_conditions_are() -> None:
    group = {"group": 1, "conditions": [{"kind": "stop", "condition": "failed >= 1 (0)", "holds": False}]}
    found = {"group": 1, "group_results": [group, {**group, "group": 2}]}
    assert campaigns.describe_conditions(found, "stop") == "failed >= 1 (0)"
    assert campaigns.describe_conditions(found, "go_on") is None


def test_groups_of_an_aborted_campaign_wait_for_nothing(fake: FakeServer) -> None:
    found = {**RUNNING, "state": "aborted", "phase": None, "ended_at": "2026-12-01T12:00:00.000Z"}
    waiting = {**group(9), "state": "waiting"}
    fake.answer = lambda request: {**found, "group_results": [waiting]}
    assert "\tnot sent\t" in fake.run("campaigns", "show", "c1").stdout


def test_variants_and_their_result() -> None:
    goal = {"count": 12, "of": 100, "rate": 0.12, "interval": [0.07, 0.198]}
    assert campaigns.describe_goal({"goal": goal}) == "12 of 100: 12.0% (7.0% to 19.8%)"
    assert campaigns.describe_goal({"goal": {"rate": None}}) == "nothing sent"
    result = {"verdict": "winner", "winner": "b", "goal": "acted", "confidence": 0.95, "preliminary": True}
    assert campaigns.describe_result(result) == "b is better (acted, 95%, preliminary)"
