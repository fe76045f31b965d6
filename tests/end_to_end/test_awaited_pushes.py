"""`POST /v1/pushes?wait=SECONDS` over real sockets: delivered, ended, or not yet."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

from client_sim.device import Device
from tests.end_to_end.conftest import Name
from tests.end_to_end.harness import Api, Server, wait_for


def awaited(api: Api, device_id: str, wait: int, expect: int, key: str | None = None, **fields: Any) -> dict[str, Any]:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"target": {"device": device_id}, "data": 1, **fields}
    answer: dict[str, Any] = api.call(
        "POST", "/v1/pushes", expect, json=body, headers=headers, params={"wait": str(wait)}, timeout=wait + 10
    )
    return answer


def meanwhile(answer: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Have a request answered in a thread; what is returned waits for its answer."""
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(answer()))
    thread.start()

    def join() -> dict[str, Any]:
        thread.join(60)
        return answers[0]

    return join


def senders_waiting(api: Api) -> int:
    text = api.request("GET", "/metrics").text
    found = re.search(r"^fleetpush_pushes_awaited (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_sender_hears_of_the_delivery_on_the_same_request(server: Server, api: Api, name: Name) -> None:
    enrolled = api.enrol(name())
    with Device(enrolled.id, enrolled.token, port=server.mqtt_port):
        api.wait_online(enrolled.id)
        answer = awaited(api, enrolled.id, 30, 200)
        assert answer["delivery"]["state"] in ("delivered", "displayed")
        assert answer["delivery"]["device_id"] == enrolled.id
        assert answer["targeted"] == 1
        assert api.delivery(answer["push_id"])["delivered_at"] == answer["delivery"]["delivered_at"]


def test_of_a_device_that_is_away_it_is_told_when_the_time_is_over(server: Server, api: Api, name: Name) -> None:
    """And a repetition waits again, until the device has come."""
    enrolled = api.enrol(name())
    first = awaited(api, enrolled.id, 1, 202, key=enrolled.id)
    assert set(first) == {"push_id", "targeted", "suppressed", "unknown"}
    again = meanwhile(lambda: awaited(api, enrolled.id, 30, 200, key=enrolled.id))
    wait_for(lambda: senders_waiting(api))
    with Device(enrolled.id, enrolled.token, port=server.mqtt_port):
        answer = again()
    assert answer["push_id"] == first["push_id"]
    assert answer["delivery"]["delivered_at"] is not None
    assert awaited(api, enrolled.id, 30, 200, key=enrolled.id)["push_id"] == first["push_id"], "at once"


def test_an_end_within_the_wait_is_told_with_its_reason(api: Api, name: Name) -> None:
    device_id = api.enrol(name()).id
    expired = awaited(api, device_id, 30, 200, ttl=1)["delivery"]
    assert (expired["state"], expired["reason"]) == ("expired", "ttl")
    assert awaited(api, device_id, 30, 200, ttl=0)["delivery"]["state"] == "expired"
    recalled = meanwhile(lambda: awaited(api, device_id, 30, 200))
    push_id = wait_for(lambda: api.mailbox(device_id))[0]
    api.call("DELETE", f"/v1/pushes/{push_id}", 200)
    ended = recalled()
    assert (ended["push_id"], ended["delivery"]["state"], ended["delivery"]["reason"]) == (
        push_id,
        "cancelled",
        "recalled",
    )
    removed = meanwhile(lambda: awaited(api, device_id, 30, 200))
    wait_for(lambda: api.mailbox(device_id))
    api.call("DELETE", f"/v1/devices/{device_id}", 204)
    assert removed()["delivery"]["state"] == "revoked"


def test_nobody_waits_for_a_client_that_has_gone(server: Server, api: Api, name: Name) -> None:
    device_id = api.enrol(name()).id
    wait_for(lambda: not senders_waiting(api))
    body = json.dumps({"target": {"device": device_id}}).encode()
    head = (
        f"POST /v1/pushes?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin_key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.http_port)) as client:
        client.sendall(head.encode() + body)
        wait_for(lambda: senders_waiting(api) == 1)
    wait_for(lambda: not senders_waiting(api), what="the place to be free")
    assert len(api.mailbox(device_id)) == 1, "the push goes on"
