"""A disk that fails: what is answered is what is known, and nobody goes on with a file whose sync has failed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.conformance.standalone import BrokerProcess
from tests.disk_faults import DiskFaults
from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import expect_problem, wait_for
from tests.end_to_end.wire_device import V5, WireDevice

ENDED_UNSYNCED = 74


@pytest.fixture
def faults(tmp_path: Path) -> DiskFaults:
    return DiskFaults(tmp_path, tmp_path / "data0")


@pytest.mark.sqlite("the disk of its file")
def test_a_commit_that_the_disk_does_not_confirm_is_unknown_and_ends_the_server(
    start_server: StartServer, wire: Wire, faults: DiskFaults
) -> None:
    server = start_server(env=faults.env)
    device = server.api.enrol("kiosk-1")
    client: WireDevice = wire(server, device, version=V5).start()
    faults.fail("sync", "fleetpush.db")
    body = {"target": {"device": device.id}, "data": "perhaps"}
    answer = server.api.request("POST", "/v1/pushes", json=body, headers={"Idempotency-Key": "k1"})
    assert expect_problem(answer, 503, "outcome_unknown")["retryable"] is True
    assert "nothing was" not in answer.text
    assert server.wait() == ENDED_UNSYNCED
    assert "the disk did not confirm" in server.errors.splitlines()[-1]
    assert "Traceback" not in server.errors
    client.wait_closed()

    faults.mend()
    server.start()
    accepted = server.api.accept(device.id, key="k1", data="perhaps")
    client.connect()
    client.wait_push(accepted["push_id"])
    server.api.wait_counts(accepted["push_id"], delivered=1)
    assert [push["push_id"] for push in server.api.items("/v1/pushes")] == [accepted["push_id"]]
    assert client.push_ids() == [accepted["push_id"]]


@pytest.mark.sqlite("the disk of its file")
def test_without_a_key_an_unknown_push_is_not_to_be_sent_again(start_server: StartServer, faults: DiskFaults) -> None:
    server = start_server(env=faults.env)
    faults.fail("sync", "fleetpush.db")
    answer = server.api.request("POST", "/v1/devices", json={"device_id": "kiosk-1"})
    assert expect_problem(answer, 503, "outcome_unknown")["retryable"] is False
    assert server.wait() == ENDED_UNSYNCED


def test_sessions_that_the_disk_does_not_confirm_end_the_server_unacknowledged(
    start_server: StartServer, wire: Wire, faults: DiskFaults
) -> None:
    server = start_server(env=faults.env)
    client: WireDevice = wire(server, server.api.enrol("kiosk-1"))
    client.connect()
    faults.fail("sync", "broker.db")
    with pytest.raises((AssertionError, OSError)):
        client.subscribe(timeout=5)
    assert server.wait() == ENDED_UNSYNCED
    assert "broker.db: the disk did not confirm" in server.errors
    faults.mend()
    server.start()
    client.start()


def test_a_stand_alone_broker_ends_as_well(tmp_path: Path, faults: DiskFaults, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in faults.env.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "log"
    with BrokerProcess(tmp_path / "data0", log=log) as broker:
        client = WireDevice(broker.port, "kiosk-1", "x", topic="a")
        client.connect()
        faults.fail("sync", "broker.db")
        with pytest.raises((AssertionError, OSError)):
            client.subscribe(timeout=5)
        assert broker.wait() == ENDED_UNSYNCED
        client.drop()
    assert "the disk did not confirm" in log.read_text().splitlines()[-1]


@pytest.mark.sqlite("the disk of its file")
@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        pytest.param(errno.EIO, 503, "storage_failed", marks=pytest.mark.full_only),
        (errno.ENOSPC, 507, "storage_full"),
    ],
)
def test_what_the_disk_refuses_is_not_stored_and_the_server_goes_on(
    start_server: StartServer, faults: DiskFaults, number: int, status: int, code: str
) -> None:
    server = start_server(env=faults.env)
    server.api.enrol("kiosk-1")
    faults.fail("write", "fleetpush.db-wal", number)
    answer = server.api.request("POST", "/v1/pushes", json={"target": {"device": "kiosk-1"}})
    assert expect_problem(answer, status, code)["retryable"] is True
    faults.mend()

    def push() -> str | None:
        again = server.api.request("POST", "/v1/pushes", json={"target": {"device": "kiosk-1"}})
        return str(again.json()["push_id"]) if again.status_code == 202 else None

    push_id = wait_for(push, what="pushes to be accepted again")
    server.kill9()
    server.start()
    assert server.api.mailbox("kiosk-1") == [push_id]
    assert server.api.request("GET", "/readyz").status_code == 200
