"""`fleetpush backup --every` beside a server: as it would run for years, in a few seconds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import THIS_TREE, Server, clean_environment, fleetpush
from tests.end_to_end.wire_device import WireDevice

pytestmark = pytest.mark.sqlite("backup on a schedule")


def metrics(server: Server) -> dict[str, float]:
    lines = server.api.request("GET", "/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("fleetpush_backup_"))
    return {name.removeprefix("fleetpush_backup_"): float(value) for name, value in pairs}


class Service:
    """The schedule as a service manager runs it."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*THIS_TREE, "backup", *options],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None, "opened as a pipe"
        return self.process.stdout.readline()

    def stop(self) -> str:
        self.process.terminate()
        output, _ = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, output
        return output


def test_a_fleet_comes_back_from_what_the_schedule_made(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    server = start_server()
    api = server.api
    device = api.enrol("till-1")
    client: WireDevice = wire(server, device).start()
    client.disconnect()
    waiting = [api.push(device.id, data=number) for number in range(3)]
    key = tmp_path / "fleet.key"
    public = fleetpush("backup-key", str(key)).stdout.strip()
    folder = tmp_path / "backups"
    data_dir = ("--data-dir", str(server.data_dir))
    options = ("--every", "6h", "--keep", "3", "--to", str(folder), "--key", public, "--verify", *data_dir)
    assert metrics(server)["proven_timestamp_seconds"] == 0

    service = Service(*options)
    assert "every 6h" in service.line()
    made = service.line()
    assert "proven in" in made
    assert "1 devices, 3 pushes, 3 deliveries (3 waiting)" in made
    assert service.stop() == ""
    (file,) = folder.iterdir()
    found = metrics(server)
    assert found["proven_timestamp_seconds"] == found["made_timestamp_seconds"] > 0
    assert found["size_bytes"] == file.stat().st_size
    assert (found["interval_seconds"], found["failed_attempts"]) == (6 * 3_600, 0)
    findings = json.loads(fleetpush("doctor", "--json", *data_dir, "--server", server.url).stdout)
    (backup,) = [finding for finding in findings if finding["subject"] == "backup"]
    assert backup["level"] == "ok"
    assert str(file) in backup["text"]
    assert list(server.data_dir.glob(".fleetpush-backup-*")) == []

    server.kill9()
    into = tmp_path / "elsewhere"
    restored = fleetpush("restore", str(file), "--identity", str(key), "--data-dir", str(into))
    assert restored.returncode == 0, restored.stderr
    copy = start_server(data_dir=into)
    late: WireDevice = wire(copy, device).start()
    late.wait_received(3)
    assert late.push_ids() == waiting


def test_a_server_that_moves_takes_its_sessions_along(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    server = start_server()
    device = server.api.enrol("till-1")
    client: WireDevice = wire(server, device)
    client.answer = lambda publish: None
    client.start()
    unanswered = server.api.push(device.id, data="unanswered")
    client.wait_push(unanswered)
    client.drop()
    waiting = server.api.push(device.id, data="waiting")
    assert server.stop() == 0
    file, into = tmp_path / "fleet.tgz", tmp_path / "elsewhere"
    made = fleetpush("backup", str(file), "--data-dir", str(server.data_dir))
    assert made.returncode == 0, made.stderr
    moved = fleetpush("restore", str(file), "--keep-sessions", "--data-dir", str(into))
    assert moved.returncode == 0, moved.stderr
    copy = start_server(data_dir=into)
    again: WireDevice = wire(copy, device)
    assert again.connect().session_present, "it need not subscribe again"
    again.wait_received(2)
    assert again.push_ids() == [unanswered, waiting]
    for push_id in (unanswered, waiting):
        copy.api.wait_counts(push_id, delivered=1)
