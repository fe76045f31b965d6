"""The answers that are kept with idempotency keys have a bound for each app, and the oldest are the loser."""

from __future__ import annotations

import pytest

from gateway.delivery import idempotency_quota
from gateway.delivery.idempotency_quota import IdempotencyQuota
from gateway.store.deliveries import idempotency
from gateway.store.deliveries.idempotency import MINUTE_MS
from tests.gateway.in_process import InProcessGateway


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency_quota, "BYTES_OF_APP", 10_000)
    monkeypatch.setattr(idempotency, "RECORDS_TOGETHER", 3)


@pytest.fixture
async def gateway(gateway: InProcessGateway) -> InProcessGateway:
    await gateway.enrol("d1")
    return gateway


async def push(gateway: InProcessGateway, key: str, unknown: int = 0) -> str:
    body = {"target": {"devices": ["d1", *(f"unknown-{number}" for number in range(unknown))]}}
    answer = await gateway.call("POST", "/v1/pushes", 202, json=body, headers={"Idempotency-Key": key})
    return str(answer["push_id"])


async def kept(gateway: InProcessGateway) -> list[str]:
    rows = await gateway.database.read(
        lambda connection: connection.execute("SELECT key FROM idempotency_record ORDER BY created_at, key").fetchall()
    )
    return [key for (key,) in rows]


async def test_the_oldest_of_an_app_are_forgotten(gateway: InProcessGateway, caplog: pytest.LogCaptureFixture) -> None:
    quota = gateway.components._idempotency_quota
    await quota.run()
    first = await push(gateway, "9", 100)
    gateway.clock.milliseconds += MINUTE_MS
    pushed = {}
    for number in range(8):
        pushed[str(number)] = await push(gateway, str(number), 100)
        gateway.clock.milliseconds += MINUTE_MS
    await quota.run()
    found = await kept(gateway)
    assert 0 < len(found) < 9
    assert found == sorted(pushed)[-len(found) :]
    assert quota.removed == 9 - len(found)
    assert "the oldest are forgotten" in caplog.text
    assert await push(gateway, "7", 100) == pushed["7"]
    assert await push(gateway, "9", 100) != first, "it is a new push"
    assert b"fleetpush_idempotency_answers_removed_total" in gateway.components.metrics.text()


async def test_what_has_left_by_age_is_not_counted(gateway: InProcessGateway) -> None:
    quota = gateway.components._idempotency_quota
    await quota.run()
    for number in range(20):
        await push(gateway, str(number), 100)
        await gateway.database.write(lambda connection: connection.execute("DELETE FROM idempotency_record"))
    await push(gateway, "last", 100)
    await quota.run()
    assert quota.removed == 0
    assert await kept(gateway) == ["last"]
    await quota.run()
    assert quota.removed == 0


async def test_the_records_of_earlier_runs_count(gateway: InProcessGateway) -> None:
    for number in range(9):
        await push(gateway, str(number), 100)
        gateway.clock.milliseconds += MINUTE_MS
    quota = IdempotencyQuota(gateway.database)
    await quota.run()
    assert quota.removed > 0
    assert "8" in await kept(gateway)
