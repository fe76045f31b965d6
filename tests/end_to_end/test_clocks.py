"""Clocks as machines have them: suspended, without a battery, years ahead, and set right while the server runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Server, fleetpush, wait_for
from tests.end_to_end.wire_device import WireDevice
from tests.preloaded import preload_environment
from tests.receiver import Receiver

HOUR = 3_600
YEAR = 365 * 24 * HOUR


class Clocks:
    """What is added to the clocks of the servers that are started with `environment`, in seconds."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clocks"
        self.environment = {**preload_environment(), "CLOCK_SHIM": str(self._file)}
        self.set(0)

    def set(self, wall: int, boot: int = 0) -> None:
        partial = self._file.with_suffix(".new")
        partial.write_text(f"{wall} {boot} 0")
        partial.replace(self._file)


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    return Clocks(tmp_path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def shows(server: Server, push_id: str) -> float:
    """When a push was accepted, as the API says it."""
    return seconds(server.api.call("GET", f"/v1/pushes/{push_id}", 200)["sent_at"])


def about(wanted: float, slack: float = 60) -> Callable[[float], bool]:
    return lambda found: abs(found - wanted) < slack


def test_what_was_over_during_a_suspend_is_not_handed_over(
    start_server: StartServer, wire: Wire, clocks: Clocks
) -> None:
    server = start_server(env=clocks.environment)
    enrolled = server.api.enrol("kiosk-1")
    device: WireDevice = wire(server, enrolled).start()
    device.drop()
    over = server.api.push(enrolled.id, ttl=HOUR)
    alive = server.api.push(enrolled.id, ttl=3 * HOUR)
    clocks.set(2 * HOUR, 2 * HOUR)
    server.api.wait_counts(over, expired=1)
    device.connect()
    got = device.wait_push(alive)
    assert device.push_ids() == [alive]
    assert got.push["expires_in"] <= HOUR, "the time in suspend counts"
    assert about(time.time())(shows(server, alive)), "and it was sent before that"


def test_times_quiet_hours_and_signatures_follow_a_clock_that_is_set_right(
    start_server: StartServer, wire: Wire, clocks: Clocks, receiver: Receiver
) -> None:
    """Started without a battery, a day behind; then the time comes from the network. No lifetime changes."""
    clocks.set(-24 * HOUR - 6 * HOUR)
    server = start_server(env={**clocks.environment, "FLEETPUSH_WEBHOOK_NETWORKS": "127.0.0.0/8"})
    api = server.api
    right = datetime.now(UTC)
    hours = {"start": f"{right - timedelta(hours=1):%H:%M}", "end": f"{right + timedelta(hours=2):%H:%M}"}
    api.call("PUT", "/v1/policy", 200, json={"quiet_hours": {**hours, "excess": "defer"}})
    webhook = api.call("POST", "/v1/webhooks", 201, json={"url": receiver.url, "types": ["delivery.*"]})
    enrolled = api.enrol("kiosk-1")
    device: WireDevice = wire(server, enrolled).start()
    alert = {"notification": {"title": "Bread"}}
    early = api.push(enrolled.id, ttl=HOUR, **alert)
    device.wait_push(early)
    assert about(time.time() - 30 * HOUR)(shows(server, early))

    clocks.set(0)
    wait_for(lambda: about(time.time())(shows(server, early)), what="the API to show the right time")
    server.wait_log("the machine's clock is .* later")
    late = api.push(enrolled.id, ttl=HOUR, **alert)
    (waiting,) = wait_for(lambda: list(api.items(f"/v1/devices/{enrolled.id}/mailbox")), what="the alert to wait")
    assert waiting["push_id"] == late, "it is quiet now"
    assert about((right + timedelta(hours=2)).timestamp(), 120)(seconds(waiting["not_before"]))
    data = api.push(enrolled.id, ttl=HOUR, data={"n": 1})
    got = device.wait_push(data)
    assert got.push["expires_in"] == HOUR
    assert about(time.time())(seconds(got.push["sent_at"]))

    def signed() -> Any:
        return next((request for request in receiver.taken if data in request.body.decode()), None)

    request = wait_for(signed, what="the webhook")
    assert about(time.time())(float(request.headers["webhook-timestamp"]))
    assert request.is_signed_with(webhook["secret"])
    assert about(time.time())(seconds(json.loads(request.body)["timestamp"]))

    # Also after a restart, and what was stored under the wrong clock is shown right.
    server.restart()
    assert about(time.time())(shows(server, early))
    api.wait_counts(late, waiting=1)


@pytest.mark.sqlite("`doctor --mend-clock`")
@pytest.mark.full_only
def test_a_start_years_ahead_is_shown_right_and_can_be_mended(
    start_server: StartServer, wire: Wire, clocks: Clocks
) -> None:
    clocks.set(30 * YEAR)
    server = start_server(env=clocks.environment)
    api = server.api
    enrolled = api.enrol("kiosk-1")
    device: WireDevice = wire(server, enrolled).start()
    first = api.push(enrolled.id)
    device.wait_push(first)
    device.drop()
    kept = api.push(enrolled.id, ttl=HOUR)
    assert about(time.time() + 30 * YEAR)(shows(server, first))
    clocks.set(0)
    wait_for(lambda: about(time.time())(shows(server, first)), what="the API to show the right time")
    assert server.stop() == 0

    doctor = fleetpush("doctor", "--data-dir", str(server.data_dir))
    assert "behind the last stored server time" in doctor.stdout, doctor.stdout
    assert "--mend-clock" in doctor.stdout
    mended = fleetpush("doctor", "--mend-clock", "--data-dir", str(server.data_dir))
    assert mended.returncode == 0, mended.stderr
    assert "back, to what this machine's clock shows" in mended.stdout
    again = fleetpush("doctor", "--mend-clock", "--data-dir", str(server.data_dir))
    assert "nothing to mend" in again.stdout, again.stdout
    assert "behind the last stored" not in fleetpush("doctor", "--data-dir", str(server.data_dir)).stdout

    server.start()
    assert about(time.time())(shows(server, first))
    assert device.connect().session_present
    got = device.wait_push(kept)
    assert HOUR - 120 < got.push["expires_in"] <= HOUR, "no lifetime was touched"
    running = fleetpush("doctor", "--mend-clock", "--data-dir", str(server.data_dir))
    assert running.returncode == 1
    assert "stop that server first" in running.stderr


def test_time_down_under_the_same_boot_counts_whatever_the_wall_clock_says(
    start_server: StartServer, wire: Wire, clocks: Clocks
) -> None:
    server = start_server(env=clocks.environment)
    api = server.api
    enrolled = api.enrol("kiosk-1")
    device: WireDevice = wire(server, enrolled).start()
    device.drop()
    over, alive = api.push(enrolled.id, ttl=HOUR), api.push(enrolled.id, ttl=3 * HOUR)
    server.kill9()
    clocks.set(-40 * YEAR, 2 * HOUR)  # two hours later, and the wall clock has lost itself
    server.start()
    api.wait_counts(over, expired=1)
    device.connect()
    assert device.wait_push(alive).push["expires_in"] <= HOUR
    clocks.set(2 * HOUR, 2 * HOUR)
    wait_for(lambda: about(time.time())(shows(server, alive)), what="the API to show the right time")
