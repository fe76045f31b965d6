from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.in_process import InProcessGateway


async def test_health_needs_no_key(gateway: InProcessGateway) -> None:
    stranger = gateway.client(None)
    assert await gateway.call("GET", "/healthz", http=stranger) == {"status": "ok"}
    assert await gateway.call("GET", "/readyz", http=stranger) == {"status": "ready"}
    answer = await stranger.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "fleetpush_pushes_accepted_total 0.0" in answer.text


@pytest.mark.of_one_server  # which ends, and the other does not
async def test_a_server_that_ends_is_alive_but_not_ready(gateway: InProcessGateway) -> None:
    gateway.is_ending = True
    await gateway.call("GET", "/healthz")
    answer = await gateway.http.get("/readyz")
    assert answer.headers["retry-after"]
    await gateway.refused("GET", "/readyz", 503, "unavailable")


async def test_a_database_that_does_not_answer_is_not_ready(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise OSError("gone")

    monkeypatch.setattr(type(gateway.database), "read_soon", broken)
    document = await gateway.refused("GET", "/readyz", 503, "unavailable")
    assert "OSError" in document["detail"]
