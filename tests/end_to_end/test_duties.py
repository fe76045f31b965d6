"""Duties on the real server: devices that act, screens that are cleared, and kills in the middle."""

from __future__ import annotations

import queue
import random
import time
from typing import Any

from client_sim.device import Device
from client_sim.push import Push
from tests.end_to_end.conftest import Name, StartServer, Wire
from tests.end_to_end.harness import Api, Server, expect_problem, wait_for


class Person:
    """A device with somebody in front of it."""

    def __init__(self, server: Server, api: Api, device_id: str, **fields: Any) -> None:
        enrolled = api.enrol(device_id, **fields)
        self.id = device_id
        self.told: queue.Queue[Push] = queue.Queue()
        self.cleared: queue.Queue[str] = queue.Queue()
        self.device = Device(
            device_id, enrolled.token, port=server.mqtt_port, on_push=self._show, on_notice=self._clear
        )

    def _show(self, push: Push) -> None:
        self.device.displayed(push)
        self.told.put(push)

    def _clear(self, notice: dict[str, Any]) -> None:
        for push_id in notice.get("push_ids", ()):
            self.cleared.put(push_id)


def escalation(api: Api, push_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", f"/v1/pushes/{push_id}", 200)["escalation"]
    return found


def alert(title: str) -> dict[str, Any]:
    return {"notification": {"title": title, "actions": [{"id": "take", "title": "I go"}]}}


def test_one_after_the_other_until_somebody_acts(server: Server, api: Api, name: Name) -> None:
    tag, duty = name(), name()
    first = Person(server, api, name())
    group = [Person(server, api, name(), tags=[tag]) for _ in range(2)]
    steps = [{"device": first.id, "wait_s": 1}, {"tag": tag, "wait_s": 3_600}]
    api.call("PUT", f"/v1/duties/{duty}", 200, json={"steps": steps, "acts": ["take"]})
    with first.device, group[0].device, group[1].device:
        for person in (first, *group):
            api.wait_online(person.id)
        push_id = api.push({"duty": duty}, **alert("Door 7"))
        assert first.told.get(timeout=15).push_id == push_id
        shown = [person.told.get(timeout=15) for person in group]
        found = escalation(api, push_id)
        assert [step["push_id"] for step in found["steps"]] == [push_id, shown[0].push_id]
        assert shown[0].collapse_key == shown[1].collapse_key, "it is the same alarm"
        wait_for(lambda: api.only(shown[0].push_id) == {"displayed": 2}, what="both to show it")
        group[0].device.act(shown[0], "take")
        assert first.cleared.get(timeout=15) == push_id
        assert group[1].cleared.get(timeout=15) == shown[1].push_id
        assert group[0].cleared.empty(), "who acted sees what was done"
        found = escalation(api, push_id)
        assert (found["state"], found["acted"]["device_id"]) == ("acted", group[0].id)
        assert api.only(shown[0].push_id) == {"acted": 1, "displayed": 1}


def test_a_duty_that_there_is_not(api: Api, name: Name) -> None:
    body = {"target": {"duty": name()}, **alert("Door 7")}
    expect_problem(api.request("POST", "/v1/pushes", json=body), 404, "duty_not_found")
    assert api.request("GET", f"/v1/duties/{name()}").status_code == 404


def test_kills_lose_no_step_and_double_none(start_server: StartServer, full: int) -> None:
    """3 kills, 30 with --full, at any moment of an escalation whose steps come every second."""
    chance = random.Random(7)
    server = start_server()
    api = server.api
    api.enrol_many(["d0", "d1"])
    steps = [{"device": "d0", "wait_s": 1}, {"device": "d1", "wait_s": 1}]
    api.call("PUT", "/v1/duties/desk", 200, json={"steps": steps, "repeat": min(9, 1 + 2 * full)})
    sent = [api.push({"duty": "desk"}, **alert(str(number))) for number in range(5)]
    for _ in range(3 * full):
        time.sleep(chance.uniform(0, 1.5))  # a moment that nothing chooses
        server.restart()
    last = 2 * (1 + min(9, 1 + 2 * full))
    for push_id in sent:
        found = wait_for(
            lambda: (one := escalation(api, push_id))["state"] == "exhausted" and one,  # noqa: B023  called here
            timeout=60,
            what="the last step",
        )
        assert found["reason"] == "steps"
        assert [(step["round"], step["step"]) for step in found["steps"]] == [
            (number // 2 + 1, number % 2 + 1) for number in range(last)
        ]
        assert len({step["push_id"] for step in found["steps"]}) == last
        for step in found["steps"]:
            api.counts(step["push_id"])  # which conserve
    pushes = list(api.items("/v1/pushes"))
    assert len(pushes) == last * len(sent)


def test_an_act_that_was_answered_holds_after_a_kill(start_server: StartServer, wire: Wire) -> None:
    """The PUBACK of the receipt is the promise: nobody else is told any more, and what waits is taken back."""
    server = start_server()
    api = server.api
    api.enrol("away")
    device = wire(server, api.enrol("here")).start()
    steps = [{"devices": ["here", "away"], "wait_s": 1}, {"device": "away"}]
    api.call("PUT", "/v1/duties/desk", 200, json={"steps": steps})
    push_id = api.push({"duty": "desk"}, **alert("Door 7"))
    device.wait_push(push_id)
    assert device.receipt(push_id, "acted", action="take") == 0
    server.restart()
    found = escalation(api, push_id)
    assert (found["state"], found["acted"]["device_id"], len(found["steps"])) == ("acted", "here", 1)
    api.wait_counts(push_id, acted=1, cancelled=1)
