from __future__ import annotations

import json
import re

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
