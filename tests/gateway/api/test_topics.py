from __future__ import annotations

import pytest

from gateway.api import responses
from gateway.audience import topics
from tests.gateway.in_process import InProcessGateway

NEWS = "/v1/topics/news"


async def enrol(gateway: InProcessGateway, *device_ids: str) -> None:
    await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": [{"device_id": one} for one in device_ids]})


async def test_a_topic_from_the_first_member_to_the_last(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "SLICE_DEVICES", 2)
    await enrol(gateway, "a", "b", "c")
    await gateway.refused("GET", NEWS, 404, "topic_not_found")
    body = {"devices": ["a", "b", "nobody", "a", "c"]}
    found = responses.MembershipsResponse.model_validate(await gateway.call("PUT", f"{NEWS}/devices", json=body))
    assert [one.result or (one.error and one.error.code) for one in found.devices] == [
        "joined",
        "joined",
        "device_not_found",
        "joined",
        "joined",
    ]
    assert await gateway.call("GET", NEWS) == {"topic": "news", "devices": 3}
    await gateway.call("PUT", "/v1/topics/sport/devices", json={"devices": ["b"]})
    page = responses.TopicsResponse.model_validate(await gateway.call("GET", "/v1/topics?limit=1"))
    assert [(one.topic, one.devices) for one in page.items] == [("news", 3)]
    following = await gateway.call("GET", f"/v1/topics?cursor={page.next_cursor}")
    assert following == {"items": [{"topic": "sport", "devices": 1}], "next_cursor": None}
    some = responses.TopicMembersResponse.model_validate(await gateway.call("GET", f"{NEWS}/devices?limit=2"))
    rest = await gateway.call("GET", f"{NEWS}/devices?cursor={some.next_cursor}")
    assert [one.device_id for one in some.items] + [one["device_id"] for one in rest["items"]] == ["a", "b", "c"]
    assert (await gateway.call("GET", "/v1/devices/b"))["topics"] == ["news", "sport"]
    accepted = await gateway.call("POST", "/v1/pushes", 202, json={"target": {"topic": "news"}, "data": 1})
    assert accepted["targeted"] == 3
    left = await gateway.call("DELETE", f"{NEWS}/devices", json={"devices": ["a", "a"]})
    assert [one["result"] for one in left["devices"]] == ["left", "left"]
    await gateway.call("DELETE", "/v1/devices/c", 204)
    assert await gateway.call("GET", NEWS) == {"topic": "news", "devices": 1}
    assert await gateway.call("DELETE", NEWS) == {"left": 1}
    await gateway.refused("DELETE", NEWS, 404, "topic_not_found")
    nobody = await gateway.call("POST", "/v1/pushes", 202, json={"target": {"topic": "news"}, "data": 1})
    assert nobody["targeted"] == 0


async def test_tags_are_listed_by_name_and_topics_are_none_of_them(gateway: InProcessGateway) -> None:
    for device_id, tags in (("a", [".hidden", "hall", "store-1"]), ("b", ["hall", "store-10", "Z"]), ("c", [])):
        await gateway.call("POST", "/v1/devices", 201, json={"device_id": device_id, "tags": tags})
    await gateway.call("PUT", f"{NEWS}/devices", json={"devices": ["a"]})
    counts = {".hidden": 1, "Z": 1, "hall": 2, "store-1": 1, "store-10": 1}
    whole = responses.TagsResponse.model_validate(await gateway.call("GET", "/v1/tags"))
    assert {one.tag: one.devices for one in whole.items} == counts
    found: list[str] = []
    cursor = None
    while True:
        page = await gateway.call("GET", "/v1/tags?limit=1" + (f"&cursor={cursor}" if cursor else ""))
        found += [one["tag"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == list(counts)
    some = await gateway.call("GET", "/v1/tags?prefix=store-1")
    assert [one["tag"] for one in some["items"]] == ["store-1", "store-10"]
    rest = await gateway.call("GET", "/v1/tags?prefix=store&cursor=store-1")
    assert [one["tag"] for one in rest["items"]] == ["store-10"]
    assert (await gateway.call("GET", "/v1/tags?prefix=~", 422))["code"] == "invalid_request"


async def test_no_name_has_a_nul(gateway: InProcessGateway) -> None:
    """Nor has a text of PostgreSQL; what devices say of themselves may have one."""
    await gateway.enrol("a", tags=["hall"], attributes={"note": "x\0y"})
    for path in ("/v1/tags?cursor=%00", "/v1/topics?cursor=%00", "/v1/devices?tag=%00"):
        await gateway.call("GET", path)
    for path in ("/v1/devices/a%00", "/v1/pushes/a%00", "/v1/segments/a%00"):
        await gateway.refused("GET", path, 404)
    assert (await gateway.call("GET", "/v1/devices/a"))["attributes"] == {"note": "x\0y"}
    forecast = {"target": {"where": "attributes.note.startsWith('x')"}}
    assert (await gateway.call("POST", "/v1/pushes/forecast", json=forecast))["targeted"] == 1


async def test_a_device_joins_what_the_policy_lets_it(gateway: InProcessGateway) -> None:
    enrolled = await gateway.call("POST", "/v1/devices", 201, json={"device_id": "a"})
    await gateway.call("PUT", "/v1/policy", json={"joinable_topics": ["news", "league.*"]})
    own = {"Authorization": f"Bearer {enrolled['token']}"}
    path = "/v1/devices/a/preferences"
    shown = await gateway.call("PATCH", path, json={"topics": {"league.b": True, "news": True}, "seq": 1}, headers=own)
    assert (shown["topics"], shown["joinable_topics"]) == (["league.b", "news"], ["news", "league.*"])
    await gateway.refused(
        "PATCH", path, 422, "invalid_request", json={"topics": {"sport": True, "news": False}, "seq": 2}, headers=own
    )
    assert (await gateway.call("GET", path, headers=own))["topics"] == ["league.b", "news"]
    changed = await gateway.call("PATCH", path, json={"topics": {"sport": True, "news": False}})
    assert changed["topics"] == ["league.b", "sport"]


@pytest.mark.parametrize("topic", ["a b", "%2F", "x" * 65])
async def test_a_name_that_is_none(gateway: InProcessGateway, topic: str) -> None:
    await gateway.call("PUT", f"/v1/topics/{topic}/devices", 404 if topic == "%2F" else 422, json={"devices": ["a"]})
