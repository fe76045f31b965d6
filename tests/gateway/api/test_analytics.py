from __future__ import annotations

import csv
import io
import json

import pytest

from gateway.api import responses
from tests.gateway.in_process import InProcessGateway


async def test_the_funnel_of_a_push_and_of_channels(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1", "d2", tags=["foyer"])
    push_id = await gateway.push({"all": True}, notification={"title": "Hi"}, channel="offers")
    funnel = responses.PushFunnelResponse.model_validate(await gateway.call("GET", f"/v1/analytics/pushes/{push_id}"))
    assert (funnel.targeted, funnel.eligible, funnel.delivered, funnel.rates.opened) == (2, 2, 0, None)
    await gateway.refused("GET", "/v1/analytics/pushes/nothing", 404, "push_not_found")
    for by, key in (("channel", "offers"), ("tag", "foyer"), ("hour", "08")):
        (item,) = responses.FunnelsResponse.model_validate(await gateway.call("GET", f"/v1/analytics?by={by}")).items
        assert (getattr(item, by), item.targeted) == (key, 2)


@pytest.mark.of_one_server  # what others accept is counted seconds later
async def test_exports(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    await gateway.push({"all": True}, data=1, channel="a")
    await gateway.push({"all": True}, data=1)
    answer = await gateway.http.get("/v1/analytics?by=channel&format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["channel"], row["targeted"], row["rates_opened"]) for row in rows] == [("", "1", ""), ("a", "1", "")]
    header = answer.text.splitlines()[0]
    assert header.startswith(
        "channel,targeted,eligible,delivered,displayed,dismissed,opened,acted,opted_out,rates_deliv"
    )
    assert header.endswith(",time_to_open_ms_p50,time_to_open_ms_p90,time_to_open_ms_p99")
    answer = await gateway.http.get("/v1/analytics?by=tag&format=csv")
    assert answer.text == header.replace("channel", "tag") + "\r\n", (
        "the same columns, also when there is nothing to say"
    )
    answer = await gateway.http.get("/v1/analytics?by=channel&format=ndjson")
    assert [json.loads(line)["channel"] for line in answer.text.splitlines()] == [None, "a"]


@pytest.mark.of_one_server  # what others accept is counted seconds later
async def test_times_and_what_is_none(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    await gateway.push({"all": True}, data=1)
    inside = "/v1/analytics?by=channel&from=2027-01-15T08:00:00Z&to=2027-01-15T09:00:00Z"
    assert len((await gateway.call("GET", inside))["items"]) == 1
    assert (await gateway.call("GET", "/v1/analytics?by=channel&from=2027-01-15T09:00:00Z"))["items"] == []
    for query in ("", "?by=device", "?by=tag&from=yesterday", "?by=tag&from=2027-01-15T08:00:00", "?by=tag&format=pdf"):
        await gateway.refused("GET", f"/v1/analytics{query}", 422, "invalid_request")
    await gateway.refused("GET", "/v1/analytics?by=tag", 403, "forbidden", await gateway.key_for("send"))


@pytest.mark.parametrize("form", ["csv", "ndjson"])
@pytest.mark.of_one_server  # what others accept is counted seconds later
async def test_exports_say_that_tags_are_left_out(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    for module in ("store.analytics.funnels", "delivery.analytics"):
        monkeypatch.setattr(f"gateway.{module}.MAX_TAGS", 20)
    await gateway.enrol("d1", tags=["common", *(f"rare-{number}" for number in range(10))])
    await gateway.push({"all": True}, data=1)
    answer = await gateway.http.get(f"/v1/analytics?by=tag&format={form}")
    assert (answer.headers["fleetpush-limited"], answer.headers["fleetpush-uncounted"]) == ("false", "0")
    await gateway.enrol("d2", tags=["common", *(f"own-{number}" for number in range(40))])
    await gateway.push({"all": True}, data=1)
    answer = await gateway.http.get(f"/v1/analytics?by=tag&format={form}")
    assert answer.headers["fleetpush-limited"] == "true"
    assert "common" in answer.text
    assert len(answer.text.splitlines()) == 20 + (form == "csv")
    assert (await gateway.http.get(f"/v1/analytics?by=channel&format={form}")).headers["fleetpush-limited"] == "false"


async def test_fatigue(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    for query in (
        "",
        "?channel=offers",
        "?tag=foyer",
        "?channel=",
        "?from=2027-01-01T00:00:00Z&to=2027-02-01T00:00:00Z",
    ):
        found = responses.FatigueResponse.model_validate(await gateway.call("GET", f"/v1/analytics/fatigue{query}"))
        assert [bucket.bucket for bucket in found.buckets] == ["0-1", "2-3", "4-7", "8-14", "15-28", "29+"]
        assert found.verdict == "not_enough_yet"
    assert found.since == "2027-01-01T00:00:00.000Z"
    for query in ("?channel=offers&tag=foyer", "?from=monday", f"?tag={'x' * 65}"):
        await gateway.refused("GET", f"/v1/analytics/fatigue{query}", 422, "invalid_request")
    await gateway.refused("GET", "/v1/analytics/fatigue", 403, "forbidden", await gateway.key_for("send"))
