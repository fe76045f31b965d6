"""Pages of the event log, and what is said of that which has left it."""

from __future__ import annotations

from typing import Any

from gateway.delivery.event_log import Position, remove_events
from tests.gateway.api.house import House
from tests.gateway.outreach.conftest import HOUR, Fleet

DAY = 24 * HOUR


async def read(house: House, after: Position, limit: int = 100) -> tuple[list[dict[str, Any]], Position]:
    page = await house.rooms.feed.read(1, after, limit, lambda event: True)
    return [event for _, event in page.events], page.position


async def test_who_has_read_half_of_an_entry_that_left_is_told(house: House, fleet: Fleet) -> None:
    """What becomes of a push to eight devices at once is one entry."""
    push_id = await house.push({"all": True})
    await house.call("DELETE", f"/v1/pushes/{push_id}")
    events, halfway = await read(house, Position(0), limit=3)
    assert {event["type"] for event in events} == {"delivery.cancelled"}
    house.clock.milliseconds += 8 * DAY
    await house.database.write(lambda connection: remove_events(connection, house.clock.milliseconds - 7 * DAY, 1_000))
    events, end = await read(house, halfway)
    assert [event["type"] for event in events] == ["events.lost"]
    assert events[0]["data"] == {"after": str(halfway)}
    assert (await read(house, end))[0] == [], "it is said once"
