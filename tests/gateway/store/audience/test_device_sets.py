from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pyroaring import BitMap

from gateway.audience.enrolments import EnrolmentQuota
from gateway.devices import DeviceRegistry, MqttAddress, NewDevice
from gateway.errors import Problem
from gateway.store.audience import device_sets
from gateway.store.audience.device_sets import (
    ALL_TAG,
    SEGMENT_BITS,
    add_to_sets,
    largest_tags,
    queried_devices,
    remove_from_sets,
    selected_devices,
)
from gateway.store.audience.devices import device_rows
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import APP_NO, counted_steps, fresh_database
from tests.gateway.delivery.world import World

SEGMENT = 1 << SEGMENT_BITS


@dataclass
class Selection:
    tag: str | None = None
    topic: str | None = None
    all: bool | None = None


EVERYBODY = Selection(all=True)


@pytest.fixture
def connection() -> Iterator[Transaction]:
    connection = fresh_database()
    yield connection
    connection.close()


def stored_segments(connection: Transaction, tag: str = ALL_TAG) -> dict[int, bytes]:
    return dict(
        connection.execute("SELECT segment, devices FROM device_set WHERE app_no = ? AND tag = ?", (APP_NO, tag))
    )


def test_what_was_added_is_selected_by_app_and_tag(connection: Transaction) -> None:
    add_to_sets(connection, APP_NO, {ALL_TAG: [3, 1, 2]})
    add_to_sets(connection, APP_NO, {ALL_TAG: [SEGMENT + 1, 2]})
    add_to_sets(connection, APP_NO, {"hall": [2, SEGMENT + 1]})
    add_to_sets(connection, 2, {ALL_TAG: [4]})
    assert list(selected_devices(connection, APP_NO, EVERYBODY)) == [1, 2, 3, SEGMENT + 1]
    assert list(selected_devices(connection, APP_NO, Selection(tag="hall"))) == [2, SEGMENT + 1]
    assert list(selected_devices(connection, 2, EVERYBODY)) == [4]
    assert not selected_devices(connection, 2, Selection(tag="hall"))


def test_what_was_removed_is_not_selected_and_an_empty_segment_leaves(connection: Transaction) -> None:
    add_to_sets(connection, APP_NO, {"hall": [1, 2, SEGMENT, 3 * SEGMENT]})
    remove_from_sets(connection, APP_NO, {"hall": [1, 7, SEGMENT, 2 * SEGMENT]})
    assert list(selected_devices(connection, APP_NO, Selection(tag="hall"))) == [2, 3 * SEGMENT]
    assert stored_segments(connection, "hall").keys() == {0, 3}
    remove_from_sets(connection, APP_NO, {"hall": [2, 3 * SEGMENT]})
    assert not stored_segments(connection, "hall")


def test_only_the_segments_concerned_are_written(connection: Transaction) -> None:
    add_to_sets(connection, APP_NO, {ALL_TAG: range(3 * SEGMENT)})
    changes = connection.total_changes
    add_to_sets(connection, APP_NO, {ALL_TAG: [3 * SEGMENT], "hall": [5, 6]})
    remove_from_sets(connection, APP_NO, {ALL_TAG: [SEGMENT + 5, SEGMENT + 6]})
    assert connection.total_changes - changes == 3
    assert len(selected_devices(connection, APP_NO, EVERYBODY)) == 3 * SEGMENT - 1


def test_a_segment_is_small_whatever_it_holds(connection: Transaction) -> None:
    """Consecutive numbers are a run; a bitmap's container is never larger than a bit for each number."""
    add_to_sets(connection, APP_NO, {ALL_TAG: range(SEGMENT)})
    add_to_sets(connection, APP_NO, {"odd": range(1, SEGMENT, 2)})
    assert len(stored_segments(connection)[0]) < 32
    assert len(stored_segments(connection, "odd")[0]) < SEGMENT / 8 + 32


def test_the_tags_of_an_app_are_read_segment_by_segment(connection: Transaction) -> None:
    add_to_sets(connection, APP_NO, {ALL_TAG: [1, 2, SEGMENT], "hall": [1, SEGMENT], "lobby": [2]})
    add_to_sets(connection, 2, {"cellar": [3]})
    everybody = BitMap(range(1, 2 * SEGMENT))
    assert largest_tags(connection, APP_NO, 0, everybody, 9) == {"hall": BitMap([1]), "lobby": BitMap([2])}
    assert largest_tags(connection, APP_NO, 1, everybody, 9) == {"hall": BitMap([SEGMENT])}
    assert largest_tags(connection, APP_NO, 0, BitMap([2]), 9) == {"lobby": BitMap([2])}
    assert largest_tags(connection, APP_NO, 2, everybody, 9) == {}


