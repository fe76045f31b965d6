from __future__ import annotations

from typing import Any

from pyroaring import BitMap

from gateway.api.responses import DeviceDeliveriesResponse, DeviceEventsResponse, ReasonsResponse
from gateway.store.deliveries.delivery_sets import to_rows
from tests.gateway.api.test_stats import connect
from tests.gateway.in_process import InProcessGateway

ALERT = {"title": "Lunch", "body": "Soup"}


async def history(gateway: InProcessGateway, device_id: str, **parameters: Any) -> list[dict[str, Any]]:
    found = await gateway.call("GET", f"/v1/devices/{device_id}/deliveries", params=parameters)
    DeviceDeliveriesResponse.model_validate(found)
    return list(found["items"])


async def timeline(gateway: InProcessGateway, device_id: str, **parameters: Any) -> list[dict[str, Any]]:
    found = await gateway.call("GET", f"/v1/devices/{device_id}/events", params=parameters)
    DeviceEventsResponse.model_validate(found)
    return list(found["items"])


async def test_a_device_has_its_deliveries_with_what_the_pushes_say(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    await gateway.enrol("kiosk-3", name="Hall")
    first = await gateway.push({"all": True}, notification=ALERT, ttl=5)
    rendered = {"title": "For {{ device.name | default: 'you' }}", "body": "."}
    second = await gateway.push({"all": True}, notification=rendered, render="liquid")
    third = await gateway.push({"device": "kiosk-2"}, data=1, priority="high")
    gateway.clock.milliseconds += 6_000
    gateway.components.delivery.ledger.sweep()
    await gateway.components.flush()
    await gateway.call("DELETE", f"/v1/pushes/{second}")
    told = [
        (item["push_id"], item["title"], item["state"], item["reason"]) for item in await history(gateway, "kiosk-3")
    ]
    assert told == [(second, "For Hall", "cancelled", "recalled"), (first, "Lunch", "expired", "ttl")]
    (high,) = await history(gateway, "kiosk-2", state="waiting")
    assert (high["push_id"], high["kind"], high["priority"], high["title"]) == (third, "silent", "high", None)
    assert [item["push_id"] for item in await history(gateway, "kiosk-2", reason="ttl")] == [first]
    assert await history(gateway, "kiosk-2", state="expired", reason="") == []
    long = await gateway.push({"device": "kiosk-1"}, notification={"title": "T", "body": "x" * 1_000})
    (newest, *_) = await history(gateway, "kiosk-1")
    assert (newest["push_id"], newest["body"]) == (long, "x" * 199 + "…")
    page = await gateway.call("GET", "/v1/devices/kiosk-2/deliveries", params={"limit": 1})
    assert page["searched_to"] == page["items"][0]["sent_at"]
    rest = await history(gateway, "kiosk-2", cursor=page["next_cursor"])
    assert [item["push_id"] for item in rest] == [second, first]


async def test_a_timeline_has_connections_deliveries_settings_and_what_was_said(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    connections = gateway.components.delivery.connections
    for number, device_id in ((1, "kiosk-1"), (2, "kiosk-2")):
        connect(gateway, number, device_id)
    await gateway.components.flush()
    gateway.clock.milliseconds += 4_500
    connections.disconnected("kiosk-1", "keep alive timeout", "")
    await gateway.components.flush()
    await gateway.call("PATCH", "/v1/devices/kiosk-1/preferences", json={"consent": "granted"})
    push_id = await gateway.push({"all": True}, notification=ALERT)
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    found = await timeline(gateway, "kiosk-1")
    assert [event["type"] for event in found] == [
        "delivery.cancelled", "device.settings", "device.disconnected", "device.connected"
    ]  # fmt: skip
    assert found[0]["push"] == {"kind": "alert", **ALERT, "sent_at": found[0]["timestamp"]}
    assert found[2]["data"] == {"device_id": "kiosk-1", "reason": "keep_alive", "duration": 4.5}
    assert all(event["data"]["device_id"] == "kiosk-1" for event in found)
    chosen = await timeline(gateway, "kiosk-1", types="device.disconnected,delivery.*")
    assert [event["id"] for event in chosen] == [found[0]["id"], found[2]["id"]]
    page = await gateway.call("GET", "/v1/devices/kiosk-1/events", params={"limit": 2})
    assert page["items"] == found[:2]
    assert page["searched_to"] == found[1]["timestamp"]
    assert await timeline(gateway, "kiosk-1", cursor=page["next_cursor"]) == found[2:]
    await gateway.refused("GET", "/v1/devices/kiosk-1/events?types=device.gone", 422, "invalid_request")


async def test_histories_are_those_of_the_app(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    push_id = await gateway.push({"device": "kiosk-1"})
    await gateway.call("POST", "/v1/apps", 201, json={"id": "shop"})
    shop = await gateway.key_for("admin", app="shop")
    paths = ("/v1/devices/kiosk-1/deliveries", "/v1/devices/kiosk-1/events")
    for path in paths:
        await gateway.refused("GET", path, 404, "device_not_found", http=shop)
        await gateway.refused("GET", path, 403, "forbidden", http=await gateway.key_for("send"))
        await gateway.refused("GET", f"{path}?cursor=x", 422, "invalid_request")
        for scope in ("read", "devices"):
            await gateway.call("GET", path, http=await gateway.key_for(scope))
    await gateway.refused("GET", f"/v1/pushes/{push_id}/reasons", 404, "push_not_found", http=shop)


async def test_reasons_of_sets_of_which_some_devices_have_rows(gateway: InProcessGateway) -> None:
    """Two reasons of one state, each a set, of which some members have rows that say the same."""
    names = [f"kiosk-{number}" for number in range(60)]
    await gateway.call("POST", "/v1/channels", 201, json={"id": "offers", "name": "Offers"})
    await gateway.enrol(*names)
    for name in names[:30]:
        choice = {"consent": "denied"} if int(name[6:]) % 2 else {"channels": {"offers": False}}
        await gateway.call("PATCH", f"/v1/devices/{name}/preferences", json=choice)
    push_id = await gateway.push({"all": True}, notification=ALERT, channel="offers")
    counts = {("waiting", None): 30, ("suppressed", "no_consent"): 15, ("suppressed", "channel_muted"): 15}
    assert await reasons(gateway, push_id) == counts
    await gateway.database.write(lambda connection: to_rows(connection, 1, BitMap([1, 2, 3, 5, 40])))
    assert await reasons(gateway, push_id) == counts
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    counts = {("cancelled", "recalled"): 30, **{key: count for key, count in counts.items() if key[0] != "waiting"}}
    assert await reasons(gateway, push_id) == counts


async def reasons(gateway: InProcessGateway, push_id: str) -> dict[tuple[str, str | None], int]:
    found = await gateway.call("GET", f"/v1/pushes/{push_id}/reasons")
    ReasonsResponse.model_validate(found)
    listed = await gateway.call("GET", f"/v1/pushes/{push_id}/deliveries", params={"limit": 1000})
    assert found["targeted"] == len(listed["items"]) == sum(item["count"] for item in found["items"])
    return {(item["state"], item["reason"]): item["count"] for item in found["items"]}
