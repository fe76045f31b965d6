from __future__ import annotations

import asyncio
import json
import re
import sys

import pytest

from gateway.api import docs, self_description
from gateway.api.operation_problems import WITHOUT_KEY
from gateway.api.problems_page import problems_page
from gateway.api.self_description import SelfDescription
from gateway.enrolment.addresses import FleetCa
from gateway.errors import CATALOGUE
from gateway.pages import to_json
from tests.gateway.in_process import InProcessGateway, openapi_document

CALLS = {
    "/v1/devices": {"get", "post"},
    "/v1/devices/bulk": {"post"},
    "/v1/devices/{device_id}": {"get", "patch", "delete"},
    "/v1/devices/{device_id}/token": {"post"},
    "/v1/devices/{device_id}/token/renewal": {"post"},
    "/v1/devices/{device_id}/mailbox": {"get", "delete"},
    "/v1/devices/{device_id}/uplink": {"get"},
    "/v1/devices/{device_id}/preferences": {"get", "patch"},
    "/v1/devices/{device_id}/consent": {"get"},
    "/v1/devices/{device_id}/call": {"post"},
    "/v1/enrol": {"post"},
    "/v1/enrol/again": {"post"},
    "/v1/enrol/ca": {"get"},
    "/v1/invitations": {"get", "post"},
    "/v1/invitations/bulk": {"post"},
    "/v1/invitations/{invitation_id}": {"delete"},
    "/v1/token-requests": {"get"},
    "/v1/token-requests/{request_id}": {"delete"},
    "/v1/token-requests/{request_id}/confirm": {"post"},
    "/v1/channels": {"get", "post"},
    "/v1/channels/{channel_id}": {"get", "patch", "delete"},
    "/v1/devices/tags": {"post"},
    "/v1/devices/removal": {"post"},
    "/v1/devices/{device_id}/mailbox/{push_id}": {"delete"},
    "/v1/devices/{device_id}/deliveries": {"get"},
    "/v1/devices/{device_id}/events": {"get"},
    "/v1/devices/{device_id}/connection": {"get"},
    "/v1/devices/{device_id}/evidence": {"get"},
    "/v1/tags": {"get"},
    "/v1/topics": {"get"},
    "/v1/topics/{topic_name}": {"get", "delete"},
    "/v1/topics/{topic_name}/devices": {"get", "put", "delete"},
    "/v1/segments": {"get"},
    "/v1/segments/preview": {"post"},
    "/v1/segments/{segment_name}": {"get", "put", "delete"},
    "/v1/heartbeats": {"get"},
    "/v1/heartbeats/{heartbeat_name}": {"get", "put", "delete"},
    "/v1/watches": {"get"},
    "/v1/watches/{watch_name}": {"get", "put", "delete"},
    "/v1/campaigns": {"get", "post"},
    "/v1/campaigns/forecast": {"post"},
    "/v1/campaigns/{campaign_id}": {"get"},
    "/v1/campaigns/{campaign_id}/holdout": {"get"},
    "/v1/campaigns/{campaign_id}/pause": {"post"},
    "/v1/campaigns/{campaign_id}/resume": {"post"},
    "/v1/campaigns/{campaign_id}/approve": {"post"},
    "/v1/campaigns/{campaign_id}/abort": {"post"},
    "/v1/duties": {"get"},
    "/v1/duties/{duty_name}": {"get", "put", "delete"},
    "/v1/escalations": {"get"},
    "/v1/templates": {"get"},
    "/v1/templates/{template_name}": {"get", "put", "delete"},
    "/v1/templates/{template_name}/versions/{version}": {"get"},
    "/v1/templates/{template_name}/preview": {"post"},
    "/v1/schedules": {"get", "post"},
    "/v1/schedules/preview": {"post"},
    "/v1/schedules/{schedule_id}": {"get", "patch", "delete"},
    "/v1/schedules/{schedule_id}/runs": {"get"},
    "/v1/schedules/{schedule_id}/pause": {"post"},
    "/v1/schedules/{schedule_id}/resume": {"post"},
    "/v1/schedules/{schedule_id}/run": {"post"},
    "/v1/policy": {"get", "put"},
    "/v1/policy/critical-uses": {"get"},
    "/v1/pushes": {"get", "post"},
    "/v1/pushes/batch": {"post"},
    "/v1/pushes/forecast": {"post"},
    "/v1/pushes/preview": {"post"},
    "/v1/pushes/{push_id}": {"get", "delete"},
    "/v1/pushes/{push_id}/deliveries": {"get"},
    "/v1/pushes/{push_id}/texts": {"get"},
    "/v1/pushes/{push_id}/reasons": {"get"},
    "/v1/analytics": {"get"},
    "/v1/analytics/fatigue": {"get"},
    "/v1/analytics/pushes/{push_id}": {"get"},
    "/v1/attachments": {"post"},
    "/v1/attachments/{attachment_id}": {"get", "delete"},
    "/v1/events": {"get"},
    "/v1/webhooks": {"get", "post"},
    "/v1/webhooks/{webhook_id}": {"get", "patch", "delete"},
    "/v1/webhooks/{webhook_id}/secret": {"post"},
    "/v1/webhooks/{webhook_id}/test": {"post"},
    "/v1/webhooks/{webhook_id}/dead-letters": {"get"},
    "/v1/webhooks/{webhook_id}/dead-letters/replay": {"post"},
    "/v1/apps": {"get", "post"},
    "/v1/keys": {"get", "post"},
    "/v1/keys/{key_id}": {"delete"},
    "/v1/audit": {"get"},
    "/v1/audit/chain": {"get"},
    "/v1/session": {"get", "post", "delete"},
    "/v1/session/options": {"get"},
    "/v1/stats": {"get"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch) -> SelfDescription:
    """Made in this process, which needs it anyway to check answers, and not by a process for each test."""
    document = openapi_document()
    made = SelfDescription(to_json(document), problems_page(document).encode())

    async def describe_elsewhere() -> SelfDescription:
        return made

    monkeypatch.setattr(docs, "describe_elsewhere", describe_elsewhere)
    return made


BODILESS = ("/token", "/secret", "/renewal", "/confirm", "/approve", "/pause", "/resume", "/run", "/test")
"""Ends of the paths of calls that change something and have nothing to say about it."""


async def test_the_document_describes_every_call(gateway: InProcessGateway) -> None:
    document = await gateway.call("GET", "/openapi.json", http=gateway.client(None))
    assert {path: set(operations) for path, operations in document["paths"].items()} == CALLS
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], f"{method} {path}"
            takes_key = any("key" in way for way in operation.get("security", ()))
            assert takes_key == (path.startswith("/v1/") and (method, path) not in WITHOUT_KEY)
            assert "500" in operation["responses"]
            if method in ("post", "patch", "put") and not path.endswith(BODILESS):
                assert "requestBody" in operation, f"{method} {path}"
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert "PushRequest" in references
    assert not any("Validation" in name for name in document["components"]["schemas"])


