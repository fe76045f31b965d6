"""What `fleetpush push` understands, and what it sends."""

from __future__ import annotations

from typing import Any, cast

import pytest
import typer

from gateway.cli.push import EXPLAINED_DELIVERIES, print_accepted, target_and_text, titled
from gateway.cli.server_client import ServerClient
from tests.gateway.cli.deliveries import Deliveries
from tests.gateway.cli.fake_server import FakeServer


@pytest.mark.parametrize(
    ("words", "device", "tag", "everyone", "expected"),
    [
        (["kiosk-1", "Hello"], [], None, False, ({"device": "kiosk-1"}, "Hello")),
        (["kiosk-1"], [], None, False, ({"device": "kiosk-1"}, None)),
        (["Hello"], [], None, True, ({"all": True}, "Hello")),
        (["Hello"], [], "foyer", False, ({"tag": "foyer"}, "Hello")),
        (["Hello"], ["a", "b"], None, False, ({"devices": ["a", "b"]}, "Hello")),
        ([], ["a"], None, False, ({"device": "a"}, None)),
    ],
)
def test_targets(words: list[str], device: list[str], tag: str | None, everyone: bool, expected: Any) -> None:
    assert target_and_text(words, device, {"tag": tag, "all": everyone or None}) == expected


@pytest.mark.parametrize(
    ("words", "device", "tag", "everyone"),
    [([], [], None, False), (["kiosk-1", "two", "words"], [], None, False), (["Hello"], ["a"], "foyer", False)],
)
def test_wrong_use_ends_with_2(
    words: list[str], device: list[str], tag: str | None, everyone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        target_and_text(words, device, {"tag": tag, "all": everyone or None})
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith("fleetpush: ")


def test_buttons() -> None:
    assert titled("play") == {"id": "play", "title": "Play"}
    assert titled("open_door=Let them in") == {"id": "open_door", "title": "Let them in"}


def test_braces_without_liquid_are_told(fake: FakeServer) -> None:
    fake.answer = lambda request: {"push_id": "p1", "targeted": 1, "suppressed": 0, "unknown": []}
    assert "with --render liquid" in fake.run("push", "kiosk-1", "{{ device.name }}").stderr
    for words in (["{{ device.name }}", "--render", "liquid"], ["plain"]):
        assert "--render" not in fake.run("push", "kiosk-1", *words).stderr


def accepted_by(server: Deliveries, capsys: pytest.CaptureFixture[str]) -> str:
    suppressed = sum(delivery["state"] == "suppressed" for delivery in server.deliveries)
    answer = {"push_id": "p1", "targeted": len(server.deliveries), "suppressed": suppressed, "unknown": []}
    print_accepted(cast(ServerClient, server), answer)
    return capsys.readouterr().err


def test_what_is_suppressed_is_told_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    muted, denied = ("suppressed", "channel_muted", None), ("suppressed", "no_consent", None)
    waiting = ("waiting", None, None)
    assert "3 devices; 1 of them suppressed (1 no_consent). " in accepted_by(
        Deliveries(waiting, denied, waiting), capsys
    )
    assert "suppressed (2 no_consent, 1 channel_muted). " in accepted_by(Deliveries(muted, denied, denied), capsys)
    many = Deliveries(*[denied] * EXPLAINED_DELIVERIES, muted)
    assert "1001 of them suppressed (no_consent). " in accepted_by(many, capsys), "without a number that is not known"
    assert "1 of them suppressed. " in accepted_by(Deliveries(denied, may_read=False), capsys)


@pytest.mark.parametrize(
    ("delivery", "code", "says"),
    [
        ({"state": "displayed", "reason": None}, 0, "It is displayed."),
        ({"state": "expired", "reason": "ttl"}, 1, "not delivered: expired (ttl)"),
        (None, 1, "not delivered in 60 s; it goes on: `fleetpush watch p1`"),
    ],
)
def test_who_waits_is_told_how_it_went(fake: FakeServer, delivery: dict[str, Any] | None, code: int, says: str) -> None:
    answer = {"push_id": "p1", "targeted": 1, "suppressed": 0, "unknown": []}
    fake.answer = lambda request: answer | ({} if delivery is None else {"delivery": delivery})
    done = fake.run("push", "kiosk-1", "Hello", "--wait", "1m")
    assert fake.only.query == {"wait": "60"}
    assert (done.exit_code, done.stdout) == (code, "p1\n")
    assert says in done.stderr
    assert fake.run("push", "kiosk-1", "Hello", "--wait", "2m").exit_code == 2


def test_a_forecast_is_read_by_people(fake: FakeServer) -> None:
    counts = {"targeted": 9, "online": 2, "suppressed": {"no_consent": 1}, "unknown": [], "likely": 4, "will_expire": 1}
    held = {"capped": {"dropped": 2, "deferred": 1}, "quiet_hours": {"dropped": 0, "deferred": 0}, "sampled": False}
    fake.answer = lambda request: counts | held | {"unknown_presence": 1, "hints": ["did you mean 'offers'?"]}
    forecast = fake.run("push", "--all", "Tea", "--forecast")
    assert "did you mean 'offers'?" in forecast.stderr
    shown = dict(line.split(maxsplit=1) for line in forecast.stdout.splitlines())
    assert (shown["likely"], shown["capped"]) == ("4", "2 dropped, 1 deferred")
    assert not {"quiet_hours", "sampled", "unknown"} & shown.keys(), "nothing to say of them"
    fake.answer = lambda request: {"push_id": "p1", "targeted": 1}
    fake.run("push", "kiosk-1", "Tea", "--keep-forecast")
    assert (fake.requests[-1].path, fake.requests[-1].query) == ("/v1/pushes", {"forecast": "true"})


def test_a_hint_about_a_segment_stands_beside_it(fake: FakeServer) -> None:
    fake.answer = lambda request: {"devices": 1, "examples": ["kiosk-1"], "hints": ["did you mean 'offers'?"]}
    tried = fake.run("segments", "try", "muted('ofers')")
    assert ("offers" in tried.stdout, "did you mean 'offers'?" in tried.stderr) == (False, True)
