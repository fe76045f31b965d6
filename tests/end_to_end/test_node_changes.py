"""Changes over several nodes: whatever was changed at one of them is so at all of them when it has been answered."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gateway.nodes.membership import ENDED_SECONDS
from tests.end_to_end.harness import Api, Device, wait_for
from tests.end_to_end.wire_device import V5, WireDevice
from tests.gateway.in_process import OURS
from tests.nodes import NodeProcess, start_nodes

Nodes = list[NodeProcess]
BYTES_SECONDS = 0.1
"""Time that the end of a connection, which the server has closed, takes to be seen here."""
BAD_CREDENTIALS = 0x86


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with start_nodes(tmp_path_factory.mktemp("nodes"), 2) as nodes:
        yield nodes


def device_at(node: NodeProcess, credential: Device) -> WireDevice:
    return WireDevice(node.mqtt_port, credential.client_id, credential.token, version=V5)


def test_a_revoked_key_is_void_everywhere(nodes: Nodes) -> None:
    first, second = nodes
    made = first.api.call("POST", "/v1/keys", 201, json={"name": "sender", "scopes": ["send"]})
    there = Api(second.url, made["key"])
    assert there.request("GET", "/v1/pushes").status_code != 401, "it is remembered there now"
    first.api.call("DELETE", f"/v1/keys/{made['id']}", 204)
    assert there.request("GET", "/v1/pushes").status_code == 401
    there.close()


def test_a_rotated_token_closes_the_connection_at_another_node_before_the_answer(nodes: Nodes) -> None:
    first, second = nodes
    for number in range(3):
        device = device_at(second, first.api.enrol(f"rotated-{number}"))
        device.connect()
        first.api.call("POST", f"/v1/devices/rotated-{number}/token", 200)
        device.wait_closed(BYTES_SECONDS)
        assert device.try_connect().code == BAD_CREDENTIALS


def test_a_removed_device_has_no_connection_and_no_session_anywhere(nodes: Nodes) -> None:
    first, second = nodes
    device = device_at(second, first.api.enrol("removed-1"))
    device.start()
    first.api.call("DELETE", "/v1/devices/removed-1", 204)
    device.wait_closed(BYTES_SECONDS)
    device.drop()
    again = device_at(second, first.api.enrol("removed-1"))
    assert not again.connect().session_present
    again.drop()


def test_new_rules_hold_at_the_next_request_to_any_node(nodes: Nodes) -> None:
    first, second = nodes
    for limit in (1, 2, 3):
        policy = {"approve_above": limit}
        first.api.call("PUT", "/v1/policy", 200, json=first.api.call("GET", "/v1/policy", 200) | policy)
        here, there = (node.api.call("GET", "/v1/policy", 200) for node in nodes)
        assert here == there
    for number in range(3):
        second.api.call("POST", "/v1/channels", 201, json={"id": f"news-{number}", "name": "News"})
        assert first.api.call("GET", f"/v1/channels/news-{number}", 200)["name"] == "News"
        first.api.call("DELETE", f"/v1/channels/news-{number}", 204)
        assert second.api.request("GET", f"/v1/channels/news-{number}").status_code == 404


def test_a_session_of_a_person_is_known_everywhere_and_ends_everywhere(nodes: Nodes) -> None:
    first, second = nodes
    begun = httpx2.post(f"{first.url}/v1/session", json={"key": first.admin_key}, headers=OURS | {"Origin": first.url})
    assert begun.status_code == 201, begun.text
    cookie = begun.headers["set-cookie"].partition(";")[0]
    shown = {"Cookie": cookie, "Fleetpush-Console": "1", "Origin": second.url}
    assert httpx2.get(f"{second.url}/v1/session", headers=shown).status_code == 200
    ended = httpx2.delete(f"{second.url}/v1/session", headers=shown)
    assert ended.status_code == 204
    assert httpx2.get(f"{first.url}/v1/session", headers=shown | {"Origin": first.url}).status_code == 401


def test_a_node_that_does_not_answer_costs_its_lease(tmp_path: Path) -> None:
    with start_nodes(tmp_path, 2) as (first, second):
        first.api.enrol("kiosk-1")
        second.freeze()
        began = time.monotonic()
        first.api.call("POST", "/v1/devices/kiosk-1/token", 200)
        took = time.monotonic() - began
        assert took < ENDED_SECONDS + 3, "it has ended by then, and nobody waits for it"
        assert took > 1, "and is waited for until then"
        waited = re.search(
            r"\nfleetpush_node_confirmation_seconds_sum (\S+)", first.api.request("GET", "/metrics").text
        )
        assert waited is not None
        assert float(waited[1]) > 1, "which Prometheus sees"
        began = time.monotonic()
        first.api.call("POST", "/v1/devices/kiosk-1/token", 200)
        assert time.monotonic() - began < 1
        second.resume()
        wait_for(lambda: not second.running, what="the end of the node that has lost its lease")
