"""The operator's terminal: every command as a process, against a real server."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from tests.end_to_end.conftest import Name, StartServer, Wire
from tests.end_to_end.harness import ROOT, Api, Server, fleetpush, running, wait_for
from tests.end_to_end.wire_device import WireDevice
from tests.third_party import require
from tests.wire import RawClient, connect, puback, publish


class Terminal:
    """Commands with the address and key of one server in the environment."""

    def __init__(self, server: Server, cwd: Path) -> None:
        self.env = {"FLEETPUSH_URL": server.url, "FLEETPUSH_KEY": server.admin_key}
        self.cwd = cwd

    def run(self, *arguments: str, expect: int = 0) -> str:
        result = fleetpush(*arguments, env=self.env, cwd=self.cwd)
        assert result.returncode == expect, (
            f"{arguments} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
        )
        assert "Traceback" not in result.stderr
        assert "\x1b[" not in result.stdout, "no colours into a pipe"
        return result.stdout if expect == 0 else result.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture
def terminal(server: Server, tmp_path: Path) -> Terminal:
    return Terminal(server, tmp_path)


def test_help_names_every_command(tmp_path: Path) -> None:
    text = fleetpush("--help", cwd=tmp_path).stdout
    for command in (
        "serve",
        "demo",
        "devices",
        "push",
        "watch",
        "keys",
        "listen",
        "simulate",
        "tls",
        "backup",
        "restore",
        "doctor",
    ):
        assert command in text


def test_devices_from_enrolment_to_removal(terminal: Terminal, api: Api, name: Name) -> None:
    device_id = name()
    added = terminal.json("devices", "add", device_id)
    assert added["device_id"] == device_id
    assert added["token"].startswith("dev_")
    listed = terminal.json("devices", "list")
    assert device_id in {device["device_id"] for device in listed["items"]}
    assert device_id in terminal.run("devices", "list")
    assert terminal.json("devices", "show", device_id)["online"] is False
    rotated = terminal.json("devices", "rotate", device_id)
    assert rotated["token"] != added["token"]
    terminal.run("devices", "remove", device_id)
    assert api.request("GET", f"/v1/devices/{device_id}").status_code == 404
    assert device_id in terminal.run("devices", "show", device_id, expect=1)


def test_devices_add_prints_a_line_that_works_as_pasted(terminal: Terminal, api: Api, name: Name) -> None:
    require("mosquitto_sub")
    device_id = name()
    text = terminal.run("devices", "add", device_id)
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("mosquitto_sub "))
    words = shlex.split(line)
    subscriber = subprocess.Popen(["stdbuf", "-oL", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert subscriber.stdout is not None, "opened as a pipe"
        api.wait_online(device_id)
        push_id = api.push(device_id)
        assert push_id in subscriber.stdout.readline()
        api.wait_counts(push_id, delivered=1)
    finally:
        subscriber.kill()
        subscriber.communicate()


def test_push_and_watch(terminal: Terminal, server: Server, api: Api, wire: Wire, name: Name) -> None:
    device = api.enrol(name())
    client: WireDevice = wire(server, device).start()
    sent = terminal.json("push", device.id, "Hello", "--action", "play")
    push = client.wait_push(sent["push_id"]).push
    assert "Hello" in json.dumps(push["notification"])
    assert [action["id"] for action in push["notification"]["actions"]] == ["play"]
    api.wait_counts(sent["push_id"], delivered=1)
    watched = terminal.run("watch", sent["push_id"])
    assert "delivered" in watched
    unknown = terminal.run("push", "nobody-here", "Hello", expect=1)
    assert "no such device: nobody-here; enrol it with `fleetpush devices add ID`" in unknown
    assert "`fleetpush devices add ID`" in terminal.run("devices", "show", "nobody-here", expect=1)
    empty = fleetpush("push", "--tag", "nobody-has-it", "Hello", env=terminal.env, cwd=terminal.cwd)
    assert empty.returncode == 0
    assert "No device has the tag 'nobody-has-it'" in empty.stderr


def test_keys(terminal: Terminal, server: Server) -> None:
    made = terminal.json("keys", "add", "ci", "--scope", "read")
    listed = terminal.json("keys", "list")
    assert made["id"] in {key["id"] for key in listed["items"]}
    assert made["key"] not in json.dumps(listed)
    reader = Api(server.url, made["key"])
    assert reader.request("GET", "/v1/pushes").status_code == 200
    terminal.run("keys", "revoke", made["id"])
    assert reader.request("GET", "/v1/pushes").status_code == 401
    reader.close()


def test_wrong_use_is_2_and_failure_is_1(terminal: Terminal, tmp_path: Path) -> None:
    assert fleetpush("no-such-command", cwd=tmp_path).returncode == 2
    assert fleetpush("push", cwd=tmp_path).returncode == 2
    nowhere = {"FLEETPUSH_URL": "http://127.0.0.1:9", "FLEETPUSH_KEY": "key_x"}
    unreachable = fleetpush("devices", "list", env=nowhere, cwd=tmp_path)
    assert unreachable.returncode == 1
    assert "127.0.0.1:9" in unreachable.stderr
    assert "Traceback" not in unreachable.stderr
    wrong_key = fleetpush("devices", "list", env=terminal.env | {"FLEETPUSH_KEY": "key_wrong"}, cwd=tmp_path)
    assert wrong_key.returncode == 1
    assert "key_wrong" not in wrong_key.stderr


def test_on_the_servers_own_machine_address_and_key_are_found(tmp_path: Path) -> None:
    """With the default data directory, from the directory the server was started in."""
    with Server(tmp_path / "fleetpush-data") as server:
        assert (server.data_dir / "server.json").exists()
        added = fleetpush("devices", "add", "kiosk-1", "--json", cwd=tmp_path)
        assert added.returncode == 0, added.stderr
        assert server.api.device("kiosk-1")["online"] is False
        assert server.stop() == 0
    assert "admin.key" in server.output, "the first start says where the key is"


def test_sigterm_drains_and_exits_0(start_server: StartServer, wire: Wire) -> None:
    server = start_server()
    device = server.api.enrol("kiosk-1")
    client: WireDevice = wire(server, device, version=5).start()
    push_id = server.api.push(device.id)
    client.wait_push(push_id)
    assert server.stop() == 0
    client.wait_closed()
    assert client.disconnect_code == 0x8B, "server shutting down"
    server.start()
    server.api.wait_counts(push_id, delivered=1)


def test_sighup_without_certificates_ends_nothing(start_server: StartServer) -> None:
    server = start_server()
    server.signal(signal.SIGHUP)
    server.wait_log("no certificates to read again")
    assert server.api.request("GET", "/readyz").status_code == 200


@pytest.mark.sqlite("`doctor` over PostgreSQL is in test_postgresql")
def test_doctor_is_content_with_a_healthy_server(server: Server, tmp_path: Path, terminal: Terminal) -> None:
    result = fleetpush("doctor", "--data-dir", str(server.data_dir), env=terminal.env, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.sqlite("backup and restore")
def test_a_backup_taken_under_load_restores_to_a_truthful_ledger(
    start_server: StartServer, wire: Wire, tmp_path: Path
) -> None:
    server = start_server()
    api = server.api
    present, absent = api.enrol("present"), api.enrol("absent")
    client: WireDevice = wire(server, present).start()
    both = {"devices": [present.id, absent.id]}
    before = [api.push(both, data=number) for number in range(20)]
    for push_id in before:
        api.wait_counts(push_id, delivered=1, waiting=1)
    stop = threading.Event()
    during: list[str] = []

    def load() -> None:
        sender = Api(server.url, server.admin_key)
        while not stop.is_set():
            during.append(sender.push(both))
        sender.close()

    sender = threading.Thread(target=load)
    sender.start()
    file = tmp_path / "fleet.backup"
    try:
        made = fleetpush("backup", str(file), "--data-dir", str(server.data_dir), cwd=tmp_path)
        assert made.returncode == 0, made.stdout + made.stderr
    finally:
        stop.set()
        sender.join()
    assert during
    assert file.stat().st_mode & 0o077 == 0, "a backup holds what the data directory holds"
    server.kill9()
    client.drop()

    into = tmp_path / "restored"
    restored = fleetpush("restore", str(file), "--data-dir", str(into), cwd=tmp_path)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    again = fleetpush("restore", str(file), "--data-dir", str(into), cwd=tmp_path)
    assert again.returncode != 0, "a directory with data is not overwritten"
    copy = start_server(data_dir=into)
    assert copy.admin_key == server.admin_key
    for push_id in before:
        assert copy.api.only(push_id) == {"delivered": 1, "waiting": 1}
    assert copy.api.mailbox(absent.id)[:20] == before
    known = [push_id for push_id in during if copy.api.request("GET", f"/v1/pushes/{push_id}").status_code == 200]
    assert known == during[: len(known)], "a backup is one moment: what came earlier is in it, what came later is not"
    for push_id in known:
        assert copy.api.counts(push_id)["targeted"] == 2
    device: WireDevice = wire(copy, present)
    assert not device.connect().session_present, "it may hold identifiers that the backup has never heard of"
    late: WireDevice = wire(copy, absent).start()
    late.wait_received(len(before) + len(known))
    assert late.push_ids() == before + known


def test_listen_is_a_device_in_a_terminal(start_server: StartServer, tmp_path: Path) -> None:
    # Here it connects to the address that is here: this machine need not know the name that others dial.
    server = start_server("--public-host", "push.invalid", data_dir=tmp_path / "fleetpush-data")
    env = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "share")}
    said: list[str] = []
    with TemporaryFile() as errors, running("listen", "kiosk-1", env=env, cwd=tmp_path, errors=errors) as listener:
        reader = threading.Thread(target=lambda: said.extend(listener.stdout), daemon=True)
        reader.start()
        online = re.compile('"online": ?true')
        wait_for(
            lambda: online.search(server.api.request("GET", "/v1/devices/kiosk-1").text), what="listen to enrol itself"
        )
        push_id = server.api.push("kiosk-1", notification={"title": "Film tonight", "body": "At eight"})
        wait_for(lambda: "Film tonight" in "".join(said), what="the notification to be drawn")
        wait_for(lambda: server.api.reached(push_id)["displayed"] == 1, what="its receipt")
        listener.send_signal(signal.SIGINT)
        listener.wait(15)
        reader.join()
        errors.seek(0)
        assert "Traceback" not in "".join(said) + errors.read().decode()
    for path in tmp_path.rglob("*"):
        if path.is_file() and "fleetpush-data" not in path.parts and "dev_" in path.read_text(errors="replace"):
            assert path.stat().st_mode & 0o077 == 0, f"{path} holds a token"


def test_listen_in_the_background_reads_nothing_of_its_terminal(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(data_dir=tmp_path / "fleetpush-data")
    env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "share")}
    job = f"trap 'kill %1' TERM; {shlex.quote(sys.executable)} -m gateway listen kiosk-1 > said 2>&1 & wait; wait"
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["bash", "-mc", job], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=tmp_path, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as shell:  # fmt: skip
        try:
            os.write(ours, b"the next command, typed ahead\n")
            online = re.compile('"online": ?true')
            wait_for(
                lambda: online.search(server.api.request("GET", "/v1/devices/kiosk-1").text), what="it to enrol itself"
            )
            push_id = server.api.push("kiosk-1", notification={"title": "Film tonight"})
            wait_for(lambda: server.api.reached(push_id)["displayed"] == 1, what="the job to go on")
        finally:
            shell.terminate()
    os.close(ours)
    os.close(theirs)


def test_what_a_device_says_does_not_command_the_terminal(terminal: Terminal, server: Server, name: Name) -> None:
    device = server.api.enrol(name(), name="till \u200d\U0001fae9")
    with RawClient(server.mqtt_port) as client:
        client.enter(connect(device.id, username=device.id, password=device.token))
        facts = {"version": "\x1b]0;mine\x07", "note": "\x9b31mred", "file": "photo\u202egpj.exe"}
        client.send(publish(device.topics["report"], json.dumps(facts, ensure_ascii=False).encode(), 1, 1))
        client.expect(puback(1))
        client.send(publish("others/\u202emine", b"", 1, 2))
        client.expect(puback(2))
        assert "\u202e" in server.api.wait_last_error(device.id), "the server keeps what was said"
        push_id = server.api.push(device.id, kind="command", data={"command": "look"})
        receipt = {"push_id": push_id, "event": "acted", "result": {"error": "\x9b2J\x1b[2J"}}
        client.send(publish(device.topics["receipts"], json.dumps(receipt, ensure_ascii=False).encode(), 1, 3))
        server.api.wait_counts(push_id, acted=1)
    for command in (("devices", "list"), ("devices", "show", device.id), ("watch", push_id)):
        for flags in ((), ("--json",)):
            printed = terminal.run(*command, *flags)
            obeyed = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printed)
            assert obeyed is None, (command, flags, printed)
    assert "\U0001fae9" in terminal.run("devices", "list")


@pytest.mark.timeout(120)
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    result = fleetpush("demo", cwd=tmp_path, env={"FLEETPUSH_PROGRAM": "python3 run.py"}, timeout=90)
    assert result.returncode == 0, result.stdout + result.stderr
    for word in ("acted", "expired", "delivered", "killed"):
        assert word in result.stdout.lower(), f"the demo should speak of {word!r}"
    last = [line.strip() for line in result.stdout.strip().splitlines()[-6:]]
    for command in ("serve", "listen kiosk-1", "push kiosk-1 'Hello' --action play"):
        assert any(f"python3 run.py {command}" in line for line in last), f"{command!r} among {last}"
    assert (ROOT / "run.py").exists()
    assert not os.listdir(tmp_path), "the demo leaves nothing behind"
