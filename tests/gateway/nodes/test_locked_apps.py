"""What two nodes do all day locks the app that it is for, and no other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.auth import DeviceIdentity
from gateway.delivery.engine import Body, Message
from gateway.store.app_locks import EVERY_APP, Apps
from gateway.store.transaction import Transaction
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process

CANTEEN = 2
"""Number of the second app."""


class LockedApps:
    """Notes which locks the groups of a gateway take."""

    def __init__(self, gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[Apps] = []
        self.shared: set[int] = set()
        backend = gateway.database._backend
        begin = backend.begin

        def noted(connection: Transaction, apps: Apps, shared: frozenset[int]) -> None:
            self.written.append(apps)
            self.shared |= shared
            begin(connection, apps, shared)

        monkeypatch.setattr(backend, "begin", noted)


async def live(gateway: InProcessGateway, identity: DeviceIdentity, key: str) -> None:
    """A device connects, is sent a push, takes it, answers it and goes."""
    delivery = gateway.components.delivery
    delivery.connections.connected(identity.client_id, identity, False)
    async with gateway.client(key) as client:
        answer = await client.post("/v1/pushes", json={"target": {"device": identity.device_id}, "data": 1})
    assert answer.status_code == 202, answer.text
    push_id = answer.json()["push_id"]
    (push_no,) = await gateway.database.read(
        lambda transaction: transaction.execute("SELECT no FROM push WHERE id = ?", (push_id,)).fetchone()
    )
    delivery.hand_over.reader.start(delivery.hand_over.devices[identity.device_no])
    while delivery.ledger.pushes.get(push_no) is None:  # noqa: ASYNC110  # it is read by the writer
        await asyncio.sleep(0.001)
    delivery.ledger.acknowledged(push_no, identity.device_no, 1)
    delivery.ledger.flush()
    stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    topic = f"{identity.app_id}/devices/{identity.device_id}/receipts"
    said = json.dumps({"push_id": push_id, "event": "acted", "action": "play"}).encode()
    delivery.receipts.published(identity.client_id, identity, Message(topic, Body(said)), stored.set_result)
    assert await stored == 0
    delivery.connections.disconnected(identity.client_id, "client", "")
    gateway.components.connection_events.flush()
    gateway.components.activity.flush()
    await gateway.database.maintain_file()  # and everything before it is stored


async def test_the_life_of_a_delivery_locks_its_app_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateways_in_process(tmp_path) as (one, other):
        await one.enrol("kiosk-1")
        await one.call("POST", "/v1/apps", 201, json={"id": "canteen"})
        made = {"app": "canteen", "name": "all", "scopes": ["send", "devices"]}
        key = (await one.call("POST", "/v1/keys", 201, json=made))["key"]
        async with one.client(key) as client:
            assert (await client.post("/v1/devices", json={"device_id": "till-1"})).status_code == 201
        locked = [LockedApps(gateway, monkeypatch) for gateway in (one, other)]
        assert one.key is not None
        await asyncio.gather(
            live(one, DeviceIdentity(1, 1, "default", "kiosk-1", "kiosk-1"), one.key),
            live(other, DeviceIdentity(2, CANTEEN, "canteen", "till-1", "canteen/till-1"), key),
        )
    for app_no, found in zip((1, CANTEEN), locked, strict=True):
        assert EVERY_APP not in found.written
        assert frozenset((app_no,)) in found.written
        assert set(found.written) <= {frozenset((app_no,)), frozenset()}
        assert found.shared == {app_no}, "mailboxes are read together with other nodes"
