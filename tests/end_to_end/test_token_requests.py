"""A device in a terminal has lost its token, asks again without a key, and an operator confirms it from another one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from client_sim import enrolment
from client_sim.credential import Credential
from client_sim.device import Device
from client_sim.enrolment import ask_again
from client_sim.errors import EnrolmentFailed
from tests.end_to_end.conftest import Name
from tests.end_to_end.harness import Server, clean_environment, fleetpush, wait_for


def operator(server: Server, *words: str) -> str:
    done = fleetpush(*words, "--data-dir", str(server.data_dir), cwd=server.data_dir.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def request_of(server: Server, device_id: str) -> dict[str, str] | None:
    items = server.api.call("GET", "/v1/token-requests", 200)["items"]
    return next((item for item in items if item["device_id"] == device_id), None)


@pytest.mark.full_only  # it asks every few seconds; a program that does follows
def test_listen_asks_again_and_goes_on(server: Server, name: Name, tmp_path: Path) -> None:
    device_id = name()
    server.api.enrol(device_id)
    waiting = server.api.push(device_id, data={"n": 1})
    env = clean_environment(HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path / "share"), FLEETPUSH_URL=server.url)
    command = [sys.executable, "-m", "gateway", "listen", device_id, "--again", "--count", "1", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    ) as process:
        asked = wait_for(lambda: request_of(server, device_id), what="the request")
        assert asked is not None, "waited for"
        assert process.stderr is not None, "opened as a pipe"
        assert asked["confirmation"] in process.stderr.readline(), "the operator sees the same"
        assert device_id in operator(server, "devices", "requests")
        operator(server, "devices", "confirm", asked["id"])
        assert process.stdout is not None, "opened as a pipe"
        assert json.loads(process.stdout.readline())["push_id"] == waiting, "what waited stays"
        assert process.wait(15) == 0


def test_a_program_asks_again_with_what_its_credential_says(
    server: Server, name: Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_id = name()
    enrolled = server.api.enrol(device_id)
    path = tmp_path / "kiosk.json"
    Credential(
        device_id, "default", enrolled.token, "127.0.0.1", server.mqtt_port, False, "ws://x/mqtt", server.url
    ).save(path)
    server.api.call("POST", f"/v1/devices/{device_id}/token", 200)  # its own is void
    shown: list[str] = []

    def confirm(confirmation: str) -> None:
        shown.append(confirmation)
        found = request_of(server, device_id)
        assert found is not None, "it has asked"
        assert found["confirmation"] == confirmation
        server.api.call("POST", f"/v1/token-requests/{found['id']}/confirm", 200)

    monkeypatch.setattr(enrolment, "seconds_asked", lambda *asked: 0.0)
    found = ask_again(path, on_pending=confirm)
    assert len(shown) == 1
    assert Credential.load(path) == found
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kiosk.json"]
    with Device.enrol(None, path) as device:
        assert device.wait_connected(15)


def test_a_refusal_ends_it(server: Server, name: Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device_id = name()
    server.api.enrol(device_id)

    def refuse(confirmation: str) -> None:
        found = request_of(server, device_id)
        assert found is not None, "it has asked"
        operator(server, "devices", "refuse", found["id"])

    monkeypatch.setattr(enrolment, "seconds_asked", lambda *asked: 0.0)
    path = tmp_path / "kiosk.json"
    with pytest.raises(EnrolmentFailed) as raised:
        ask_again(path, server=server.url, device_id=device_id, on_pending=refuse)
    assert raised.value.code == "request_refused"
    assert list(tmp_path.iterdir()) == [], "the next request is another one"
    with pytest.raises(EnrolmentFailed, match="name the server"):
        ask_again(path)
