from __future__ import annotations

import asyncio
import sqlite3
import time
from functools import partial
from typing import Any

import pytest
from pyroaring import BitMap

from gateway import measurements
from gateway.auth import DeviceIdentity
from gateway.delivery_states import DeliveryState
from gateway.measurements import (
    CPU_FACTOR,
    CRITICAL_INTERVAL_SECONDS,
    MAX_REASONS,
    WAIT_FACTOR,
    Measurements,
    Pace,
    with_pause,
)
from gateway.store.analytics.delivery_counts import longest_waiting_critical
from gateway.store.deliveries.ledger_statements import end_rows
from gateway.store.transaction import Transaction
from tests.gateway.in_process import InProcessGateway


@pytest.fixture
async def measured(gateway: InProcessGateway) -> Measurements:
    await gateway.components.measurements.load()
    return gateway.components.measurements


def connect(gateway: InProcessGateway, device_no: int, device_id: str) -> None:
    identity = DeviceIdentity(device_no, 1, "default", device_id, device_id)
    gateway.components.delivery.connections.connected(device_id, identity, False)


def test_what_takes_long_is_done_seldom() -> None:
    pace = Pace(5.0)
    assert pace.begin(0.0)
    assert not pace.begin(10.0), "it is under way"
    pace.end(0.0, 200.0)
    assert not pace.begin(199.9)
    assert pace.begin(200.0)
    pace.end(200.0, 0.1)
    assert not pace.begin(204.9)
    assert pace.begin(205.0)


def test_the_pause_is_for_the_core_that_a_look_took_and_for_the_time_that_it_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = sqlite3.connect(":memory:")
    for cpu, wall, pause in ((0.5, 0.5, 0.5 * CPU_FACTOR), (0.01, 2.0, 2.0 * WAIT_FACTOR)):
        clocks = {"thread_time": iter([0.0, cpu]), "monotonic": iter([0.0, wall])}
        for name, times in clocks.items():
            monkeypatch.setattr(time, name, times.__next__)
        assert with_pause(lambda connection: "found")(connection) == ("found", pause)
    connection.close()


def found(measured: Measurements) -> dict[str, int]:
    return {f"{state} {reason}": count for (state, reason), count in measured.ended.by_end.items() if count}


async def test_every_end_is_counted_once_with_its_reason(gateway: InProcessGateway, measured: Measurements) -> None:
    await gateway.enrol(*(f"kiosk-{number}" for number in range(30)))
    await gateway.push({"all": True}, ttl=5)  # as sets
    await gateway.push({"device": "kiosk-1"}, collapse_key="menu")
    await gateway.push({"device": "kiosk-1"}, collapse_key="menu")
    push_id = await gateway.push({"devices": ["kiosk-1", "kiosk-2"]})
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    await measured.ended.count_new()
    assert found(measured) == {"superseded collapse_key": 1, "cancelled recalled": 2}
    gateway.clock.milliseconds += 6_000
    gateway.components.delivery.ledger.sweep()
    await gateway.database.write(lambda connection: None)
    for _ in range(2):
        await measured.ended.count_new()
        assert found(measured) == {"superseded collapse_key": 1, "cancelled recalled": 2, "expired ttl": 30}
    await gateway.call("DELETE", "/v1/devices/kiosk-1", 204)
    await measured.ended.count_new()
    assert found(measured)["revoked device_removed"] == 1


async def test_what_is_rolled_back_has_not_ended(gateway: InProcessGateway, measured: Measurements) -> None:
    await gateway.enrol("kiosk-1")
    await gateway.push({"device": "kiosk-1"})

    def fails(connection: Transaction) -> None:
        handle = (1 << 32) | 1
        assert end_rows(connection, [handle], DeliveryState.EXPIRED, "ttl", gateway.clock.milliseconds) == 1
        raise ValueError("after all")

    with pytest.raises(ValueError, match="after all"):
        await gateway.database.write(fails)
    await measured.ended.count_new()
    assert found(measured) == {}


async def test_what_an_earlier_run_has_ended_is_not_counted_again(
    gateway: InProcessGateway, measured: Measurements
) -> None:
    await gateway.enrol("kiosk-1")
    await gateway.push({"device": "kiosk-1"}, collapse_key="menu")
    await gateway.push({"device": "kiosk-1"}, collapse_key="menu")
    await measured.ended.load()
    await measured.ended.count_new()
    assert found(measured) == {}


