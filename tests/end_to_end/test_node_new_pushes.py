"""Pushes that several nodes accept for a device at one of them, while one of the others is killed."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx2
import psycopg

from tests.end_to_end.harness import Api
from tests.end_to_end.wire_device import WireDevice
from tests.nodes import NodeProcess, start_nodes

PUSHES_OF_NODE = 60
KILLED_AFTER = 20


def test_a_device_gets_what_all_nodes_accept_once_and_in_order(tmp_path: Path) -> None:
    with start_nodes(tmp_path, 3) as nodes:
        doomed, _, serving = nodes
        key = doomed.api.key
        credential = serving.api.enrol("kiosk-1")
        device = WireDevice(serving.mqtt_port, credential.client_id, credential.token).start()
        accepted: dict[NodeProcess, list[str]] = {node: [] for node in nodes}
        half = threading.Event()

        def send(node: NodeProcess) -> None:
            api = Api(node.url, key)
            for number in range(PUSHES_OF_NODE):
                push = {"target": {"device": "kiosk-1"}, "data": number}
                try:
                    accepted[node].append(api.call("POST", "/v1/pushes", 202, json=push)["push_id"])
                except httpx2.TransportError:
                    assert node is doomed
                    break
                if node is doomed and number == KILLED_AFTER:
                    half.set()
            api.close()

        senders = [threading.Thread(target=send, args=(node,)) for node in nodes]
        for sender in senders:
            sender.start()
        assert half.wait(30)
        doomed.kill()
        for sender in senders:
            sender.join(60)
        with psycopg.connect(serving.database) as connection:
            stored = [push_id for (push_id,) in connection.execute("SELECT id FROM push ORDER BY no")]
        answered = {push_id for pushes in accepted.values() for push_id in pushes}
        assert answered <= set(stored)
        assert len(stored) - len(answered) <= 1, "but for one that was stored when its node was killed"
        device.wait_received(len(stored), 30)
        assert device.push_ids() == stored
        assert not any(publish.dup for publish in device.received)
        device.drop()
