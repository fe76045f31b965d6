from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from gateway.api import responses
from tests.gateway.in_process import InProcessGateway

ALERT = {"notification": {"title": "Hi"}}


async def test_a_channel_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    body = {"id": "offers", "name": "Offers", "description": "What is cheap today", "importance": "low"}
    made = await gateway.call("POST", "/v1/channels", 201, json=body)
    assert responses.ChannelResponse.model_validate(made).may_mute
    await gateway.refused("POST", "/v1/channels", 409, "channel_exists", json=body)
    await gateway.call("POST", "/v1/channels", 201, json={"id": "news", "name": "News"})
    page = responses.ChannelsResponse.model_validate(await gateway.call("GET", "/v1/channels?limit=1"))
    assert [channel.id for channel in page.items] == ["news"]
    assert (await gateway.call("GET", f"/v1/channels?cursor={page.next_cursor}"))["items"] == [made]
    changed = await gateway.call("PATCH", "/v1/channels/offers", json={"name": "Deals", "description": None})
    assert (changed["name"], changed["description"], changed["importance"]) == ("Deals", None, "low")
    assert (await gateway.call("GET", "/v1/channels/offers")) == changed
    await gateway.call("DELETE", "/v1/channels/offers", 204)
    for method in ("GET", "DELETE"):
        await gateway.refused(method, "/v1/channels/offers", 404, "channel_not_found")
    await gateway.refused("PATCH", "/v1/channels/offers", 404, "channel_not_found", json={})


async def test_a_channel_that_holds_itself_back(gateway: InProcessGateway) -> None:
    body = {"id": "offers", "name": "Offers", "caps": "adaptive"}
    made = responses.ChannelResponse.model_validate(await gateway.call("POST", "/v1/channels", 201, json=body))
    assert (made.adapted, made.effective_caps) != (None, None)
    groups: list[dict[str, Any]] = [{"tag": "vip", "segment": None, "limits": []}]
    changed = await gateway.call("PATCH", "/v1/channels/offers", json={"caps": {"groups": groups}})
    assert responses.ChannelResponse.model_validate(changed).caps is not None
    assert changed["effective_caps"] == {"limits": [{"count": 8, "per": "day"}], "groups": groups, "excess": "drop"}
    fixed = {"limits": [{"count": 2, "per": "day"}], "groups": None, "adaptive": None}
    changed = await gateway.call("PATCH", "/v1/channels/offers", json={"caps": fixed})
    assert (changed["adapted"], changed["caps"]["groups"]) == (None, [])
    await gateway.refused("PUT", "/v1/policy", 422, "invalid_request", json={"caps": {"adaptive": {}}})


@pytest.mark.parametrize(
    "body",
    [
        {"id": "a", "name": "A", "caps": {}},
        {"id": "a", "name": "A", "caps": {"groups": [{"limits": []}]}},
        {"id": "a", "name": "A", "caps": {"adaptive": {"floor_per_day": 9}}},
        {"id": "a b", "name": "A"},
        {"id": "a"},
        {"id": "a", "name": ""},
        {"id": "a", "name": "A", "importance": "urgent"},
        {"id": "a", "name": "A\n"},
        {"id": "a", "name": "A", "colour": "red"},
    ],
)
async def test_a_channel_that_is_none(gateway: InProcessGateway, body: dict[str, Any]) -> None:
    await gateway.refused("POST", "/v1/channels", 422, "invalid_request", json=body)


