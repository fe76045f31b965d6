"""Webhooks as their senders see them; what is sent is in tests/gateway/events."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api import responses
from gateway.events.webhooks import MAX_WEBHOOKS
from tests.gateway.in_process import InProcessGateway

URL = "https://hooks.example/fleet?app=1"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def made(gateway: InProcessGateway, **fields: Any) -> dict[str, Any]:
    return dict(await gateway.call("POST", "/v1/webhooks", 201, json={"url": URL, **fields}))


async def test_a_webhook_from_its_making_to_its_end(gateway: InProcessGateway) -> None:
    webhook = await made(gateway, types=["delivery.acted"], description="orders")
    responses.NewWebhookResponse.model_validate(webhook)
    assert webhook["secret"].startswith("whsec_")
    path = f"/v1/webhooks/{webhook['id']}"
    shown = await gateway.call("GET", path)
    responses.WebhookResponse.model_validate(shown)
    assert shown == {name: value for name, value in webhook.items() if name != "secret"}
    page = await gateway.call("GET", "/v1/webhooks")
    assert page == {"items": [shown], "next_cursor": None}
    gateway.clock.milliseconds += 1000
    changed = await gateway.call("PATCH", path, json={"types": ["*"], "description": None})
    assert (changed["types"], changed["description"], changed["url"]) == (["*"], None, URL)
    assert changed["updated_at"] != webhook["updated_at"]
    await gateway.call("DELETE", path, 204)
    await gateway.refused("GET", path, 404, "webhook_not_found")
    await gateway.refused("DELETE", path, 404, "webhook_not_found")
    await gateway.refused("POST", f"{path}/dead-letters/replay", 404, "webhook_not_found")


async def test_a_secret_is_shown_when_it_is_made_only(gateway: InProcessGateway) -> None:
    webhook = await made(gateway, secret=SECRET)
    assert webhook["secret"] == SECRET
    path = f"/v1/webhooks/{webhook['id']}"
    assert (await gateway.call("POST", f"{path}/secret"))["secret"] != SECRET
    for answer in (await gateway.call("GET", path), await gateway.call("PATCH", path, json={})):
        assert "secret" not in answer


async def test_disabled_and_enabled_by_hand(gateway: InProcessGateway) -> None:
    path = f"/v1/webhooks/{(await made(gateway))['id']}"
    off = await gateway.call("PATCH", path, json={"enabled": False})
    assert (off["enabled"], off["disabled_reason"]) == (False, "by its operator")
    on = await gateway.call("PATCH", path, json={"enabled": True})
    assert (on["enabled"], on["disabled_at"], on["disabled_reason"]) == (True, None, None)
    await gateway.call("PATCH", path, json={"enabled": False})
    refusal = await gateway.refused("POST", f"{path}/dead-letters/replay", 422, "invalid_request")
    assert '{"enabled": true}' in refusal["detail"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "hooks.example"}, "https://example.org/hooks"),
        ({"url": "ftp://hooks.example/"}, "https://example.org/hooks"),
        ({"url": "https://"}, "https://example.org/hooks"),
        ({"url": "https://me:secret@hooks.example/"}, "no user name"),
        ({"url": "https://hooks.example/#here"}, "no fragment"),
        ({"url": "https://hooks.example/a b"}, "printable ASCII"),
        ({"url": "https://hooks.example\r\nX: y/"}, ""),
        ({"url": "https://hooks.example:99999/"}, ""),
        ({"url": "http://127.0.0.1:8080/"}, "webhook_networks"),
        ({"url": "http://[::1]/"}, "webhook_networks"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "webhook_networks"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "webhook_networks"),
        ({"types": []}, "types"),
        ({"types": ["delivery.eaten"]}, "delivery.delivered"),
        ({"types": ["deliv*"]}, "no event is called"),
        ({"secret": "secret"}, "24 to 64 bytes"),
        ({"secret": "whsec_AAAA"}, "24 to 64 bytes"),
        ({"secret": "whsec_!!!"}, "24 to 64 bytes"),
        ({"enabled": "yes"}, "enabled"),
        ({"retries": 3}, "retries"),
    ],
)
async def test_what_cannot_be_a_webhook_is_refused(
    gateway: InProcessGateway, fields: dict[str, Any], says: str
) -> None:
    problem = await gateway.refused("POST", "/v1/webhooks", 422, "invalid_request", json={"url": URL, **fields})
    assert says in problem["detail"]
    assert (await gateway.call("GET", "/v1/webhooks"))["items"] == []


async def test_a_change_is_judged_like_a_new_one(gateway: InProcessGateway) -> None:
    path = f"/v1/webhooks/{(await made(gateway))['id']}"
    await gateway.refused("PATCH", path, 422, "invalid_request", json={"url": "http://10.0.0.1/"})
    await gateway.refused("PATCH", path, 422, "invalid_request", json={"types": ["nothing"]})
    await gateway.refused("PATCH", path, 422, "invalid_request", json={"secret": SECRET})
    await gateway.refused("PATCH", path, 422, "invalid_request", json={"url": None})
    await gateway.refused("PATCH", path, 422, "invalid_request", json=[])
    await gateway.refused(
        "PATCH", path, 400, "malformed_json", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert (await gateway.call("GET", path))["url"] == URL


async def test_there_are_so_many_at_most(gateway: InProcessGateway) -> None:
    for _ in range(MAX_WEBHOOKS):
        await made(gateway)
    problem = await gateway.refused("POST", "/v1/webhooks", 422, "invalid_request", json={"url": URL})
    assert f"{MAX_WEBHOOKS}" in problem["detail"]
    first = await gateway.call("GET", "/v1/webhooks?limit=15")
    rest = await gateway.call("GET", f"/v1/webhooks?cursor={first['next_cursor']}")
    assert len({webhook["id"] for webhook in first["items"] + rest["items"]}) == MAX_WEBHOOKS
    assert rest["next_cursor"] is None


async def test_who_may(gateway: InProcessGateway) -> None:
    path = f"/v1/webhooks/{(await made(gateway))['id']}"
    reader = await gateway.key_for("read")
    pusher = await gateway.key_for("send")
    await gateway.call("GET", path, http=reader)
    await gateway.call("GET", "/v1/webhooks", http=reader)
    await gateway.call("GET", f"{path}/dead-letters", http=reader)
    for method, where in (
        ("POST", "/v1/webhooks"),
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/secret"),
        ("POST", f"{path}/dead-letters/replay"),
    ):
        await gateway.refused(method, where, 403, http=reader, json={})
    await gateway.refused("GET", path, 403, http=pusher)
    await gateway.refused("GET", "/v1/events", 403, http=pusher)
    await gateway.refused("GET", path, 401, http=gateway.client(None))


async def test_another_apps_webhooks_do_not_exist(gateway: InProcessGateway) -> None:
    path = f"/v1/webhooks/{(await made(gateway))['id']}"
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    stranger = await gateway.key_for("admin", "read", app="other")
    await gateway.refused("GET", path, 404, "webhook_not_found", http=stranger)
    await gateway.refused("PATCH", path, 404, "webhook_not_found", http=stranger, json={"enabled": False})
    assert (await gateway.call("GET", "/v1/webhooks", http=stranger))["items"] == []


@pytest.mark.parametrize("body", [{"ids": []}, {"ids": ["x"]}, {"ids": [1]}, {"all": True}])
async def test_a_replay_of_what_is_no_dead_letter(gateway: InProcessGateway, body: dict[str, Any]) -> None:
    path = f"/v1/webhooks/{(await made(gateway))['id']}/dead-letters/replay"
    await gateway.refused("POST", path, 422, "invalid_request", json=body)
    assert await gateway.call("POST", path, 202, json={"ids": ["7"]}) == {"replaying": 0}


@pytest.mark.parametrize("since", ["x", "1.x", "-1", "1.2.3", "99999999999999999999"])
async def test_a_stream_since_what_is_no_event(gateway: InProcessGateway, since: str) -> None:
    await gateway.refused("GET", f"/v1/events?since={since}", 422, "invalid_request")
    await gateway.refused("GET", "/v1/events", 422, "invalid_request", headers={"Last-Event-ID": since})


async def test_a_stream_of_a_type_that_there_is_not(gateway: InProcessGateway) -> None:
    problem = await gateway.refused("GET", "/v1/events?types=delivery.acted,x", 422, "invalid_request")
    assert "'x'" in problem["detail"]
