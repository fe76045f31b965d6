"""A person's keys, and the token file."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from client_sim.push import Push
from gateway.cli.listen import OPEN_PUSHES, Screen, load_or_enrol, trusted_keys
from gateway.cli.server_client import RequestRefused, ServerClient
from gateway.cli.terminal import Failure

MQTT = {"host": "127.0.0.1", "port": 1883, "topics": {"push": "shop/devices/kiosk-1/push"}}


class RecordingDevice:
    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []
        self.actions: dict[str, Callable[[Push], Any]] = {}
        self.spoke = threading.Event()

    def displayed(self, push: Push) -> None:
        self.said.append(("displayed", push.push_id))

    def opened(self, push: Push) -> None:
        self.said.append(("opened", push.push_id))

    def dismissed(self, push: Push, reason: str | None = None) -> None:
        self.said.append(("dismissed", push.push_id) if reason is None else ("dismissed", push.push_id, reason))
        self.spoke.set()

    def act(self, push: Push, action: str, text: str | None = None) -> Any:
        self.said.append((action, push.push_id) if text is None else (action, push.push_id, text))
        return self.actions[action](push) if action in self.actions else None


def screen_of(**options: Any) -> tuple[Screen, RecordingDevice]:
    screen = Screen("kiosk-1", **({"as_json": False, "count": None, "answer": None} | options))
    device = RecordingDevice()
    screen.device = cast(Any, device)
    return screen, device


def alert(push_id: str, kind: str = "alert") -> Push:
    actions = [{"id": "play", "title": "Play"}, {"id": "stop", "title": "Stop"}]
    message = {"push_id": push_id, "kind": kind, "notification": {"title": "Hi", "actions": actions}}
    return Push.parse(json.dumps(message).encode())


def test_keys_answer_the_newest_unanswered_push(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of()
    screen.show(alert("p1"))
    screen.show(alert("p2"))
    for key in ("o", "2", "d", "1"):
        screen.press(key)
    assert device.said == [
        ("displayed", "p1"),
        ("displayed", "p2"),
        ("opened", "p2"),
        ("stop", "p2"),
        ("dismissed", "p1"),
    ]
    screen.press("q")
    assert screen.finished.is_set()


def asking(push_id: str, collapse_key: str | None = None) -> Push:
    actions = [{"id": "reply", "title": "Reply", "input": "What shall it be?"}, {"id": "no", "title": "No"}]
    message = {"push_id": push_id, "kind": "alert", "notification": {"title": "Lunch", "actions": actions}}
    return Push.parse(json.dumps(message | ({} if collapse_key is None else {"collapse_key": collapse_key})).encode())


def type_in(screen: Screen, keys: str) -> None:
    for key in keys:
        screen.press(key)


def test_an_action_that_asks_is_answered_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of()
    screen.show(asking("p1"))
    type_in(screen, "1\n so\x7foup, q\n")  # as a script sends it: what chose the action ends with a line end, too
    assert device.said == [("displayed", "p1"), ("reply", "p1", "soup, q")]
    assert "What shall it be?" in capsys.readouterr().err
    type_in(screen, "d")
    assert len(device.said) == 2, "it was answered"


def test_who_does_not_want_to_say_goes_back(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of()
    screen.show(asking("p1"))
    type_in(screen, "1so\x1b2")
    assert device.said == [("displayed", "p1"), ("no", "p1")]


def test_a_newer_push_takes_the_place_of_the_one_with_its_collapse_key() -> None:
    screen, device = screen_of()
    for push in (asking("p1", "menu"), alert("p2"), asking("p3", "menu")):
        screen.show(push)
    type_in(screen, "ddd")
    dismissed = [said for said in device.said if said[0] == "dismissed"]
    assert dismissed == [("dismissed", "p1", "collapse_key"), ("dismissed", "p3"), ("dismissed", "p2")]


def test_a_push_leaves_the_screen_with_its_lifetime_if_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of()
    for push_id, expires in (("stays", None), ("goes", "screen")):
        notification = {"title": push_id} | ({} if expires is None else {"expires": expires})
        message = {"push_id": push_id, "kind": "alert", "expires_in": 1, "notification": notification}
        screen.show(Push.parse(json.dumps(message).encode()))
    assert device.spoke.wait(10)
    assert device.said[2:] == [("dismissed", "goes", "ttl")]
    screen.press("d")
    assert device.said[3:] == [("dismissed", "stays")]
    assert "no longer valid: goes" in capsys.readouterr().err


def test_what_no_key_reaches_any_more_is_named() -> None:
    screen, device = screen_of()
    for number in range(OPEN_PUSHES + 1):
        screen.show(alert(f"p{number}"))
    assert [said for said in device.said if said[0] == "dismissed"] == [("dismissed", "p0", "screen_full")]


def test_what_was_recalled_leaves_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of()
    screen.show(alert("p1"))
    screen.show(asking("p2"))
    type_in(screen, "1so")
    screen.notice({"v": 1, "type": "clear", "push_ids": ["p2", "unknown"]})
    assert "withdrawn: Lunch" in capsys.readouterr().err
    type_in(screen, "d")
    assert device.said[-1] == ("dismissed", "p1")
    screen.notice({"v": 1, "type": "clear", "push_ids": "p1"})


def test_a_silent_push_is_shown_but_not_displayed_to_anyone(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of()
    screen.show(Push.parse(b'{"push_id": "p1", "kind": "silent", "data": {"a": 1}}'))
    assert device.said == []
    assert '{"a": 1}' in capsys.readouterr().out


def test_an_action_is_executed_and_its_result_shown(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of()
    device.actions["play"] = screen.play("play")
    screen.show(alert("p1"))
    screen.show(alert("p2"))
    screen.press("2")
    screen.press("1")
    said = capsys.readouterr().err
    assert "Stop: answered" in said, "chosen, though this device has nothing to stop"
    assert "Play: playing, Morning light" in said


def test_a_command_is_obeyed_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    screen, _ = screen_of()
    results = []
    for data in ({"command": "next"}, {"command": "play"}, {"command": "reboot"}, None):
        message = {"push_id": "p1", "kind": "command", "data": data}
        results.append(screen.show(Push.parse(json.dumps(message).encode())))
    assert results == [
        {"state": "paused", "title": "Window seat"},
        {"state": "playing", "title": "Window seat"},
        {"error": "unknown command 'reboot'"},
        {"error": "unknown command"},
    ]
    assert "command play: playing, Window seat" in capsys.readouterr().err


def test_what_was_not_finished_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    screen, _ = screen_of()
    screen.interrupted(alert("p1"))
    assert "p1 was begun by an earlier" in capsys.readouterr().err


def test_a_script_answers_without_keys(capsys: pytest.CaptureFixture[str]) -> None:
    screen, device = screen_of(answer="play", count=1, as_json=True)
    screen.show(alert("p1"))
    assert device.said == [("displayed", "p1"), ("play", "p1")]
    assert screen.finished.is_set()
    assert json.loads(capsys.readouterr().out)["push_id"] == "p1"


class Enrolment:
    """As much of a server as enrolment needs."""

    url = "http://push.example:8080"

    def __init__(self, found_in: Path | None, *, problems: dict[str, str] | None = None) -> None:
        self.found_in = found_in
        self.problems = problems or {}
        self.calls: list[str] = []

    def call(self, method: str, path: str, **_: Any) -> Any:
        self.calls.append(path)
        if path in self.problems:
            raise RequestRefused("no", self.problems[path])
        return {"device_id": "kiosk-1", "token": f"dev_{len(self.calls)}", "mqtt": MQTT}


def test_a_token_is_kept_for_its_user_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Enrolment(tmp_path)
    client = cast(ServerClient, server)
    credential, folder = load_or_enrol(client, "kiosk-1", rotate=False)
    assert (credential.token, credential.app) == ("dev_1", "shop")
    path = folder / "kiosk-1.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_enrol(client, "kiosk-1", rotate=False)[0] == credential
    assert len(server.calls) == 1
    assert load_or_enrol(client, "kiosk-1", rotate=True)[0].token == "dev_2"
    assert server.calls[1] == "/v1/devices/kiosk-1/token"


def test_far_from_the_server_the_token_is_kept_per_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    _, folder = load_or_enrol(cast(ServerClient, Enrolment(None)), "kiosk-1", rotate=False)
    assert folder == tmp_path / "fleetpush" / "listen" / "push.example-8080"


def test_a_device_of_somebody_else_is_not_taken_over_unasked(tmp_path: Path) -> None:
    server = Enrolment(tmp_path, problems={"/v1/devices": "device_exists"})
    with pytest.raises(Failure, match="--rotate"):
        load_or_enrol(cast(ServerClient, server), "kiosk-1", rotate=False)


def test_a_removed_device_is_enrolled_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Enrolment(tmp_path, problems={"/v1/devices/kiosk-1/token": "device_not_found"})
    load_or_enrol(cast(ServerClient, server), "kiosk-1", rotate=True)
    assert server.calls == ["/v1/devices/kiosk-1/token", "/v1/devices"]


@pytest.mark.parametrize("content", [None, "", '{"keys": []}', '{"keys": [{"kty": "RSA"}]}'])
def test_a_file_without_keys_to_trust_is_named_with_the_remedy(tmp_path: Path, content: str | None) -> None:
    """A device that was told to trust somebody does not obey everybody instead."""
    pinned = tmp_path / "trusted-keys.json"
    if content is not None:
        pinned.write_text(content)
    with pytest.raises(Failure, match="signing show") as failed:
        trusted_keys(pinned, tmp_path / "kiosk-1.jwk")
    assert failed.value.exit_code == 2
    assert list(tmp_path.glob("*.jwk")) == []
