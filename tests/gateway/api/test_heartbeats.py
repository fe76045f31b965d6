from __future__ import annotations

from typing import Any

import pytest

from gateway.api import responses
from tests.gateway.in_process import InProcessGateway


async def test_a_heartbeat_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    made = await gateway.call("PUT", "/v1/heartbeats/store-7", json={"device": "d1"})
    heartbeat = responses.HeartbeatResponse.model_validate(made)
    assert (heartbeat.every_s, heartbeat.within_s, heartbeat.misses, heartbeat.beat_at) == (60, 10, 2, None)
    await gateway.call("PUT", "/v1/heartbeats/store-6", json={"tag": "site", "every_s": 30, "within_s": 5, "misses": 1})
    page = responses.HeartbeatsResponse.model_validate(await gateway.call("GET", "/v1/heartbeats?limit=1"))
    assert [heartbeat.name for heartbeat in page.items] == ["store-6"]
    rest = await gateway.call("GET", f"/v1/heartbeats?cursor={page.next_cursor}")
    assert [heartbeat["name"] for heartbeat in rest["items"]] == ["store-7"]
    await gateway.call("DELETE", "/v1/heartbeats/store-7", 204)
    for method in ("GET", "DELETE"):
        await gateway.refused(method, "/v1/heartbeats/store-7", 404, "heartbeat_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"device": "d1", "tag": "site"},
        {"device": "d1", "every_s": 9},
        {"device": "d1", "every_s": 10, "within_s": 11},
        {"device": "d1", "misses": 0},
        {"devices": [f"d{number}" for number in range(21)]},
    ],
)
async def test_a_heartbeat_that_is_none(gateway: InProcessGateway, body: dict[str, Any]) -> None:
    await gateway.refused("PUT", "/v1/heartbeats/store-7", 422, "invalid_request", json=body)


@pytest.mark.of_one_server  # another one shows a second later when it was heard
async def test_a_watch_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    (key, *_) = (await gateway.call("GET", "/v1/keys"))["items"]
    body = {"channel": "prices", "key_id": key["id"], "every_s": 600}
    made = responses.WatchResponse.model_validate(await gateway.call("PUT", "/v1/watches/prices", json=body))
    assert (made.silent, made.heard_at) == (False, None)
    push = {"target": {"device": "d1"}, "data": 1}
    await gateway.call("POST", "/v1/pushes", 202, json=push)
    assert (await gateway.call("GET", "/v1/watches/prices"))["heard_at"] is None
    gateway.clock.milliseconds += 1_000
    await gateway.call("POST", "/v1/pushes", 202, json={**push, "channel": "prices"})
    heard = await gateway.call("GET", "/v1/watches/prices")
    assert heard["heard_at"] == "2027-01-15T08:00:01.000Z"
    gateway.clock.milliseconds += 1_000
    line = b'{"target":{"device":"d1"},"channel":"prices"}'
    await gateway.http.post("/v1/pushes/batch", content=line, headers={"Content-Type": "application/x-ndjson"})
    page = responses.WatchesResponse.model_validate(await gateway.call("GET", "/v1/watches"))
    assert page.items[0].heard_at == "2027-01-15T08:00:02.000Z"
    await gateway.call("DELETE", "/v1/watches/prices", 204)
    for method in ("GET", "DELETE"):
        await gateway.refused(method, "/v1/watches/prices", 404, "watch_not_found")


async def test_watches_that_are_none(gateway: InProcessGateway) -> None:
    for body in ({}, {"every_s": 59}, {"every_s": 2_678_401}, {"every_s": 60, "channel": "a b"}):
        await gateway.refused("PUT", "/v1/watches/prices", 422, "invalid_request", json=body)
    await gateway.refused("PUT", "/v1/watches/prices", 404, "key_not_found", json={"every_s": 60, "key_id": "k_none"})


async def test_both_are_for_administrators_and_of_one_app(gateway: InProcessGateway) -> None:
    reader = await gateway.key_for("send", "read", "devices")
    await gateway.refused("PUT", "/v1/heartbeats/a", 403, "forbidden", reader, json={"device": "d1"})
    await gateway.refused("PUT", "/v1/watches/a", 403, "forbidden", reader, json={"every_s": 60})
    await gateway.call("PUT", "/v1/heartbeats/a", json={"device": "d1"})
    await gateway.call("PUT", "/v1/watches/a", json={"every_s": 60})
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("admin", app="hotel")
    for path in ("/v1/heartbeats", "/v1/watches"):
        assert (await gateway.call("GET", path, http=theirs))["items"] == []
        await gateway.refused("GET", f"{path}/a", 404, None, theirs)


@pytest.mark.of_one_server  # whose metrics are read
async def test_metrics_name_them(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    await gateway.call("PUT", "/v1/heartbeats/store-7", json={"device": "d1"})
    await gateway.call("PUT", "/v1/watches/prices", json={"every_s": 60})
    gateway.components.delivery.heartbeats.tick()
    await gateway.database.write(lambda connection: None)
    gateway.clock.milliseconds += 60_000
    gateway.components.delivery.watches.tick()
    text = (await gateway.http.get("/metrics")).text
    assert 'fleetpush_heartbeat_devices{heartbeat="default/store-7",state="unknown"}' in text
    assert 'fleetpush_sender_silent{watch="default/prices"} 1.0' in text
