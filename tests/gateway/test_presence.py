"""Presence hours in the server as it is wired: recorded by a task, stored at the end, gone on with by the next one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway import composition
from gateway.auth import DeviceIdentity
from gateway.store.analytics.presence_hours import HOUR_MS, WEEK_HOURS
from tests.gateway.in_process import InProcessGateway


def kiosk(number: int) -> DeviceIdentity:
    return DeviceIdentity(number, 1, "default", f"kiosk-{number}", f"kiosk-{number}")


async def test_a_server_learns_over_weeks_and_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "PRESENCE_SECONDS", 0.0)
    monkeypatch.setattr(composition, "SWEEP_SECONDS", 0.001)
    loop = asyncio.get_running_loop()
    gateway = await InProcessGateway.build(tmp_path, loop)
    await gateway.enrol("kiosk-1", "kiosk-2")
    now_ms = gateway.clock.milliseconds
    for week in range(1, 5):
        now_ms += WEEK_HOURS * HOUR_MS
        gateway.clock.milliseconds = now_ms
        await gateway.components.recover()
        gateway.components.delivery.presence_hours.tick()
        gateway.components.activity.connected(kiosk(1 if week < 4 else 2), now_ms)
        await gateway.close()
        gateway = await InProcessGateway.build(tmp_path, loop)
    gateway.clock.milliseconds = now_ms + WEEK_HOURS * HOUR_MS
    recording = asyncio.create_task(gateway.components.record_presence())
    body = {"target": {"all": True}, "ttl": 60}
    found = await gateway.call("POST", "/v1/pushes/forecast", json=body)
    assert (found["likely"], found["will_expire"], found["unknown_presence"]) == (1, 1, 0), "3/4 and 1/4"
    gateway.components.activity.connected(kiosk(2), gateway.clock.milliseconds)
    gateway.components.activity.flush()
    gateway.clock.milliseconds += HOUR_MS
    while not await _is_recorded(gateway):  # noqa: ASYNC110  # by a task of the server's
        await asyncio.sleep(0.001)
    recording.cancel()
    await gateway.close()


async def _is_recorded(gateway: InProcessGateway) -> bool:
    hour = gateway.clock.milliseconds // HOUR_MS - 1
    rows = await gateway.database.read(
        lambda connection: connection.execute("SELECT 1 FROM presence_hour WHERE hour = ?", (hour,)).fetchall()
    )
    return bool(rows)
