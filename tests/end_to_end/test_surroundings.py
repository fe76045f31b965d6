"""What surrounds the programs: a terminal that closes or knows ASCII only, SIGHUP at the wrong moment, keys with a line
break, a directory with somebody else's words, a variable that is misspelt, an upload that hangs."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartServer
from tests.end_to_end.harness import ROOT, Server, clean_environment, fleetpush, wait_for
from tests.held_start import HeldStart

SERVE = [sys.executable, "-m", "gateway", "serve", "--mqtt-port", "0", "--http-port", "0"]
BEFORE_HANGUPS = ("gateway.__main__", "gateway.hangup")
"""Modules that `serve` imports before it keeps hang-ups."""


def test_a_hangup_before_it_is_ready_does_not_end_the_start(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*SERVE, "--data-dir", "data"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=clean_environment(),
    )  # fmt: skip
    try:
        # The lock is taken after its settings were read, and long before it is ready.
        wait_for((tmp_path / "data" / "lock").exists, what="the server to begin")
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None, "a pipe"
        assert process.stdout.readline().startswith("fleetpush ready ")
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "SIGHUP" in errors, "what was asked for meanwhile is done when it can be"


def test_a_hangup_before_anything_else_of_it_is_imported_does_not_end_the_start(tmp_path: Path) -> None:
    """A service manager may say "reload" as soon as there is a process."""
    start = HeldStart(tmp_path / "hold", "gateway", BEFORE_HANGUPS)
    errors = start.hung_up([*SERVE, "--data-dir", "data"], tmp_path, "fleetpush ready ")
    assert "SIGHUP" in errors, "what was asked for meanwhile is done when it can be"


def serve_in_terminal(folder: Path, environment: dict[str, str]) -> tuple[int, int]:
    """Start a server in a terminal of its own; its process, and the window."""
    if not os.path.exists("/dev/ptmx"):
        pytest.skip("this system has no pseudo-terminals (/dev/pts)")
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup, which it would inherit
        os.chdir(folder)
        os.execve(sys.executable, [*SERVE, "--data-dir", "data"], environment)
    return child, terminal


def exit_code(child: int) -> int:
    """Wait for the end of a server that nobody stops."""
    try:
        ended = wait_for(lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG), what="the server to end")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert ended is not None, "what was waited for"
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def test_a_server_ends_with_the_terminal_that_it_was_started_in(tmp_path: Path) -> None:
    child, terminal = serve_in_terminal(tmp_path, clean_environment())
    said = b""
    while b"fleetpush ready " not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)  # the window is closed: the kernel says SIGHUP
    assert exit_code(child) == 0


def test_a_terminal_that_is_closed_at_once_ends_the_server_too(tmp_path: Path) -> None:
    start = HeldStart(tmp_path / "hold", "gateway", BEFORE_HANGUPS)
    child, terminal = serve_in_terminal(tmp_path, start.environment)
    with start.held():
        os.close(terminal)
    assert exit_code(child) == 0
    assert not (tmp_path / "data" / "server.json").exists(), "it has drained, and left nothing behind"


def test_a_terminal_that_knows_ascii_only_is_no_reason_to_fail(server: Server, tmp_path: Path) -> None:
    environment = {"FLEETPUSH_URL": server.url, "FLEETPUSH_KEY": server.admin_key, "PYTHONIOENCODING": "ascii"}
    server.api.enrol(name="Köln ✓ 北京")
    listed = fleetpush("devices", "list", env=environment, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "K?ln" in listed.stdout


@pytest.mark.parametrize("command", [["devices", "list"], ["doctor"], ["--help"]], ids=" ".join)
def test_a_closed_standard_output_is_no_traceback(server: Server, tmp_path: Path, command: list[str]) -> None:
    environment = clean_environment(FLEETPUSH_URL=server.url, FLEETPUSH_KEY=server.admin_key)
    line = 'exec "$0" -m gateway "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr


def test_a_key_with_a_line_break_works_and_a_broken_one_is_not_repeated(server: Server, tmp_path: Path) -> None:
    environment = {"FLEETPUSH_URL": server.url, "FLEETPUSH_KEY": server.admin_key + "\n"}
    assert fleetpush("devices", "list", env=environment, cwd=tmp_path).returncode == 0
    secret = "fp_secret\nsecond-line"
    for command in (["devices", "list"], ["simulate", "--server", server.url]):
        refused = fleetpush(*command, env={**environment, "FLEETPUSH_KEY": secret}, cwd=tmp_path)
        assert refused.returncode == 2
        assert "FLEETPUSH_KEY is no key" in refused.stderr
        assert "secret" not in refused.stdout + refused.stderr


def test_a_foreign_server_json_is_not_sent_the_key(tmp_path: Path) -> None:
    """Whoever may write into the directory that somebody stands in would learn their key."""
    with socket.create_server(("127.0.0.1", 0)) as thief:
        place = f"http://192.0.2.1:{thief.getsockname()[1]}"
        folder = tmp_path / "fleetpush-data"
        folder.mkdir()
        (folder / "server.json").write_text(json.dumps({"url": place}))
        (folder / "admin.key").write_text("fp_x\n")
        refused = fleetpush("devices", "list", env={"FLEETPUSH_KEY": "fp_mine"}, cwd=tmp_path)
        assert refused.returncode == 1
        assert "is not sent there" in refused.stderr
        if os.geteuid() == 0:
            (folder / "server.json").write_text(json.dumps({"url": f"http://127.0.0.1:{thief.getsockname()[1]}"}))
            os.chown(folder / "server.json", 4711, 4711)
            refused = fleetpush("devices", "list", env={"FLEETPUSH_KEY": "fp_mine"}, cwd=tmp_path)
            assert "is not sent there" in refused.stderr


def test_a_misspelt_variable_is_named(tmp_path: Path) -> None:
    for command in ("serve", "doctor"):
        refused = fleetpush(command, env={"FLEETPUSH_MAX_PAYLOD": "1"}, cwd=tmp_path)
        assert refused.returncode == 2
        assert "FLEETPUSH_MAX_PAYLOD is set, and there is no such setting; did you mean FLEETPUSH_MAX_PAYLOAD?" in (
            refused.stderr
        )


def test_a_settings_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "fleetpush.toml").write_bytes("public_host = 'köln'\n".encode("latin-1"))
    refused = fleetpush("serve", cwd=tmp_path)
    assert refused.returncode == 2
    assert "fleetpush.toml: not UTF-8" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_doctor_reads_the_settings_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(f'data_dir = "{tmp_path / "elsewhere"}"\n')
    looked = fleetpush("doctor", "--config", "other.toml", "--json", cwd=tmp_path)
    assert "elsewhere" in looked.stdout, looked.stdout + looked.stderr


def test_goodbyes_do_not_wait_for_an_upload_that_hangs(start_server: StartServer) -> None:
    server = start_server()
    with socket.create_connection(("127.0.0.1", server.http_port)) as upload:
        head = (
            f"POST /v1/attachments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin_key}\r\n"
            "Content-Type: image/png\r\nContent-Length: 100000\r\n\r\nbegun"
        )
        upload.sendall(head.encode())
        server.api.call("GET", "/v1/devices", 200)  # whatever came before is being handled
        began = time.monotonic()
        assert server.stop(timeout=15) == 0
        assert time.monotonic() - began < 6, "it waits ten for what is being answered"


def test_the_broker_alone_starts_from_a_checkout(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, str(ROOT / "run.py")], capture_output=True, text=True, cwd=tmp_path, env=clean_environment()
    )
    assert "run.py broker" in asked.stdout
