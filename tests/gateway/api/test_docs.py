from __future__ import annotations

import json
import re

import pytest

from gateway.api import examples
from gateway.errors import CATALOGUE
from tests.gateway.api.house import House

CALLS = {
    "/v1/devices": {"get", "post"},
    "/v1/devices/bulk": {"post"},
    "/v1/devices/{device_id}": {"get", "patch", "delete"},
    "/v1/devices/{device_id}/token": {"post"},
    "/v1/devices/{device_id}/mailbox": {"get", "delete"},
    "/v1/devices/{device_id}/uplink": {"get"},
    "/v1/devices/{device_id}/preferences": {"get", "patch"},
    "/v1/devices/{device_id}/consent": {"get"},
    "/v1/devices/{device_id}/call": {"post"},
    "/v1/channels": {"get", "post"},
    "/v1/channels/{channel_id}": {"get", "patch", "delete"},
    "/v1/policy": {"get", "put"},
    "/v1/policy/critical-uses": {"get"},
    "/v1/pushes": {"get", "post"},
    "/v1/pushes/batch": {"post"},
    "/v1/pushes/forecast": {"post"},
    "/v1/pushes/{push_id}": {"get", "delete"},
    "/v1/pushes/{push_id}/deliveries": {"get"},
    "/v1/analytics": {"get"},
    "/v1/analytics/pushes/{push_id}": {"get"},
    "/v1/attachments": {"post"},
    "/v1/attachments/{attachment_id}": {"get", "delete"},
    "/v1/events": {"get"},
    "/v1/webhooks": {"get", "post"},
    "/v1/webhooks/{webhook_id}": {"get", "patch", "delete"},
    "/v1/webhooks/{webhook_id}/secret": {"post"},
    "/v1/webhooks/{webhook_id}/dead-letters": {"get"},
    "/v1/webhooks/{webhook_id}/dead-letters/replay": {"post"},
    "/v1/apps": {"get", "post"},
    "/v1/keys": {"get", "post"},
    "/v1/keys/{key_id}": {"delete"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


async def test_the_document_describes_every_call(house: House) -> None:
    document = await house.call("GET", "/openapi.json", http=house.client(None))
    assert {path: set(operations) for path, operations in document["paths"].items()} == CALLS
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], f"{method} {path}"
            assert ("security" in operation) == path.startswith("/v1/")
            assert "default" in operation["responses"]
            if method in ("post", "patch", "put") and not path.endswith(("/token", "/secret")):
                assert "requestBody" in operation, f"{method} {path}"
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert "PushRequest" in references
    assert not any("Validation" in name for name in document["components"]["schemas"])


async def test_the_pages_need_no_other_network(house: House) -> None:
    stranger = house.client(None)
    page = (await stranger.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page
    assert '"validatorUrl": null' in page
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        answer = await stranger.get(path)
        assert answer.status_code == 200, path
        assert answer.content


async def test_every_problem_has_its_row(house: House) -> None:
    page = (await house.client(None).get("/docs/problems")).text
    assert "http" not in page
    for code, row in CATALOGUE.items():
        assert f'<tr id="{code}">' in page
        assert row.title in page


async def test_what_the_form_is_filled_in_with_is_accepted_as_it_stands(house: House) -> None:
    document = await house.call("GET", "/openapi.json")
    ids = dict(examples.PARAMETERS)
    bodies = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    assert parameter.get("example") == examples.PARAMETERS.get(parameter["name"])
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                if path != "/v1/attachments":
                    bodies.append((path.count("{") + path.count("pushes"), path, method, kind, content["example"]))
    assert {(method, path) for _, path, method, _, _ in bodies} == set(examples.BODIES)
    for _, path, method, kind, example in sorted(bodies, key=lambda body: (body[0], body[1])):
        content = example if isinstance(example, str) else json.dumps(example)
        answer = await house.http.request(method, path.format(**ids), content=content, headers={"Content-Type": kind})
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        assert '"status":4' not in answer.text
        if path == "/v1/webhooks":
            ids["webhook_id"] = answer.json()["id"]


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/problems", "/openapi.json", "/healthz", "/readyz", "/metrics"])
async def test_the_front_page_leads_to_what_is_there_and_head_works_like_get(house: House, path: str) -> None:
    stranger = house.client(None)
    front = await stranger.get("/")
    assert front.headers["content-type"].startswith("text/html")
    assert path in ("/", "/healthz") or f'href="{path}"' in front.text
    got, head = await stranger.get(path), await stranger.head(path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert got.headers["content-type"] == head.headers["content-type"]
    assert got.content
    assert not head.content


async def test_head_is_answered_wherever_get_is(house: House) -> None:
    """Also where the answer to GET would not end."""
    document = await house.call("GET", "/openapi.json")
    await house.enrol("kiosk-1")
    for path, operations in document["paths"].items():
        if "{" in path and not path.startswith("/v1/devices/{device_id}"):
            continue
        path = path.format(device_id="kiosk-1")
        status = (await house.http.head(path)).status_code
        wanted = (200, 422) if path.startswith("/v1/analytics") else (200,)  # it wants to know the hours
        assert status in (wanted if "get" in operations else (404, 405)), path
    allowed = (await house.http.delete("/v1/pushes")).headers["allow"]
    assert allowed == "GET, HEAD, POST"
