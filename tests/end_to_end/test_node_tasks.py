"""Tasks over several nodes: one of them does each, and when that is killed in the middle another one goes on.

Each takes a lease's time; what differs little from another one is for `--full` only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from gateway.nodes.tasks import TaskName
from tests.end_to_end.harness import Api, wait_for
from tests.end_to_end.wire_device import V5, WireDevice
from tests.nodes import NodeProcess, start_nodes
from tests.receiver import Receiver

TAKEN_OVER_SECONDS = 15.0
"""Time in which the tasks of a node that was killed are done again: its lease, the look for free ones, and a machine
with other work."""
DEVICES = 30


class Fleet:
    """Two nodes, of which the owner of a task is killed in the middle of it."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self.nodes = nodes

    def owner_of(self, task: TaskName) -> NodeProcess:
        """The node that does a task, once one does."""

        def find() -> NodeProcess | None:
            with psycopg.connect(self.nodes[0].database, options="-c search_path=fleetpush") as connection:
                row = connection.execute(
                    "SELECT t.node_no FROM task AS t JOIN node AS n ON n.no = t.node_no AND n.epoch = t.node_epoch"
                    " WHERE t.name = %s AND n.ended_at IS NULL",
                    (task.value,),
                ).fetchone()
            return next((node for node in self.nodes if row is not None and node.running and node.no == row[0]), None)

        found = wait_for(find, what=f"an owner of {task}")
        assert found is not None, "waited for"
        return found

    def other_than(self, node: NodeProcess) -> NodeProcess:
        (other,) = [one for one in self.nodes if one is not node]
        return other


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    with start_nodes(tmp_path_factory.mktemp("nodes"), 2, "--webhook-networks", "127.0.0.0/8") as nodes:
        yield nodes


@pytest.fixture
def fleet(nodes: list[NodeProcess]) -> Iterator[Fleet]:
    yield Fleet(nodes)
    for node in nodes:
        if not node.running:
            node.start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def enrol(api: Api, name: str, count: int = DEVICES) -> list[str]:
    devices = [{"device_id": f"{name}-{number}", "tags": [name]} for number in range(count)]
    api.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})
    return [str(device["device_id"]) for device in devices]


def silent_device(node: NodeProcess, device_id: str) -> WireDevice:
    """A device that is connected to a node, and acknowledges nothing by itself."""
    credential = node.api.enrol(device_id)
    device = WireDevice(node.mqtt_port, credential.client_id, credential.token, version=V5)
    device.answer = lambda publish: None
    return device.start()


def given_parts(api: Api, push_ids: list[str]) -> Counter[str]:
    """How often each device was sent a part of these pushes."""
    return Counter(
        item["device_id"]
        for push_id in push_ids
        for item in api.call("GET", f"/v1/pushes/{push_id}/deliveries", 200)["items"]
    )


def test_what_another_node_has_accepted_is_swept(fleet: Fleet) -> None:
    owner = fleet.owner_of(TaskName.SWEEP)
    other = fleet.other_than(owner)
    other.api.enrol("swept-1")
    push_id = other.api.push("swept-1", ttl=1)
    other.api.wait_counts(push_id, expired=1)
    last = other.api.push("swept-1", ttl=1)
    owner.kill()
    other.api.wait_counts(last, timeout=TAKEN_OVER_SECONDS, expired=1)
    at_once = other.api.push("swept-1", ttl=0)
    other.api.wait_counts(at_once, expired=1)


def test_what_is_in_flight_from_another_node_is_not_swept(fleet: Fleet) -> None:
    owner = fleet.owner_of(TaskName.SWEEP)
    other = fleet.other_than(owner)
    device = silent_device(other, "late-1")
    push_id = owner.api.push("late-1", ttl=1)
    wait_for(lambda: device.received, what="the push")
    other.api.enrol("away-1")
    other.api.wait_counts(other.api.push("away-1", ttl=1), expired=1)  # it is due behind the other one
    assert owner.api.only(push_id) == {"sent": 1}
    device.acknowledge(device.received[0])
    owner.api.wait_counts(push_id, delivered=1)
    device.drop()