async def test_a_long_log_is_counted_a_part_at_a_time(
    gateway: InProcessGateway, measured: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "ENTRIES_PER_READ", 2)
    await gateway.enrol("kiosk-1")
    for _ in range(8):
        await gateway.push({"device": "kiosk-1"}, collapse_key="menu")
    await measured.ended.count_new()
    assert found(measured) == {"superseded collapse_key": 7}


async def test_reasons_are_bounded(gateway: InProcessGateway, measured: Measurements) -> None:
    for code in range(0x80, 0x90):
        measured.ended._add("refused", f"reason_code_0x{code:02x}", 1)
    assert found(measured) == {"refused reason_code": 16}
    for number in range(2 * MAX_REASONS):
        measured.ended._add("expired", f"reason-{number}", 1)
    assert len(measured.ended.by_end) <= MAX_REASONS + 1
    assert sum(measured.ended.by_end.values()) == 16 + 2 * MAX_REASONS


async def test_the_oldest_critical_push_of_devices_that_are_there_and_of_others(
    gateway: InProcessGateway, measured: Measurements
) -> None:
    await gateway.enrol(*(f"kiosk-{number}" for number in range(30)))
    critical, now = measured.critical, 0.0

    async def seconds() -> tuple[float, float]:
        nonlocal now
        now += 1_000 * CRITICAL_INTERVAL_SECONDS
        await critical.find_if_due(now)
        waiting = critical.seconds()
        return waiting["connected"], waiting["away"]

    await gateway.push({"device": "kiosk-1"}, priority="high")
    assert await seconds() == (0.0, 0.0), "it is not critical"
    await gateway.push({"device": "kiosk-1"}, priority="critical")
    gateway.clock.milliseconds += 60_000
    await gateway.push({"device": "kiosk-2"}, priority="critical")
    assert await seconds() == (0.0, 60.0)
    connect(gateway, 2, "kiosk-1")
    connect(gateway, 3, "kiosk-2")
    gateway.clock.milliseconds += 5_000
    assert critical.seconds()["away"] == 65.0, "the age goes on between two looks"
    assert await seconds() == (5.0, 0.0), "a device has been waiting since it came"
    push_id = await gateway.push({"all": True}, priority="critical")  # as a set
    gateway.clock.milliseconds += 1_000
    assert await seconds() == (6.0, 1.0)
    online, critical._online = critical._online, lambda: BitMap(range(100))
    assert await seconds() == (6.0, 0.0), "who is connected to another node is not away"
    critical._online = online
    for device_id in ("kiosk-1", "kiosk-2"):
        await gateway.call("DELETE", f"/v1/devices/{device_id}/mailbox")
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    assert await seconds() == (0.0, 0.0)


async def test_looking_for_critical_pushes_is_bounded(
    gateway: InProcessGateway, measured: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "CRITICAL_DEVICES", 2)
    await gateway.enrol("kiosk-1", "kiosk-2", "kiosk-3")
    for number in (1, 2, 3):
        await gateway.push({"device": f"kiosk-{number}"}, priority="critical")
        gateway.clock.milliseconds += 1_000
    waiting = await gateway.database.read(partial(longest_waiting_critical, most=2))
    assert [(push.accepted_at, len(push.devices)) for push in waiting] == [
        (gateway.clock.milliseconds - 3_000, 1),
        (gateway.clock.milliseconds - 2_000, 1),
    ]


async def test_a_loop_that_was_held_up_is_seen(measured: Measurements) -> None:
    task = asyncio.ensure_future(measured.watch_loop())
    await asyncio.sleep(0)
    time.sleep(0.35)  # noqa: ASYNC251  what it is about
    async with asyncio.timeout(5):
        while not dict(measured.lag.buckets())["+Inf"]:  # noqa: ASYNC110  it says so nowhere else
            await asyncio.sleep(0.01)
    task.cancel()
    buckets = dict(measured.lag.buckets())
    assert (buckets["0.2"], buckets["+Inf"]) == (0, 1)
    assert measured.lag.sum_ms >= 200


@pytest.mark.of_one_server  # whose measurement fails
async def test_a_failed_measurement_is_logged_and_made_again(
    gateway: InProcessGateway,
    measured: Measurements,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(measurements, "TURN_SECONDS", 0.0)
    tries = asyncio.Queue[Any]()

    async def fails() -> None:
        tries.put_nowait(None)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(measured.ended, "count_new", fails)
    task = asyncio.ensure_future(measured.measure())
    for _ in range(2):
        await tries.get()
    task.cancel()
    assert caplog.messages[0] == "deliveries cannot be counted: disk I/O error"
