"""Work for one device or app does not keep the writer from the work that others wait for."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from tests import wire
from tests.end_to_end.harness import Api, Device, Server
from tests.hostile.canary import Canary
from tests.hostile.peer import Peer

ATTACK_SECONDS = 2.5


async def say_for_ever(port: int, device: Device, leaf: str, payloads: list[bytes], window: int) -> int:
    """Publish as fast as it is acknowledged, so many at a time; how many were."""
    peer = await Peer.open(port)
    await peer.enter(wire.connect(f"{device.client_id}:s", username=device.client_id, password=device.token))
    until = time.monotonic() + ATTACK_SECONDS
    acknowledged = 0
    for number in count():
        if number - acknowledged >= window:
            assert (await peer.read(60))[:1] == b"\x40"
            acknowledged += 1
            if time.monotonic() > until:
                break
        await peer.send(wire.publish(device.topics[leaf], payloads[number % len(payloads)], 1, number % 65_000 + 1))
    await peer.close()
    return acknowledged


def test_a_device_that_changes_its_mind_as_fast_as_it_can(tmp_path: Path) -> None:
    waiting = {"kind": "in_app", "notification": {"title": "x"}, "channel": "offers"}
    choices = {f"channel-{number:04d}": bool(number % 2) for number in range(700)}
    payloads = [
        json.dumps({"channels": {**choices, "offers": True}, "consent": consent}).encode()
        for consent in ("granted", "unknown")
    ]
    with Server(tmp_path / "data") as server:
        device = server.api.enrol("busy")
        server.api.push_batch([{"target": {"device": "busy"}, **waiting}] * 1_000)
        with Canary(server):
            said = asyncio.run(say_for_ever(server.mqtt_port, device, "settings", payloads, 60))
        assert said > 10


@pytest.mark.full_only
def test_an_app_that_enrols_devices_with_tags_of_their_own(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        over = threading.Event()

        def enrol(prefix: str) -> None:
            api = Api(server.url, server.admin_key)
            for start in count(step=1_000):
                ids = range(start, start + 1_000)
                devices = [
                    {"device_id": f"{prefix}{i}", "tags": [f"{prefix}-{i}-{tag}" for tag in range(64)]} for i in ids
                ]
                api.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})
                if over.is_set():
                    break
            api.close()

        def read_mailboxes() -> None:
            api = Api(server.url, server.admin_key)
            while not over.is_set():
                api.call("DELETE", "/v1/devices/x/mailbox", 200)
            api.close()

        server.api.enrol("x")
        with Canary(server):
            threads = [threading.Thread(target=enrol, args=(prefix,)) for prefix in "ab"]
            threads += [threading.Thread(target=read_mailboxes) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(ATTACK_SECONDS)  # what is measured is a time
            over.set()
            for thread in threads:
                thread.join()
