"""A server that had its database alone becomes a node: devices go on with their sessions."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.harness import DATABASE, Server
from tests.end_to_end.wire_device import WireDevice
from tests.nodes import NodeProcess, new_database


def test_sessions_with_nothing_on_its_way_go_to_the_nodes(tmp_path: Path) -> None:
    database, data_dir = new_database(), tmp_path / "node-0"
    with Server(data_dir, env={DATABASE: database}) as server:
        key = server.api.key
        whole, interrupted = (server.api.enrol(name) for name in ("whole", "interrupted"))
        devices = [WireDevice(server.mqtt_port, device.client_id, device.token) for device in (whole, interrupted)]
        devices[1].completing = False
        for device in devices:
            device.start(qos=2)
        server.api.push("interrupted", qos=2)
        devices[1].wait_released(1)
        assert server.stop() == 0
        for device in devices:
            device.drop()
    with NodeProcess(data_dir, database) as node, NodeProcess(tmp_path / "node-1", database) as other:
        assert (data_dir / "broker.db.before-nodes").exists()
        assert not (data_dir / "broker.db").exists()
        node.api.key = key
        for device, at in zip(devices, (node, other), strict=True):
            device.port = at.mqtt_port
        assert devices[0].connect().session_present
        assert not devices[1].connect().session_present, "it begins anew, and may forget what it had"
        devices[1].completing = True
        devices[1].subscribe(qos=1)
        for name, device in zip(("whole", "interrupted"), devices, strict=True):
            device.wait_push(node.api.push(name))
        devices[0].drop()
        devices[0].port = other.mqtt_port
        assert devices[0].connect().session_present
        for device in devices:
            device.drop()
