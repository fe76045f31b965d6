"""A campaign over real sockets: its canary fails, and the failure stays with the canary; across a kill, too."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from client_sim.device import Device
from client_sim.push import Push
from tests.end_to_end.conftest import StartServer
from tests.end_to_end.harness import wait_for

FLEET = 6


def test_the_blast_radius_of_a_canary_that_fails_is_the_canary(start_server: StartServer) -> None:
    server = start_server()
    carried_out: list[str] = []

    def update(push: Push, device_id: str) -> Any:
        carried_out.append(device_id)
        if not push.data.get("works"):
            raise RuntimeError("no room")
        return "updated"

    with ExitStack() as stack:
        for number in range(FLEET):
            enrolled = server.api.enrol(f"till-{number}")
            device = Device(enrolled.id, enrolled.token, port=server.mqtt_port)
            device.commands["update"] = partial(update, device_id=enrolled.id)
            stack.enter_context(device)
            server.api.wait_online(enrolled.id)
        plan = {
            "name": "Update",
            "push": {"target": {"all": True}, "kind": "command", "data": {"command": "update"}},
            "canary": {"devices": ["till-1", "till-4"]},
            "go_on": ["acted >= 100% in 1m"],
            "stop": ["failed >= 2"],
        }
        made = server.api.call("POST", "/v1/campaigns", 201, json=plan)

        def shown() -> Any:
            return server.api.call("GET", f"/v1/campaigns/{made['campaign_id']}", 200)

        wait_for(lambda: shown()["state"] == "paused", what="the campaign to pause")
        assert sorted(carried_out) == ["till-1", "till-4"]
        found = shown()
        assert (found["blast_radius"], found["failed"], found["reached"]["acted"]) == (2, 2, 2)
        assert found["reason"].startswith("stop: failed >= 2 (2)")

        server.kill9()
        server.start()
        assert shown()["state"] == "paused", "a restart is no resume"
        plan["push"] = {**plan["push"], "data": {"command": "update", "works": True}}  # type: ignore[dict-item]
        carried_out.clear()
        mended = server.api.call("POST", "/v1/campaigns", 201, json=plan)
        path = f"/v1/campaigns/{mended['campaign_id']}"
        wait_for(lambda: server.api.call("GET", path, 200)["reached"]["acted"] == FLEET, what="all to have updated")
        assert sorted(carried_out) == [f"till-{number}" for number in range(FLEET)]
        assert server.api.call("GET", path, 200)["failed"] == 0
