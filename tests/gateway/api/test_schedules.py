from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.api import responses
from gateway.nodes.tasks import TaskName
from tests.gateway.in_process import InProcessGateway

EVERYBODY = {"target": {"all": True}, "data": 1}
DAILY = {"repeat": {"cron": "0 9 * * *", "zone": "Europe/Vienna"}}


def ahead(gateway: InProcessGateway, **distance: float) -> str:
    at = datetime.fromtimestamp(gateway.clock.milliseconds / 1000, UTC) + timedelta(**distance)
    return at.isoformat()


async def run_due(gateway: InProcessGateway, seconds: float) -> None:
    gateway.clock.milliseconds += int(seconds * 1000)
    owner = await gateway.owner_of(TaskName.SCHEDULES)
    await owner.components.plans.schedule_runner.run_due()


async def test_a_schedule_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d1"})
    made = await gateway.call("POST", "/v1/pushes", 202, json=EVERYBODY | {"send_at": ahead(gateway, hours=1)})
    accepted = responses.AcceptedScheduleResponse.model_validate(made)
    path = f"/v1/schedules/{accepted.schedule_id}"
    named = {"name": "Morning", "missed": "skip", "push": EVERYBODY | DAILY}
    daily = await gateway.call("POST", "/v1/schedules", 202, json=named)
    assert len(daily["next"]) == 5
    assert await gateway.call("POST", "/v1/schedules/preview", json=named) == {"next": daily["next"]}
    page = responses.SchedulesResponse.model_validate(await gateway.call("GET", "/v1/schedules?limit=1"))
    assert [item.name for item in page.items] == ["Morning"]
    rest = await gateway.call("GET", f"/v1/schedules?state=active&cursor={page.next_cursor}")
    assert [item["next"] for item in rest["items"]] == [made["next"]]
    await run_due(gateway, 3_600)
    shown = responses.ScheduleResponse.model_validate(await gateway.call("GET", path))
    assert shown.state == "ended"
    assert shown.last_run is not None
    assert shown.last_run.counts is not None
    assert shown.last_run.counts.waiting == 1
    runs = responses.ScheduleRunsResponse.model_validate(await gateway.call("GET", f"{path}/runs"))
    assert runs.items == [shown.last_run]
    (push_id,) = shown.last_run.push_ids
    push = responses.PushResponse.model_validate(await gateway.call("GET", f"/v1/pushes/{push_id}"))
    assert push.schedule_id == accepted.schedule_id
    cancelled = responses.CancelledScheduleResponse.model_validate(await gateway.call("DELETE", f"{path}?recall=true"))
    assert cancelled.recalled == responses.RecalledPartsResponse(cancelled=1, in_flight=0, too_late=0)
    for verb in ("pause", "resume", "run"):
        await gateway.refused("POST", f"{path}/{verb}", 409, "schedule_ended")
        await gateway.refused("POST", f"/v1/schedules/nothing/{verb}", 404, "schedule_not_found")


async def test_a_schedule_is_changed_paused_resumed_and_run(gateway: InProcessGateway) -> None:
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d1"})
    made = await gateway.call("POST", "/v1/schedules", 202, json={"push": EVERYBODY | DAILY})
    path = f"/v1/schedules/{made['schedule_id']}"
    patch = {"name": "Tea", "push": {"repeat": {"zone": "Asia/Tokyo"}, "data": None}}
    changed = await gateway.call("PATCH", path, json=patch)
    assert changed["push"]["repeat"] == {"cron": "0 9 * * *", "zone": "Asia/Tokyo"}
    assert ("data" in changed["push"], changed["name"]) == (False, "Tea")
    assert changed["next"] != made["next"]
    await gateway.refused("PATCH", path, 422, "invalid_request", json={"push": {"repeat": None}})
    assert (await gateway.call("POST", f"{path}/pause"))["state"] == "paused"
    await gateway.refused("POST", f"{path}/run", 409, "schedule_ended")
    await run_due(gateway, 90_000)
    assert (await gateway.call("GET", f"{path}/runs"))["items"] == []
    assert (await gateway.call("POST", f"{path}/resume"))["state"] == "active"
    await gateway.call("POST", f"{path}/run", 202)
    await run_due(gateway, 1)
    (run,) = (await gateway.call("GET", f"{path}/runs"))["items"]
    assert (run["asked"], run["state"]) == (True, "done")


