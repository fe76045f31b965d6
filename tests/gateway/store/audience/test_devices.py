from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.store.audience.device_sets import ALL_TAG, add_to_sets, selected_devices
from gateway.store.audience.devices import device_rows
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import counted_steps, fresh_database

DEVICES = [(3, 1, "c", None), (1, 1, "a", None), (2, 1, "b", None), (4, 1, "gone", 99), (5, 2, "a", None)]
"""(number, app, id, removed at)"""


@dataclass
class Selection:
    tag: str | None = None
    topic: str | None = None
    all: bool | None = None


@pytest.fixture
def connection() -> Iterator[Transaction]:
    connection = fresh_database()
    connection.executemany(
        "INSERT INTO device (no, app_no, id, removed_at, token_hash, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, x'', 0, 0)",
        DEVICES,
    )
    for no, app_no, _, removed_at in DEVICES:
        if removed_at is None:
            add_to_sets(connection, app_no, {ALL_TAG: [no]})
            add_to_sets(connection, app_no, {"hall": [no]})
    add_to_sets(connection, 1, {"lobby": [2]})
    yield connection
    connection.close()


def selected(connection: Transaction, app_no: int, target: Selection) -> list[int]:
    return list(selected_devices(connection, app_no, target))


def test_ids_become_the_numbers_of_live_devices_of_the_app(connection: Transaction) -> None:
    assert device_rows(connection, 1, ["a", "c", "gone", "nobody"]) == {"a": 1, "c": 3}
    assert device_rows(connection, 2, ["a", "b"]) == {"a": 5}
    assert device_rows(connection, 1, []) == {}


def test_a_removed_id_that_was_enrolled_anew_is_the_new_device(connection: Transaction) -> None:
    connection.execute(
        "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at) VALUES (6, 1, 'gone', x'', 0, 0)"
    )
    assert device_rows(connection, 1, ["gone"]) == {"gone": 6}


def test_all_and_tags_select_live_devices_in_order_of_enrolment(connection: Transaction) -> None:
    assert selected(connection, 1, Selection(all=True)) == [1, 2, 3]
    assert selected(connection, 2, Selection(all=True)) == [5]
    assert selected(connection, 1, Selection(tag="hall")) == [1, 2, 3]
    assert selected(connection, 1, Selection(tag="lobby")) == [2]
    assert selected(connection, 2, Selection(tag="lobby")) == []


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(lambda c: device_rows(c, 1, ["a"]), id="listed"),
        pytest.param(lambda c: selected(c, 1, Selection(tag="hall")), id="tag"),
    ],
)
def test_the_cost_follows_the_devices_addressed(connection: Transaction, statement: Any) -> None:
    """Steps of SQLite's machine with 5 devices and with 5,000 more that are not addressed."""

    def steps() -> int:
        with counted_steps(connection) as counted:
            statement(connection)
        return counted[0]

    before = steps()
    connection.executemany(
        "INSERT INTO device (app_no, id, token_hash, created_at, updated_at) VALUES (1, ?, x'', 0, 0)",
        [(f"other-{n}",) for n in range(5_000)],
    )
    assert steps() <= 2 * before
