"""The real process: its start, what keeps it from starting, its end."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.app import report_failure
from tests.end_to_end.harness import Api, Server, database_environment, fleetpush
from tests.end_to_end.ledger_access import change_ledger

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def make(*options: str, folder: str = "data") -> Server:
        server = Server(tmp_path / folder, *options)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.__exit__()


def refused(folder: Path, *options: str) -> str:
    """What a server that cannot start says: one line on stderr, exit code 2. Besides that the run's PostgreSQL does not
    sync."""
    where = database_environment(folder)
    result = fleetpush("serve", "--data-dir", str(folder), *options, env=where, cwd=folder.parent, timeout=30)
    assert result.returncode == 2, result
    assert not result.stdout
    lines = [line for line in result.stderr.strip().splitlines() if "PostgreSQL has fsync = off" not in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


FREE = ("--http-port", "0", "--mqtt-port", "0")


def test_the_first_start_makes_a_key_and_says_where(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # so that the ledger is the server's own, too
    server = start()
    key = server.data_dir / "admin.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    server.wait_log(str(key))
    assert server.admin_key not in server.output
    assert [app["id"] for app in server.api.items("/v1/apps")] == ["default"]
    announced = server.data_dir / "server.json"
    assert stat.S_IMODE(announced.stat().st_mode) == 0o600
    facts = json.loads(announced.read_text())
    assert facts == {
        "url": server.url, "pid": server.pid, "http_port": server.http_port, "mqtt_port": server.mqtt_port,
        "listeners": [f"mqtt://127.0.0.1:{server.mqtt_port}"],
    }  # fmt: skip
    for path in server.data_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert server.stop() == 0
    assert not announced.exists()
    before = server.admin_key
    server.start()
    assert server.admin_key == before
    assert server.errors.count("first start") == 1
    assert server.api.enrol("kiosk-1").mqtt["port"] == server.mqtt_port


def test_sigterm_answers_what_is_under_way(start: Start) -> None:
    server = start()
    server.api.enrol("kiosk-1")
    push_id = server.api.push("kiosk-1")
    with socket.create_connection(("127.0.0.1", server.http_port)) as half:
        body = json.dumps({"target": {"device": "kiosk-1"}}).encode()
        head = f"POST /v1/pushes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin_key}\r\n"
        half.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        assert server.api.request("GET", "/healthz").status_code == 200  # the head has been read by now
        server.api.close()
        server._api = None
        server.signal(signal.SIGTERM)
        half.sendall(body[5:])
        assert half.recv(65536).startswith(b"HTTP/1.1 202 ")
    assert server.wait() == 0
    server.start()
    assert len(list(server.api.items("/v1/pushes"))) == 2
    assert server.api.only(push_id) == {"waiting": 1}


def test_a_first_request_is_answered_by_a_server_that_ends(start: Start) -> None:
    """Of a connection that it had accepted; an idle one that has had its answers ends at once."""
    server = start()
    with socket.create_connection(("127.0.0.1", server.http_port), 15) as fresh:
        server.api.request("GET", "/healthz")  # accepted behind the other
        server.signal(signal.SIGTERM)
        server.wait_log("ending: answering")
        fresh.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        said = fresh.recv(65536)
        assert said.startswith(b"HTTP/1.1 200 "), said
    assert server.wait() == 0


def test_what_is_in_use_is_named_with_its_remedy(start: Start, tmp_path: Path) -> None:
    server = start()
    said = refused(server.data_dir, *FREE)
    assert str(server.data_dir) in said
    assert str(server.pid) in said
    assert "--data-dir" in said
    assert server.api.request("GET", "/readyz").status_code == 200
    said = refused(tmp_path / "other", "--http-port", str(server.http_port), "--mqtt-port", "0")
    assert f"port {server.http_port} of 127.0.0.1 is in use" in said
    assert "--http-port" in said
    said = refused(tmp_path / "other", "--http-port", "0", "--mqtt-port", str(server.mqtt_port))
    assert f"port {server.mqtt_port} of 127.0.0.1 is in use" in said
    assert "--mqtt-port" in said
    assert not (tmp_path / "other" / "server.json").exists()
    start(folder="other")  # a refused start leaves nothing behind that would hinder


def test_a_data_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(tmp_path / "file", *FREE)
    assert "it is no directory" in said
    assert "--data-dir" in said


@pytest.mark.sqlite("whose file it is")
def test_a_damaged_ledger_is_refused_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "fleetpush.db").write_text("this is not a database, and long enough to be looked at" * 20)
    said = refused(tmp_path / "damaged", *FREE)
    assert "is damaged" in said
    assert "restore" in said


@pytest.mark.sqlite("the other is in end_to_end/test_postgresql")
def test_a_newer_schema_is_refused_and_left_alone(start: Start) -> None:
    server = start()
    server.stop()
    change_ledger(server, "UPDATE alembic_version SET version_num = '9999'")
    assert "newer" in refused(server.data_dir, *FREE)


def test_an_address_nobody_has_here(tmp_path: Path) -> None:
    said = refused(tmp_path / "data", "--bind", "192.0.2.1", "--insecure", *FREE)
    assert "192.0.2.1" in said
    assert "--bind" in said


def test_a_faster_clock_is_for_fresh_directories(start: Start) -> None:
    server = start("--clock-speed", "100")
    server.api.enrol("kiosk-1")
    push_id = server.api.push("kiosk-1", ttl=20)
    server.api.wait_counts(push_id, expired=1)
    server.stop()
    assert "clock-speed" in refused(server.data_dir, "--clock-speed", "100", *FREE)
    server.options = ()
    server.start()
    assert server.api.only(push_id) == {"expired": 1}


def test_ipv6_and_localhost(start: Start) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    server = start("--bind", "::1")
    assert f"http=[::1]:{server.http_port}" in server.stdout
    url = json.loads((server.data_dir / "server.json").read_text())["url"]
    api = Api(url, server.admin_key)
    assert api.enrol("kiosk-1").mqtt["host"] == "::1"
    api.close()
    assert start("--bind", "localhost", folder="other").api.enrol("kiosk-1").mqtt["host"] == "127.0.0.1"


def test_what_devices_are_told_to_connect_to_can_be_set(start: Start) -> None:
    assert start("--public-host", "push.example").api.enrol("kiosk-1").mqtt["host"] == "push.example"


def test_behind_a_proxy_addresses_are_those_of_the_proxy(start: Start) -> None:
    server = start("--public-url", "https://push.example")
    assert server.api.enrol("kiosk-1").mqtt["websocket"] == "wss://push.example/mqtt"
    made = server.api.call("POST", "/v1/attachments", 201, content=b"picture")
    assert made["url"] == f"https://push.example/v1/attachments/{made['id']}"
    push_id = server.api.push("kiosk-1", notification={"title": "T", "image": f"attachment:{made['id']}"})
    push = server.api.call("GET", f"/v1/pushes/{push_id}", 200)
    assert (push["notification"]["image"], push["fetch_from"]) == (made["url"], "https://push.example")


def test_the_rate_of_a_key_is_limited(start: Start) -> None:
    server = start("--request-limit", "3")
    codes = [server.api.request("GET", "/v1/pushes").status_code for _ in range(10)]
    assert 429 in codes
    assert codes[0] == 200


def test_the_log_level_debug_names_no_statement_and_no_secret(start: Start) -> None:
    server = start("--log-level", "debug")
    device = server.api.enrol("kiosk-1")
    server.api.push("kiosk-1", data="private")
    server.stop()
    for word in (device.token, server.admin_key, "private", "INSERT"):
        assert word not in server.output


def test_a_killed_server_starts_again_on_its_data(start: Start) -> None:
    server = start()
    server.api.enrol("kiosk-1")
    push_id = server.api.push("kiosk-1")
    server.kill9()
    assert (server.data_dir / "server.json").exists()
    server.start()
    assert server.api.only(push_id) == {"waiting": 1}


@pytest.mark.sqlite("its file, and backups of it")
def test_a_data_directory_may_have_any_name(start: Start, tmp_path: Path) -> None:
    """Two of which one would be a part of the other, if it were read as an URL."""
    for folder in ("q?x%41#y z\n\u00e9", "q?y"):
        server = start(folder=folder)
        for name in ("fleetpush.db", "broker.db", "admin.key"):
            assert (tmp_path / folder / name).stat().st_size > 0
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {name for name in files if not name.endswith(".stderr")} == set()
    for command in (["backup", str(tmp_path / "b?%41.tar")], ["doctor"]):
        result = fleetpush(*command, "--data-dir", str(server.data_dir), cwd=tmp_path)
        assert "fail" not in result.stdout, result
        assert result.returncode == 0, result
    restored = tmp_path / "r?%41"
    result = fleetpush("restore", str(tmp_path / "b?%41.tar"), "--data-dir", str(restored), cwd=tmp_path)
    assert result.returncode == 0, result
    assert (restored / "fleetpush.db").stat().st_size > 0


def test_a_task_that_fails_says_so_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise KeyError(8)

    async def end_both() -> None:
        failing, cancelled = asyncio.create_task(fails(), name="fails"), asyncio.create_task(asyncio.sleep(60))
        for task in (failing, cancelled):
            task.add_done_callback(report_failure)
        cancelled.cancel()
        await asyncio.wait([failing, cancelled])
        await asyncio.sleep(0)

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(end_both())
    (record,) = caplog.records
    assert record.getMessage() == "fails has failed, and is done again after a restart only"
    assert record.exc_info is not None
