from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.api import responses
from gateway.api.request_cycle import EXTENSIONS, WHOLE_ANSWER
from tests.gateway.in_process import InProcessGateway

KIOSK = {"target": {"device": "kiosk-1"}}
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


async def batch(gateway: InProcessGateway, *lines: bytes | dict[str, Any]) -> list[dict[str, Any]]:
    content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    answer = await gateway.http.post("/v1/pushes/batch", content=content, headers=NDJSON)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_push_is_accepted_shown_and_listed(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    full = {
        "target": {"devices": ["kiosk-1", "kiosk-2", "nobody", "kiosk-1"]},
        "kind": "alert",
        "notification": {"title": "Grüezi", "actions": [{"id": "play", "title": "Play"}]},
        "data": {"any": ["json", None]},
        "channel": "offers",
        "priority": "high",
        "qos": 2,
        "ttl": 60,
        "collapse_key": "price-list",
    }
    accepted = await gateway.call("POST", "/v1/pushes", 202, json=full)
    responses.AcceptedPushResponse.model_validate(accepted)
    assert (accepted["targeted"], accepted["suppressed"], accepted["unknown"]) == (2, 0, ["nobody"])
    shown = await gateway.call("GET", f"/v1/pushes/{accepted['push_id']}")
    responses.PushResponse.model_validate(shown)
    assert {name: shown[name] for name in full} == full
    assert (shown["sent_at"], shown["expires_at"]) == ("2027-01-15T08:00:00.000Z", "2027-01-15T08:01:00.000Z")
    counts = dict(shown["counts"])
    assert (counts.pop("targeted"), counts.pop("waiting"), set(counts.values())) == (2, 2, {0})
    second = await gateway.push({"all": True})
    listed = await gateway.call("GET", "/v1/pushes")
    responses.PushesResponse.model_validate(listed)
    assert [item["push_id"] for item in listed["items"]] == [second, accepted["push_id"]]
    first = await gateway.call("GET", "/v1/pushes?limit=1")
    assert (await gateway.call("GET", f"/v1/pushes?cursor={first['next_cursor']}"))["items"] == [shown]
    deliveries = await gateway.call("GET", f"/v1/pushes/{second}/deliveries")
    responses.DeliveriesResponse.model_validate(deliveries)
    assert [item["device_id"] for item in deliveries["items"]] == ["kiosk-1", "kiosk-2"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"colour": 1}, "colour: unknown field"),
        ({"notification": {"titel": "x"}}, "notification.titel: unknown field; did you mean 'title'?"),
        ({"ttl": -1}, "ttl: must be greater"),
        ({"ttl": 31_536_001}, "ttl: must be less"),
        ({"send_at": "2026-12-01T09:00:00"}, "send_at: a time needs its offset"),
        ({"qos": 3}, "qos: must be 0, 1 or 2"),
        ({"target": {"device": "a/b"}}, "target.device: must match"),
        ({"target": {"device": "a", "all": True}}, "target: give exactly one"),
        ({"kind": "alert"}, "needs a"),
    ],
)
async def test_a_wrong_push_names_its_field(gateway: InProcessGateway, fields: dict[str, Any], words: str) -> None:
    document = await gateway.refused("POST", "/v1/pushes", 422, "invalid_request", json=KIOSK | fields)
    assert words in document["detail"]
    document = await gateway.refused("POST", "/v1/pushes/forecast", 422, "invalid_request", json=KIOSK | fields)
    assert words in document["detail"]


async def test_what_has_no_push_is_404(gateway: InProcessGateway) -> None:
    await gateway.refused("POST", "/v1/pushes", 404, "device_not_found", json=KIOSK)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/deliveries")):
        await gateway.refused(method, f"/v1/pushes/nothing{path}", 404, "push_not_found")


