"""The audit log of a real server: killed between changes, verified by the commands, and altered in its file."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from tests.end_to_end.conftest import StartServer
from tests.end_to_end.harness import Server, fleetpush

CLIENTS = 4


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in the server's folder."""
    return fleetpush(*arguments, "--data-dir", str(server.data_dir))


class Changes(threading.Thread):
    """Makes segments as fast as it can, until there is no answer."""

    def __init__(self, server: Server, name: str, enough: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self._server, self._name, self._enough = server, name, enough
        self.done: list[str] = []

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._server.admin_key}"}
        with httpx2.Client(base_url=self._server.url, headers=headers) as client:
            for number in range(10_000):
                name = f"{self._name}-{number}"
                try:
                    answer = client.put(f"/v1/segments/{name}", json={"expression": "'x' in tags"})
                except httpx2.TransportError:
                    return
                if answer.status_code != 200:
                    return
                self.done.append(name)
                self._enough.release()


@pytest.mark.long
def test_a_kill_between_leaves_no_change_without_its_entry(start_server: StartServer, full: int) -> None:
    """3 kills, 30 with --full; an app has a hundred segments at most, so each of them makes some and removes them."""
    server = start_server()
    answered: set[str] = set()
    noted = ""
    for kill in range(3 * full):
        enough = threading.Semaphore(0)
        threads = [Changes(server, f"s{kill}-{client}", enough) for client in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for _ in range(10 + 7 * kill % 30):
            assert enough.acquire(timeout=20)
        chain = server.api.call("GET", "/v1/audit/chain", 200)
        noted = noted or f"{chain['head']['seq']}:{chain['head']['hash']}"
        server.kill9()
        for thread in threads:
            thread.join()
            answered.update(thread.done)
        server.start()
        made = {item["name"] for item in server.api.items("/v1/segments")}
        entries = [entry for entry in server.api.items("/v1/audit") if entry["action"] == "segment.set"]
        named = [entry["object"].removeprefix("segment:") for entry in entries]
        assert len(named) == len(set(named)), "a change has two entries"
        ours = {name for name in named if name.startswith(f"s{kill}-")}
        assert ours == {name for name in made if name.startswith(f"s{kill}-")}
        assert answered <= set(named), "what was answered has its entry"
        for name in made:
            server.api.call("DELETE", f"/v1/segments/{name}", 204)
    verified = run(server, "audit", "verify", "--noted", noted)
    assert verified.returncode == 0, verified.stderr


@pytest.mark.sqlite("its file is altered")
@pytest.mark.full_only
@pytest.mark.long
def test_an_altered_file_is_found_by_every_command_and_a_truncated_one_by_a_noted_head(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server()
    for number in range(5):
        server.api.enrol(f"kiosk-{number}")
    server.api.call("DELETE", "/v1/devices/kiosk-4", 204)
    evidence = tmp_path / "evidence.ndjson"
    exported = run(server, "audit", "export", str(evidence), "--device", "kiosk-4")
    assert exported.returncode == 0, exported.stderr
    assert "evidence about kiosk-4 of the app default" in exported.stdout
    noted = run(server, "audit", "head").stdout.strip()
    listed = run(server, "audit", "list", "--object", "device:kiosk-4").stdout
    assert [line.split("\t")[4] for line in listed.splitlines()[1:]] == [
        "evidence.export", "device.remove", "device.enrol",
    ]  # fmt: skip
    server.stop()
    assert run(server, "audit", "verify", "--file", str(evidence), "--noted", noted).returncode == 0
    ledger = server.data_dir / "fleetpush.db"
    with closing(sqlite3.connect(ledger)) as connection:
        was = connection.execute("SELECT * FROM audit_entry ORDER BY seq").fetchall()
        connection.execute("UPDATE audit_entry SET actor = 'key:k_other' WHERE action = 'device.remove'")
        connection.commit()
    doctor = run(server, "doctor")
    assert doctor.returncode == 1
    assert "fail  audit log: it was altered: app default: entry" in doctor.stdout
    with closing(sqlite3.connect(ledger)) as connection:
        (place,) = connection.execute("SELECT seq FROM audit_entry WHERE action = 'device.remove'").fetchone()
        connection.execute("DELETE FROM audit_entry WHERE seq >= ?", (place,))
        connection.execute("UPDATE audit_chain SET seq = ?, hash = ?, size = 0", (place - 1, was[place - 2][-1]))
        connection.commit()
    server.start()
    cut = run(server, "audit", "verify", "--noted", noted)
    assert cut.returncode == 1
    assert f"the log ends with entry {place - 1}" in cut.stderr
