"""Four nodes over PostgreSQL that nobody nudges: what all of them store at once reaches each device once, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.network.listeners import BrokerServer
from broker.network.transport import TcpTransport
from tests import wire
from tests.costs.server import KeptSocket
from tests.gateway.in_process import InProcessGateway
from tests.gateway.store.test_migrated_ledger import packets
from tests.nodes import gateways_in_process

NODES = 4
PUSHES_OF_NODE = 25
LOOK_SECONDS = 0.02
"""Time between two looks of a node here: other tests run beside it, and it is to take part in the storm."""


class Device:
    """A device at one of the nodes: acknowledges what comes, and remembers what."""

    def __init__(self, gateway: InProcessGateway, device_id: str, token: str) -> None:
        self.taken: list[str] = []
        self._socket = KeptSocket("10.0.0.1")
        self._connection = TcpTransport(BrokerServer(gateway.components.broker), asyncio.get_running_loop())
        self._connection.connection_made(self._socket)
        self._connection.data_received(
            wire.connect(device_id, clean=False, keep_alive=0, username=device_id, password=token)
            + wire.subscribe(1, (f"default/devices/{device_id}/push", 1))
        )

    def take(self) -> None:
        for first, body in packets(self._socket.taken()):
            if first & 0xF0 == 0x30:
                at = 2 + int.from_bytes(body[:2])
                self.taken.append(json.loads(body[at + 2 :])["push_id"])
                self._connection.data_received(wire.puback(int.from_bytes(body[at : at + 2])))

    async def takes(self, count: int) -> None:
        """Wait until so many pushes have come."""
        async with asyncio.timeout(30):
            while len(self.taken) < count:
                await asyncio.sleep(0.002)
                self.take()

    def hang_up(self) -> None:
        self._connection.connection_lost(None)


@asynccontextmanager
async def nodes_without_nudges(folder: Path) -> AsyncIterator[list[InProcessGateway]]:
    async with gateways_in_process(folder, NODES) as gateways:
        for gateway in gateways:
            assert gateway.components.peers is not None
            gateway.components.peers.nudges._followers.clear()
        looking = asyncio.create_task(_look(gateways))
        yield gateways
        looking.cancel()
        await asyncio.wait([looking])


async def _look(gateways: list[InProcessGateway]) -> None:
    while True:
        for gateway in gateways:
            assert gateway.components.delivery.new_pushes is not None
            gateway.components.delivery.new_pushes.tick()
            gateway.components.delivery.ledger.flush()
        await asyncio.sleep(LOOK_SECONDS)


async def test_four_nodes_accept_for_the_same_devices(tmp_path: Path) -> None:
    async with nodes_without_nudges(tmp_path) as gateways:
        first = gateways[0]
        enrolled = [
            await first.call("POST", "/v1/devices", 201, json={"device_id": f"kiosk-{number}"}) for number in range(3)
        ]
        devices = [
            Device(gateway, device["device_id"], device["token"])
            for gateway, device in zip(gateways, enrolled, strict=False)
        ]

        async def send(gateway: InProcessGateway, number: int) -> None:
            for count in range(PUSHES_OF_NODE):
                target = {"all": True} if (count + number) % 3 else {"device": "kiosk-0"}
                await gateway.call("POST", "/v1/pushes", 202, json={"target": target, "data": [number, count]})

        await asyncio.gather(*(send(gateway, number) for number, gateway in enumerate(gateways)))
        rows = await first.database.read(
            lambda transaction: transaction.execute("SELECT id, targeted FROM push ORDER BY no").fetchall()
        )
        assert len(rows) == NODES * PUSHES_OF_NODE
        of_all = [push_id for push_id, targeted in rows if targeted == 3]
        expected = [[push_id for push_id, _ in rows], of_all, of_all]
        for device, pushes in zip(devices, expected, strict=True):
            await device.takes(len(pushes))
            assert device.taken == pushes, "in the order of their numbers, each of them once"
        for gateway in gateways:
            await gateway.components.flush()
        await asyncio.sleep(3 * LOOK_SECONDS)
        for device, pushes in zip(devices, expected, strict=True):
            device.take()
            assert device.taken == pushes, "nor again after they were acknowledged"
        counts = (await gateways[-1].call("GET", f"/v1/pushes/{of_all[0]}"))["counts"]
        assert (counts["targeted"], counts["delivered"]) == (3, 3)
        for device in devices:
            device.hang_up()
