"""Pages of the event log, and what is said of that which has left it."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.errors import Problem
from gateway.events import event_feed
from gateway.events.event_feed import STREAMS_OF_APP, STREAMS_OF_KEY
from gateway.store.deliveries.event_log import PAGE_BYTES, Position, log_of_device, remove_events
from tests.gateway.events.conftest import HOUR, Fleet
from tests.gateway.in_process import InProcessGateway

DAY = 24 * HOUR


async def read(gateway: InProcessGateway, after: Position, limit: int = 100) -> tuple[list[dict[str, Any]], Position]:
    page = await gateway.components.feed.read(1, after, limit, lambda event: True)
    return [json.loads(event.json) for _, event in page.events], page.position


async def test_who_has_read_half_of_an_entry_that_left_is_told(gateway: InProcessGateway, fleet: Fleet) -> None:
    """What becomes of a push to eight devices at once is one entry."""
    push_id = await gateway.push({"all": True})
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    events, halfway = await read(gateway, Position(0), limit=3)
    assert {event["type"] for event in events} == {"delivery.cancelled"}
    gateway.clock.milliseconds += 8 * DAY
    await gateway.database.write(
        lambda connection: remove_events(connection, gateway.clock.milliseconds - 7 * DAY, 1_000)
    )
    events, end = await read(gateway, halfway)
    assert [event["type"] for event in events] == ["events.lost"]
    assert events[0]["data"] == {"after": str(halfway)}
    assert (await read(gateway, end))[0] == [], "it is said once"
    last = Position(halfway.entry, 7)
    assert (await read(gateway, last))[0] == [], "who has read the last of them has missed nothing"


async def test_who_has_read_more_than_there_is_is_told(gateway: InProcessGateway, fleet: Fleet) -> None:
    """An older copy of the data directory took the place of this one."""
    await gateway.push({"all": True})
    _, end = await read(gateway, Position(0))
    events, position = await read(gateway, Position(end.entry + 1_000, 0))
    assert [(event["type"], event["data"]) for event in events] == [
        ("events.lost", {"after": f"{end.entry + 1_000}.0"})
    ]
    assert (await read(gateway, position))[0] == [], "it is said once"
    push_id = await gateway.push({"all": True})
    await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    assert {event["type"] for event in (await read(gateway, position))[0]} == {"delivery.cancelled"}


async def test_followers_are_woken_whatever_another_app_has_logged(gateway: InProcessGateway, fleet: Fleet) -> None:
    """With several nodes an app's entry may become visible after a later one of another app."""
    feed = gateway.components.feed
    woken: list[int] = []
    followers = [feed.follow(app_no, lambda app_no=app_no: woken.append(app_no)) for app_no in (1, 2)]  # type: ignore[misc]  # a default

    async def logs(app_no: int, number: int) -> None:
        await gateway.database.write(
            lambda connection: connection.execute(
                "INSERT INTO event (no, app_no, at, type, content, size) VALUES (?, ?, 0, 'device.uplink', '{}', 1)",
                (number, app_no),
            ).close()
        )
        await fleet.until(lambda: feed.seen.get(app_no, 0) >= number, "the feed has looked")

    await logs(2, 1_000)
    woken.clear()
    await logs(1, 900)
    assert woken == [1]
    for follower in followers:
        feed.unfollow(follower)


async def says(gateway: InProcessGateway, device_no: int, size: int) -> None:
    """A device says something of this size."""
    content = {"topic": "log", "payload": "x" * size}
    await gateway.database.write(
        lambda connection: log_of_device(connection, "device.uplink", gateway.clock.milliseconds, device_no, content)
    )


async def test_a_page_ends_when_it_has_enough_bytes(gateway: InProcessGateway, fleet: Fleet) -> None:
    for _ in range(4):
        for device_no in range(1, 4):
            await says(gateway, device_no, PAGE_BYTES // 3)
        push_id = await gateway.push({"all": True})
        await gateway.call("DELETE", f"/v1/pushes/{push_id}")
    await says(gateway, 1, 2 * PAGE_BYTES)
    await says(gateway, 2, 2 * PAGE_BYTES)
    ids = [event["id"] for event in await fleet.log()]
    assert len(ids) == 4 * (3 + 8) + 2
    for lanes in (1, 2):
        read: list[str] = []
        for lane in range(lanes):
            position, more = Position(0), True
            while more:
                page = await gateway.components.feed.read(1, position, 200, lambda event: True, lane, lanes)
                sizes = [len(json.loads(event.json)["data"].get("payload", "")) for _, event in page.events]
                assert sum(sizes) <= max(sizes, default=0) + PAGE_BYTES
                read += [event.id for _, event in page.events]
                position, more = page.position, page.more
        assert len(read) == len(ids)
        assert set(read) == set(ids)
        if lanes == 1:
            assert read == ids


async def test_an_app_with_many_keys_leaves_streams_to_others(gateway: InProcessGateway) -> None:
    feed = gateway.components.feed
    with ExitStack() as held:
        for number in range(STREAMS_OF_APP):
            feed.admit_stream(1, f"key {number // STREAMS_OF_KEY}")
            held.enter_context(feed.stream(1, f"key {number // STREAMS_OF_KEY}"))
        with pytest.raises(Problem, match="too_many_streams"):
            feed.admit_stream(1, "another key")
        assert feed.streams_refused == 1
        feed.admit_stream(2, "key of another app")
    feed.admit_stream(1, "another key")
    assert feed.streams == 0


async def test_streams_that_read_the_same_page_share_it(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.enrol("d1")
    await gateway.call("PATCH", "/v1/devices/d1/preferences", json={"consent": "granted"})
    feed = gateway.components.feed
    reads = 0
    read_page = feed.read

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read_page(*arguments)

    monkeypatch.setattr(feed, "read", counted)
    pages = await asyncio.gather(*(feed.read_shared(1, Position(0), 200, None) for _ in range(50)))
    assert reads == 1
    assert len({id(page) for page in pages}) == 1
    assert (await feed.read_shared(1, Position(0), 200, None)).events == pages[0].events
    assert reads == 1
    end = pages[0].position
    for number in (2, 3):  # where there is nothing yet there may be something the next time
        assert (await feed.read_shared(1, end, 200, None)).events == []
        assert reads == number
    assert (await feed.read_shared(1, Position(0), 200, "device.gap")).events == []


async def test_pages_that_are_shared_have_room_for_so_much(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "SHARED_BYTES", 2_000)  # of events whose JSON has 200
    await gateway.enrol("d1")
    for _ in range(5):
        await gateway.call("PATCH", "/v1/devices/d1/preferences", json={"consent": "granted"})
    feed = gateway.components.feed
    position = Position(0)
    first = await feed.read_shared(1, position, 1, None)
    for _ in range(5):
        position = (await feed.read_shared(1, position, 1, None)).position
    assert (await feed.read_shared(1, Position(0), 1, None)) is not first
