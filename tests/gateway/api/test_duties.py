from __future__ import annotations

from typing import Any

import pytest

from gateway.api import responses
from tests.gateway.in_process import InProcessGateway

STEPS = [{"device": "d1", "wait_s": 60}, {"tag": "guards"}]
ALERT = {"target": {"duty": "night"}, "notification": {"title": "Hi"}}


async def test_a_duty_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    made = await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS, "description": "By night"})
    duty = responses.DutyResponse.model_validate(made)
    assert (duty.repeat, duty.acts, duty.opened, duty.running, duty.steps[1].wait_s) == (0, None, False, 0, 120)
    await gateway.call("PUT", "/v1/duties/day", json={"steps": STEPS})
    page = responses.DutiesResponse.model_validate(await gateway.call("GET", "/v1/duties?limit=1"))
    assert [duty.name for duty in page.items] == ["day"]
    assert (await gateway.call("GET", f"/v1/duties?cursor={page.next_cursor}"))["items"] == [made]
    gateway.clock.milliseconds += 1_000
    changed = await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS, "acts": ["take"]})
    assert (changed["acts"], changed["description"], changed["created_at"]) == (["take"], None, made["created_at"])
    assert changed["updated_at"] > made["updated_at"]
    assert await gateway.call("GET", "/v1/duties/night") == changed
    await gateway.call("DELETE", "/v1/duties/night", 204)
    for method in ("GET", "DELETE"):
        await gateway.refused(method, "/v1/duties/night", 404, "duty_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"steps": []},
        {"steps": [{}]},
        {"steps": [{"wait_s": 60}]},
        {"steps": [{"device": "d1", "tag": "guards"}]},
        {"steps": [{"device": "a b"}]},
        {"steps": [{"device": "d1", "wait_s": 0}]},
        {"steps": [{"device": "d1", "wait_s": 86_401}]},
        {"steps": [{"devices": [f"d{number}" for number in range(101)]}]},
        {"steps": [{"devices": [f"d{number}" for number in range(100)]}] * 3},
        {"steps": [{"device": "d1"}] * 11},
        {"steps": STEPS, "repeat": 10},
        {"steps": STEPS, "acts": []},
        {"steps": STEPS, "who": "me"},
    ],
)
async def test_a_duty_that_is_none(gateway: InProcessGateway, body: dict[str, Any]) -> None:
    await gateway.refused("PUT", "/v1/duties/night", 422, "invalid_request", json=body)


async def test_a_name_that_is_none(gateway: InProcessGateway) -> None:
    await gateway.refused("PUT", "/v1/duties/a%20b", 422, "invalid_request", json={"steps": STEPS})


async def test_an_app_has_its_own_duties_and_not_too_many(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.delivery.duties.MAX_DUTIES", 1)
    await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS})
    await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS, "repeat": 1})
    problem = await gateway.refused("PUT", "/v1/duties/day", 422, json={"steps": STEPS})
    assert "at most 1" in problem["detail"]
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("admin", app="hotel")
    assert (await gateway.call("GET", "/v1/duties", http=theirs))["items"] == []
    await gateway.refused("GET", "/v1/duties/night", 404, "duty_not_found", theirs)
    await gateway.refused("POST", "/v1/pushes", 404, "duty_not_found", theirs, json=ALERT)


async def test_a_push_to_a_duty_and_its_report(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS})
    forecast = await gateway.call("POST", "/v1/pushes/forecast", json=ALERT)
    assert forecast["targeted"] == 1
    accepted = await gateway.call("POST", "/v1/pushes", 202, json=ALERT)
    assert (accepted["targeted"], accepted["unknown"]) == (1, [])
    push = responses.PushResponse.model_validate(await gateway.call("GET", f"/v1/pushes/{accepted['push_id']}"))
    assert push.target == {"duty": "night"}
    assert push.collapse_key is not None
    assert push.escalation is not None
    assert push.escalation.steps is not None
    assert [(step.targeted, step.counts.waiting) for step in push.escalation.steps] == [(1, 1)]
    listed = responses.PushesResponse.model_validate(await gateway.call("GET", "/v1/pushes"))
    assert listed.items[0].escalation is not None
    assert (await gateway.call("GET", "/v1/duties/night"))["running"] == 1
    assert await gateway.call("DELETE", f"/v1/pushes/{accepted['push_id']}") == {
        "cancelled": 1,
        "in_flight": 0,
        "too_late": 0,
    }
    assert (await gateway.call("GET", "/v1/duties/night"))["running"] == 0


async def test_pushes_to_duties_are_listed(gateway: InProcessGateway) -> None:
    """The newest first, page by page; of one state; and those of the app alone."""
    await gateway.enrol("d1")
    await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS})
    body = {**ALERT, "collapse_key": "door"}
    sent = [(await gateway.call("POST", "/v1/pushes", 202, json=body))["push_id"] for _ in range(3)]
    await gateway.call("POST", "/v1/pushes", 202, json={**ALERT, "target": {"device": "d1"}})
    other = (await gateway.call("POST", "/v1/pushes", 202, json=ALERT))["push_id"]
    await gateway.call("DELETE", f"/v1/pushes/{other}")

    async def listed(query: str = "") -> list[tuple[str, str]]:
        page = responses.EscalationsResponse.model_validate(await gateway.call("GET", f"/v1/escalations{query}"))
        assert all((item.duty, item.step, item.steps) == ("night", 1, None) for item in page.items)
        return [(item.push_id, item.state) for item in page.items]

    everything = [
        (other, "recalled"),
        (sent[2], "running"),
        (sent[1], "superseded"),
        (sent[0], "superseded"),
    ]
    assert await listed() == everything
    assert await listed("?state=running") == [everything[1]]
    assert await listed("?state=acted") == []
    page = await gateway.call("GET", "/v1/escalations?limit=2")
    assert [item["push_id"] for item in page["items"]] == [other, sent[2]]
    assert await listed(f"?limit=2&cursor={page['next_cursor']}") == everything[2:]
    assert (await gateway.call("GET", "/v1/escalations?limit=4"))["next_cursor"] is None
    await gateway.refused("GET", "/v1/escalations?state=over", 422, "invalid_request")
    await gateway.refused("GET", "/v1/escalations?cursor=x", 422, "invalid_request")
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("read", app="hotel")
    assert (await gateway.call("GET", "/v1/escalations", http=theirs))["items"] == []


@pytest.mark.parametrize("fields", [{"kind": "command"}, {"notification": {"title": "Hi"}, "ttl": 0}])
async def test_what_nobody_on_duty_can_act_on(gateway: InProcessGateway, fields: dict[str, Any]) -> None:
    await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS})
    body = {"target": {"duty": "night"}, **fields}
    await gateway.refused("POST", "/v1/pushes", 422, "invalid_request", json=body)


async def test_a_batch_may_have_duties(gateway: InProcessGateway) -> None:
    await gateway.enrol("d1")
    await gateway.call("PUT", "/v1/duties/night", json={"steps": STEPS})
    lines = b'{"target":{"duty":"night"},"data":1}\n{"target":{"duty":"none"},"data":1}\n{"target":{"device":"d1"}}\n'
    answer = await gateway.http.post(
        "/v1/pushes/batch", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert [line.partition('"status":')[2][:3] for line in answer.text.splitlines()] == ["202", "404", "202"]