async def test_a_push_of_another_app_is_404(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    push_id = await gateway.push({"all": True})
    await gateway.call("POST", "/v1/apps", 201, json={"id": "hotel"})
    theirs = await gateway.key_for("send", "read", app="hotel")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/deliveries")):
        await gateway.refused(method, f"/v1/pushes/{push_id}{path}", 404, "push_not_found", theirs)
    assert (await gateway.call("GET", "/v1/pushes", http=theirs))["items"] == []
    await gateway.refused("POST", "/v1/pushes", 404, "device_not_found", theirs, json=KIOSK)
    assert (await gateway.call("GET", f"/v1/pushes/{push_id}"))["counts"]["waiting"] == 1


async def test_bodies_that_are_not_json_or_too_large(gateway: InProcessGateway) -> None:
    await gateway.refused("POST", "/v1/pushes", 400, "malformed_json", content=b"{", headers=JSON)
    await gateway.refused("POST", "/v1/pushes", 415, "unsupported_media_type", content=b"a=b",
                        headers={"Content-Type": "application/x-www-form-urlencoded"})  # fmt: skip
    large = b'{"target":{"all":true},"data":"' + b"x" * 5_000_000 + b'"}'
    await gateway.refused("POST", "/v1/pushes", 413, "payload_too_large", content=large, headers=JSON)
    await gateway.refused(
        "POST", "/v1/pushes", 413, "payload_too_large", json={"target": {"all": True}, "data": "x" * 4096}
    )


async def test_an_idempotency_key_makes_one_push_of_many(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    headers = JSON | {"Idempotency-Key": "order-1"}
    body = json.dumps(KIOSK).encode()
    first = await gateway.call("POST", "/v1/pushes", 202, content=body, headers=headers)
    again = await asyncio.gather(
        *(gateway.call("POST", "/v1/pushes", 202, content=body, headers=headers) for _ in range(5))
    )
    assert all(answer == first for answer in again)
    await gateway.refused("POST", "/v1/pushes", 422, "idempotency_key_reused", content=body + b" ", headers=headers)
    assert len((await gateway.call("GET", "/v1/pushes"))["items"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "zwölf", "tab\there"])
async def test_an_idempotency_key_has_its_form(gateway: InProcessGateway, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode("latin-1")}
    document = await gateway.refused("POST", "/v1/pushes", 422, json=KIOSK, headers=headers)
    assert document["detail"].startswith("Idempotency-Key: ")


async def test_a_recall_says_what_it_did(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    push_id = await gateway.push({"all": True})
    recalled = await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    responses.RecallResponse.model_validate(recalled)
    assert recalled == {"cancelled": 2, "in_flight": 0, "too_late": 0}
    assert (await gateway.call("GET", f"/v1/pushes/{push_id}"))["recalled_at"] == "2027-01-15T08:00:00.000Z"


async def test_a_forecast_sends_nothing(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", tags=["hall"])
    for target in ({"all": True}, {"tag": "hall"}, {"device": "kiosk-1"}):
        forecast = await gateway.call("POST", "/v1/pushes/forecast", json={"target": target})
        responses.ForecastResponse.model_validate(forecast)
        assert forecast == {
            "targeted": 1,
            "online": 0,
            "suppressed": {},
            "unknown": [],
            "likely": 0,
            "will_expire": 0,
            "unknown_presence": 1,
            "capped": {"dropped": 0, "deferred": 0},
            "quiet_hours": {"dropped": 0, "deferred": 0},
            "sampled": False,
        }
    some = await gateway.call("POST", "/v1/pushes/forecast", json={"target": {"devices": ["kiosk-1", "x"]}})
    assert some["unknown"] == ["x"]
    await gateway.refused("POST", "/v1/pushes/forecast", 404, "device_not_found", json={"target": {"device": "x"}})
    assert (await gateway.call("GET", "/v1/pushes"))["items"] == []


async def test_a_push_keeps_the_forecast_that_it_is_sent_with(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2")
    body = {"target": {"all": True}, "ttl": 0}
    headers = {"Idempotency-Key": "k"}
    push_id = (await gateway.call("POST", "/v1/pushes?forecast=1", 202, json=body, headers=headers))["push_id"]
    while (shown := await gateway.call("GET", f"/v1/pushes/{push_id}"))["counts"]["waiting"]:  # noqa: ASYNC110  # it is looked at
        await asyncio.sleep(0.001)
    responses.PushResponse.model_validate(shown)
    assert (shown["forecast"]["will_expire"], shown["forecast"]["reached"], shown["forecast"]["error"]) == (2, 0, 0)
    assert (await gateway.call("GET", "/v1/pushes"))["items"][0]["forecast"] == shown["forecast"]
    plain = await gateway.push({"device": "kiosk-1"})
    gateway.clock.milliseconds += 1_000
    again = await gateway.call("POST", "/v1/pushes?forecast=1", 202, json=body, headers=headers)
    assert again["push_id"] == push_id
    assert "forecast" not in await gateway.call("GET", f"/v1/pushes/{plain}")
    later = await gateway.call("GET", f"/v1/pushes/{push_id}")
    assert later["forecast"]["made_at"] == shown["forecast"]["made_at"]
    await gateway.refused(
        "POST", "/v1/pushes?forecast=1", 404, "device_not_found", json={"target": {"device": "nobody"}}
    )
    waiting = asyncio.create_task(
        gateway.call("POST", "/v1/pushes?forecast=1&wait=60", 202, json={"target": {"device": "kiosk-2"}})
    )
    while not (page := await gateway.call("GET", "/v1/devices/kiosk-2/mailbox"))["items"]:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    (entry,) = page["items"]
    while "forecast" not in await gateway.call("GET", f"/v1/pushes/{entry['push_id']}"):  # noqa: ASYNC110
        await asyncio.sleep(0.001)  # it is kept while its sender waits
    waiting.cancel()
    both = {"target": {"device": "kiosk-1"}, "ttl": 0}
    answer = await gateway.call("POST", "/v1/pushes?forecast=1&wait=9", 200, json=both)
    assert answer["delivery"]["state"] == "expired"
    assert (await gateway.call("GET", f"/v1/pushes/{answer['push_id']}"))["forecast"]["error"] == 0


@pytest.mark.of_one_server  # whose commits are counted
async def test_a_batch_answers_line_by_line_after_one_commit(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    groups = gateway.database.groups
    results = await batch(
        gateway, KIOSK, b"{", {"target": {"device": "x"}}, KIOSK | {"colour": 1}, b"", b"  \r", b"\xff", KIOSK
    )
    assert [result["status"] for result in results] == [202, 400, 404, 422, 400, 202]
    assert gateway.database.groups == groups + 1
    for result in results[1:5]:
        responses.ProblemDocument.model_validate(result)
    waiting = (await gateway.call("GET", "/v1/devices/kiosk-1/mailbox"))["items"]
    assert [item["push_id"] for item in waiting] == [results[0]["push_id"], results[5]["push_id"]]
    assert await batch(gateway) == []


async def test_a_batch_remembers_the_keys_of_its_lines(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    line = KIOSK | {"idempotency_key": "one"}
    first, twin, other, wrong = await batch(gateway, line, line, line | {"data": 1}, KIOSK | {"idempotency_key": "é"})
    assert first == twin
    assert (other["status"], other["code"]) == (422, "idempotency_key_reused")
    assert wrong["code"] == "invalid_request"
    assert await batch(gateway, line) == [first]


async def test_a_batch_has_its_limits(gateway: InProcessGateway) -> None:
    line = json.dumps(KIOSK).encode()
    options: dict[str, Any] = {"headers": NDJSON}
    await gateway.refused("POST", "/v1/pushes/batch", 413, content=b"\n".join([line] * 10_001), **options)
    await gateway.refused("POST", "/v1/pushes/batch", 413, content=b" " * (16 * 1024 * 1024 + 1), **options)
    await gateway.refused("POST", "/v1/pushes/batch", 415, "unsupported_media_type", json=[])
    results = await batch(gateway, *[line] * 600)
    assert {result["status"] for result in results} == {404}
    assert len(results) == 600


async def test_deliveries_are_listed_by_state_and_device(gateway: InProcessGateway) -> None:
    devices = [{"device_id": f"kiosk-{number}"} for number in range(3)]
    await gateway.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})
    pushed = await gateway.call("POST", "/v1/pushes", 202, json={"target": {"all": True}})
    path = f"/v1/pushes/{pushed['push_id']}/deliveries"
    await gateway.call("DELETE", "/v1/devices/kiosk-1/mailbox")
    for state, expected in (("waiting", ["kiosk-0", "kiosk-2"]), ("cancelled", ["kiosk-1"]), ("sent", [])):
        listed = await gateway.call("GET", f"{path}?state={state}")
        assert [item["device_id"] for item in listed["items"]] == expected, state
    first = await gateway.call("GET", f"{path}?state=waiting&limit=1")
    rest = await gateway.call("GET", f"{path}?state=waiting&limit=1&cursor={first['next_cursor']}")
    assert [item["device_id"] for item in first["items"] + rest["items"]] == ["kiosk-0", "kiosk-2"]
    assert rest["next_cursor"] is None
    await gateway.refused("GET", f"{path}?state=lost", 422, "invalid_request")
    (one,) = (await gateway.call("GET", f"{path}?device=kiosk-1"))["items"]
    assert (one["device_id"], one["state"]) == ("kiosk-1", "cancelled")
    assert (await gateway.call("GET", f"{path}?device=kiosk-1&state=waiting"))["items"] == []
    await gateway.refused("GET", f"{path}?device=nobody", 404, "device_not_found")


async def test_an_answer_leaves_in_one_piece_where_the_server_takes_that(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    body = json.dumps(KIOSK).encode()
    headers = [(b"authorization", f"Bearer {gateway.key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/pushes", "query_string": b"", "headers": headers}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway.api({**scope, "extensions": EXTENSIONS}, receive, send)
    (message,) = sent
    assert (message["type"], message["status"]) == (WHOLE_ANSWER, 202)
    assert json.loads(message["content"])["targeted"] == 1
    await gateway.api(dict(scope), receive, send)
    assert [message["type"] for message in sent[1:]] == ["http.response.start", "http.response.body"]
    assert json.loads(sent[-1]["body"])["targeted"] == 1
