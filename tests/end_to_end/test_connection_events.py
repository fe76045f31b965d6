"""Senders are told when devices come and go, and why: on real sockets, with packets written by hand."""

from __future__ import annotations

import time
from typing import Any

from tests import wire as packets
from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Server, wait_for
from tests.end_to_end.test_events import Stream
from tests.end_to_end.wire_device import V4, V5, WireDevice


def test_every_end_of_a_connection_is_told_with_its_reason(start_server: StartServer, wire: Wire) -> None:
    server: Server = start_server(env={"FLEETPUSH_ACK_TIMEOUT": "1.5"})
    api = server.api
    names = ("leaver", "loser", "silent", "deaf", "babbler", "rotated", "stayer")
    devices = {name: api.enrol(name) for name in names}
    with Stream(server, types="device.*") as stream:
        began = time.monotonic()
        clients: dict[str, WireDevice] = {
            name: wire(server, devices[name], version=V5 if name == "babbler" else V4,
                       keep_alive=1 if name == "silent" else 0).start()
            for name in names
        }  # fmt: skip
        stream.wait(len(names))  # what happens within the same moment is told as one
        clients["leaver"].disconnect()
        wire(server, devices["loser"]).start()
        clients["loser"].wait_closed()
        clients["babbler"].send(packets.publish("a/+", b"x", version=V5))
        clients["deaf"].answer = lambda publish: None
        api.push("deaf", data=1)
        api.call("POST", "/v1/devices/rotated/token", 200)
        clients["deaf"].wait_closed()
        clients["silent"].wait_closed()

        def ends() -> dict[tuple[str, str], dict[str, Any]]:
            return {
                (event["data"]["device_id"], event["data"]["reason"]): event["data"]
                for event in list(stream.events)
                if event["type"] == "device.disconnected"
            }

        wait_for(lambda: len(ends()) >= 6, what="the ends of six connections")
        assert ends().keys() == {
            ("leaver", "client"), ("loser", "take_over"), ("babbler", "protocol_error"),
            ("deaf", "not_acknowledged"), ("silent", "keep_alive"), ("rotated", "revoked"),
        }  # fmt: skip
        assert "wildcard" in ends()["babbler", "protocol_error"]["detail"]
        assert 1 <= ends()["deaf", "not_acknowledged"]["duration"] <= time.monotonic() - began
        connected = [event["data"] for event in stream.events if event["type"] == "device.connected"]
        assert {event["device_id"] for event in connected} == set(names)
        assert all(event["address"].startswith("127.0.0.1:") for event in connected)
        for (name, reason), data in ends().items():
            connection = api.call("GET", f"/v1/devices/{name}/connection", 200)
            (end,) = connection["disconnects"]
            assert (end["reason"], end["duration"], end["detail"]) == (reason, data["duration"], data.get("detail"))
        connection = api.call("GET", "/v1/devices/stayer/connection", 200)
        facts = {"listener": "tcp", "protocol": "3.1.1", "keep_alive": 0, "subscribed_qos": 1, "in_flight": 0}
        assert connection | {"online": True, **facts} == connection
        assert api.call("GET", "/v1/devices/loser/connection", 200)["online"]
    for name, reason in (("deaf", "not_acknowledged"), ("babbler", "protocol_error"), ("silent", "keep_alive")):
        assert f"connection ended ({reason})" in api.wait_last_error(name)
    assert api.device("leaver")["last_error"] is None
    server.wait_log("device default/deaf disconnected after .* s: not_acknowledged")
    server.stop()
    server.start()
    with Stream(server, types="device.disconnected", since="0") as stream:
        wait_for(
            lambda: any(e["data"] | {"duration": 0} == {"device_id": "stayer", "reason": "server_ending", "duration": 0}
                        for e in stream.events),
            what="the end by the server",
        )  # fmt: skip
    assert server.api.device("stayer")["last_error"] is None
