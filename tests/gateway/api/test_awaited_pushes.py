"""Who may wait for a push, and how many: `POST /v1/pushes?wait=SECONDS`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.api import responses
from gateway.delivery import waiting_callers
from tests.gateway.in_process import InProcessGateway

KIOSK = {"target": {"device": "kiosk-1"}, "data": 1}


@pytest.mark.parametrize("target", [{"all": True}, {"tag": "hall"}, {"devices": ["kiosk-1", "kiosk-2"]}])
async def test_many_devices_cannot_be_waited_for(gateway: InProcessGateway, target: dict[str, Any]) -> None:
    await gateway.enrol("kiosk-1", "kiosk-2", tags=["hall"])
    path = "/v1/pushes?wait=10"
    refusal = await gateway.refused("POST", path, 422, "invalid_request", json={"target": target})
    assert "leave wait out" in refusal["detail"]
    assert (await gateway.call("GET", "/v1/pushes"))["items"] == []


async def test_what_is_sent_later_cannot_be_waited_for(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    later = KIOSK | {"send_at": "2030-01-01T00:00:00Z"}
    for query in ("wait=9", "forecast=1"):
        refusal = await gateway.refused("POST", f"/v1/pushes?{query}", 422, "invalid_request", json=later)
        assert "leave it out" in refusal["detail"]


@pytest.mark.parametrize("wait", ["0", "61", "soon", "1.5"])
async def test_a_wait_has_its_range(gateway: InProcessGateway, wait: str) -> None:
    await gateway.enrol("kiosk-1")
    refusal = await gateway.refused("POST", f"/v1/pushes?wait={wait}", 422, "invalid_request", json=KIOSK)
    assert "wait" in refusal["detail"]


async def test_what_is_over_at_once_is_answered_at_once(gateway: InProcessGateway) -> None:
    await gateway.enrol("kiosk-1")
    body = {"target": {"devices": ["kiosk-1", "kiosk-1"]}, "ttl": 0}
    answer = await gateway.call("POST", "/v1/pushes?wait=60", 200, json=body)
    responses.AwaitedPushResponse.model_validate(answer)
    assert (answer["delivery"]["state"], answer["delivery"]["reason"]) == ("expired", "ttl")


@pytest.mark.of_one_server  # the limit is of each
async def test_an_app_has_its_places_and_a_refused_push_is_not_sent(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_callers, "MAX_WAITING_CALLERS_OF_APP", 2)
    await gateway.enrol("kiosk-1")
    waits = gateway.components.delivery.awaited_pushes
    waiting = [asyncio.create_task(gateway.call("POST", "/v1/pushes?wait=60", json=KIOSK)) for _ in range(2)]
    while waits.waiting < 2:  # noqa: ASYNC110  # nothing else tells of it
        await asyncio.sleep(0.001)
    refusal = await gateway.refused("POST", "/v1/pushes?wait=60", 429, "too_many_calls", json=KIOSK)
    assert "send without wait" in refusal["detail"]
    await gateway.refused("POST", "/v1/devices/kiosk-1/call", 429, "too_many_calls", json={"command": "play"})
    assert len((await gateway.call("GET", "/v1/pushes"))["items"]) == 2
    await gateway.push({"device": "kiosk-1"})
    emptied = await gateway.call("DELETE", "/v1/devices/kiosk-1/mailbox")
    assert emptied["cancelled"] == 3
    states = [answer["delivery"]["reason"] for answer in await asyncio.gather(*waiting)]
    assert states == ["mailbox_emptied"] * 2
    assert gateway.components.delivery.ledger.awaited == {}
