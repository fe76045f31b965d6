from __future__ import annotations

import pytest

from gateway.delivery import uplink_quota
from gateway.delivery.uplink_quota import UplinkQuota
from tests.gateway.in_process import InProcessGateway

APPS = {1: (1, 2), 2: (3,)}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink_quota, "BYTES_OF_APP", 10_000)
    monkeypatch.setattr(uplink_quota, "TOTAL_BYTES", 15_000)
    monkeypatch.setattr(uplink_quota, "REMOVED_MESSAGES", 3)
    monkeypatch.setattr(uplink_quota, "MEASURED_MESSAGES", 7)


@pytest.fixture
async def gateway(gateway: InProcessGateway) -> InProcessGateway:
    await gateway.call("POST", "/v1/apps", 201, json={"id": "other"})
    await gateway.enrol("d1", "d2")
    other = await gateway.key_for("devices", app="other")
    await gateway.call("POST", "/v1/devices", 201, json={"device_id": "d3"}, http=other)
    return gateway


async def says(gateway: InProcessGateway, device_no: int, times: int, size: int = 936) -> None:
    await gateway.database.write(
        lambda connection: connection.executemany(
            "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (?, '', zeroblob(?), 0)",
            [(device_no, size)] * times,
        )
    )


async def kept(gateway: InProcessGateway) -> dict[int, list[int]]:
    rows = await gateway.database.read(
        lambda connection: connection.execute("SELECT device_no, no FROM uplink_message ORDER BY no").fetchall()
    )
    found: dict[int, list[int]] = {}
    for device_no, no in rows:
        found.setdefault(device_no, []).append(no)
    return found


async def test_the_oldest_of_an_app_leave_when_it_has_too_much(
    gateway: InProcessGateway, caplog: pytest.LogCaptureFixture
) -> None:
    quota = UplinkQuota(gateway.database)
    await says(gateway, 3, 2)
    await says(gateway, 1, 5)
    await says(gateway, 2, 5)
    await quota.run()
    assert sum(map(len, (await kept(gateway)).values())) == 12
    assert quota.size == 12_000
    await says(gateway, 2, 4)
    await quota.run()
    found = await kept(gateway)
    assert len(found[3]) == 2
    assert sum(map(len, found.values())) == 10
    assert found[2][-1] == 16
    assert found.get(1, []) == []
    assert quota.removed == 6
    assert "app 1 has" in caplog.text
    await quota.run()
    assert quota.size == 10_000


async def test_of_all_apps_the_one_with_most_loses(gateway: InProcessGateway) -> None:
    quota = UplinkQuota(gateway.database)
    await says(gateway, 3, 7)
    await says(gateway, 1, 9)
    await quota.run()
    found = await kept(gateway)
    assert len(found[3]) == 7
    assert len(found[1]) <= 7


async def test_what_left_by_itself_counts_no_more(gateway: InProcessGateway) -> None:
    quota = UplinkQuota(gateway.database)
    for _ in range(5):
        await says(gateway, 1, 6)
        await quota.run()
        await gateway.database.write(lambda connection: connection.execute("DELETE FROM uplink_message"))
    assert quota.removed == 0