@pytest.mark.parametrize("is_owner", [pytest.param(False, marks=pytest.mark.full_only), True])
def test_what_was_in_flight_from_a_node_that_has_ended_ends(fleet: Fleet, is_owner: bool) -> None:
    killed = fleet.owner_of(TaskName.RECOVERY)
    if not is_owner:
        killed = fleet.other_than(killed)
    other = fleet.other_than(killed)
    device = silent_device(killed, f"lost-{is_owner}")
    push_id = other.api.push(f"lost-{is_owner}")
    wait_for(lambda: device.received, what="the push")
    counts = other.api.call("DELETE", f"/v1/pushes/{push_id}", 200)
    assert (counts["in_flight"], counts["cancelled"]) == (1, 0)
    killed.kill()
    other.api.wait_counts(push_id, timeout=TAKEN_OVER_SECONDS, cancelled=1)
    device.drop()


def test_a_spread_goes_on_at_another_node(fleet: Fleet) -> None:
    owner = fleet.owner_of(TaskName.SCHEDULES)
    other = fleet.other_than(owner)
    devices = enrol(other.api, "spread")
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    body = {"target": {"tag": "spread"}, "data": 1, "send_at": soon, "spread": 4}
    path = f"/v1/schedules/{other.api.call('POST', '/v1/pushes', 202, json=body)['schedule_id']}"

    def runs() -> list[dict[str, Any]]:
        return list(other.api.call("GET", f"{path}/runs", 200)["items"])

    wait_for(lambda: sum(len(run["push_ids"]) for run in runs()), what="the first part, of what the other has stored")
    owner.kill()
    (run,) = wait_for(
        lambda: [run for run in runs() if run["state"] != "running"], timeout=TAKEN_OVER_SECONDS, what="the run's end"
    )
    assert (run["state"], run["targeted"], run["left_out"]) == ("done", DEVICES, 0)
    assert given_parts(other.api, run["push_ids"]) == dict.fromkeys(devices, 1)


@pytest.mark.full_only
def test_a_campaign_goes_on_at_another_node(fleet: Fleet) -> None:
    owner = fleet.owner_of(TaskName.CAMPAIGNS)
    other = fleet.other_than(owner)
    devices = enrol(other.api, "rollout")
    plan = {
        "name": "Rollout",
        "push": {"target": {"tag": "rollout"}, "kind": "silent", "data": 1},
        "rollout": ["10%", "40%", "rest"],
        "observe": "2s",
    }
    path = f"/v1/campaigns/{other.api.call('POST', '/v1/campaigns', 201, json=plan)['campaign_id']}"

    def parts() -> list[str]:
        groups = other.api.call("GET", path, 200)["group_results"]
        return [str(part["push_id"]) for group in groups for part in group["parts"]]

    wait_for(parts, what="the first group")
    owner.kill()
    wait_for(
        lambda: other.api.call("GET", path, 200)["state"] == "completed",
        timeout=TAKEN_OVER_SECONDS + 10,
        what="the end of the campaign",
    )
    assert given_parts(other.api, parts()) == dict.fromkeys(devices, 1)


def test_the_next_step_of_an_escalation_comes_from_another_node(fleet: Fleet) -> None:
    owner = fleet.owner_of(TaskName.ESCALATIONS)
    other = fleet.other_than(owner)
    enrol(other.api, "on-call", 2)
    steps = [
        {"device": "on-call-0", "wait_s": 1},
        {"device": "on-call-1", "wait_s": 2},
        {"tag": "on-call", "wait_s": 1},
    ]
    other.api.call("PUT", "/v1/duties/night", 200, json={"steps": steps, "acts": ["take"]})
    push_id = other.api.push(
        {"duty": "night"}, notification={"title": "Door 7", "actions": [{"id": "take", "title": "I"}]}
    )

    def found() -> dict[str, Any]:
        return dict(other.api.call("GET", f"/v1/pushes/{push_id}", 200)["escalation"])

    wait_for(lambda: len(found()["steps"]) == 2, what="the second step, of what the other has stored")
    owner.kill()
    wait_for(lambda: found()["state"] == "exhausted", timeout=TAKEN_OVER_SECONDS, what="the last step")
    assert [step["step"] for step in found()["steps"]] == [1, 2, 3]