async def test_a_bad_change_leaves_the_channel_as_it_was(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/channels", 201, json={"id": "a", "name": "A"})
    await gateway.refused("PATCH", "/v1/channels/a", 422, "invalid_request", json={"may_mute": "no"})
    await gateway.refused("PATCH", "/v1/channels/a", 422, "invalid_request", json={"id": "b"})
    await gateway.refused(
        "PATCH", "/v1/channels/a", 400, "malformed_json", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert await gateway.call("GET", "/v1/channels/a") == made


async def test_an_app_has_its_own_channels_and_not_too_many(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.audience.policy.MAX_CHANNELS", 1)
    await gateway.call("POST", "/v1/channels", 201, json={"id": "a", "name": "A"})
    problem = await gateway.refused("POST", "/v1/channels", 422, json={"id": "b", "name": "B"})
    assert "at most 1" in problem["detail"]
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("admin", app="hotel")
    assert (await gateway.call("GET", "/v1/channels", http=theirs))["items"] == []
    await gateway.refused("GET", "/v1/channels/a", 404, "channel_not_found", theirs)


async def test_rules_are_for_administrators(gateway: InProcessGateway) -> None:
    reader = await gateway.key_for("send", "read", "devices")
    await gateway.refused("POST", "/v1/channels", 403, "forbidden", reader, json={"id": "a", "name": "A"})
    await gateway.refused("PUT", "/v1/policy", 403, "forbidden", reader, json={})
    await gateway.call("GET", "/v1/policy", http=reader)


async def test_the_policy_is_replaced_whole(gateway: InProcessGateway) -> None:
    default = await gateway.call("GET", "/v1/policy")
    assert responses.PolicyResponse.model_validate(default).consent.unknown == "allow"
    strict = {"consent": {"unknown": "suppress", "denied": {"command": "suppress"}}}
    stored = await gateway.call("PUT", "/v1/policy", json=strict)
    assert stored["consent"] == {
        "unknown": "suppress",
        "denied": {"in_app": "allow", "silent": "allow", "command": "suppress"},
    }
    assert await gateway.call("GET", "/v1/policy") == stored
    await gateway.refused("PUT", "/v1/policy", 422, "invalid_request", json={"consent": {"denied": {"alert": "allow"}}})
    assert await gateway.call("PUT", "/v1/policy", json={}) == default


async def test_the_policy_judges_pushes(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    await gateway.call("PUT", "/v1/policy", json={"consent": {"unknown": "suppress"}})
    body = {"target": {"device": "d1"}, **ALERT}
    assert (await gateway.call("POST", "/v1/pushes/forecast", json=body))["suppressed"] == {"no_consent": 1}
    answer = await gateway.call("POST", "/v1/pushes", 202, json=body)
    assert (answer["targeted"], answer["suppressed"]) == (1, 1)
    push = await gateway.call("GET", f"/v1/pushes/{answer['push_id']}")
    assert push["counts"]["suppressed"] == push["suppressed"] == 1
    await gateway.call("PATCH", "/v1/devices/d1/preferences", json={"consent": "granted"})
    assert (await gateway.call("POST", "/v1/pushes", 202, json=body))["suppressed"] == 0


async def device_client(gateway: InProcessGateway, device_id: str) -> httpx2.AsyncClient:
    answer = await gateway.call("POST", "/v1/devices", 201, json={"device_id": device_id})
    return gateway.client(answer["token"])


async def test_the_preferences_of_a_device(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/channels", 201, json={"id": "safety", "name": "Safety", "may_mute": False})
    await gateway.call("POST", "/v1/channels", 201, json={"id": "offers", "name": "Offers"})
    itself = await device_client(gateway, "d1")
    choice = {"consent": "granted", "channels": {"offers": False, "safety": False, "old": False}, "seq": 7}
    changed = await gateway.call("PATCH", "/v1/devices/d1/preferences", http=itself, json=choice)
    preferences = responses.PreferencesResponse.model_validate(changed)
    assert (preferences.consent, preferences.seq, preferences.changed_at) == ("granted", 7, "2027-01-15T08:00:00.000Z")
    assert {channel.id: (channel.name, channel.muted) for channel in preferences.channels} == {
        "offers": ("Offers", True),
        "safety": ("Safety", False),
        "old": (None, True),
    }
    assert await gateway.call("GET", "/v1/devices/d1/preferences", http=itself) == changed
    assert await gateway.call("GET", "/v1/devices/d1/preferences") == changed
    late = {"consent": "denied", "seq": 6}
    assert (await gateway.call("PATCH", "/v1/devices/d1/preferences", json=late)) == changed, (
        "an older word changes nothing"
    )
    records = responses.ConsentRecordsResponse.model_validate(await gateway.call("GET", "/v1/devices/d1/consent"))
    assert [(record.consent, record.source) for record in records.items] == [("granted", "http")]


async def test_a_token_is_for_its_own_device_and_its_own_wishes(gateway: InProcessGateway) -> None:
    itself = await device_client(gateway, "d1")
    await gateway.enrol("d2")
    for method, path in (("GET", "/v1/devices/d2/preferences"), ("PATCH", "/v1/devices/d2/preferences")):
        await gateway.refused(method, path, 401, "unauthorized", itself, json={"consent": "denied"})
    for path in ("/v1/devices/d1", "/v1/devices/d1/consent", "/v1/devices", "/v1/pushes", "/v1/policy"):
        await gateway.refused("GET", path, 401, "unauthorized", itself)
    await gateway.call("POST", "/v1/devices/d1/token", 200)
    await gateway.refused("GET", "/v1/devices/d1/preferences", 401, "unauthorized", itself)


async def test_the_same_id_in_two_apps(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("admin", app="hotel")
    answer = await gateway.call("POST", "/v1/devices", 201, http=theirs, json={"device_id": "d1"})
    await gateway.enrol("d1")
    itself = gateway.client(answer["token"])
    await gateway.call("PATCH", "/v1/devices/d1/preferences", http=itself, json={"consent": "denied"})
    assert (await gateway.call("GET", "/v1/devices/d1", http=theirs))["consent"] == "denied"
    assert (await gateway.call("GET", "/v1/devices/d1"))["consent"] == "unknown"


async def test_wishes_that_are_none(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    wrong: list[dict[str, Any]] = [
        {"consent": "yes"},
        {"channels": {"offers": "off"}},
        {"channels": {"": False}},
        {"seq": -1},
        {"muted": ["offers"]},
        {"channels": {f"c{number:064}"[:64]: False for number in range(1000)} | {"x" * 64: True}},
    ]
    wrong[-1]["channels"] = {f"{number:064}": False for number in range(1000)}
    for body in wrong:
        await gateway.refused("PATCH", "/v1/devices/d1/preferences", 422, "invalid_request", json=body)
    await gateway.refused("PATCH", "/v1/devices/d9/preferences", 404, "device_not_found", json={})


async def test_a_policy_is_replaced_only_as_it_was_read(gateway: InProcessGateway) -> None:
    read = await gateway.http.get("/v1/policy")
    first = read.headers["ETag"]
    changed = await gateway.http.put("/v1/policy", json={"timezone": "Asia/Tokyo"}, headers={"If-Match": first})
    assert (changed.status_code, changed.json()["timezone"]) == (200, "Asia/Tokyo")
    assert changed.headers["ETag"] == (await gateway.http.get("/v1/policy")).headers["ETag"] != first
    tag, late = {"If-Match": first}, {"timezone": "Europe/Rome"}
    await gateway.refused("PUT", "/v1/policy", 412, "precondition_failed", headers=tag, json=late)
    assert (await gateway.call("GET", "/v1/policy"))["timezone"] == "Asia/Tokyo"
    await gateway.call("PUT", "/v1/policy", json={})  # without the header it is replaced, whatever it was
    assert (await gateway.http.get("/v1/policy")).headers["ETag"] == first


async def test_of_two_that_replace_a_policy_at_once_one_is_refused(gateway: InProcessGateway) -> None:
    tag = {"If-Match": (await gateway.http.get("/v1/policy")).headers["ETag"]}
    zones = ("Asia/Tokyo", "Europe/Rome")
    answers = await asyncio.gather(
        *(gateway.http.put("/v1/policy", json={"timezone": zone}, headers=tag) for zone in zones)
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
