from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.delivery import uplink_quota
from gateway.delivery.uplink_quota import UplinkQuota
from tests.gateway.api.house import House

APPS = {1: (1, 2), 2: (3,)}


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(uplink_quota, "BYTES_OF_APP", 10_000)
    monkeypatch.setattr(uplink_quota, "TOTAL_BYTES", 15_000)
    monkeypatch.setattr(uplink_quota, "REMOVED_MESSAGES", 3)
    monkeypatch.setattr(uplink_quota, "MEASURED_MESSAGES", 7)
    house = await House.build(tmp_path, asyncio.get_running_loop())
    await house.call("POST", "/v1/apps", 201, json={"id": "other"})
    await house.enrol("d1", "d2")
    other = await house.key_for("devices", app="other")
    await house.call("POST", "/v1/devices", 201, json={"device_id": "d3"}, http=other)
    yield house
    await house.close()


async def says(house: House, device_no: int, times: int, size: int = 936) -> None:
    await house.database.write(
        lambda connection: connection.executemany(
            "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (?, '', zeroblob(?), 0)",
            [(device_no, size)] * times,
        )
    )


async def kept(house: House) -> dict[int, list[int]]:
    rows = await house.database.read(
        lambda connection: connection.execute("SELECT device_no, no FROM uplink_message ORDER BY no").fetchall()
    )
    found: dict[int, list[int]] = {}
    for device_no, no in rows:
        found.setdefault(device_no, []).append(no)
    return found


async def test_the_oldest_of_an_app_leave_when_it_has_too_much(house: House, caplog: pytest.LogCaptureFixture) -> None:
    quota = UplinkQuota(house.database)
    await says(house, 3, 2)
    await says(house, 1, 5)
    await says(house, 2, 5)
    await quota.run()
    assert sum(map(len, (await kept(house)).values())) == 12
    assert quota.size == 12_000
    await says(house, 2, 4)
    await quota.run()
    found = await kept(house)
    assert len(found[3]) == 2
    assert sum(map(len, found.values())) == 10
    assert found[2][-1] == 16
    assert found.get(1, []) == []
    assert quota.removed == 6
    assert "app 1 has" in caplog.text
    await quota.run()
    assert quota.size == 10_000


async def test_of_all_apps_the_one_with_most_loses(house: House) -> None:
    quota = UplinkQuota(house.database)
    await says(house, 3, 7)
    await says(house, 1, 9)
    await quota.run()
    found = await kept(house)
    assert len(found[3]) == 7
    assert len(found[1]) <= 7


async def test_what_left_by_itself_counts_no_more(house: House) -> None:
    quota = UplinkQuota(house.database)
    for _ in range(5):
        await says(house, 1, 6)
        await quota.run()
        await house.database.write(lambda connection: connection.execute("DELETE FROM uplink_message"))
    assert quota.removed == 0
