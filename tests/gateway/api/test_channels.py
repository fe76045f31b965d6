from __future__ import annotations

from typing import Any

import httpx2
import pytest

from gateway.api import responses
from tests.gateway.api.house import House

ALERT = {"notification": {"title": "Hi"}}


async def test_a_channel_from_its_making_to_its_end(house: House) -> None:
    body = {"id": "offers", "name": "Offers", "description": "What is cheap today", "importance": "low"}
    made = await house.call("POST", "/v1/channels", 201, json=body)
    assert responses.ChannelResponse.model_validate(made).may_mute
    await house.refused("POST", "/v1/channels", 409, "channel_exists", json=body)
    await house.call("POST", "/v1/channels", 201, json={"id": "news", "name": "News"})
    page = responses.ChannelsResponse.model_validate(await house.call("GET", "/v1/channels?limit=1"))
    assert [channel.id for channel in page.items] == ["news"]
    assert (await house.call("GET", f"/v1/channels?cursor={page.next_cursor}"))["items"] == [made]
    changed = await house.call("PATCH", "/v1/channels/offers", json={"name": "Deals", "description": None})
    assert (changed["name"], changed["description"], changed["importance"]) == ("Deals", None, "low")
    assert (await house.call("GET", "/v1/channels/offers")) == changed
    await house.call("DELETE", "/v1/channels/offers", 204)
    for method in ("GET", "DELETE"):
        await house.refused(method, "/v1/channels/offers", 404, "channel_not_found")
    await house.refused("PATCH", "/v1/channels/offers", 404, "channel_not_found", json={})


@pytest.mark.parametrize(
    "body",
    [
        {"id": "a b", "name": "A"},
        {"id": "a"},
        {"id": "a", "name": ""},
        {"id": "a", "name": "A", "importance": "urgent"},
        {"id": "a", "name": "A\n"},
        {"id": "a", "name": "A", "colour": "red"},
    ],
)
async def test_a_channel_that_is_none(house: House, body: dict[str, Any]) -> None:
    await house.refused("POST", "/v1/channels", 422, "invalid_request", json=body)


