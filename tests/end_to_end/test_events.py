"""What happens, told to senders: as a stream, and to a webhook whose receiver checks the signature with a library that
is not ours. The device is mosquitto's."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import Any, Self

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.end_to_end.conftest import Name, StartServer
from tests.end_to_end.harness import Api, Device, Server, expect_problem, wait_for
from tests.end_to_end.mosquitto import Subscriber, publish
from tests.receiver import Receiver, Request

ALERT: dict[str, Any] = {"notification": {"title": "Hi", "actions": [{"id": "accept", "title": "Accept"}]}}


class Stream:
    """`GET /v1/events`, read as a browser would."""

    def __init__(self, server: Server, headers: dict[str, str] | None = None, **query: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self._open = threading.Event()
        self._client = httpx2.Client(base_url=server.url, timeout=30, trust_env=False)
        self._headers = {"Authorization": f"Bearer {server.admin_key}", **(headers or {})}
        self._query = query
        self._socket: socket.socket
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._open.wait(15), "the stream opens"
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self.ended.wait(20)

    def leave(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def wait(self, count: int) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.events) >= count, what=f"{count} events")
        return list(self.events)

    def _read(self) -> None:
        try:
            with self._client.stream("GET", "/v1/events", headers=self._headers, params=self._query) as answer:
                assert answer.status_code == 200
                assert answer.headers["content-type"].startswith("text/event-stream")
                fields: dict[str, str] = {}
                self._socket = answer.extensions["network_stream"].get_extra_info("socket")
                self._open.set()
                for line in answer.iter_lines():
                    if not line and "data" in fields:
                        event = json.loads(fields["data"])
                        assert (event["id"], event["type"]) == (fields["id"], fields["event"])
                        self.events.append(event)
                        fields = {}
                    name, _, value = line.partition(": ")
                    fields[name] = value
        except httpx2.HTTPError:
            pass
        finally:
            self.ended.set()
            self._client.close()


def acts(server: Server, device: Device, push_id: str, result: Any) -> None:
    for state in ("displayed", "opened"):
        publish(server.mqtt_port, device, device.topics["receipts"], {"push_id": push_id, "event": state})
    publish(
        server.mqtt_port,
        device,
        device.topics["receipts"],
        {"push_id": push_id, "event": "acted", "action": "accept", "result": result},
    )


def test_a_push_told_as_it_happens(start_server: StartServer) -> None:
    server = start_server()
    api = server.api
    device = api.enrol("kiosk-1")
    with Stream(server, types="delivery.*") as stream, Subscriber(server.mqtt_port, device) as screen:
        push_id = api.push("kiosk-1", channel="orders", **ALERT)
        screen.wait_received(1)
        acts(server, device, push_id, {"table": 7})
        events = stream.wait(4)
        assert stream.types() == ["delivery.delivered", "delivery.displayed", "delivery.opened", "delivery.acted"]
        data = {"push_id": push_id, "device_id": "kiosk-1", "channel": "orders"}
        assert [event["data"] for event in events[:3]] == [data] * 3
        assert events[3]["data"] == {**data, "action": "accept", "result": {"table": 7}}
        delivery = api.delivery(push_id)
        assert events[3]["timestamp"] == delivery["acted_at"]
        assert events[0]["timestamp"] == delivery["delivered_at"]

        assert server.stop(timeout=10) == 0, "a stream that is open does not keep the server"
        assert stream.ended.wait(5)
    server.start()
    with Stream(server, since="0") as stream:
        assert [event for event in stream.wait(4) if event["type"].startswith("delivery.")] == events
    with Stream(server, {"Last-Event-ID": events[1]["id"]}, types="delivery.*") as stream:
        assert stream.wait(2) == events[2:]
        api.push("kiosk-1", ttl=0, **ALERT)
        assert stream.wait(3)[-1]["type"] == "delivery.expired"


def test_streams_are_counted(server: Server, api: Api, name: Name) -> None:
    key = api.call("POST", "/v1/keys", 201, json={"name": name(), "scopes": ["read"]})["key"]
    authorization = {"Authorization": f"Bearer {key}"}
    streams = [Stream(server, authorization) for _ in range(20)]
    try:
        for stream in streams:
            stream.__enter__()
        problem = expect_problem(api.request("GET", "/v1/events", headers=authorization), 429, "too_many_streams")
        assert problem["retryable"]
    finally:
        for stream in streams:
            stream.__exit__()
    # What a stream held is free again.
    wait_for(lambda: _opens(server, authorization), what="a place")


def test_a_stream_ends_with_its_key(server: Server, api: Api, name: Name) -> None:
    key = api.call("POST", "/v1/keys", 201, json={"name": name(), "scopes": ["read"]})
    device = api.enrol(name())
    with Stream(server, {"Authorization": f"Bearer {key['key']}"}, types="device.uplink") as stream:
        publish(server.mqtt_port, device, device.topics["uplink"], {"door": "open"})
        stream.wait(1)
        api.call("DELETE", f"/v1/keys/{key['id']}", 204)
        publish(server.mqtt_port, device, device.topics["uplink"], {"door": "shut"})
        assert stream.ended.wait(10)
        assert len(stream.events) == 1


def _opens(server: Server, headers: dict[str, str]) -> bool:
    with httpx2.stream("GET", f"{server.url}/v1/events", headers=headers, timeout=30, trust_env=False) as answer:
        return answer.status_code == 200


@pytest.fixture
def receiver() -> Any:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_a_webhook_hears_of_an_action_and_knows_from_whom(start_server: StartServer, receiver: Receiver) -> None:
    server = start_server("--webhook-networks", "127.0.0.0/8")
    api = server.api
    device = api.enrol("kiosk-1")
    body = {"url": receiver.url, "types": ["delivery.acted", "device.uplink", "device.settings"]}
    webhook = api.call("POST", "/v1/webhooks", 201, json=body)
    with Subscriber(server.mqtt_port, device) as screen:
        push_id = api.push("kiosk-1", **ALERT)
        screen.wait_received(1)
        acts(server, device, push_id, "yes")
        publish(server.mqtt_port, device, device.topics["uplink"], {"temperature": 21})
        publish(server.mqtt_port, device, device.topics["settings"], {"consent": "granted"})
    wait_for(lambda: len(receiver.events()) == 3, what="three events")
    for request in receiver.taken:
        Webhook(webhook["secret"]).verify(request.body, request.headers)
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(webhook["secret"]).verify(request.body + b" ", request.headers)
    acted, said, settings = receiver.events()
    assert acted["data"] == {"push_id": push_id, "device_id": "kiosk-1", "action": "accept", "result": "yes"}
    assert (said["type"], said["data"]["device_id"]) == ("device.uplink", "kiosk-1")
    assert (settings["type"], settings["data"]["consent"]) == ("device.settings", "granted")
    with Stream(server, since="0", types=",".join(body["types"])) as stream:
        assert stream.wait(3) == [acted, said, settings], "the same events"


def test_kills_lose_no_event_of_a_webhook(start_server: StartServer, receiver: Receiver, full: int) -> None:
    """Killed while requests are under way: what was not answered comes again, under the same ids, in order."""
    server = start_server("--webhook-networks", "127.0.0.1")
    api = server.api
    devices = [f"kiosk-{number}" for number in range(6)]
    api.enrol_many(devices)
    api.call("POST", "/v1/webhooks", 201, json={"url": receiver.url})
    for _ in range(2 * full):
        release = threading.Event()

        def held(request: Request, release: threading.Event = release) -> tuple[int, dict[str, str]]:
            release.wait(20)
            return 200, {}

        receiver.answer = held
        asked = len(receiver.requests)
        for hour in range(4):
            for device_id in devices:
                hours = {"quiet_hours": {"start": f"0{hour}:00", "end": f"0{hour}:30"}}
                api.call("PATCH", f"/v1/devices/{device_id}/preferences", 200, json=hours)
        wait_for(lambda asked=asked: len(receiver.requests) > asked, what="a request")  # type: ignore[misc]
        server.kill9()
        receiver.answer = lambda request: (200, {})
        release.set()
        server.start()
    with Stream(server, since="0") as stream:
        stream.wait(2 * full * 4 * len(devices))
        expected = stream.events
    wait_for(lambda: len(receiver.events()) == len(expected), what="every event")
    for device_id in devices:
        found, wanted = (
            [event for event in events if event["data"]["device_id"] == device_id]
            for events in (receiver.events(), expected)
        )
        assert found == wanted
