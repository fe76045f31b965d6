"""Heartbeats on the real server: a device answers without its program knowing, and is missed when it is gone."""

from __future__ import annotations

from typing import Any

import pytest

from client_sim.device import Device
from client_sim.push import Push
from tests.end_to_end.conftest import StartServer
from tests.end_to_end.harness import Api, wait_for


def heartbeat(api: Api, name: str) -> dict[str, Any]:
    (found,) = api.call("GET", f"/v1/heartbeats/{name}", 200)["states"]
    assert isinstance(found, dict)
    return found


@pytest.mark.full_only  # half a minute
def test_a_device_answers_and_is_missed(start_server: StartServer) -> None:
    server = start_server("--clock-speed", "10")
    api, site = server.api, "store-7"
    enrolled = api.enrol("kiosk")
    seen: list[Push] = []
    device = Device(enrolled.id, enrolled.token, port=server.mqtt_port, on_push=seen.append)
    body = {"device": enrolled.id, "every_s": 10, "misses": 1}
    with device:
        api.wait_online(enrolled.id)
        api.call("PUT", f"/v1/heartbeats/{site}", 200, json=body)
        wait_for(lambda: api.call("GET", f"/v1/heartbeats/{site}", 200)["beat_at"], what="a beat")
        own = api.push(enrolled.id, data=1)
        api.wait_counts(own, delivered=1)
        # Set anew: the next beat is at once, and the one before is evaluated by nobody.
        wait_for(lambda: heartbeat(api, site)["state"] == "answering", timeout=30, what="an answer")
        assert heartbeat(api, site)["took_ms"] < 10_000
    assert [push.push_id for push in seen] == [own], "its program sees what people send"
    wait_for(lambda: heartbeat(api, site)["state"] == "silent", timeout=40, what="silence")
    text = api.request("GET", "/metrics").text
    assert f'fleetpush_heartbeat_devices{{heartbeat="default/{site}",state="silent"}} 1.0' in text
    assert [push["push_id"] for push in api.items("/v1/pushes") if push["target"] == {"device": enrolled.id}] == [own]
    api.call("DELETE", f"/v1/heartbeats/{site}", 204)


def test_a_watch_does_not_count_the_time_in_which_the_server_was_down(start_server: StartServer) -> None:
    server = start_server()
    api = server.api
    api.enrol("kiosk")
    before = api.call("PUT", "/v1/watches/prices", 200, json={"every_s": 3_600})
    api.push("kiosk", data=1)
    heard = api.call("GET", "/v1/watches/prices", 200)
    assert heard["heard_at"] is not None
    server.kill9()
    server.start()
    after = api.call("GET", "/v1/watches/prices", 200)
    assert after["silent"] is False
    assert after["due_at"] > before["due_at"]
