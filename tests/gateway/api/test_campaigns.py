"""Campaigns over HTTP: made, forecast, followed, paused, approved and aborted; what is refused, and how."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.nodes.tasks import TaskName
from gateway.plans.campaigns import LOOK_MS
from tests.gateway.in_process import InProcessGateway

CAMPAIGN: dict[str, Any] = {
    "name": "Update",
    "push": {"target": {"tag": "tills"}, "kind": "command", "data": {"command": "update"}},
    "canary": 1,
}


@pytest.fixture
async def tills(gateway: InProcessGateway) -> InProcessGateway:
    devices = [{"device_id": f"till-{number}", "tags": ["tills"]} for number in range(10)]
    await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})
    return gateway


async def goes(gateway: InProcessGateway, seconds: float = 0) -> None:
    gateway.clock.milliseconds += int(1000 * seconds)
    if len(gateway.nodes) > 1:
        gateway.clock.milliseconds += LOOK_MS  # one that is told by another looks that much later
    campaigns = (await gateway.owner_of(TaskName.CAMPAIGNS)).components.campaigns
    while campaigns.next_due() or campaigns._busy:  # a node has begun some by itself
        await campaigns.step()
        await asyncio.sleep(0.001)


async def test_the_life_of_a_campaign(tills: InProcessGateway) -> None:
    forecast = await tills.call("POST", "/v1/campaigns/forecast", json=CAMPAIGN)
    assert [group["size"] for group in forecast["groups"]] == [1, 9]
    made = await tills.call("POST", "/v1/campaigns", 201, json=CAMPAIGN)
    path = f"/v1/campaigns/{made['campaign_id']}"
    assert made["plan"] == CAMPAIGN
    await goes(tills)
    paused = await tills.call("POST", f"{path}/pause", json={"reason": "lunch"})
    assert (paused["state"], paused["reason"], paused["blast_radius"]) == ("paused", "lunch", 1)
    await tills.refused("POST", f"{path}/pause", 409, "campaign_state", json={})
    assert (await tills.call("POST", f"{path}/resume", json={"next_group": True}))["state"] == "running"
    await goes(tills)
    shown = await tills.call("GET", path)
    assert shown["blast_radius"] == 10
    assert [group["state"] for group in shown["group_results"]] == ["sent", "observing"]
    aborted = await tills.call("POST", f"{path}/abort", json={})
    assert aborted["state"] == "aborted"
    await goes(tills)
    assert (await tills.call("GET", path))["counts"]["cancelled"] == 10
    (listed,) = (await tills.call("GET", "/v1/campaigns"))["items"]
    assert listed["campaign_id"] == made["campaign_id"]
    part = shown["group_results"][0]["parts"][0]["push_id"]
    push = await tills.call("GET", f"/v1/pushes/{part}")
    assert (push["campaign_id"], push["group"], push["variant"]) == (made["campaign_id"], 1, None)
    assert [push.get("group") for push in (await tills.call("GET", "/v1/pushes"))["items"]] == [2, 1]


async def test_an_idempotency_key_makes_one(tills: InProcessGateway) -> None:
    headers = {"Idempotency-Key": "update-7"}
    first = await tills.call("POST", "/v1/campaigns", 201, json=CAMPAIGN, headers=headers)
    again = await tills.call("POST", "/v1/campaigns", 201, json=CAMPAIGN, headers=headers)
    assert again["campaign_id"] == first["campaign_id"]
    other = {**CAMPAIGN, "name": "Another"}
    await tills.refused("POST", "/v1/campaigns", 422, "idempotency_key_reused", json=other, headers=headers)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"stop": ["failled >= 3"]},
        "stop.0: 'failled >= 3', column 1: no metric is called 'failled'; do you mean failed?",
    ),
    ({"go_on": ["acted >= 95% in"]}, "column 16: it ends where a duration such as 10m should be"),
    ({"canary": "many"}, "canary.share: 'many': write a share such as 10%"),
    ({"rollout": ["rest", "10%"]}, "it is the last group"),
    ({"rollout": ["90%"], "holdout": "20%"}, "more than 100%"),
    ({"rollout": {"rate": "fast"}}, "write a rate as devices in a second"),
    ({"rollout": {"rate": "5/m", "growth": 2}}, '"growth" and "every" belong together'),
    ({"rollout": {"rate": "5/m"}, "canary": None, "go_on": ["acted > 1"]}, "for the canary, and there is none"),
    ({"variants": [{"id": "a"}, {"id": "a"}]}, "two have the same id"),
    ({"rollout": [1] * 50, "variants": [{"id": f"v{number}"} for number in range(5)]}, "200 parts at most"),
    ({"goal": "opened"}, 'no "variants" to compare'),
    ({"push": {**CAMPAIGN["push"], "target": {"duty": "night"}}}, '"duty"'),
    ({"canary": {"tag": "nowhere"}}, "canary: the push is for none of these devices"),
]


async def test_what_is_wrong_is_said(tills: InProcessGateway) -> None:
    for fields, says in WRONG:
        found = await tills.refused("POST", "/v1/campaigns", 422, "invalid_request", json={**CAMPAIGN, **fields})
        assert says in found["detail"], fields
    slow = {**CAMPAIGN, "rollout": {"rate": "1/d"}}
    await tills.call("POST", "/v1/campaigns/forecast", json=slow)


async def test_approval_by_another_key(tills: InProcessGateway) -> None:
    policy = await tills.call("GET", "/v1/policy")
    await tills.call("PUT", "/v1/policy", json={**policy, "approve_above": 5})
    push = {"target": {"tag": "tills"}, "kind": "command", "data": 1}
    await tills.refused("POST", "/v1/pushes", 403, "approval_needed", json=push)
    made = await tills.call("POST", "/v1/campaigns", 201, json=CAMPAIGN)
    assert made["state"] == "awaiting_approval"
    path = f"/v1/campaigns/{made['campaign_id']}/approve"
    await tills.refused("POST", path, 403, "other_key_needed")
    key = await tills.call("POST", "/v1/keys", 201, json={"name": "second", "scopes": ["send", "read"]})
    async with tills.client(key["key"]) as second:
        approved = await tills.call("POST", path, http=second)
    assert (approved["state"], approved["approved_by"]) == ("running", key["id"])


async def test_another_app_sees_nothing_of_it(tills: InProcessGateway) -> None:
    made = await tills.call("POST", "/v1/campaigns", 201, json=CAMPAIGN)
    await tills.call("POST", "/v1/apps", 201, json={"id": "other"})
    key = await tills.call("POST", "/v1/keys", 201, json={"name": "x", "app": "other", "scopes": ["admin"]})
    path = f"/v1/campaigns/{made['campaign_id']}"
    async with tills.client(key["key"]) as other:
        await tills.refused("GET", path, 404, "campaign_not_found", http=other)
        await tills.refused("GET", f"{path}/holdout", 404, "campaign_not_found", http=other)
        for verb, body in (("pause", {}), ("abort", {}), ("resume", {}), ("approve", None)):
            options: dict[str, Any] = {} if body is None else {"json": body}
            await tills.refused("POST", f"{path}/{verb}", 404, "campaign_not_found", http=other, **options)
        assert (await tills.call("GET", "/v1/campaigns", http=other))["items"] == []


@pytest.mark.of_one_server  # what others accept is counted seconds later
async def test_analytics_by_campaign_and_variant(tills: InProcessGateway) -> None:
    variants = [{"id": "a", "data": 1}, {"id": "b", "data": 2}]
    body = {**CAMPAIGN, "canary": None, "variants": variants}
    made = await tills.call("POST", "/v1/campaigns", 201, json=body)
    await tills.call("POST", "/v1/campaigns", 201, json=CAMPAIGN)
    await goes(tills)
    by_campaign = await tills.call("GET", "/v1/analytics?by=campaign")
    assert {item["campaign"]: item["targeted"] for item in by_campaign["items"]}[made["campaign_id"]] == 10
    assert sum(item["targeted"] for item in by_campaign["items"]) == 11
    by_variant = await tills.call("GET", "/v1/analytics?by=variant")
    found = {item["variant"]: item["targeted"] for item in by_variant["items"]}
    assert found == {f"{made['campaign_id']}/a": 5, f"{made['campaign_id']}/b": 5}
    later = await tills.call("GET", "/v1/analytics?by=campaign&from=2099-01-01T00:00:00Z")
    assert later["items"] == []


async def test_old_campaigns_leave(tills: InProcessGateway) -> None:
    made = await tills.call("POST", "/v1/campaigns", 201, json=CAMPAIGN)
    await goes(tills)
    ended_at = tills.clock.milliseconds
    await tills.call("POST", f"/v1/campaigns/{made['campaign_id']}/abort", json={})
    await tills.components.campaigns.remove_old(ended_at + 1)
    assert len((await tills.call("GET", "/v1/campaigns"))["items"]) == 1, "it is not cleared"
    await goes(tills)
    await tills.components.campaigns.remove_old(ended_at - 1)
    assert len((await tills.call("GET", "/v1/campaigns"))["items"]) == 1
    await tills.components.campaigns.remove_old(ended_at + 1)
    assert (await tills.call("GET", "/v1/campaigns"))["items"] == []
    for table in ("campaign_part", "campaign_set"):
        select = f"SELECT count(*) FROM {table}"
        assert await tills.database.read(lambda c, sql=select: c.execute(sql).fetchone()) == (0,)  # type: ignore[misc]


async def test_campaigns_in_one_state(tills: InProcessGateway) -> None:
    push = {"target": {"all": True}, "data": 1}
    ids = {
        name: (await tills.call("POST", "/v1/campaigns", 201, json={"name": name, "push": push, **fields}))[
            "campaign_id"
        ]
        for name, fields in (
            ("later", {"send_at": "2027-01-16T08:00:00Z"}),
            ("asked", {"ask_approval": True}),
            ("now", {}),
            ("gone", {}),
        )
    }
    await tills.call("POST", f"/v1/campaigns/{ids['gone']}/abort", json={})

    async def found(state: str) -> list[str]:
        page = await tills.call("GET", f"/v1/campaigns?state={state}&limit=10")
        return [campaign["name"] for campaign in page["items"]]

    expected = {
        "scheduled": ["later"],
        "awaiting_approval": ["asked"],
        "running": ["now"],
        "aborted": ["gone"],
        "paused": [],
    }
    assert {state: await found(state) for state in expected} == expected
    await tills.refused("GET", "/v1/campaigns?state=lost", 422, "invalid_request")
