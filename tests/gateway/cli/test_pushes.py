"""What `fleetpush push` understands, and what it sends."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from gateway.cli.pushes import seconds_of, target_and_text, titled


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
