from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from gateway.delivery import device_deliveries, device_timeline, history_pages
from gateway.delivery.device_deliveries import DeviceDeliveries
from gateway.delivery.device_timeline import DeviceTimeline
from gateway.delivery.history_pages import LEAST_ROWS, SliceSize
from gateway.store.deliveries import device_history
from gateway.store.deliveries.device_history import CANDIDATES, FOUND, SLICE, find_entries, find_pushes
from gateway.store.transaction import Transaction
from tests.gateway.delivery.conftest import store_everything_as_sets
from tests.gateway.delivery.world import APP, World, items

PARAMETERS: dict[str, Any] = {
    "app_no": 1,
    "before": 1 << 40,
    "pushes": 10,
    "entries": 10,
    "oldest": 0,
    "device_no": 1,
    "segment": 0,
    "waiting": "[]",
    "types": "[]",
    "digits": "1",
    "first": "[1,",
    "within": ",1,",
    "last": ",1]",
    "only": "[1]",
}


def plan(connection: Transaction, statement: str) -> list[str]:
    """The tables that a statement looks into, and how; but for those that it makes itself."""
    named = {name: value for name, value in PARAMETERS.items() if f":{name}" in statement}
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", named).fetchall()
    steps = [row[3] for row in rows if row[3].startswith(("SCAN", "SEARCH"))]
    return [step for step in steps if "VIRTUAL TABLE" not in step and not step.startswith(("SCAN p", "SCAN (subquery"))]


@pytest.mark.sqlite("whose plan it is")
def test_nothing_is_looked_through_but_the_index_of_the_apps_pushes(world: World) -> None:
    slice_ = "SEARCH push USING COVERING INDEX push_of_app (app_no=? AND no>? AND no<?)"
    assert plan(world.connection, f"SELECT min(no), count(*) FROM {SLICE}") == [slice_]
    assert plan(world.connection, CANDIDATES) == [
        slice_,
        "SEARCH d USING PRIMARY KEY (push_no=? AND device_no=?) LEFT-JOIN",
        "SEARCH o USING COVERING INDEX outcome_set_of_push (push_no=? AND segment=?)",
    ]
    assert plan(world.connection, FOUND) == [
        "SEARCH e USING INDEX event_of_app (app_no=? AND no<?)",
        "SEARCH o USING INTEGER PRIMARY KEY (rowid=?)",
    ]


def test_a_slice_takes_as_many_rows_as_its_time_allows() -> None:
    now = [0.0]
    size = SliceSize(1_000, 20_000, lambda: now[0])
    for seconds, rows in ((0.02, 1_000), (0.04, 500), (10.0, LEAST_ROWS), (0.01, 200), (0.0, 800), (0.0, 3_200)):
        end = size.begin()
        now[0] += seconds
        end()
        assert size.rows == pytest.approx(rows, abs=1)
    for _ in range(3):
        size.begin()()
    assert size.rows == 20_000


def test_a_device_that_gets_little_is_found_behind_what_others_get(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request looks through so many pushes and entries; whoever goes on finds the rest."""
    monkeypatch.setattr(history_pages, "LEAST_ROWS", 1)
    monkeypatch.setattr(history_pages, "MAX_SLICES", 1)
    for module, most in ((device_deliveries, "PUSHES"), (device_timeline, "ENTRIES")):
        monkeypatch.setattr(module, f"FIRST_{most}", 4)
        monkeypatch.setattr(module, f"MOST_{most}", 4)
    world.connect(1)
    first = world.push({"device": "d1"}).push_id
    world.acknowledge_all(1)
    for _ in range(6):
        world.now += 1_000
        world.connect(2)
        world.push({"device": "d2"})
        world.acknowledge_all(2)
    database: Any = world.writer
    histories: list[Any] = [
        DeviceDeliveries(database, world.wired.in_flight).page,
        partial(DeviceTimeline(database).page, wanted="delivery.delivered".__eq__),
    ]
    for ask in histories:
        pages, cursor = [], None
        while True:
            page = world.run(ask(APP.no, 1, 100, cursor))
            pages.append((items(page), page.searched_to))
            cursor = page.next_cursor
            if cursor is None:
                break
        assert pages[0] == ([], "2027-01-15T08:00:03.000Z")
        assert [item.get("push_id") or item["data"]["push_id"] for page, _ in pages for item in page] == [first]
        assert pages[-1][1] is None


def test_many_outcomes_of_a_push_end_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    store_everything_as_sets(monkeypatch)
    world = World()
    for _ in range(5):
        world.push({"all": True}, ttl=1)
    world.passes(2)
    monkeypatch.setattr(device_history, "SLICE_OUTCOMES", 2)
    found = find_pushes(world.connection, APP.no, 1, 1 << 40, 100, 100)
    assert (found.hits, found.reached, found.is_end) == ([5, 4], 4, False)
    world.close()


def forget_deliveries(world: World, before: int) -> None:
    for table in ("delivery", "waiting_set", "outcome_set"):
        world.connection.execute(f"DELETE FROM {table} WHERE push_no < ?", (before,))


def test_what_retention_has_left_of_pushes_is_not_looked_through(world: World) -> None:
    for _ in range(4):
        world.push({"device": "d1"})
    forget_deliveries(world, before=3)
    found = find_pushes(world.connection, APP.no, 2, 1 << 40, 100, 2)
    assert (found.hits, found.reached, found.is_end) == ([], 3, False)
    assert find_pushes(world.connection, APP.no, 2, 3, 100, 2).is_end
    forget_deliveries(world, before=1 << 40)
    assert find_pushes(world.connection, APP.no, 1, 1 << 40, 100, 2).is_end


@pytest.mark.parametrize("devices", ["[7]", "[7,8]", "[6,7]", "[6,7,8]", '[[7, 5, {"reason": "client"}], [8, 5, {}]]'])
def test_an_entry_is_about_the_devices_in_its_list_and_no_other(world: World, devices: str) -> None:
    event = "device.disconnected" if devices.startswith("[[") else "delivery.expired"
    world.connection.execute(
        "INSERT INTO event (app_no, at, type, devices, size) VALUES (1, 9, ?, ?, 1)", (event, devices)
    )
    last = world.row("SELECT max(no) FROM event")[0]
    for device_no in (1, 5, 6, 7, 8, 9, 67, 70, 77, 78):
        found = find_entries(world.connection, APP.no, device_no, 1 << 40, 1, [event])
        listed = [item[0] if isinstance(item, list) else item for item in json.loads(devices)]
        assert found.hits == ([(last, event)] if device_no in listed else [])
