"""A small disk that pushes fill: nothing accepted is lost, deliveries go on, a start needs no space, room returns."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Api, wait_for

pytestmark = pytest.mark.sqlite("the disk of its file")

BATCH = 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "fleetpush-test", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(ballast: Path) -> Path:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return ballast


def push_until_full(api: Api, device_ids: list[str], **fields: object) -> list[str]:
    """Push to each in turn until one is refused for want of space; the ids of what was accepted."""
    accepted: list[str] = []
    for number in range(1_000):
        lines = [
            json.dumps({"target": {"device": device_ids[(number * BATCH + line) % len(device_ids)]}, **fields})
            for line in range(BATCH)
        ]
        answer = api.request(
            "POST", "/v1/pushes/batch", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
        )
        if answer.status_code == 507:
            return accepted
        results = [json.loads(line) for line in answer.text.splitlines()]
        accepted += [result["push_id"] for result in results if result["status"] == 202]
        refused = {result["code"] for result in results if result["status"] != 202}
        if refused:
            assert refused == {"storage_full"}
            return accepted
    raise AssertionError("the disk should be full by now")


def test_a_disk_that_pushes_filled_delivers_them_all_and_starts_again(
    start_server: StartServer, wire: Wire, small_disk: Path
) -> None:
    server = start_server(data_dir=small_disk / "data")
    api = server.api
    devices = api.enrol_many([f"kiosk-{number}" for number in range(10)])
    clients = [wire(server, device).start() for device in devices]
    for client in clients:
        client.drop()
    accepted = push_until_full(api, [device.id for device in devices], data="x" * 3_000)
    assert len(accepted) > 500
    # Others take the last byte. Not before the kill: a server that runs on gives its reserve up for what was accepted.
    server.kill9()
    ballasts = [fill(small_disk / "ballast")]

    server.start()
    assert api.request("POST", "/v1/pushes", json={"target": {"all": True}}).status_code == 507
    share = len(accepted) // len(clients)
    for client in clients[:5]:
        client.connect()
        client.wait_received(share)
    assert server.stop() == 0
    ballasts.append(fill(small_disk / "one more"))
    server.start()
    for client in clients[5:]:
        client.connect()
        client.wait_received(share)

    for ballast in ballasts:
        ballast.unlink()
    for push_id in (accepted[0], accepted[len(accepted) // 2], accepted[-1]):
        api.wait_counts(push_id, delivered=1)
    received = {push_id for client in clients for push_id in client.push_ids()}
    assert received == set(accepted)
    assert "Traceback" not in server.errors


def test_a_disk_that_the_ledger_filled_is_used_again_after_retention(
    start_server: StartServer, small_disk: Path
) -> None:
    seconds = 1 / 86_400
    server = start_server(
        "--retention-days", str(2 * seconds), "--counts-days", str(2 * seconds), "--event-days", str(seconds),
        data_dir=small_disk / "data",
    )  # fmt: skip
    api = server.api
    api.enrol("kiosk-1")
    accepted = push_until_full(api, ["kiosk-1"], data="x" * 3_000, ttl=1)
    assert len(accepted) > 500

    def pushed() -> bool:
        return api.request("POST", "/v1/pushes", json={"target": {"device": "kiosk-1"}}).status_code == 202

    wait_for(pushed, timeout=90, what="pushes to be accepted again")
    again: list[str] = []

    def used_again() -> bool:
        again.extend(push_until_full(api, ["kiosk-1"], data="x" * 3_000, ttl=1))
        return len(again) > 500

    # In rounds: room comes back in slices, and the first round may begin after the first of them.
    wait_for(used_again, timeout=90, what="as much to be accepted as at first")
