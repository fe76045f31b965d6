from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.api.responses import StatsResponse
from gateway.auth import DeviceIdentity
from tests.gateway.in_process import START, InProcessGateway

MINUTE_MS = 60_000
MOMENTS = count(1_000_000, 100_000)
"""Seconds of a clock on which every look is due."""


def connect(gateway: InProcessGateway, device_no: int, device_id: str, app_no: int = 1, app_id: str = "default") -> str:
    client_id = device_id if app_no == 1 else f"{app_id}/{device_id}"
    identity = DeviceIdentity(device_no, app_no, app_id, device_id, client_id)
    gateway.components.delivery.connections.connected(client_id, identity, False)
    return client_id


@pytest.fixture
async def counted(gateway: InProcessGateway) -> InProcessGateway:
    """A gateway that counts from here on, as a server does from its start on."""
    await gateway.components.measurements.load()
    return gateway


async def stats(gateway: InProcessGateway, http: Any = None, **parameters: Any) -> dict[str, Any]:
    """The figures, after everything that is gathered has been stored and counted."""
    await gateway.components.flush()
    for _ in range(2):  # what other nodes store is counted a turn later
        await gateway.components.measurements.count_new()
    await gateway.components.measurements.waiting.count_if_due(next(MOMENTS))
    found: dict[str, Any] = await gateway.call("GET", "/v1/stats", http=http, params=parameters)
    StatsResponse.model_validate(found)
    return found


def some(curves: dict[str, Any]) -> dict[str, list[int]]:
    """The curves in which there is anything."""
    return {name: curve for name, curve in curves.items() if isinstance(curve, list) and any(curve)}


@pytest.mark.of_one_server  # each counts what waits in its own time
async def test_curves_are_those_of_the_app_alone(counted: InProcessGateway) -> None:
    gateway = counted
    await gateway.call("POST", "/v1/apps", 201, json={"id": "shop"})
    shop = await gateway.key_for("admin", app="shop")
    await gateway.enrol("kiosk-1", "kiosk-2")
    await gateway.call("POST", "/v1/devices", 201, http=shop, json={"device_id": "till-1"})
    connect(gateway, 1, "kiosk-1")
    till = connect(gateway, 3, "till-1", 2, "shop")
    push_id = await gateway.push({"all": True}, qos=1)
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    found = await stats(gateway, minutes=2)
    assert (found["devices"], found["online"], found["waiting"]) == (2, 1, 0)
    assert some(found["curves"]) == {
        "pushes": [1], "targeted": [2], "cancelled": [2], "connects": [1], "online": [1],
    }  # fmt: skip
    theirs = await stats(gateway, shop)
    assert (theirs["devices"], theirs["online"]) == (1, 1)
    assert some(theirs["curves"]) == {"connects": [1], "online": [1]}
    gateway.components.delivery.connections.disconnected(till, "disconnected", "")
    await gateway.components.flush()
    gateway.clock.milliseconds += MINUTE_MS
    await gateway.push({"device": "kiosk-2"})
    found = await stats(gateway)
    assert some(found["curves"])["pushes"] == [1, 1]
    assert (found["waiting"], some(found["curves"])["waiting"][-1]) == (1, 1)
    theirs = await stats(gateway, shop)
    assert (theirs["online"], theirs["curves"]["online"], theirs["curves"]["disconnects"]) == (0, [1, 0], [1, 0])
    assert [theirs["curves"]["from"], theirs["since"]] == ["2027-01-15T08:00:00.000Z"] * 2
    assert len((await stats(gateway, minutes=1))["curves"]["pushes"]) == 1


async def test_a_new_connection_in_the_place_of_another_counts_once(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    for _ in range(2):
        connect(gateway, 1, "kiosk-1")
    assert (await stats(gateway))["online"] == 1
    for _ in range(2):
        gateway.components.delivery.connections.disconnected("kiosk-1", "disconnected", "")
    assert (await stats(gateway))["online"] == 0


@pytest.mark.of_one_server  # each counts what waits in its own time
async def test_what_waits_is_counted_in_sets_and_rows_without_beats(gateway: InProcessGateway) -> None:
    await gateway.enrol(*(f"kiosk-{number}" for number in range(30)))
    await gateway.push({"all": True})  # as a set
    await gateway.push({"devices": ["kiosk-1", "kiosk-2"]})  # as rows
    heartbeat = {"device": "kiosk-9", "every_s": 60}
    await gateway.call("PUT", "/v1/heartbeats/site", json=heartbeat)
    gateway.clock.milliseconds += 61_000
    gateway.components.delivery.heartbeats.tick()
    found = await stats(gateway)
    assert found["waiting"] == 32
    assert found["waiting_counted_at"] == "2027-01-15T08:01:01.000Z"
    assert (found["curves"]["waiting"][-1], sum(found["curves"]["pushes"])) == (32, 2)


@pytest.mark.of_one_server  # whose memory says so
async def test_webhooks_that_fail_are_named(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/webhooks", 201, json={"url": "https://example.org/hooks"})
    await gateway.call("POST", "/v1/webhooks", 201, json={"url": "https://example.org/off", "enabled": False})
    webhook = gateway.components._webhooks.get(1, made["id"])
    webhook.lanes[0].failing_since, webhook.last_error = START, "the receiver answered 500"
    found = (await stats(gateway))["webhooks"]
    failing = {"id": made["id"], "url": "https://example.org/hooks", "since": "2027-01-15T08:00:00.000Z"}
    assert found == {"enabled": 1, "disabled": 1, "failing": [{**failing, "last_error": "the receiver answered 500"}]}


async def test_the_server_is_for_those_who_may_see_its_metrics(gateway: InProcessGateway, tmp_path: Path) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "shop"})
    for reader in (await gateway.key_for("read"), await gateway.key_for("read", app="shop")):
        assert (await stats(gateway, reader))["server"]["ready"] is True
    await gateway.refused("GET", "/v1/stats", 403, http=await gateway.key_for("send"))
    await gateway.refused("GET", "/v1/stats", 422, params={"minutes": 121})
    folder, key = tmp_path / "closed", tmp_path / "metrics.key"
    folder.mkdir()
    key.write_text("0123456789abcdef")
    closed = await InProcessGateway.build(folder, asyncio.get_running_loop(), metrics_key=key)
    await closed.call("POST", "/v1/apps", 201, json={"id": "shop"})
    for scopes, app in ((("read",), None), (("read",), "shop"), (("admin",), "shop")):
        assert (await stats(closed, await closed.key_for(*scopes, app=app)))["server"] is None
    assert (await stats(closed))["server"]["ready"] is True
    await closed.close()
