"""The event log does not outgrow its room, and the loss is named."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.delivery import event_log_quota
from gateway.delivery.event_log_quota import EventLogQuota
from gateway.store.deliveries import event_log
from gateway.store.deliveries.event_log import EventPage, Position, log_of_app, log_of_device, remove_events
from tests.gateway.in_process import START, InProcessGateway

pytestmark = pytest.mark.of_one_server
"""The one of several that does this goes up to a horizon, which is up to a second old."""

SIZE = 1_000
QUOTA_BYTES = 100 * SIZE


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log_quota, "QUOTA_BYTES", QUOTA_BYTES)
    monkeypatch.setattr(event_log_quota, "CHUNK_BYTES", 4 * SIZE)
    monkeypatch.setattr(event_log, "MEASURED_ENTRIES", 10)


@pytest.fixture
async def gateway(gateway: InProcessGateway) -> InProcessGateway:
    await gateway.enrol("d1")
    return gateway


async def says(gateway: InProcessGateway, times: int, size: int = SIZE) -> None:
    content = {"topic": "log", "payload": "x" * size}
    for _ in range(times):
        await gateway.database.write(lambda connection: log_of_device(connection, "device.uplink", START, 1, content))


async def kept(gateway: InProcessGateway, app_no: int = 1) -> tuple[int, int]:
    """Entries of an app, and the bytes of their texts."""
    row = await gateway.database.read(
        lambda connection: connection.execute(
            "SELECT count(*), coalesce(sum(length(content)), 0) FROM event WHERE app_no = ?", (app_no,)
        ).fetchone()
    )
    return row[0], row[1]


async def read(gateway: InProcessGateway, after: Position) -> EventPage:
    return await gateway.components.feed.read(1, after, 1_000, lambda event: True)


async def test_the_oldest_make_room_and_readers_are_told(gateway: InProcessGateway) -> None:
    await says(gateway, 30)
    await gateway.components.event_log_quota.run()
    start = (await read(gateway, Position(0))).events
    assert len(start) == 30, "there is room"
    for _ in range(10):
        await says(gateway, 30)
        await gateway.components.event_log_quota.run()
        count, size = await kept(gateway)
        assert size <= QUOTA_BYTES
    assert size > 0.85 * QUOTA_BYTES
    assert gateway.components.event_log_quota.removed == 330 - count
    page = await read(gateway, start[-1][0])
    (_, lost), *rest = page.events
    assert (lost.type, json.loads(lost.json)["data"]) == ("events.lost", {"after": start[-1][1].id})
    assert len(rest) == count
    assert [event.type for _, event in (await read(gateway, rest[0][0])).events] == ["device.uplink"] * (count - 1)


async def test_one_event_is_kept_however_large_the_next_are(gateway: InProcessGateway) -> None:
    await says(gateway, 3, size=QUOTA_BYTES - 200)
    await gateway.components.event_log_quota.run()
    assert (await kept(gateway))[0] == 1


async def test_other_apps_keep_theirs(gateway: InProcessGateway) -> None:
    await gateway.database.write(
        lambda connection: connection.execute("INSERT INTO application (no, id, created_at) VALUES (2, 'other', 0)")
    )
    for _ in range(5):
        await gateway.database.write(
            lambda connection: log_of_app(connection, "webhook.disabled", START, 2, {"webhook_id": "x"})
        )
        await says(gateway, 50)
    await gateway.components.event_log_quota.run()
    assert (await kept(gateway))[1] <= QUOTA_BYTES
    assert (await kept(gateway, 2))[0] == 5
    lost = await gateway.database.read(
        lambda connection: connection.execute("SELECT events_lost_to > 0 FROM application ORDER BY no").fetchall()
    )
    assert lost == [(1,), (0,)]


async def test_after_a_restart_it_is_measured_from_the_beginning(gateway: InProcessGateway) -> None:
    await says(gateway, 90)
    await gateway.components.event_log_quota.run()
    room = EventLogQuota(gateway.database)
    await says(gateway, 30)
    await room.run()
    count, size = await kept(gateway)
    assert 0.9 * QUOTA_BYTES < size <= QUOTA_BYTES
    assert room.removed == 120 - count


async def test_what_leaves_by_age_makes_room(gateway: InProcessGateway) -> None:
    for _ in range(4):
        await says(gateway, 60)
        await gateway.components.event_log_quota.run()
        await gateway.database.write(lambda connection: remove_events(connection, START, 1_000))
    await says(gateway, 60)
    await gateway.components.event_log_quota.run()
    assert (await kept(gateway))[0] == 60
    assert gateway.components.event_log_quota.removed == 0


async def test_it_is_done_while_the_server_runs(gateway: InProcessGateway) -> None:
    running = asyncio.create_task(gateway.components.enforce_quotas())
    async with asyncio.timeout(15):
        await says(gateway, 200)
        while (await kept(gateway))[1] > QUOTA_BYTES:
            await says(gateway, 1)
    running.cancel()


async def test_who_is_silent_is_not_measured(gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    await says(gateway, 1)
    await gateway.components.event_log_quota.run()
    monkeypatch.delattr(event_log_quota, "measure_entries")
    await gateway.components.event_log_quota.run()
    assert gateway.components.event_log_quota.size > SIZE