async def test_a_bad_change_leaves_the_channel_as_it_was(house: House) -> None:
    made = await house.call("POST", "/v1/channels", 201, json={"id": "a", "name": "A"})
    await house.refused("PATCH", "/v1/channels/a", 422, "invalid_request", json={"may_mute": "no"})
    await house.refused("PATCH", "/v1/channels/a", 422, "invalid_request", json={"id": "b"})
    await house.refused(
        "PATCH", "/v1/channels/a", 400, "malformed_json", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert await house.call("GET", "/v1/channels/a") == made


async def test_an_app_has_its_own_channels_and_not_too_many(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.audience.policy.MAX_CHANNELS", 1)
    await house.call("POST", "/v1/channels", 201, json={"id": "a", "name": "A"})
    problem = await house.refused("POST", "/v1/channels", 422, json={"id": "b", "name": "B"})
    assert "at most 1" in problem["detail"]
    await house.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await house.key_for("admin", app="hotel")
    assert (await house.call("GET", "/v1/channels", http=theirs))["items"] == []
    await house.refused("GET", "/v1/channels/a", 404, "channel_not_found", theirs)


async def test_rules_are_for_administrators(house: House) -> None:
    reader = await house.key_for("send", "read", "devices")
    await house.refused("POST", "/v1/channels", 403, "forbidden", reader, json={"id": "a", "name": "A"})
    await house.refused("PUT", "/v1/policy", 403, "forbidden", reader, json={})
    await house.call("GET", "/v1/policy", http=reader)


async def test_the_policy_is_replaced_whole(house: House) -> None:
    default = await house.call("GET", "/v1/policy")
    assert responses.PolicyResponse.model_validate(default).consent.unknown == "allow"
    strict = {"consent": {"unknown": "suppress", "denied": {"command": "suppress"}}}
    stored = await house.call("PUT", "/v1/policy", json=strict)
    assert stored["consent"] == {
        "unknown": "suppress",
        "denied": {"in_app": "allow", "silent": "allow", "command": "suppress"},
    }
    assert await house.call("GET", "/v1/policy") == stored
    await house.refused("PUT", "/v1/policy", 422, "invalid_request", json={"consent": {"denied": {"alert": "allow"}}})
    assert await house.call("PUT", "/v1/policy", json={}) == default


async def test_the_policy_judges_pushes(house: House) -> None:
    await house.enrol("d1")
    await house.call("PUT", "/v1/policy", json={"consent": {"unknown": "suppress"}})
    body = {"target": {"device": "d1"}, **ALERT}
    assert (await house.call("POST", "/v1/pushes/forecast", json=body))["suppressed"] == {"no_consent": 1}
    answer = await house.call("POST", "/v1/pushes", 202, json=body)
    assert (answer["targeted"], answer["suppressed"]) == (1, 1)
    push = await house.call("GET", f"/v1/pushes/{answer['push_id']}")
    assert push["counts"]["suppressed"] == push["suppressed"] == 1
    await house.call("PATCH", "/v1/devices/d1/preferences", json={"consent": "granted"})
    assert (await house.call("POST", "/v1/pushes", 202, json=body))["suppressed"] == 0


async def device_client(house: House, device_id: str) -> httpx2.AsyncClient:
    answer = await house.call("POST", "/v1/devices", 201, json={"device_id": device_id})
    return house.client(answer["token"])


async def test_the_preferences_of_a_device(house: House) -> None:
    await house.call("POST", "/v1/channels", 201, json={"id": "safety", "name": "Safety", "may_mute": False})
    await house.call("POST", "/v1/channels", 201, json={"id": "offers", "name": "Offers"})
    itself = await device_client(house, "d1")
    choice = {"consent": "granted", "channels": {"offers": False, "safety": False, "old": False}, "seq": 7}
    changed = await house.call("PATCH", "/v1/devices/d1/preferences", http=itself, json=choice)
    preferences = responses.PreferencesResponse.model_validate(changed)
    assert (preferences.consent, preferences.seq, preferences.changed_at) == ("granted", 7, "2027-01-15T08:00:00.000Z")
    assert {channel.id: (channel.name, channel.muted) for channel in preferences.channels} == {
        "offers": ("Offers", True),
        "safety": ("Safety", False),
        "old": (None, True),
    }
    assert await house.call("GET", "/v1/devices/d1/preferences", http=itself) == changed
    assert await house.call("GET", "/v1/devices/d1/preferences") == changed
    late = {"consent": "denied", "seq": 6}
    assert (await house.call("PATCH", "/v1/devices/d1/preferences", json=late)) == changed, (
        "an older word changes nothing"
    )
    records = responses.ConsentRecordsResponse.model_validate(await house.call("GET", "/v1/devices/d1/consent"))
    assert [(record.consent, record.source) for record in records.items] == [("granted", "http")]


async def test_a_token_is_for_its_own_device_and_its_own_wishes(house: House) -> None:
    itself = await device_client(house, "d1")
    await house.enrol("d2")
    for method, path in (("GET", "/v1/devices/d2/preferences"), ("PATCH", "/v1/devices/d2/preferences")):
        await house.refused(method, path, 401, "unauthorized", itself, json={"consent": "denied"})
    for path in ("/v1/devices/d1", "/v1/devices/d1/consent", "/v1/devices", "/v1/pushes", "/v1/policy"):
        await house.refused("GET", path, 401, "unauthorized", itself)
    await house.call("POST", "/v1/devices/d1/token", 200)
    await house.refused("GET", "/v1/devices/d1/preferences", 401, "unauthorized", itself)


async def test_the_same_id_in_two_apps(house: House) -> None:
    await house.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await house.key_for("admin", app="hotel")
    answer = await house.call("POST", "/v1/devices", 201, http=theirs, json={"device_id": "d1"})
    await house.enrol("d1")
    itself = house.client(answer["token"])
    await house.call("PATCH", "/v1/devices/d1/preferences", http=itself, json={"consent": "denied"})
    assert (await house.call("GET", "/v1/devices/d1", http=theirs))["consent"] == "denied"
    assert (await house.call("GET", "/v1/devices/d1"))["consent"] == "unknown"


async def test_wishes_that_are_none(house: House) -> None:
    await house.enrol("d1")
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
        await house.refused("PATCH", "/v1/devices/d1/preferences", 422, "invalid_request", json=body)
    await house.refused("PATCH", "/v1/devices/d9/preferences", 404, "device_not_found", json={})
