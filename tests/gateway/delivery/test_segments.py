"""Devices around the edges of segments, and beyond what a signed number of 32 bits holds: nothing depends on either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.delivery_states import DeliveryState
from gateway.store.analytics import funnels
from gateway.store.audience.device_sets import add_to_sets
from gateway.store.deliveries import delivery_sets, event_log
from tests.gateway.delivery.test_retention import DAY, sweep
from tests.gateway.delivery.world import ALERT, APP, World, items

SEGMENT = 1 << 16
NUMBERS = [
    *(SEGMENT - 2, SEGMENT - 1),
    *(SEGMENT, SEGMENT + 1, SEGMENT + 2, SEGMENT + 3, 2 * SEGMENT - 1),
    2 * SEGMENT,
    *(2**31 - 1, 2**31, 2**31 + 1),
    2**32 - 2,
]
"""In six segments."""
TAGGED = NUMBERS[1:9]


@pytest.fixture
def world(form: str) -> Iterator[World]:
    world = World(devices=0, mailbox_limit=50)
    for device_no in NUMBERS:
        world.enrol(device_no)
    world.connection.executemany(
        "INSERT INTO device_tag (app_no, tag, device_no) VALUES (?, 'hall', ?)", [(APP.no, no) for no in TAGGED]
    )
    add_to_sets(world.connection, APP.no, {"hall": TAGGED})
    yield world
    world.close()


def listed(world: World, push_id: str, limit: int, state: DeliveryState | None = None) -> list[tuple[str, str]]:
    """(device id, state) of every delivery, page after page."""
    found: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        page = world.run(world.reports.deliveries(APP.no, push_id, limit, cursor, state))
        found += [(item["device_id"], item["state"]) for item in items(page)]
        cursor = page.next_cursor
        if cursor is None:
            return found


def ended(world: World) -> str:
    """A push of which each segment has deliveries that came to different ends."""
    push_id = world.push({"all": True}, notification=ALERT, channel="offers", ttl=60).push_id
    for device_no in NUMBERS[::3]:
        world.connect(device_no)
    for device_no in NUMBERS[::3]:
        world.engine.settle(world.identities[device_no].client_id, 0)
    world.settle()
    for device_no in (NUMBERS[0], NUMBERS[4], NUMBERS[8]):
        world.says("receipts", {"push_id": push_id, "event": "opened"}, device_no)
    world.says("settings", {"channels": {"offers": False}}, NUMBERS[7])
    world.passes(61)
    return push_id


def expected() -> list[tuple[str, str]]:
    """What `ended` leaves."""
    opened = {NUMBERS[0], NUMBERS[4], NUMBERS[8]}
    states = [
        "opened"
        if no in opened
        else "delivered"
        if no in NUMBERS[::3]
        else "suppressed"
        if no == NUMBERS[7]
        else "expired"
        for no in NUMBERS
    ]
    return [(f"d{no}", state) for no, state in zip(NUMBERS, states, strict=True)]


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_pages_of_deliveries_go_on_over_the_edges_of_segments(world: World, limit: int) -> None:
    push_id = ended(world)
    assert listed(world, push_id, limit) == expected()
    for state in DeliveryState:
        assert listed(world, push_id, limit, state) == [one for one in expected() if one[1] == state.label]
    for device_no, one in zip(NUMBERS, expected(), strict=True):
        page = world.run(world.reports.deliveries(APP.no, push_id, limit, None, None, device_no=device_no))
        assert [(item["device_id"], item["state"]) for item in items(page)] == [one]


@pytest.mark.parametrize("is_large", [False, True])
def test_analytics_count_every_segment_once(world: World, is_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_large:  # counted on a reader, segment by segment
        monkeypatch.setattr(funnels, "WRITER_DELIVERIES", 1)
    push_id = ended(world)
    found = world.run(world.analytics.of_push(APP.no, push_id))
    stages = ("targeted", "eligible", "delivered", "displayed", "opened", "acted")
    assert [found[stage] for stage in stages] == [12, 11, 6, 3, 3, 0]
    (tag,) = world.run(world.analytics.by(APP.no, "tag", None, None))["items"]
    assert [tag[stage] for stage in stages] == [8, 7, 4, 2, 2, 0]


def test_a_recall_reaches_every_segment(world: World) -> None:
    push_id = world.push({"all": True}).push_id
    world.connect(NUMBERS[3])
    answer = world.run(world.ledger.recalls.recall(APP.no, push_id))
    assert answer == {"cancelled": len(NUMBERS) - 1, "in_flight": 1, "too_late": 0}
    world.acknowledge(NUMBERS[3])
    assert Counter(state for _, state in listed(world, push_id, 3)) == {"cancelled": 11, "delivered": 1}


def test_a_newer_push_supersedes_across_segments(world: World) -> None:
    older = world.push({"all": True}, collapse_key="k").push_id
    world.push({"devices": [f"d{no}" for no in NUMBERS[2:9]]}, collapse_key="k")
    superseded = {device_id for device_id, state in listed(world, older, 100) if state == "superseded"}
    assert superseded == {f"d{no}" for no in NUMBERS[2:9]}


def test_every_mailbox_is_read_and_handed_over(world: World) -> None:
    first, second = (world.push({"all": True}).push_id for _ in range(2))
    for device_no in NUMBERS:
        page = world.run(world.reports.mailbox(device_no, 1, None))
        assert [item["push_id"] for item in page["items"]] == [first]
        world.connect(device_no)
        assert world.received(device_no) == [first, second]
        world.acknowledge_all(device_no)
    assert world.counts(first) == world.counts(second) == {"targeted": len(NUMBERS), "delivered": len(NUMBERS)}


def test_retention_removes_every_segment_and_counts_stay(world: World) -> None:
    push_id = ended(world)
    before = world.counts(push_id), world.run(world.analytics.of_push(APP.no, push_id))
    world.passes(31 * DAY)
    sweep(world)
    after = world.counts(push_id), world.run(world.analytics.of_push(APP.no, push_id))
    assert after[0] == before[0]
    assert {**after[1], "counted_at": ""} == {**before[1], "counted_at": ""}
    for table in ("delivery", "waiting_set", "outcome_set", "delivery_count"):
        assert not world.row(f"SELECT 1 FROM {table}"), table


def told(world: World, limit: int, lanes: int = 1) -> dict[str, dict[str, Any]]:
    """Events by their ids, read in pages of so many."""
    events = world.events(limit, lanes)
    found = {event["id"]: event for event in events}
    assert len(found) == len(events), "ids are distinct"
    return found


def test_a_large_end_is_several_entries_whose_events_keep_their_ids(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (delivery_sets, event_log):
        monkeypatch.setattr(module, "ENTRY_DEVICES", 2)
    push_id = ended(world)
    assert world.row("SELECT max(size) FROM event WHERE type = 'delivery.expired'") == (2,)
    assert not world.row("SELECT 1 FROM outcome_set WHERE count > 2")
    before = told(world, 1_000)
    assert told(world, 1) == told(world, 3, 3) == before
    for device_no in NUMBERS[1:]:  # each becomes a row: what it was is told as before
        world.says("receipts", {"push_id": push_id, "event": "acted", "action": "play"}, device_no)
    after = told(world, 1)
    assert {event_id: after[event_id] for event_id in before} == before
    assert told(world, 1_000) == told(world, 2, 3) == after
    world.check_events()
