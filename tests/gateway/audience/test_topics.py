from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.audience import topics
from gateway.audience.topics import change_members, change_own_topics
from gateway.errors import Problem
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets, devices_of_set, largest_tags, topic_set
from gateway.store.audience.topics import remove_from_topics, topics_of
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import add_device, counted_steps, fresh_database

APP = 1


@pytest.fixture
def connection() -> Iterator[Transaction]:
    connection = with_devices()
    yield connection
    connection.close()


def with_devices() -> Transaction:
    connection = fresh_database()
    for number in range(1, 5):
        add_device(connection, number, f"d{number}")
    return connection


def members(connection: Transaction, topic: str) -> list[int]:
    return list(devices_of_set(connection, APP, topic_set(topic)))


def test_each_device_has_its_result(connection: Transaction) -> None:
    assert change_members(connection, APP, "news", ["d1", "d2"], True, 5) == ["joined", "joined"]
    found = change_members(connection, APP, "news", ["d2", "nobody", "d3"], True, 6)
    assert isinstance(found[1], Problem)
    assert found[1].code == "device_not_found"
    assert (found[0], found[2]) == ("unchanged", "joined")
    assert members(connection, "news") == [1, 2, 3]
    assert change_members(connection, APP, "news", ["d1", "d4"], False, 7) == ["left", "unchanged"]
    assert members(connection, "news") == [2, 3]


def test_another_apps_devices_are_unknown(connection: Transaction) -> None:
    (found,) = change_members(connection, 2, "news", ["d1"], True, 5)
    assert isinstance(found, Problem)
    assert found.code == "device_not_found"


def test_a_topic_is_no_tag_of_the_same_name(connection: Transaction) -> None:
    add_to_sets(connection, APP, {"news": [4]})
    change_members(connection, APP, "news", ["d1"], True, 5)
    assert members(connection, "news") == [1]
    assert {tag: list(devices) for tag, devices in largest_tags(connection, APP, 0, BitMap([4]), 9).items()} == {
        "news": [4]
    }


def test_an_app_and_a_device_have_so_many_topics(connection: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "TOPICS_OF_DEVICE", 2)
    monkeypatch.setattr(topics, "TOPICS_OF_APP", 3)
    for name in ("a", "b"):
        change_members(connection, APP, name, ["d1"], True, 5)
    found = change_members(connection, APP, "c", ["d1", "d2"], True, 5)
    assert isinstance(found[0], Problem)
    assert (found[0].code, found[1]) == ("too_many_topics", "joined")
    assert all(isinstance(one, Problem) for one in change_members(connection, APP, "d", ["d2", "d3"], True, 5))
    assert change_members(connection, APP, "a", ["d2"], True, 5) == ["joined"]
    assert change_own_topics(connection, APP, 3, {"b": True, "new": True}, 6) is not None
    assert topics_of(connection, [1, 2, 3]) == {1: ["a", "b"], 2: ["a", "c"], 3: ["b"]}


@pytest.mark.sqlite("which tells its statements")
def test_a_device_that_joins_many_new_ones_has_those_of_the_app_counted_once(
    connection: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "TOPICS_OF_APP", 6)
    change_members(connection, APP, "old", ["d1", "d2"], True, 5)
    statements: list[str] = []
    assert isinstance(connection, sqlite3.Connection)
    connection.set_trace_callback(statements.append)
    wanted = {f"new-{number}": True for number in range(8)} | {"old": False}
    complaint = change_own_topics(connection, APP, 1, wanted, 6)
    connection.set_trace_callback(None)
    assert complaint == "the app has 6 topics: 'new-5' cannot be another"
    assert topics_of(connection, [1])[1] == [f"new-{number}" for number in range(5)]
    assert len([statement for statement in statements if "DISTINCT tag" in statement]) == 1
    assert len(statements) < 12


def test_a_device_changes_its_own(connection: Transaction) -> None:
    assert change_own_topics(connection, APP, 1, {"news": True, "sport": True}, 5) is None
    assert change_own_topics(connection, APP, 1, {"news": True, "sport": False, "never": False}, 6) is None
    assert topics_of(connection, [1]) == {1: ["news"]}
    remove_from_topics(connection, APP, 1)
    assert not topics_of(connection, [1])
    assert not members(connection, "news")


def steps_of(connection: Transaction, wanted: dict[str, bool]) -> int:
    """Instructions of SQLite's machine that a device's change of its topics takes."""
    with counted_steps(connection) as steps:
        assert change_own_topics(connection, APP, 1, wanted, 5) is None
    return steps[0]


def test_what_a_device_leaves_empty_costs_what_it_names(connection: Transaction) -> None:
    joined, left = {"own": True}, {"own": False}
    alone = steps_of(connection, joined), steps_of(connection, left)
    for number in range(1_000):
        add_to_sets(connection, APP, {topic_set(f"other-{number}"): [2]})
    # The app's topics are counted when there is a new one, and never when one is left.
    assert steps_of(connection, joined) < alone[0] + 15_000
    assert steps_of(connection, left) < alone[1] + 5


CHANGES = st.tuples(
    st.sampled_from(["many", "own", "gone"]),
    st.sampled_from(["a", "b", "c"]),
    st.sets(st.integers(1, 4), min_size=1),
    st.booleans(),
)


@given(st.lists(CHANGES, max_size=12))
def test_the_sets_say_what_the_rows_say(changes: list[tuple[str, str, set[int], bool]]) -> None:
    connection = with_devices()
    for how, topic, numbers, join in changes:
        if how == "many":
            change_members(connection, APP, topic, [f"d{number}" for number in numbers], join, 5)
        elif how == "own":
            change_own_topics(connection, APP, min(numbers), {topic: join}, 5)
        else:
            remove_from_topics(connection, APP, min(numbers))
    for topic in ("a", "b", "c"):
        rows = connection.execute(
            "SELECT device_no FROM device_topic WHERE app_no = ? AND topic = ? ORDER BY device_no", (APP, topic)
        )
        assert [number for (number,) in rows] == members(connection, topic)
    assert list(devices_of_set(connection, APP, ALL_TAG)) == [1, 2, 3, 4]
    connection.close()
