"""`python -m broker`: what keeps it from starting is one line with the remedy, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker import command as stand_alone
from tests import wire
from tests.conformance.standalone import ROOT, BrokerProcess
from tests.end_to_end.harness import fleetpush
from tests.held_start import HeldStart
from tests.websocket_stream import request


def run(*options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return fleetpush(*options, cwd=ROOT, stdin=stdin, package="broker")


def refusal(*options: str) -> str:
    """The one line it says when it cannot start."""
    ended = run(*options)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("broker: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_needs_credentials_or_says_the_remedy() -> None:
    line = refusal("--port", "0")
    assert "--password-file" in line
    assert "--allow-anonymous" in line


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "kiosk.example"])
def test_an_address_for_others_needs_a_decision(address: str) -> None:
    line = refusal("--port", "0", "--allow-anonymous", "--bind", address)
    assert "--insecure" in line


def test_that_decision_can_be_taken() -> None:
    options = ("--allow-anonymous", "--bind", "0.0.0.0", "--insecure")
    with BrokerProcess(None, *options) as broker, wire.RawClient(broker.port) as client:
        client.enter(wire.connect("kiosk-1"))


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal("--port", port, "--allow-anonymous")
    assert port in line
    assert "--port" in line


def test_an_address_that_is_not_ours_is_named() -> None:
    line = refusal("--port", "0", "--allow-anonymous", "--insecure", "--bind", "192.0.2.1")
    assert "192.0.2.1" in line
    assert "--bind" in line


def test_serves_websocket_on_a_port_of_its_own_and_pages_that_are_named() -> None:
    options = ("--allow-anonymous", "--ws-origin", "https://kiosk.example", "--ws-origin", "http://a.example:81")
    with BrokerProcess(None, *options, websocket=True) as broker:
        assert broker.ws_port not in (0, broker.port)
        for origin, status in (("https://kiosk.example", b"101"), ("http://a.example:81", b"101"), ("null", b"403")):
            with socket.create_connection(("127.0.0.1", broker.ws_port), timeout=wire.SECONDS) as client:
                client.sendall(request("broker.example", "/mqtt", f"Origin: {origin}"))
                assert client.recv(12) == b"HTTP/1.1 " + status


def test_a_websocket_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal("--port", "0", "--ws-port", port, "--allow-anonymous")
    assert port in line
    assert "--ws-port 0" in line


def test_what_is_no_origin_is_named() -> None:
    line = refusal("--port", "0", "--ws-port", "0", "--allow-anonymous", "--ws-origin", "kiosk.example")
    assert "'kiosk.example'" in line
    assert "--ws-origin" in line


def test_origins_without_a_websocket_port_are_a_mistake() -> None:
    assert "--ws-port" in refusal("--port", "0", "--allow-anonymous", "--ws-origin", "https://kiosk.example")


def test_a_data_directory_in_use_is_named_and_free_after_kill_9(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data") as broker:
        line = refusal("--port", "0", "--allow-anonymous", "--data-dir", str(tmp_path / "data"))
        assert str(tmp_path / "data") in line
        assert "--data-dir" in line
        broker.restart()


def test_a_data_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert "--data-dir" in refusal("--port", "0", "--allow-anonymous", "--data-dir", str(tmp_path / "file"))


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "broker.db").write_bytes(b"no database at all, " * 100)
    assert str(tmp_path) in refusal("--port", "0", "--allow-anonymous", "--data-dir", str(tmp_path))


def test_a_wrong_password_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    assert str(file) in refusal("--port", "0", "--password-file", str(file))
    file.write_text("kiosk-1:secret\n")
    line = refusal("--port", "0", "--password-file", str(file))
    assert "line 1" in line
    assert "secret" not in line


@pytest.mark.parametrize("option", [("--max-inflight", "0"), ("--max-inflight", "65536"), ("--port", "65536")])
def test_a_limit_out_of_range_is_refused(option: tuple[str, str]) -> None:
    ended = run("--allow-anonymous", *option)
    assert ended.returncode == 2
    assert option[0] in ended.stderr


def test_lets_in_who_knows_a_password_and_nobody_else(tmp_path: Path) -> None:
    made = run("--hash-password", "kiosk-1", stdin="secret\n")
    assert made.returncode == 0
    file = tmp_path / "passwords"
    file.write_text(made.stdout)
    with BrokerProcess(None, "--password-file", str(file)) as broker:
        for password, answer in (("secret", wire.connack_4()), ("wrong", wire.connack_4(code=4))):
            with wire.RawClient(broker.port) as client:
                client.send(wire.connect("any", username="kiosk-1", password=password))
                client.expect(answer)
        with wire.RawClient(broker.port) as client:
            client.send(wire.connect("any"))
            client.expect(wire.connack_4(code=5))
            client.expect_end()


def test_passwords_are_read_again_on_sighup(tmp_path: Path) -> None:
    """Users whose line is gone or changed are disconnected; a wrong file changes nothing."""

    def line(user: str, password: str) -> str:
        return run("--hash-password", user, stdin=f"{password}\n").stdout

    def answer(user: str, password: str) -> bytes:
        with wire.RawClient(broker.port) as client:
            client.send(wire.connect(f"{user}-too", username=user, password=password))
            return client.read()

    file, said = tmp_path / "passwords", tmp_path / "log"
    stays = line("stays", "secret")
    file.write_text(stays + line("changes", "old"))
    with BrokerProcess(None, "--password-file", str(file), log=said) as broker:
        with wire.RawClient(broker.port) as client, wire.RawClient(broker.port) as other:
            client.enter(wire.connect("a", username="changes", password="old"))
            other.enter(wire.connect("b", username="stays", password="secret"))
            file.write_text("nonsense")
            os.kill(broker.pid, signal.SIGHUP)
            deadline = time.monotonic() + 20
            while "stay as they are" not in said.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert "line 1" in said.read_text()
            client.expect_silence()
            file.write_text(stays + line("changes", "new") + line("comes", "secret"))
            os.kill(broker.pid, signal.SIGHUP)
            client.expect_end()
            other.expect_silence()
        assert answer("changes", "old") == wire.connack_4(code=4)
        assert [answer(*each) for each in (("changes", "new"), ("comes", "secret"), ("stays", "secret"))] == [
            wire.connack_4()
        ] * 3


def test_a_hangup_before_anything_else_of_it_is_imported_does_not_end_the_start(tmp_path: Path) -> None:
    """A service manager may say "reload" as soon as there is a process."""
    file = tmp_path / "passwords"
    file.write_text(run("--hash-password", "kiosk-1", stdin="secret\n").stdout)
    start = HeldStart(tmp_path / "hold", "broker", ("broker.__main__", "broker.compiled_modules"))
    command = [sys.executable, "-m", "broker", "--port", "0", "--password-file", str(file)]
    errors = start.hung_up(command, ROOT, "broker ready ")
    assert "1 passwords read again" in errors, "what was asked for meanwhile is done when it can be"


def test_limits_and_refused_filters_are_options() -> None:
    options = ("--allow-anonymous", "--server-keep-alive", "7", "--receive-maximum", "3", "--deny-filter", "secret/#")
    with BrokerProcess(None, *options) as broker, wire.RawClient(broker.port) as client:
        connack = client.enter(wire.connect("kiosk-1", wire.V5))
        assert b"\x13\x00\x07" in connack
        assert b"\x21\x00\x03" in connack
        client.send(wire.subscribe(1, ("secret/#", 0), ("open/#", 0), version=wire.V5))
        client.expect(wire.suback(1, 0x87, 0, version=wire.V5))


def test_sigterm_acknowledges_and_ends_with_0(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data") as broker, wire.RawClient(broker.port) as client:
        client.join("kiosk-1", wire.V5)
        client.send(wire.subscribe(1, ("t", 1), version=wire.V5))
        client.expect(wire.suback(1, 1, version=wire.V5))
        client.send(wire.publish("u", b"x", 1, 1, wire.V5, retain=True))
        assert broker.stop() == 0
        client.expect(wire.puback(1, 0x10))
        goodbye = client.read()
        assert (goodbye[0], goodbye[2]) == (0xE0, 0x8B)
        client.expect_end()


def test_runs_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stand_alone._loop_factory() is not asyncio.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed
    assert stand_alone._loop_factory() is asyncio.new_event_loop