async def test_an_idempotency_key_makes_one_schedule(gateway: InProcessGateway) -> None:
    body, headers = EVERYBODY | {"send_at_local": "09:00"}, {"Idempotency-Key": "monday"}
    first = await gateway.call("POST", "/v1/pushes", 202, json=body, headers=headers)
    assert await gateway.call("POST", "/v1/pushes", 202, json=body, headers=headers) == first
    await gateway.refused(
        "POST", "/v1/pushes", 422, "idempotency_key_reused", json=EVERYBODY | {"spread": 5}, headers=headers
    )
    await gateway.refused("POST", "/v1/pushes", 422, "idempotency_key_reused", json=EVERYBODY, headers=headers)
    assert len((await gateway.call("GET", "/v1/schedules"))["items"]) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"send_at": "2020-01-01T00:00:00Z"}, "must lie ahead"),
        ({"send_at": "2099-01-01T00:00:00Z"}, "must lie ahead"),
        ({"send_at": "2020-01-01T00:00:00"}, "a time needs its offset"),
        ({"send_at_local": "9:00"}, "send_at_local: must be a time without a zone"),
        ({"send_at_local": "2027-02-30T09:00"}, "send_at_local"),
        ({"send_at_local": "2019-02-03T09:00"}, "must lie ahead"),
        ({"send_at_local": "9999-12-31T23:59"}, "must lie ahead"),
        ({"send_at_local": "09:00", **DAILY}, "give one of them"),
        ({"repeat": {"cron": "0 9 * *", "zone": "UTC"}}, "five fields"),
        ({"repeat": {"cron": "0 25 * * *", "zone": "UTC"}}, "repeat.cron: no cron expression"),
        ({"repeat": {"cron": "0 9 31 2 *", "zone": "UTC"}}, "repeat.cron"),
        ({"repeat": {"cron": "0 9 * * *", "zone": "Vienna"}}, "unknown time zone"),
        ({"repeat": {"cron": "0 9 * * *"}}, "repeat.zone: is required"),
        ({"repeat": {"cron": "*/5 * * * *", "zone": "device"}}, "minute and hour are numbers"),
        ({"repeat": {"cron": "0-59 9-17 * * *", "zone": "device"}}, "at most 24 dates"),
        ({"repeat": {"cron": "0 9 * * *", "zone": "UTC", "until": "2020-01-01T00:00:00Z"}}, "no date would ever"),
        ({"window": {"from": "08:00", "to": "08:00", "zone": "UTC"}}, "from and to are the same"),
        ({"window": {"from": "8", "to": "20:00", "zone": "UTC"}}, "window.from: must be a time of day"),
        ({"spread": 0}, "spread"),
        ({"spread": 86_401}, "spread"),
        ({"spread": 60, "target": {"duty": "night"}, "notification": {"title": "x"}}, "due at one time for all"),
        ({**DAILY, "signed": "a.b.c"}, "good for one time"),
        ({"spread": 60, "data": "x" * 5_000}, "bytes on the wire"),
    ],
)
async def test_what_is_no_schedule_is_said(gateway: InProcessGateway, fields: dict[str, Any], words: str) -> None:
    answer = await gateway.http.post("/v1/pushes", json=EVERYBODY | fields)
    assert answer.status_code in (413, 422)
    assert words in answer.json()["detail"]


async def test_a_batch_and_a_push_without_dates_are_none(gateway: InProcessGateway) -> None:
    line = b'{"target": {"all": true}, "send_at_local": "09:00"}\n'
    answer = await gateway.http.post("/v1/pushes/batch", content=line, headers={"Content-Type": "application/x-ndjson"})
    assert "send_at_local: this makes a schedule" in answer.json()["detail"]
    refusal = await gateway.refused("POST", "/v1/schedules", 422, json={"push": EVERYBODY})
    assert "give one of send_at" in refusal["detail"]
    await gateway.refused("POST", "/v1/pushes", 404, json={"target": {"device": "nobody"}, "spread": 5})


async def test_an_expression_is_searched_for_when_it_is_due(gateway: InProcessGateway) -> None:
    for device_id, floor in (("d1", 1), ("d2", 2)):
        await gateway.call("POST", "/v1/devices", 201, json={"device_id": device_id, "attributes": {"floor": floor}})
    unknown = {"target": {"segment": "nobody"}, "send_at_local": "09:00"}
    await gateway.refused("POST", "/v1/pushes", 404, "segment_not_found", json=unknown)
    where = {"target": {"where": "attributes.floor == 2"}, "spread": 1}
    made = await gateway.call("POST", "/v1/pushes", 202, json=where)
    await run_due(gateway, 1)
    (run,) = (await gateway.call("GET", f"/v1/schedules/{made['schedule_id']}/runs"))["items"]
    (push_id,) = run["push_ids"]
    page = await gateway.call("GET", f"/v1/pushes/{push_id}/deliveries")
    assert [item["device_id"] for item in page["items"]] == ["d2"]


