"""What `fleetpush push` understands, and what it sends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import pytest
import typer

from gateway.cli.pushes import EXPLAINED, print_accepted, seconds_of, target_and_text, titled, watch_push
from gateway.cli.server_client import Refused, ServerClient
from gateway.cli.terminal import Failure


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
    assert target_and_text(words, device, tag, everyone) == expected


@pytest.mark.parametrize(
    ("words", "device", "tag", "everyone"),
    [([], [], None, False), (["kiosk-1", "two", "words"], [], None, False), (["Hello"], ["a"], "foyer", False)],
)
def test_wrong_use_ends_with_2(
    words: list[str], device: list[str], tag: str | None, everyone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        target_and_text(words, device, tag, everyone)
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith("fleetpush: ")


def test_durations_and_buttons() -> None:
    assert [seconds_of(text) for text in ("0", "90", "90s", "10m", "8h", "2d")] == [0, 90, 90, 600, 28_800, 172_800]
    assert titled("play") == {"id": "play", "title": "Play"}
    assert titled("open_door=Let them in") == {"id": "open_door", "title": "Let them in"}
    with pytest.raises(typer.Exit):
        seconds_of("soon")


class Deliveries:
    """As much of a server as what it says of one push."""

    def __init__(self, *deliveries: tuple[str, str | None, str | None], may_read: bool = True) -> None:
        """(state, reason, not_before) of each."""
        names = ("state", "reason", "not_before")
        self.deliveries = [dict(zip(names, delivery, strict=True)) | {"qos": 1} for delivery in deliveries]
        self.may_read = may_read

    def call(self, method: str, path: str, **_: Any) -> Any:
        counts = Counter({"targeted": len(self.deliveries), "waiting": 0, "sent": 0})
        counts.update(str(delivery["state"]) for delivery in self.deliveries)
        return {"counts": counts}

    def items(self, path: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        if not self.may_read:
            raise Refused("no", "forbidden")
        return islice(iter(self.deliveries), limit)


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
    many = Deliveries(*[denied] * EXPLAINED, muted)
    assert "1001 of them suppressed (no_consent). " in accepted_by(many, capsys), "without a number that is not known"
    assert "1 of them suppressed. " in accepted_by(Deliveries(denied, may_read=False), capsys)


def test_what_waits_until_a_time_is_told_with_the_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        later, sooner = ("waiting", None, "2026-12-01T07:00:00.000Z"), ("waiting", None, "2026-12-01T06:00:00.000Z")
        for server, words in (
            (Deliveries(sooner), "1 waiting; 1 deferred by caps or quiet hours, until 2026-12-01 07:00 CET"),
            (Deliveries(later, ("waiting", None, None), sooner), "2 deferred by caps or quiet hours, the first until"),
            (Deliveries(("waiting", None, None)), "still open after 0 s: 1 targeted: 1 waiting"),
        ):
            with pytest.raises(Failure) as failure:
                watch_push(cast(ServerClient, server), "p1", timeout=0, as_json=False)
            assert words in str(failure.value)
            assert str(failure.value).removeprefix("still open after 0 s: ") in capsys.readouterr().out
    finally:
        monkeypatch.undo()
        time.tzset()
