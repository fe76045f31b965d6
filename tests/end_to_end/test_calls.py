"""A call: a command and its answer on one request, with the reference device and with mosquitto's clients."""

from __future__ import annotations

import threading
import time
from typing import Any

from client_sim.device import Device
from client_sim.push import Push
from tests.end_to_end.conftest import Name
from tests.end_to_end.harness import Api, Server, expect_problem
from tests.end_to_end.mosquitto import Subscriber, publish


def device_of(server: Server, enrolled: Any) -> Device:
    return Device(enrolled.id, enrolled.token, port=server.mqtt_port)


def test_a_call_is_answered_on_the_same_request(server: Server, api: Api, name: Name) -> None:
    enrolled = api.enrol(name())
    device = device_of(server, enrolled)

    @device.command("add")
    def add(push: Push) -> int:
        return int(push.data["a"]) + 1

    with device:
        api.wait_online(enrolled.id)
        path = f"/v1/devices/{enrolled.id}/call"
        answer = api.call("POST", path, 200, json={"command": "add", "data": {"a": 1}})
        assert (answer["status"], answer["state"], answer["result"]) == ("answered", "acted", 2)
        assert api.delivery(answer["push_id"])["result"] == 2
        unknown = api.call("POST", path, 200, json={"command": "sing"})
        assert unknown["result"] == {"error": "unknown command 'sing'"}


def test_without_an_answer_it_is_queued_and_goes_on(server: Server, api: Api, name: Name) -> None:
    enrolled = api.enrol(name())
    body = {"command": "add", "wait": 0.2, "ttl": 60}
    answer = api.call("POST", f"/v1/devices/{enrolled.id}/call", 202, json=body)
    assert (answer["status"], answer["state"], answer["result"]) == ("queued", "waiting", None)
    with device_of(server, enrolled) as device:
        device.commands["add"] = lambda push: "late"
        api.wait_counts(answer["push_id"], acted=1)
    assert api.delivery(answer["push_id"])["result"] == "late"


def test_a_call_that_nobody_waits_for_is_not_carried_out_later(server: Server, api: Api, name: Name) -> None:
    """A reboot from Friday does not run on Monday."""
    enrolled = api.enrol(name())
    answer = api.call("POST", f"/v1/devices/{enrolled.id}/call", 202, json={"command": "reboot", "wait": 0.1})
    api.wait_counts(answer["push_id"], expired=1)


def test_a_device_that_comes_in_time_answers(server: Server, api: Api, name: Name) -> None:
    enrolled = api.enrol(name())
    answers: list[Any] = []
    path = f"/v1/devices/{enrolled.id}/call"
    call = threading.Thread(
        target=lambda: answers.append(api.call("POST", path, 200, json={"command": "add", "wait": 15}))
    )
    call.start()
    api_waits = time.monotonic()
    with device_of(server, enrolled) as device:
        device.commands["add"] = lambda push: "here"
        call.join(15)
    assert answers[0]["result"] == "here"
    assert time.monotonic() - api_waits < 15


def test_mosquitto_answers_a_call(server: Server, api: Api, name: Name) -> None:
    enrolled = api.enrol(name())
    answers: list[Any] = []
    body = {"command": "status", "data": {"deep": True}, "wait": 15, "deadline": 5}
    path = f"/v1/devices/{enrolled.id}/call"
    call = threading.Thread(target=lambda: answers.append(api.call("POST", path, 200, json=body)))
    with Subscriber(server.mqtt_port, enrolled) as subscriber:
        api.wait_online(enrolled.id)
        call.start()
        push = subscriber.wait_received(1)[0].push
        assert push["data"] == {"command": "status", "deep": True}
        assert (push["kind"], push["deadline"]) == ("command", 5)
        receipt = {"push_id": push["push_id"], "event": "acted", "result": {"disk": 81}}
        publish(server.mqtt_port, enrolled, enrolled.topics["receipts"], receipt)
        call.join(15)
    assert answers[0]["result"] == {"disk": 81}


def test_what_is_no_call(server: Server, api: Api, name: Name) -> None:
    device_id = api.enrol(name()).id
    path = f"/v1/devices/{device_id}/call"
    for body in (
        {},
        {"command": "two words"},
        {"command": "a", "wait": 121},
        {"command": "a", "wait": -1},
        {"command": "a", "priority": "urgent"},
        {"command": "a", "deadline": 0},
        {"command": "a", "data": []},
        {"command": "a", "target": {"all": True}},
    ):
        expect_problem(api.request("POST", path, json=body), 422, "invalid_request")
    expect_problem(api.request("POST", f"/v1/devices/{name()}/call", json={"command": "a"}), 404, "device_not_found")
