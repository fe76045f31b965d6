"""What large bodies are counted with, and when they are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.api.body_budget import (
    ALL_BYTES,
    APP_BYTES,
    DEVICE_BYTES,
    LINE_BYTES,
    LOG_SECONDS,
    VALUE_BYTES,
    BodyBudget,
)
from gateway.auth import Principal
from gateway.errors import RetryableProblem
from tests.gateway.in_process import InProcessGateway


def principal(app: str, device: int | None = None) -> Principal:
    if device is not None:
        return Principal(1, app, f"device {device}", frozenset(), is_device=True)
    return Principal(1, app, f"key of {app}", frozenset(("send",)))


def test_an_app_has_its_share_whatever_others_have() -> None:
    budget = BodyBudget(lambda: 0.0)
    first = budget.charge(principal("a"))
    first.add(APP_BYTES)
    with pytest.raises(RetryableProblem):
        budget.charge(principal("a")).add(1)
    budget.charge(principal("b")).add(APP_BYTES)
    with pytest.raises(RetryableProblem):
        budget.charge(principal("c")).add(ALL_BYTES - 2 * APP_BYTES + 1)
    assert budget.refused == 2
    first.release()
    first.release()
    budget.charge(principal("a")).add(APP_BYTES)


def test_a_device_has_a_small_share_of_its_own() -> None:
    budget = BodyBudget(lambda: 0.0)
    budget.charge(principal("a", device=1)).add(DEVICE_BYTES)
    with pytest.raises(RetryableProblem):
        budget.charge(principal("a", device=1)).add(1)
    budget.charge(principal("a", device=2)).add(DEVICE_BYTES)
    budget.charge(principal("a")).add(APP_BYTES)


def test_a_refusal_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    times = iter((0.0, 1.0, LOG_SECONDS))
    budget = BodyBudget(lambda: next(times))
    budget.charge(principal("a")).add(1)
    for _ in range(3):
        with pytest.raises(RetryableProblem):
            budget.charge(principal("a")).add(APP_BYTES)
    assert caplog.text.count("app a is answered 503") == 2
    assert budget.bytes == 1


def test_one_that_is_alone_is_not_told_to_come_again() -> None:
    budget = BodyBudget(lambda: 0.0)
    first = budget.charge(principal("a"))
    first.add(APP_BYTES)
    first.add(ALL_BYTES)
    with pytest.raises(RetryableProblem):
        budget.charge(principal("a")).add(1)
    with pytest.raises(RetryableProblem):
        budget.charge(principal("b")).add(1)
    first.release()
    assert (budget.bytes, budget.refused) == (0, 2)


@pytest.mark.of_one_server  # the budget is of each
async def test_a_body_is_counted_until_it_is_answered(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = gateway.components.services(lambda: False).bodies
    most = 0
    take = budget.reserve

    def noting(share: str, limit: int, size: int, taken: int) -> None:
        nonlocal most
        take(share, limit, size, taken)
        most = max(most, budget.bytes)

    monkeypatch.setattr(budget, "reserve", noting)
    ids = [f"nobody-{number}" for number in range(3_000)]
    body = json.dumps({"target": {"devices": ids}}).encode()
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/pushes", "/v1/pushes/forecast"):
        most = 0
        await gateway.call("POST", path, 404, content=body, headers=headers)
        assert most >= len(body) + 3_000 * VALUE_BYTES
        assert budget.bytes == 0


@pytest.mark.of_one_server  # the budget is of each
async def test_a_small_body_is_not_counted(gateway: InProcessGateway) -> None:
    budget = gateway.components.services(lambda: False).bodies
    budget.charge(principal("default")).add(APP_BYTES)
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d1"})
    answer = await gateway.http.post("/v1/pushes", json={"target": {"devices": ["d1"] * 3_000}})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"


@pytest.mark.of_one_server  # the budget is of each
async def test_the_pushes_of_batches_under_way_are_counted(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short line takes more than its bytes."""
    budget = gateway.components.services(lambda: False).bodies
    await gateway.enrol("d1")
    seen = []
    accept_many = gateway.components.delivery.acceptance.accept_many

    async def accept(*arguments: Any) -> Any:
        seen.append(budget.bytes)
        if len(seen) == 1:
            document = await gateway.refused("POST", "/v1/pushes/batch", 503, "busy", content=lines, headers=ndjson)
            assert document["retryable"]
        return await accept_many(*arguments)

    monkeypatch.setattr(gateway.components.delivery.acceptance, "accept_many", accept)
    monkeypatch.setattr("gateway.api.body_budget.APP_BYTES", 500 * LINE_BYTES)
    ndjson = {"Content-Type": "application/x-ndjson"}
    lines = b'{"target":{"device":"d1"}}\n' * 400
    answer = await gateway.http.post("/v1/pushes/batch", content=lines, headers=ndjson)
    assert answer.text.count('"status":202') == 400
    assert seen == [len(lines) + 400 * LINE_BYTES]
    assert budget.bytes == 0