PAGES = ("/openapi.json", "/docs/problems", "/openapi.json")


@pytest.mark.of_one_server  # each makes its own
async def test_another_process_makes_the_document_once(
    gateway: InProcessGateway, described: SelfDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes half a second of an interpreter, and strangers may ask: a thread of ours kept the loop waiting."""
    made = []

    async def describe_elsewhere() -> SelfDescription:
        made.append(1)
        return await self_description.describe_elsewhere()

    monkeypatch.setattr(self_description, "describe", lambda app: pytest.fail("made in the server's process"))
    monkeypatch.setattr(docs, "describe_elsewhere", describe_elsewhere)
    answers = await asyncio.gather(*(gateway.client(None).get(path) for path in PAGES))
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.content for answer in answers] == [described.openapi, described.problems, described.openapi]
    assert len(made) == 1


@pytest.mark.of_one_server  # each makes its own
async def test_where_no_process_can_be_started_the_document_is_there_all_the_same(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(docs, "describe_elsewhere", self_description.describe_elsewhere)
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    answers = [await gateway.client(None).get(path) for path in PAGES]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert caplog.text.count("others wait for") == 1, caplog.text


async def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match=r"^1: "):
        await self_description.describe_elsewhere()


async def test_the_pages_need_no_other_network(gateway: InProcessGateway) -> None:
    stranger = gateway.client(None)
    page = (await stranger.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page
    assert '"validatorUrl": null' in page
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        answer = await stranger.get(path)
        assert answer.status_code == 200, path
        assert answer.content


async def test_every_problem_has_its_row(gateway: InProcessGateway) -> None:
    page = (await gateway.client(None).get("/docs/problems")).text
    assert "http" not in page
    for code, row in CATALOGUE.items():
        assert f'<tr id="{code}">' in page
        assert row.title in page


async def test_each_problem_says_which_operations_answer_it(gateway: InProcessGateway) -> None:
    page = (await gateway.client(None).get("/docs/problems")).text
    rows = dict(re.findall(r'^(\w+)">.*<td>(.*?)(?:</table></html>)?$', page.replace('<tr id="', "\n"), re.MULTILINE))
    assert set(rows) == set(CATALOGUE)
    assert rows["malformed_request"] == "every operation"
    assert rows["forbidden"] == "every operation that needs a key"
    others = ("GET /v1/session", "POST /v1/session", "DELETE /v1/session", "GET /metrics")
    assert rows["unauthorized"] == ", ".join(
        ["every operation that needs a key", *(f"<code>{operation}</code>" for operation in others)]
    )
    waited = "<code>POST /v1/pushes</code>, <code>POST /v1/devices/{device_id}/call</code>"
    assert rows["too_many_calls"] == waited
    assert rows["method_not_allowed"] == "what is no operation"
    named = ("GET /v1/enrol/ca", "POST /v1/keys", "GET /v1/keys", "GET /healthz")
    assert rows["not_found"] == ", ".join(
        ["what is no operation", *(f"<code>{operation}</code>" for operation in named)]
    )
    assert "<code>GET /v1/devices/{device_id}/mailbox</code>" in rows["device_not_found"]


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/problems", "/enrol", "/console/"])
async def test_no_other_page_frames_one_of_ours(gateway: InProcessGateway, path: str) -> None:
    headers = (await gateway.client(None).get(path)).headers
    assert headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/problems", "/openapi.json", "/healthz", "/readyz", "/metrics"])
async def test_the_front_page_leads_to_what_is_there_and_head_works_like_get(
    gateway: InProcessGateway, path: str
) -> None:
    stranger = gateway.client(None)
    front = await stranger.get("/")
    assert front.headers["content-type"].startswith("text/html")
    assert path in ("/", "/healthz") or f'href="{path}"' in front.text
    got, head = await stranger.get(path), await stranger.head(path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert got.headers["content-type"] == head.headers["content-type"]
    assert got.content
    assert not head.content


async def test_head_is_answered_wherever_get_is(gateway: InProcessGateway) -> None:
    """Also where the answer to GET would not end."""
    document = await gateway.call("GET", "/openapi.json")
    await gateway.enrol("kiosk-1")
    for node in gateway.nodes:
        node.components.enrolment.fleet_ca = FleetCa("PEM", "f" * 43)
    for path, operations in document["paths"].items():
        if "{" in path and not path.startswith("/v1/devices/{device_id}"):
            continue
        path = path.format(device_id="kiosk-1", push_id="p")
        status = (await gateway.http.head(path)).status_code
        wanted = (200, 422) if path.startswith("/v1/analytics") else (200,)  # it wants to know the hours
        wanted = (401,) if path == "/v1/session" else wanted  # which nobody has begun
        assert status in (wanted if "get" in operations else (404, 405)), path
    allowed = (await gateway.http.delete("/v1/pushes")).headers["allow"]
    assert allowed == "GET, HEAD, POST"
