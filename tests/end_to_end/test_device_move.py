"""A node that is told to end, behind the balancer: its devices go to the others, and nobody misses a push."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.end_to_end.harness import Device, wait_for
from tests.end_to_end.nodes_behind_balancer import NodesBehindBalancer
from tests.end_to_end.wire_device import V4, V5, WireDevice

DEVICES = 24


class ReturningDevice:
    """A device that connects again, through the balancer, whenever its connection has ended."""

    def __init__(self, port: int, device: Device, version: int) -> None:
        self.wire = WireDevice(port, device.client_id, device.token, version=version)
        self.wire.start()
        self.connections = 1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._return, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(20)
        self.wire.drop()

    def _return(self) -> None:
        while not self._closing.wait(0.02):
            if self.wire.connected:
                continue
            try:
                if self.wire.try_connect().code == 0:
                    self.connections += 1
            except Exception:
                self._closing.wait(0.2)


def test_a_node_that_ends_hands_its_devices_to_the_others(tmp_path: Path) -> None:
    with ExitStack() as ending:
        nodes = ending.enter_context(NodesBehindBalancer(tmp_path, 2))
        port = nodes.balancer.ports["mqtt"]
        devices: list[ReturningDevice] = []
        for number in range(DEVICES):
            device = nodes.api.enrol(f"d{number}")
            devices.append(ReturningDevice(port, device, V5 if number % 2 else V4))
            ending.callback(devices[-1].close)
        sent = [nodes.api.push(f"d{number % DEVICES}") for number in range(DEVICES)]
        ending_node = nodes.nodes[0]
        held = connections(ending_node.url)
        assert 0 < held < DEVICES, "the balancer divides them"

        ending_node.process.signal(signal.SIGTERM)
        wait_for(lambda: status(f"{ending_node.url}/healthz") == 404, what="the node to say that it ends")
        assert status(f"{ending_node.url}/readyz") == 503
        while not ending_node.ends:
            sent.append(nodes.api.push(f"d{len(sent) % DEVICES}"))
        assert ending_node.ends[0] == 0
        for number, push_id in enumerate(sent):
            devices[number % DEVICES].wire.wait_push(push_id)
        for returning in devices:
            new = [publish.push_id for publish in returning.wire.received if not publish.dup]
            assert len(new) == len(set(new)), "nothing came twice"
        assert sum(returning.connections - 1 for returning in devices) == held, "each was moved once, and nobody else"
        assert "Server mqtt_nodes/node1 is stopping" in nodes.balancer.output
        assert "Server mqtt_nodes/node1 is DOWN" not in nodes.balancer.output.partition("is stopping")[0]


def connections(url: str) -> int:
    """The number of MQTT connections of a node."""
    (line,) = (
        line
        for line in httpx2.get(f"{url}/metrics").text.splitlines()
        if line.startswith("fleetpush_broker_connections ")
    )
    return int(float(line.split()[1]))


def status(url: str) -> int:
    return int(httpx2.get(url, timeout=5).status_code)
