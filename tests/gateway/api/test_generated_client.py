"""A client that somebody else's generator makes of the OpenAPI document sends a push.

What reads the document here is not our code, so it does not share our mistakes.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from clientele.http.httpx_backend import HttpxHTTPBackend

from tests.gateway.in_process import InProcessGateway


async def test_a_generated_client_sends_a_push(
    gateway: InProcessGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(await gateway.call("GET", "/openapi.json")))
    generator = Path(sys.executable).with_name("clientele")
    generated = await asyncio.create_subprocess_exec(
        generator, "start-api", "--asyncio", "--file", "openapi.json", "--output", "generated_client",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await generated.communicate()
    assert generated.returncode == 0, said.decode()
    monkeypatch.syspath_prepend(tmp_path)
    client: Any = importlib.import_module("generated_client.client")
    schemas: Any = importlib.import_module("generated_client.schemas")
    client.client.config.http_backend = HttpxHTTPBackend(
        {
            "transport": httpx2.ASGITransport(gateway.api),
            "base_url": "http://test",
            "headers": {"Authorization": f"Bearer {gateway.key}"},
        }
    )

    device = await client.enrol_v1_devices_post(data=schemas.NewDevice(device_id="kiosk-1", tags=["lobby"]))
    assert device.mqtt.topics["push"] == "default/devices/kiosk-1/push"
    push = schemas.PushRequest(
        target=schemas.Target(tag="lobby"),
        notification=schemas.Notification(title="Lunch is served"),
        ttl=3600,
    )
    accepted = await client.send_v1_pushes_post(data=push)
    assert (accepted.targeted, accepted.unknown) == (1, [])
    shown = await client.show_push_v1_pushes(push_id=accepted.push_id)
    assert (shown.kind, shown.ttl, shown.counts.waiting) == ("alert", 3600, 1)
    webhook = schemas.NewWebhookRequest(url="https://receiver.example/fleetpush")
    assert (await client.add_webhook_v1_webhooks_post(data=webhook)).secret.startswith("whsec_")
    refused = await client.send_v1_pushes_post(data=schemas.PushRequest(target=schemas.Target(device="nobody")))
    assert isinstance(refused, schemas.ProblemDocument)
    assert refused.code == "device_not_found"
