"""A device that is connected to one node, and senders who ask another: it makes no difference to them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from client_sim.device import Device
from client_sim.push import Push
from tests.end_to_end.harness import wait_for
from tests.nodes import start_nodes

WAIT_SECONDS = 60


def test_a_sender_at_another_node_sees_the_device_and_its_answers(tmp_path: Path) -> None:
    with start_nodes(tmp_path, 2) as (first, second):
        enrolled = first.api.enrol("kiosk-1")
        device = Device(enrolled.id, enrolled.token, port=second.mqtt_port)

        @device.command("add")
        def add(push: Push) -> int:
            return int(push.data["a"]) + 1

        with device:
            for node in (first, second):
                node.api.wait_online("kiosk-1")
                shown = node.api.call("GET", "/v1/devices/kiosk-1", 200)
                assert shown["address"].startswith("127.0.0.1:")
                connection = node.api.call("GET", "/v1/devices/kiosk-1/connection", 200)
                assert (connection["online"], connection["protocol"]) == (True, "3.1.1")
                assert node.api.call("GET", "/v1/stats", 200)["online"] == 1
            began = time.monotonic()
            body: dict[str, Any] = {"command": "add", "data": {"a": 1}, "wait": WAIT_SECONDS}
            answer = first.api.call("POST", "/v1/devices/kiosk-1/call", 200, json=body)
            assert (answer["status"], answer["result"]) == ("answered", 2)
            push = {"target": {"device": "kiosk-1"}, "data": {}}
            answer = first.api.call("POST", f"/v1/pushes?wait={WAIT_SECONDS}", 200, json=push)
            assert answer["delivery"]["state"] == "delivered"
            assert time.monotonic() - began < WAIT_SECONDS  # somebody has looked, and it was not the time that ran out
        wait_for(lambda: not first.api.call("GET", "/v1/devices/kiosk-1", 200)["online"], what="the device to be away")
        ends = first.api.call("GET", "/v1/devices/kiosk-1/connection", 200)["disconnects"]
        assert [end["reason"] for end in ends] == ["client"]


def test_a_push_that_another_node_recalls_leaves_the_screen(tmp_path: Path) -> None:
    notices: list[dict[str, Any]] = []
    with start_nodes(tmp_path, 2) as (first, second):
        enrolled = first.api.enrol("kiosk-1")
        device = Device(enrolled.id, enrolled.token, port=second.mqtt_port, on_notice=notices.append)
        with device:
            first.api.wait_online("kiosk-1")
            push = {"target": {"device": "kiosk-1"}, "notification": {"title": "Soup"}}
            push_id = first.api.call("POST", f"/v1/pushes?wait={WAIT_SECONDS}", 200, json=push)["push_id"]
            first.api.call("DELETE", f"/v1/pushes/{push_id}", 200)
            wait_for(
                lambda: {"v": 1, "type": "clear", "push_ids": [push_id]} in notices, what="the screen to be cleared"
            )
