"""The event log does not outgrow its room, and the loss is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.delivery import event_log_quota
from gateway.delivery.event_log import Page, Position, log_of_app, log_of_device, remove_events
from gateway.delivery.event_log_quota import EventLogQuota
from tests.gateway.api.house import START, House

SIZE = 1_000
QUOTA_BYTES = 100 * SIZE


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(event_log_quota, "QUOTA_BYTES", QUOTA_BYTES)
    monkeypatch.setattr(event_log_quota, "CHUNK_BYTES", 4 * SIZE)
    monkeypatch.setattr(event_log_quota, "MEASURED_ENTRIES", 10)
    house = await House.build(tmp_path, asyncio.get_running_loop())
    await house.enrol("d1")
    yield house
    await house.close()


async def says(house: House, times: int, size: int = SIZE) -> None:
    content = {"topic": "log", "payload": "x" * size}
    for _ in range(times):
        await house.database.write(lambda connection: log_of_device(connection, "device.uplink", START, 1, content))


async def kept(house: House, app_no: int = 1) -> tuple[int, int]:
    """Entries of an app, and the bytes of their texts."""
    row = await house.database.read(
        lambda connection: connection.execute(
            "SELECT count(*), coalesce(sum(length(content)), 0) FROM event WHERE app_no = ?", (app_no,)
        ).fetchone()
    )
    return row[0], row[1]


async def read(house: House, after: Position) -> Page:
    return await house.components.feed.read(1, after, 1_000, lambda event: True)


async def test_the_oldest_make_room_and_readers_are_told(house: House) -> None:
    await says(house, 30)
    await house.components.event_log_quota.run()
    start = (await read(house, Position(0))).events
    assert len(start) == 30, "there is room"
    for _ in range(10):
        await says(house, 30)
        await house.components.event_log_quota.run()
        count, size = await kept(house)
        assert size <= QUOTA_BYTES
    assert size > 0.85 * QUOTA_BYTES
    assert house.components.event_log_quota.removed == 330 - count
    page = await read(house, start[-1][0])
    (_, lost), *rest = page.events
    assert (lost.type, json.loads(lost.json)["data"]) == ("events.lost", {"after": start[-1][1].id})
    assert len(rest) == count
    assert [event.type for _, event in (await read(house, rest[0][0])).events] == ["device.uplink"] * (count - 1)


async def test_one_event_is_kept_however_large_the_next_are(house: House) -> None:
    await says(house, 3, size=QUOTA_BYTES - 200)
    await house.components.event_log_quota.run()
    assert (await kept(house))[0] == 1


async def test_other_apps_keep_theirs(house: House) -> None:
    await house.database.write(
        lambda connection: connection.execute("INSERT INTO application (no, id, created_at) VALUES (2, 'other', 0)")
    )
    for _ in range(5):
        await house.database.write(
            lambda connection: log_of_app(connection, "webhook.disabled", START, 2, {"webhook_id": "x"})
        )
        await says(house, 50)
    await house.components.event_log_quota.run()
    assert (await kept(house))[1] <= QUOTA_BYTES
    assert (await kept(house, 2))[0] == 5
    lost = await house.database.read(
        lambda connection: connection.execute("SELECT events_lost_to > 0 FROM application ORDER BY no").fetchall()
    )
    assert lost == [(1,), (0,)]


async def test_after_a_restart_it_is_measured_from_the_beginning(house: House) -> None:
    await says(house, 90)
    await house.components.event_log_quota.run()
    room = EventLogQuota(house.database)
    await says(house, 30)
    await room.run()
    count, size = await kept(house)
    assert 0.9 * QUOTA_BYTES < size <= QUOTA_BYTES
    assert room.removed == 120 - count


async def test_what_leaves_by_age_makes_room(house: House) -> None:
    for _ in range(4):
        await says(house, 60)
        await house.components.event_log_quota.run()
        await house.database.write(lambda connection: remove_events(connection, START, 1_000))
    await says(house, 60)
    await house.components.event_log_quota.run()
    assert (await kept(house))[0] == 60
    assert house.components.event_log_quota.removed == 0


async def test_it_is_done_while_the_server_runs(house: House) -> None:
    running = asyncio.create_task(house.components.enforce_quotas())
    async with asyncio.timeout(15):
        await says(house, 200)
        while (await kept(house))[1] > QUOTA_BYTES:
            await says(house, 1)
    running.cancel()


async def test_who_is_silent_is_not_measured(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await says(house, 1)
    await house.components.event_log_quota.run()
    monkeypatch.delattr(event_log_quota, "measure")
    await house.components.event_log_quota.run()
    assert house.components.event_log_quota.size > SIZE