def test_of_very_many_tags_the_largest_are_found_within_bounds(
    connection: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_to_sets(connection, APP_NO, {f"serial-{number:03}": [number] for number in range(1, 200)})
    add_to_sets(
        connection, APP_NO, {"a": range(1, 9), "hall": range(1, 50), "lobby": range(60, 80), "z": range(1, 200)}
    )
    everybody = BitMap(range(1, 200))
    assert list(largest_tags(connection, APP_NO, 0, everybody, 3)) == ["z", "hall", "lobby"]
    assert list(largest_tags(connection, APP_NO, 0, BitMap([1, 70]), 4)) == ["z", "a", "hall", "lobby"]
    monkeypatch.setattr(device_sets, "READ_SETS", 3)
    assert list(largest_tags(connection, APP_NO, 0, everybody, 9)) == ["hall", "lobby", "a"]
    monkeypatch.setattr(device_sets, "WALKED_SETS", 2)
    assert list(largest_tags(connection, APP_NO, 0, everybody, 9)) == ["hall", "a"]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 12, 13])
def test_a_set_is_written_in_parts_between_which_others_have_their_turn(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_sets, "LOCK_NUMBERS", 4)
    pauses: list[float] = []
    monkeypatch.setattr(device_sets, "time", SimpleNamespace(sleep=pauses.append))
    devices = BitMap(range(7, 7 + 3 * count, 3))
    assert json.loads(device_sets.numbers_json(devices)) == list(devices)
    assert pauses == [0] * (max(count - 1, 0) // 4)


def test_queried_devices_are_those_of_the_query(connection: Transaction) -> None:
    numbers = [5, SEGMENT + 2, 1, 4 * SEGMENT]
    select = "SELECT value AS no FROM json_each(?) WHERE value <> ?"
    assert list(queried_devices(connection, select, (json.dumps(numbers), 1))) == [5, SEGMENT + 2, 4 * SEGMENT]
    assert not queried_devices(connection, select, ("[]", 1))


@pytest.mark.parametrize("change", [add_to_sets, remove_from_sets])
def test_the_cost_follows_the_sets_concerned(connection: Transaction, change: Any) -> None:
    """Steps of SQLite's machine with one other set in the app, and with 5,000."""

    def steps() -> int:
        with counted_steps(connection) as counted:
            change(connection, APP_NO, {"hall": [1]})
            selected_devices(connection, APP_NO, Selection(tag="hall"))
        return counted[0]

    add_to_sets(connection, APP_NO, {"hall": [1, 2], "other": [1]})
    before = steps()
    add_to_sets(connection, APP_NO, {f"other-{number}": [1] for number in range(5_000)})
    assert steps() <= before + 10


class Register(RuleBasedStateMachine):
    """Devices are enrolled, given other tags and removed: the sets are always what the tables say.

    Numbers begin shortly before the end of a segment.
    """

    ids = st.sampled_from([f"kiosk-{number}" for number in range(6)])
    tags = st.lists(st.sampled_from(["hall", "lobby", "cellar"]), max_size=4)

    def __init__(self) -> None:
        super().__init__()
        self.world = World(devices=0)
        self.world.connection.execute(
            "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at) VALUES (?, 1, 'last', x'', 0, 0)",
            (SEGMENT - 4,),
        )
        self.world.connection.execute("DELETE FROM device")
        database: Any = self.world.writer
        self.register = DeviceRegistry(
            database=database,
            connections=self.world.connections,
            activity=self.world.activity,
            clock_ms=self.world.clock,
            mqtt_address=lambda: MqttAddress("push.example", 1883, False, "ws://push.example:8080/mqtt"),
            quota=EnrolmentQuota(self.world.clock),
        )

    @rule(devices=st.lists(st.tuples(st.none() | ids, st.none() | tags), min_size=1, max_size=5))
    def enrols(self, devices: list[tuple[str | None, list[str] | None]]) -> None:
        enrolled = [NewDevice(device_id=device_id, tags=tags) for device_id, tags in devices]
        self.world.run(self.register.enrol(APP_NO, "default", enrolled))

    @rule(device_id=ids, tags=st.none() | tags)
    def changes(self, device_id: str, tags: list[str] | None) -> None:
        with self.found_or_refused(device_id):
            self.world.run(self.register.change(APP_NO, device_id, {"tags": tags}))

    @rule(device_id=ids)
    def removes(self, device_id: str) -> None:
        with self.found_or_refused(device_id):
            self.world.run(self.register.remove(APP_NO, "default", device_id))

    def found_or_refused(self, device_id: str) -> AbstractContextManager[object]:
        return nullcontext() if device_rows(self.world.connection, APP_NO, [device_id]) else pytest.raises(Problem)

    @invariant()
    def sets_are_what_the_tables_say(self) -> None:
        expected: dict[tuple[str, int], set[int]] = {}
        for tag, device_no in self.world.connection.execute(
            "SELECT '', no FROM device WHERE removed_at IS NULL UNION ALL SELECT tag, device_no FROM device_tag"
        ):
            expected.setdefault((tag, device_no >> SEGMENT_BITS), set()).add(device_no)
        stored = {
            (tag, segment): set(BitMap.deserialize(devices))
            for tag, segment, devices in self.world.connection.execute("SELECT tag, segment, devices FROM device_set")
        }
        assert stored == expected

    def teardown(self) -> None:
        self.world.close()


TestRegister = Register.TestCase
TestRegister.settings = settings(TestRegister.settings, stateful_step_count=30, deadline=None)
