"""The index of attributes says what the devices' JSON says, whatever happens to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.attribute_index import (
    ATTRIBUTE_TRIGGERS,
    CROWDED,
    FALSE,
    INDEXED_ATTRIBUTES,
    NAME_CHARACTERS,
    PREFIX_CHARACTERS,
    TRUE,
)
from gateway.store.ledger_file import prepare
from gateway.store.segments.value_forms import KEYED, attribute_form
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import APP_NO, counted_steps, fresh_database
from tests.gateway.store.test_migrations import ledger_of

LONG = "é" * (PREFIX_CHARACTERS + 1)
VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    st.sampled_from([LONG, LONG + "a", "1", "true"]),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.just([1]),
    st.just({"a": 1}),
)
NAMES = st.sampled_from(["a", "b", "", 'q"\\\n', "n" * NAME_CHARACTERS, "n" * (NAME_CHARACTERS + 1)])
ATTRIBUTES = st.one_of(
    st.dictionaries(NAMES, VALUES),
    st.integers(INDEXED_ATTRIBUTES - 2, INDEXED_ATTRIBUTES + 2).map(
        lambda count: {f"{number:x}": number for number in range(count)}
    ),
)


@pytest.fixture
def connection() -> Iterator[Transaction]:
    connection = fresh_database()
    yield connection
    connection.close()


def text_of(attributes: dict[str, Any]) -> str:
    return json.dumps(attributes, ensure_ascii=False, separators=(",", ":"))


def enrol(connection: Transaction, no: int, attributes: dict[str, Any]) -> None:
    connection.execute(
        "INSERT INTO device (no, app_no, id, attributes, token_hash, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, x'', 0, 0)",
        (no, APP_NO, f"d-{no}", text_of(attributes)),
    )


def change(connection: Transaction, no: int, attributes: dict[str, Any]) -> None:
    connection.execute("UPDATE device SET attributes = ? WHERE no = ?", (text_of(attributes), no))


def indexed(connection: Transaction, no: int) -> dict[str, Any]:
    return dict(
        connection.execute("SELECT name, value FROM device_attribute WHERE app_no = ? AND device_no = ?", (APP_NO, no))
    )


def wanted(connection: Transaction, attributes: dict[str, Any]) -> dict[str, Any]:
    """What the index has of attributes, in the form of the database."""
    plain = plain_rows(attributes)
    if attribute_form(connection) is not KEYED:
        return plain
    if CROWDED in plain:
        return {CROWDED: b""}
    truths = {TRUE: True, FALSE: False}
    return {name: KEYED.key(truths[value] if isinstance(value, bytes) else value) for name, value in plain.items()}


def plain_rows(attributes: dict[str, Any]) -> dict[str, Any]:
    if len(attributes) > INDEXED_ATTRIBUTES:
        return {CROWDED: 0}
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if not 0 < len(name) <= NAME_CHARACTERS or not isinstance(value, str | int | float):
            continue
        if isinstance(value, bool):
            found[name] = TRUE if value else FALSE
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            found[name] = float(value)
        else:
            found[name] = value[:PREFIX_CHARACTERS] if isinstance(value, str) else value
    return found


@given(st.lists(ATTRIBUTES, min_size=1, max_size=4))
def test_the_index_says_what_the_attributes_say(states: list[dict[str, Any]]) -> None:
    connection = fresh_database()
    enrol(connection, 1, {"a": "stays"})
    enrol(connection, 2, states[0])
    assert indexed(connection, 2) == wanted(connection, states[0])
    for attributes in states[1:]:
        change(connection, 2, attributes)
        assert indexed(connection, 2) == wanted(connection, attributes)
    change(connection, 2, {})  # as a removal does
    assert indexed(connection, 2) == {}
    assert indexed(connection, 1) == wanted(connection, {"a": "stays"})
    connection.close()


@pytest.mark.sqlite("which tells what its triggers have written")
def test_only_what_differs_is_written(connection: Transaction) -> None:
    enrol(connection, 1, {"a": 1, "b": "x", "c": True})

    def rows_written(attributes: dict[str, Any]) -> int:
        before = connection.total_changes
        change(connection, 1, attributes)
        return connection.total_changes - before - 1  # the device's own

    assert rows_written({"a": 1, "b": "x", "c": True}) == 0
    assert rows_written({"c": True, "b": "x", "a": 1}) == 0
    assert rows_written({"a": 1, "b": "y", "c": True}) == 2
    assert rows_written({"a": 1, "b": "y"}) == 1
    assert rows_written({"a": 1, "b": "y", "l": [1], "n": None}) == 0
    connection.execute("UPDATE device SET last_seen = 5")
    assert indexed(connection, 1) == wanted(connection, {"a": 1, "b": "y"})


@pytest.mark.sqlite("whose schema it is")
def test_attributes_of_an_earlier_version_are_indexed(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    connection = ledger_of("0025", path)
    states: list[dict[str, Any]] = [
        {"a": 1, "t": LONG, "f": False, "l": [1]},
        {},
        {f"{number}": number for number in range(INDEXED_ATTRIBUTES + 1)},
    ]
    for no, attributes in enumerate(states, 1):
        enrol(connection, no, attributes)
    connection.commit()
    prepare(path)
    assert [indexed(connection, no) for no in (1, 2, 3)] == [wanted(connection, attributes) for attributes in states]
    triggers = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'device'")
    assert {sql for (sql,) in triggers} == set(ATTRIBUTE_TRIGGERS), "or a backup would be refused"
    change(connection, 3, {"a": 2})
    assert indexed(connection, 3) == {"a": 2}
    connection.close()


@pytest.mark.sqlite("whose steps are counted")
def test_what_one_device_costs_is_bounded(connection: Transaction) -> None:
    """Two thousand attributes fit in 16 KiB: a device that changes all of them costs less than one with 64."""

    def steps_of_change(count: int) -> int:
        no = count
        enrol(connection, no, {f"{number:x}": number for number in range(count)})
        with counted_steps(connection) as steps:
            change(connection, no, {f"{number:x}": -number for number in range(count)})
        return steps[0]

    full, crowded = steps_of_change(INDEXED_ATTRIBUTES), steps_of_change(1_300)
    assert full < 25_000, "a millisecond"
    assert crowded < full