async def test_texts_are_composed_for_each_device_when_they_are_due(gateway: InProcessGateway) -> None:
    for device_id, floor in (("d1", 1), ("d2", 2)):
        await gateway.call("POST", "/v1/devices", 201, json={"device_id": device_id, "attributes": {"floor": floor}})
    push = EVERYBODY | {"notification": {"title": "Floor {{ device.attributes.floor }}"}, "render": "liquid"}
    wrong = push | {"notification": {"title": "{{ device.attributes.floor"}, "spread": 1}
    await gateway.refused("POST", "/v1/pushes", 422, "template_error", json=wrong)
    made = await gateway.call("POST", "/v1/pushes", 202, json=push | {"spread": 1})
    await gateway.call("PATCH", "/v1/devices/d2", json={"attributes": {"floor": 3}})
    await run_due(gateway, 1)
    (run,) = (await gateway.call("GET", f"/v1/schedules/{made['schedule_id']}/runs"))["items"]
    texts = await gateway.call("GET", f"/v1/pushes/{run['push_ids'][0]}/texts")
    assert "Floor 3" in str(texts)


async def test_a_spread_is_no_way_around_an_approval(gateway: InProcessGateway) -> None:
    for number in range(3):
        await gateway.call("POST", "/v1/devices", 201, json={"device_id": f"d{number}"})
    order = EVERYBODY | {"kind": "command", "spread": 60}
    made = await gateway.call("POST", "/v1/pushes", 202, json=order | {"send_at": ahead(gateway, hours=1)})
    await gateway.call("PUT", "/v1/policy", json={"approve_above": 2})
    await gateway.refused("POST", "/v1/schedules", 403, "approval_needed", json={"push": order})
    await run_due(gateway, 3_600)
    (run,) = (await gateway.call("GET", f"/v1/schedules/{made['schedule_id']}/runs"))["items"]
    assert (run["state"], run["problem"].partition(":")[0]) == ("failed", "approval_needed")


async def test_an_app_has_so_many_schedules(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.plans.schedules.SCHEDULES_OF_APP", 2)
    for _ in range(2):
        made = await gateway.call("POST", "/v1/schedules", 202, json={"push": EVERYBODY | DAILY})
    await gateway.refused("POST", "/v1/schedules", 429, "too_many_schedules", json={"push": EVERYBODY | DAILY})
    await gateway.call("DELETE", f"/v1/schedules/{made['schedule_id']}")
    await gateway.call("POST", "/v1/schedules", 202, json={"push": EVERYBODY | DAILY})
    metrics = [node.components.metrics.text().decode() for node in gateway.nodes]
    assert "".join(metrics).count('fleetpush_requests_over_share_total{limit="schedules"} 1.0') == 1


async def test_a_schedule_of_another_app_is_not_there(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/schedules", 202, json={"push": EVERYBODY | DAILY})
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    other = await gateway.key_for("send", "read", app="other")
    assert (await gateway.call("GET", "/v1/schedules", http=other))["items"] == []
    for method in ("GET", "DELETE"):
        await gateway.refused(method, f"/v1/schedules/{made['schedule_id']}", 404, "schedule_not_found", http=other)
    reader = await gateway.key_for("read")
    await gateway.refused("DELETE", f"/v1/schedules/{made['schedule_id']}", 403, "forbidden", http=reader)


async def test_schedules_that_ended_leave_after_a_while(gateway: InProcessGateway) -> None:
    made = await gateway.call("POST", "/v1/schedules", 202, json={"push": EVERYBODY | DAILY})
    await gateway.call("DELETE", f"/v1/schedules/{made['schedule_id']}")
    runner = gateway.components.plans.schedule_runner
    await runner.remove_ended(1_000)
    await gateway.call("GET", f"/v1/schedules/{made['schedule_id']}")
    gateway.clock.milliseconds += 1_001
    await runner.remove_ended(1_000)
    await gateway.refused("GET", f"/v1/schedules/{made['schedule_id']}", 404, "schedule_not_found")
