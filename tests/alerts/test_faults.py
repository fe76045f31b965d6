"""Each alert is raised by the fault that it is for, on a real server, and by nothing else.

What fires is the set of *all* shipped rules over what the server said: a fault that raises another alert as well is a
runbook that sends somebody the wrong way. `causes` says which alerts a test raises, so that an alert without its fault
is found. Those with `full_only` need more starts than a default run has time for.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests import wire as packets
from tests.alerts.shipped import alerts
from tests.alerts.timeline import Scrape, firing, scrape, value_of
from tests.certificates import Authority
from tests.disk_faults import DiskFaults
from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Server, clean_environment, wait_for
from tests.end_to_end.test_full_disk import fill
from tests.end_to_end.warm_start import WarmProcess
from tests.receiver import Receiver

FAST = 1_000
"""Times that the server's clock runs faster, where somebody has to wait for minutes."""
MIB = 1024 * 1024
Test = Callable[..., None]


def causes(*names: str) -> Callable[[Test], Test]:
    """Say which alerts a test raises."""
    assert set(names) <= {alert.name for alert in alerts()}
    return lambda test: test


def test_every_alert_has_its_fault() -> None:
    """In this module or another one of this folder, by name."""
    folder = Path(__file__).parent
    tests = "".join(path.read_text() for path in folder.glob("test_*.py") if path.name != "test_shipped.py")
    assert [alert.name for alert in alerts() if f'"{alert.name}"' not in tests] == []


def scrape_when(server: Server, condition: Callable[[Scrape], bool], what: str) -> Scrape:
    """Scrape a server again and again until something is so."""
    found: list[Scrape] = []

    def holds() -> bool:
        found[:] = [scrape(server)]
        return condition(found[0])

    wait_for(holds, what=what)
    return found[0]


def rises(name: str, by: float, before: Scrape, **labels: str) -> Callable[[Scrape], bool]:
    """The condition that a figure has grown by so much."""
    return lambda now: value_of(now, name, **labels) >= value_of(before, name, **labels) + by


# -- the process -------------------------------------------------------------------------------------------------------


