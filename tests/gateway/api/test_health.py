from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.api.house import House


async def test_health_needs_no_key(house: House) -> None:
    stranger = house.client(None)
    assert await house.call("GET", "/healthz", http=stranger) == {"status": "ok"}
    assert await house.call("GET", "/readyz", http=stranger) == {"status": "ready"}
    answer = await stranger.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "fleetpush_pushes_accepted_total 0.0" in answer.text


async def test_a_server_that_ends_is_alive_but_not_ready(house: House) -> None:
    house.is_ending = True
    await house.call("GET", "/healthz")
    answer = await house.http.get("/readyz")
    assert answer.headers["retry-after"]
    await house.refused("GET", "/readyz", 503, "unavailable")


async def test_a_database_that_does_not_answer_is_not_ready(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise OSError("gone")

    monkeypatch.setattr(type(house.database), "read_soon", broken)
    document = await house.refused("GET", "/readyz", 503, "unavailable")
    assert "OSError" in document["detail"]
