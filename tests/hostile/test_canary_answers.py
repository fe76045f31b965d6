"""Reading a device's messages costs the reader, and not everybody else."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import wire
from tests.end_to_end.harness import Api, Device, Server
from tests.hostile.canary import Canary
from tests.hostile.peer import Peer

MESSAGES, MESSAGE_BYTES = 6, 900 * 1024
"""Of control characters: each is six bytes of JSON."""
STREAMS = 20
ATTACK_SECONDS = 2.0
GROWTH_BYTES = 48 * 1024 * 1024
"""Each stream had a copy of the event that it stood at, 24 MB together."""
DRIVER_BYTES = 24 * 1024 * 1024
"""More over PostgreSQL, whose driver has what is being read as well, bytes in hexadecimal: 49 MiB instead of 28."""


async def say(port: int, device: Device) -> None:
    peer = await Peer.open(port)
    await peer.enter(wire.connect(f"{device.client_id}:s", username=device.client_id, password=device.token))
    for number in range(1, MESSAGES + 1):
        await peer.send(wire.publish(device.topics["uplink"].replace("#", "x"), b"\1" * MESSAGE_BYTES, 1, number))
        assert (await peer.read(60))[:1] == b"\x40"
    await peer.close()


async def unread_streams(server: Server, over: asyncio.Event) -> None:
    head = f"GET /v1/events?since=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin_key}\r\n\r\n"
    peers = [await Peer.open(server.http_port) for _ in range(STREAMS)]
    for peer in peers:
        await peer.send(head.encode())
    await over.wait()
    for peer in peers:
        peer.reset()
        await peer.close()


def test_what_was_said_in_control_characters(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    growth_bytes = GROWTH_BYTES + (pytestconfig.getoption("--database") == "postgresql") * DRIVER_BYTES
    with Server(tmp_path / "data") as server, ExitStack() as ending:
        device = server.api.enrol("d1")
        asyncio.run(say(server.mqtt_port, device))
        over = threading.Event()
        most = 0

        def ask() -> None:
            nonlocal most
            api = Api(server.url, server.admin_key)
            while not over.is_set():
                answer = api.request("GET", "/v1/devices/d1/uplink", params={"limit": 100})
                assert answer.status_code in (200, 503), answer.text
                most = max(most, len(answer.content))
            api.close()

        async def attack() -> None:
            ended = asyncio.Event()
            streams = asyncio.create_task(unread_streams(server, ended))
            await asyncio.to_thread(time.sleep, ATTACK_SECONDS)
            ended.set()
            await streams

        with Canary(server, growth_bytes=growth_bytes):
            askers = [threading.Thread(target=ask) for _ in range(3)]
            for asker in askers:
                asker.start()
                ending.callback(asker.join)
            ending.callback(over.set)
            asyncio.run(attack())
            over.set()
        assert MESSAGE_BYTES < most < 3 * MESSAGE_BYTES
        assert len(list(server.api.items("/v1/devices/d1/uplink"))) == MESSAGES