@causes("FleetpushLoginsFail", "FleetpushLoopStalls", "FleetpushDown", "FleetpushRestarts")
def test_a_server_that_strangers_try_that_stands_still_that_is_killed_and_that_starts_again_and_again(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server()
    measured = "fleetpush_event_loop_lag_seconds_count"
    before = scrape_when(server, lambda now: value_of(now, measured) >= 1, "the loop to be watched")
    for number in range(110):
        answer = server.api.request("GET", "/v1/devices", headers={"Authorization": f"Bearer key_{number}"})
        assert answer.status_code == 401
    tried = scrape(server)
    assert firing(tmp_path, before, tried) == {"FleetpushLoginsFail"}

    stalled = tried
    for _ in range(3):
        server.signal(signal.SIGSTOP)
        time.sleep(0.7)  # it is what happens
        server.signal(signal.SIGCONT)
        stalled = scrape_when(server, rises(measured, 2, stalled), "the loop to be watched again")
    assert firing(tmp_path, tried, stalled) == {"FleetpushLoopStalls"}

    server.kill9()
    assert firing(tmp_path, stalled, scrape(server)) == {"FleetpushDown"}
    starts = [scrape(server.restart()) for _ in range(3)]
    assert firing(tmp_path, before, *starts) == {"FleetpushRestarts"}


@causes("FleetpushDevicesLost")
def test_devices_that_are_gone(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    server = start_server()
    clients = [wire(server, device) for device in server.api.enrol_many([f"kiosk-{number}" for number in range(12)])]
    for client in clients:
        client.connect()
    name = "fleetpush_devices_online"
    before = scrape_when(server, lambda now: value_of(now, name) == 12, "the devices")
    for client in clients[:5]:
        client.drop()
    gone = scrape_when(server, lambda now: value_of(now, name) == 7, "some to be gone")
    assert firing(tmp_path, before, gone) == {"FleetpushDevicesLost"}


@pytest.mark.full_only
@causes("FleetpushDescriptorsShort")
def test_devices_that_are_too_many(tmp_path: Path) -> None:
    with Server(tmp_path / "data", open_files=256) as server, contextlib.ExitStack() as held:
        before = scrape(server)
        for device in server.api.enrol_many([f"kiosk-{number}" for number in range(110)]):
            raw = held.enter_context(socket.create_connection(("127.0.0.1", server.mqtt_port), timeout=5))
            raw.sendall(packets.connect(device.client_id, username=device.client_id, password=device.token))
            assert raw.recv(4) == packets.connack_4()
        assert firing(tmp_path, before, scrape(server)) == {"FleetpushDescriptorsShort"}


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.sqlite("the disk of its file")
@pytest.mark.full_only  # ten seconds of a slow disk
@causes("FleetpushDiskSlow", "FleetpushWriterBehind", "FleetpushDeliverySlow", "FleetpushStorageFails")
def test_a_disk_that_takes_seconds_to_sync_and_one_that_does_not_write(
    start_server: StartServer, wire: Wire, tmp_path: Path
) -> None:
    faults = DiskFaults(tmp_path, tmp_path / "data0")
    server = start_server(env=faults.env)
    device = server.api.enrol("kiosk-1")
    client = wire(server, device).start()
    before = scrape(server)
    faults.delay_syncs(2_500, "fleetpush.db")
    with ThreadPoolExecutor() as pool:
        accepted = pool.submit(server.api.push, device.id)
        age = "fleetpush_writer_queue_oldest_seconds"
        waiting = scrape_when(server, lambda now: value_of(now, age) > 2, "the writer to be behind")
        client.wait_push(accepted.result())
    after = scrape(server)
    faults.mend()
    expected = {"FleetpushDiskSlow", "FleetpushWriterBehind", "FleetpushDeliverySlow"}
    assert firing(tmp_path, before, waiting, after) == expected

    before = scrape_when(server, lambda now: value_of(now, age) == 0, "the acknowledgement to be stored")
    faults.fail("write", "fleetpush.db")
    assert server.api.request("POST", "/v1/pushes", json={"target": {"all": True}}).status_code == 503
    faults.mend()
    assert firing(tmp_path, before, scrape(server)) == {"FleetpushStorageFails"}


@pytest.mark.sqlite("whose file it is")
@causes("FleetpushNotReady", "FleetpushRequestsFail")
def test_a_ledger_that_is_damaged(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    server.api.enrol("kiosk-1")
    before = scrape(server)
    server.stop()
    damage(server.data_dir / "fleetpush.db", "idempotency_record")
    server.start()
    with pytest.raises(AssertionError, match="storage_damaged"):
        server.api.accept("kiosk-1", key="once")
    for _ in range(10):
        assert server.api.request("GET", "/readyz").status_code == 503
    expected = {"FleetpushStorageFails", "FleetpushNotReady", "FleetpushRequestsFail"}
    assert firing(tmp_path, before, scrape(server)) == expected


def damage(ledger: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    with contextlib.closing(sqlite3.connect(ledger)) as opened:
        (root,) = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    with ledger.open("r+b") as file:
        file.seek((root - 1) * 4_096)
        file.write(b"\xff" * 4_096)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, whose size can be changed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4g", "fleetpush-test", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@causes("FleetpushDiskFilling", "FleetpushDiskFull")
def test_a_disk_that_gets_full(start_server: StartServer, disk: Path, tmp_path: Path) -> None:
    server = start_server(data_dir=disk / "data")
    before = scrape(server)
    resize(disk, 512 * MIB)
    assert firing(tmp_path, before, scrape(server)) == {"FleetpushDiskFilling"}
    resize(disk, 16 * MIB)
    fill(disk / "ballast")
    full = scrape_when(server, lambda now: value_of(now, "fleetpush_disk_left_bytes") == 0, "the disk to be full")
    body = {"target": {"all": True}}
    wait_for(lambda: server.api.request("POST", "/v1/pushes", json=body).status_code == 507, what="a refusal")
    assert firing(tmp_path, before, full) == {"FleetpushDiskFull"}
    (disk / "ballast").unlink()


@contextlib.contextmanager
def backup_schedule(server: Server, folder: Path) -> Iterator[None]:
    """Run the schedule of backups beside a server."""
    command = ["backup", "--every", "1h", "--to", str(folder), "--data-dir", str(server.data_dir)]
    with TemporaryFile() as errors:
        process = WarmProcess(command, errors.fileno(), clean_environment(), server.data_dir.parent)
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            process.stdout.close()


@pytest.mark.full_only
@causes("FleetpushBackupFails", "FleetpushBackupOld")
def test_backups_that_fail_and_backups_that_nobody_proves(
    start_server: StartServer, disk: Path, tmp_path: Path
) -> None:
    server = start_server()
    before = scrape(server)
    resize(disk, 16 * 1024)
    failures = "fleetpush_backup_failed_attempts"
    for number in range(1, 4):
        with backup_schedule(server, disk):
            failed = scrape_when(server, lambda now: value_of(now, failures) == number, "a failure")  # noqa: B023
    assert "FleetpushBackupFails" in firing(tmp_path, before, failed)
    with backup_schedule(server, tmp_path / "backups"):
        unproven = scrape_when(server, lambda now: value_of(now, failures) == 0, "a backup")
    assert firing(tmp_path, before, unproven) == {"FleetpushBackupOld"}


# -- certificates ------------------------------------------------------------------------------------------------------


@pytest.mark.full_only
@causes("FleetpushCertificateEnds", "FleetpushCertificateEndsSoon")
def test_certificates_that_end(tmp_path: Path) -> None:
    authority = Authority.in_folder(tmp_path / "tls")
    pair = authority.issue("server", "127.0.0.1", days=100)
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    with Server(tmp_path / "data", *options, ca=authority.certificate) as server:
        before = scrape(server)
        ending = [renewed(server, authority, days) for days in (20, 3)]
    assert firing(tmp_path, before, ending[0]) == {"FleetpushCertificateEnds"}
    assert firing(tmp_path, before, ending[1]) == {"FleetpushCertificateEnds", "FleetpushCertificateEndsSoon"}


def renewed(server: Server, authority: Authority, days: int) -> Scrape:
    """Scrape with another certificate, loaded while the server runs."""
    authority.issue("server", "127.0.0.1", days=days)
    server.signal(signal.SIGHUP)
    name = "fleetpush_tls_certificate_days_left"
    return scrape_when(server, lambda now: value_of(now, name, certificate="server") < days, "the certificate")


# -- deliveries --------------------------------------------------------------------------------------------------------


@causes("FleetpushCriticalWaits", "FleetpushCriticalForAway", "FleetpushDevicesSlow", "FleetpushUndelivered")
def test_what_waits_too_long(start_server: StartServer, wire: Wire, tmp_path: Path) -> None:
    server = start_server("--clock-speed", str(FAST), "--max-inflight", "1")
    api = server.api
    silent, away = api.enrol("silent"), api.enrol("away")
    before = scrape(server)
    for device in (silent, away):
        api.push(device.id, priority="critical", ttl=31_536_000)
    client = wire(server, silent)
    client.answer = lambda publish: None
    (first,) = client.start().wait_received(1)
    age = "fleetpush_oldest_critical_seconds"
    waiting = scrape_when(
        server,
        lambda now: value_of(now, age, presence="connected") > 60 and value_of(now, age, presence="away") > 900,
        "both to have waited long enough",
    )
    assert firing(tmp_path, before, waiting) == {"FleetpushCriticalWaits", "FleetpushCriticalForAway"}

    api.push_batch([{"target": {"device": silent.id}, "ttl": 31_536_000}] * 20)
    assert scrape_when(server, lambda now: True, "an answer that takes longer than ten of its seconds")
    client.answer = lambda publish: 0
    client.acknowledge(first)
    client.wait_received(21)
    api.call("DELETE", f"/v1/devices/{away.id}/mailbox", 200)
    calm = {"connected": 0.0, "away": 0.0}
    after = scrape_when(
        server, lambda now: {where: value_of(now, age, presence=where) for where in calm} == calm, "all to be calm"
    )
    assert firing(tmp_path, before, after) == {"FleetpushDevicesSlow"}

    api.push_batch([{"target": {"device": away.id}, "ttl": 1}] * 40)
    ended = scrape_when(server, rises("fleetpush_deliveries_ended_total", 40, after, state="expired"), "their end")
    assert firing(tmp_path, after, ended) == {"FleetpushUndelivered"}


@causes("FleetpushWebhookFails", "FleetpushWebhookDisabled")
def test_a_receiver_that_fails_and_one_that_is_gone(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--clock-speed", str(FAST), "--webhook-networks", "127.0.0.1")
    receiver = Receiver()
    try:
        receiver.answer = lambda request: (500, {})
        server.api.call("POST", "/v1/webhooks", 201, json={"url": receiver.url})
        before = scrape(server)
        server.api.enrol("kiosk-1")
        server.api.call("PATCH", "/v1/devices/kiosk-1/preferences", 200, json={"consent": "granted"})
        age = "fleetpush_webhook_failing_seconds"
        failing = scrape_when(server, lambda now: value_of(now, age) > 900, "it to have failed long enough")
        assert firing(tmp_path, before, failing) == {"FleetpushWebhookFails"}
        receiver.answer = lambda request: (410, {})
        disabled = scrape_when(server, rises("fleetpush_webhooks_disabled_total", 1, before), "its end")
        assert firing(tmp_path, before, disabled) == {"FleetpushWebhookDisabled"}
    finally:
        receiver.close()