def test_a_beat_reaches_a_device_at_another_node(fleet: Fleet) -> None:
    owner = fleet.owner_of(TaskName.HEARTBEATS)
    other = fleet.other_than(owner)
    device = silent_device(other, "beaten-1")
    owner.api.wait_online("beaten-1")
    other.api.call("PUT", "/v1/heartbeats/site", 200, json={"device": "beaten-1", "every_s": 60})
    wait_for(lambda: device.received, what="a beat")
    assert len(device.received) == 1
    other.api.call("DELETE", "/v1/heartbeats/site", 204)
    device.drop()


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.full_only), "freeze"])
def test_each_event_reaches_a_webhook_whichever_node_fails(fleet: Fleet, receiver: Receiver, fault: str) -> None:
    """Killed, or stopped until another one has taken over; then it goes on for the moment until it sees that."""
    owner = fleet.owner_of(TaskName.WEBHOOKS)
    other = fleet.other_than(owner)
    device_id = f"heard-{fault}"
    other.api.enrol(device_id)
    webhook = {"url": receiver.url, "types": ["delivery.expired"]}
    made = other.api.call("POST", "/v1/webhooks", 201, json=webhook)
    told: list[str] = []
    failed: list[NodeProcess] = []

    def push_everywhere() -> None:
        told.extend(node.api.push(device_id, ttl=0) for node in fleet.nodes if node.running and node not in failed)

    for _ in range(10):
        push_everywhere()
    wait_for(receiver.events, what="the first events")
    failed.append(owner)
    owner.kill() if fault == "kill" else owner.freeze()
    for _ in range(10):
        push_everywhere()

    def heard() -> Counter[str]:
        return Counter(event["data"]["push_id"] for event in receiver.events())

    wait_for(lambda: set(told) <= heard().keys(), timeout=TAKEN_OVER_SECONDS, what="all events")
    if fault == "freeze":
        owner.resume()
        wait_for(lambda: not owner.running, what="the end of the node that was stopped")
    assert heard() == dict.fromkeys(told, 1), "each is one event, wherever it was stored"
    first: dict[str, int] = {}
    again: set[int] = set()
    for number, request in enumerate(receiver.taken):
        again.update(first[event["id"]] for event in request.events if event["id"] in first)
        for event in request.events:
            first.setdefault(event["id"], number)
    assert len(again) <= 1, "only the request that was under way comes again, by itself or in a larger one"
    other.api.call("DELETE", f"/v1/webhooks/{made['id']}", 204)
    seen = len(receiver.requests)
    other.api.wait_counts(other.api.push(device_id, ttl=0), expired=1)
    assert len(receiver.requests) == seen, "a webhook that was removed is not called"


def test_pushes_of_all_nodes_are_counted(fleet: Fleet) -> None:
    owner = fleet.owner_of(TaskName.ANALYTICS)
    other = fleet.other_than(owner)
    other.api.enrol("counted-1")

    def push_everywhere() -> None:
        for node in fleet.nodes:
            if node.running:
                node.api.push("counted-1", channel="counted", notification={"title": "One"})

    def targeted() -> int:
        items = other.api.call("GET", "/v1/analytics?by=channel", 200)["items"]
        return next((int(item["targeted"]) for item in items if item["channel"] == "counted"), 0)

    push_everywhere()
    wait_for(lambda: targeted() == 2, what="both to be counted")
    push_everywhere()
    owner.kill()
    push_everywhere()
    wait_for(lambda: targeted() == 5, timeout=TAKEN_OVER_SECONDS, what="all to be counted")
