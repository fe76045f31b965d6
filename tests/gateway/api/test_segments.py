from __future__ import annotations

import json

import pytest

from gateway.api import responses
from gateway.audience.segments import HINTED_CHANNELS
from tests.gateway.in_process import InProcessGateway

K2 = {"expression": "attributes.model == 'K2'"}


async def enrol(gateway: InProcessGateway) -> None:
    devices = [{"device_id": f"k2-{number}", "attributes": {"model": "K2"}} for number in range(7)]
    devices += [{"device_id": "k1", "attributes": {"model": "K1"}, "tags": ["hall"]}]
    await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})


async def test_a_segment_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    await enrol(gateway)
    made = responses.SegmentResponse.model_validate(await gateway.call("PUT", "/v1/segments/k2", json=K2))
    assert (made.devices, made.examples) == (7, [f"k2-{number}" for number in range(5)])
    await gateway.call("PUT", "/v1/segments/hall", json={"expression": "'hall' in tags"})
    page = responses.SegmentsResponse.model_validate(await gateway.call("GET", "/v1/segments?limit=1"))
    assert [one.name for one in page.items] == ["hall"]
    following = await gateway.call("GET", f"/v1/segments?cursor={page.next_cursor}")
    assert [one["name"] for one in following["items"]] == ["k2"]
    await gateway.call("DELETE", "/v1/devices/k2-0", 204)
    assert (await gateway.call("GET", "/v1/segments/k2"))["devices"] == 6
    changed = await gateway.call("PUT", "/v1/segments/k2", json={"expression": "attributes.model != 'K2'"})
    assert changed["examples"] == ["k1"]
    await gateway.call("DELETE", "/v1/segments/k2", 204)
    for method in ("GET", "DELETE"):
        await gateway.refused(method, "/v1/segments/k2", 404, "segment_not_found")


async def test_a_page_is_bounded_in_bytes(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        await gateway.call("PUT", f"/v1/segments/{name}", json=K2)
    monkeypatch.setattr("gateway.pages.PAGE_BYTES", 1)
    page = await gateway.call("GET", "/v1/segments")
    assert ([one["name"] for one in page["items"]], page["next_cursor"]) == (["a"], "a")


async def test_pushes_go_to_whom_an_expression_selects(gateway: InProcessGateway) -> None:
    await enrol(gateway)
    await gateway.call("PUT", "/v1/topics/news/devices", json={"devices": ["k1", "k2-3"]})
    await gateway.call("PUT", "/v1/segments/k2", json=K2)
    for target, count in (
        ({"where": K2["expression"]}, 7),
        ({"segment": "k2"}, 7),
        ({"condition": "'news' in topics && !('sport' in topics)"}, 2),
        ({"where": "'news' in topics && attributes.model == 'K2'"}, 1),
        ({"where": "online"}, 0),
    ):
        push = {"target": target, "data": 1}
        assert (await gateway.call("POST", "/v1/pushes/forecast", json=push))["targeted"] == count, target
        accepted = await gateway.call("POST", "/v1/pushes", 202, json=push)
        assert accepted["targeted"] == count, target
        shown = await gateway.call("GET", f"/v1/pushes/{accepted['push_id']}")
        assert shown["target"] == target


async def test_a_mistake_is_told_with_its_place(gateway: InProcessGateway) -> None:
    for call, body in (
        (("PUT", "/v1/segments/wrong"), {"expression": "'hall' in tag"}),
        (("POST", "/v1/segments/preview"), {"expression": "'hall' in tag"}),
        (("POST", "/v1/pushes"), {"target": {"where": "'hall' in tag"}, "data": 1}),
        (("POST", "/v1/pushes/forecast"), {"target": {"where": "'hall' in tag"}, "data": 1}),
    ):
        found = await gateway.refused(*call, 422, "invalid_expression", json=body)
        assert (found["line"], found["column"]) == (1, 11)
        assert "tags" in found["detail"]
    await gateway.refused(
        "POST", "/v1/pushes", 404, "segment_not_found", json={"target": {"segment": "none"}, "data": 1}
    )


async def test_what_a_key_was_answered_comes_before_what_is_wrong_now(gateway: InProcessGateway) -> None:
    await enrol(gateway)
    await gateway.call("PUT", "/v1/segments/k2", json=K2)
    push, key = {"target": {"segment": "k2"}, "data": 1}, {"Idempotency-Key": "one"}
    first = await gateway.call("POST", "/v1/pushes", 202, json=push, headers=key)
    await gateway.call("DELETE", "/v1/segments/k2", 204)
    assert await gateway.call("POST", "/v1/pushes", 202, json=push, headers=key) == first
    await gateway.refused("POST", "/v1/pushes", 404, "segment_not_found", json=push, headers={"Idempotency-Key": "two"})


async def test_lines_of_a_batch_have_expressions(gateway: InProcessGateway) -> None:
    await enrol(gateway)
    targets = [{"where": "id == 'k1'"}, {"segment": "none"}, {"all": True}]
    lines = "\n".join(json.dumps({"target": target, "data": 1}) for target in targets)
    answer = await gateway.http.post(
        "/v1/pushes/batch", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [one.get("targeted", one.get("code")) for one in found] == [1, "segment_not_found", 8]


async def test_a_channel_that_is_probably_mistyped_is_hinted_at(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/channels", 201, json={"id": "offers", "name": "Offers"})
    hints = ["this app has no channel 'ofers'; did you mean 'offers'?"]
    expression = "muted('ofers') || opened_channel('ofers', duration('7d')) || muted('weather') || muted('offers')"
    for answer in (
        await gateway.call("POST", "/v1/segments/preview", json={"expression": expression}),
        await gateway.call("PUT", "/v1/segments/some", json={"expression": expression}),
        await gateway.call("GET", "/v1/segments/some"),
        await gateway.call("POST", "/v1/pushes/forecast", json={"target": {"all": True}, "channel": "ofers"}),
    ):
        assert answer["hints"] == hints
    for channel in ("offers", "weather"):
        sent = {"target": {"all": True}, "channel": channel, "texts": {"de": {"title": "Hallo"}}}
        push = sent | {"notification": {"title": "Hello"}}
        assert "hints" not in await gateway.call("POST", "/v1/pushes/forecast", json=push)
        found = await gateway.call("POST", "/v1/segments/preview", json={"expression": f"muted('{channel}')"})
        assert "hints" not in found
    many = " || ".join(f"muted('offers{number}')" for number in range(9))
    found = await gateway.call("POST", "/v1/segments/preview", json={"expression": many})
    assert len(found["hints"]) == HINTED_CHANNELS
