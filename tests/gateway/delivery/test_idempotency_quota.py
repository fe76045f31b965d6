"""The answers that are kept with idempotency keys have a bound for each app, and the oldest are the loser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.delivery import idempotency_quota
from gateway.delivery.idempotency_quota import MINUTE_MS, IdempotencyQuota
from tests.gateway.api.house import House


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(idempotency_quota, "BYTES_OF_APP", 10_000)
    monkeypatch.setattr(idempotency_quota, "RECORDS_TOGETHER", 3)
    house = await House.build(tmp_path, asyncio.get_running_loop())
    await house.enrol("d1")
    yield house
    await house.close()


async def push(house: House, key: str, unknown: int = 0) -> str:
    body = {"target": {"devices": ["d1", *(f"unknown-{number}" for number in range(unknown))]}}
    answer = await house.call("POST", "/v1/pushes", 202, json=body, headers={"Idempotency-Key": key})
    return str(answer["push_id"])


async def kept(house: House) -> list[str]:
    rows = await house.database.read(
        lambda connection: connection.execute("SELECT key FROM idempotency_record ORDER BY created_at, key").fetchall()
    )
    return [key for (key,) in rows]


async def test_the_oldest_of_an_app_are_forgotten(house: House, caplog: pytest.LogCaptureFixture) -> None:
    quota = house.components._idempotency_quota
    await quota.run()
    first = await push(house, "9", 100)
    house.clock.milliseconds += MINUTE_MS
    pushed = {}
    for number in range(8):
        pushed[str(number)] = await push(house, str(number), 100)
        house.clock.milliseconds += MINUTE_MS
    await quota.run()
    found = await kept(house)
    assert 0 < len(found) < 9
    assert found == sorted(pushed)[-len(found) :]
    assert quota.removed == 9 - len(found)
    assert "the oldest are forgotten" in caplog.text
    assert await push(house, "7", 100) == pushed["7"]
    assert await push(house, "9", 100) != first, "it is a new push"
    assert b"fleetpush_idempotency_answers_removed_total" in house.components.metrics.text()


async def test_what_has_left_by_age_is_not_counted(house: House) -> None:
    quota = house.components._idempotency_quota
    await quota.run()
    for number in range(20):
        await push(house, str(number), 100)
        await house.database.write(lambda connection: connection.execute("DELETE FROM idempotency_record"))
    await push(house, "last", 100)
    await quota.run()
    assert quota.removed == 0
    assert await kept(house) == ["last"]
    await quota.run()
    assert quota.removed == 0


async def test_the_records_of_earlier_runs_count(house: House) -> None:
    for number in range(9):
        await push(house, str(number), 100)
        house.clock.milliseconds += MINUTE_MS
    quota = IdempotencyQuota(house.database)
    await quota.run()
    assert quota.removed > 0
    assert "8" in await kept(house)
