"""What waits in an app is found completely, in order and in bounded slices."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.store.deliveries import app_slices
from gateway.store.deliveries.app_slices import BEGIN, EVERY_DEVICE, PushPart, SlicePosition, cut, next_slice
from gateway.store.transaction import Transaction
from tests.gateway.delivery.machinery import fresh_database

COLUMNS = (
    "id, kind, priority, qos, ttl, target, content, size, accepted_at, expires_at, suppressed, app_no, no, targeted,"
    " closed_at"
)


def add_push(connection: Transaction, no: int, devices: int, app_no: int = 1, closed: bool = False) -> None:
    connection.execute(
        f"INSERT INTO push ({COLUMNS}) VALUES (?, 'alert', 2, 1, 60, '', '', 2, 0, 60, 0, ?, ?, ?, ?)",
        (f"push-{no}", app_no, no, devices, 1 if closed else None),
    )
    connection.executemany(
        "INSERT INTO delivery (push_no, device_no, priority, size, state) VALUES (?, ?, 2, 2, 0)",
        [(no, 7 * device_no) for device_no in range(1, devices + 1)],
    )


def deliveries(connection: Transaction, part: PushPart) -> list[tuple[int, int]]:
    return connection.execute(
        "SELECT push_no, device_no FROM delivery WHERE push_no = ? AND device_no > ? AND device_no <= ?", part.range
    ).fetchall()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(1, 2)), max_size=8), st.integers(1, 12))
def test_every_delivery_of_an_unfinished_push_is_in_one_slice(
    pushes: list[tuple[int, bool, int]], slice_deliveries: int
) -> None:
    connection = fresh_database()
    for number, (devices, closed, app_no) in enumerate(pushes, 1):
        add_push(connection, number, devices, app_no, closed)
    found: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_slices, "SLICE_DELIVERIES", slice_deliveries)
        patch.setattr(app_slices, "SLICE_PUSHES", 3)
        after: SlicePosition | None = BEGIN
        while after is not None:
            parts, after = next_slice(connection, 1, after)
            of_slice = [delivery for part in parts for delivery in deliveries(connection, part)]
            assert len(of_slice) <= slice_deliveries
            found += of_slice
    connection.close()
    assert found == [
        (number, 7 * device_no)
        for number, (devices, closed, app_no) in enumerate(pushes, 1)
        if not closed and app_no == 1
        for device_no in range(1, devices + 1)
    ]


def test_a_slice_is_cut_where_there_was_no_time_for_the_rest() -> None:
    parts = [PushPart(no, "alert", None, 2, 0, EVERY_DEVICE) for no in (1, 2, 3)]
    assert [part.range for part in cut(parts, SlicePosition(2, 50))] == [(1, 0, EVERY_DEVICE), (2, 0, 50)]
    assert cut(parts, SlicePosition(3, EVERY_DEVICE)) == parts


def test_pushes_that_have_ended_are_passed_over_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_slices, "SLICE_PUSHES", 10)
    connection = fresh_database()
    for number in range(1, 26):
        add_push(connection, number, 1, closed=number < 25)
    assert next_slice(connection, 1, BEGIN) == ([], SlicePosition(11, 0))
    assert next_slice(connection, 1, SlicePosition(11, 0)) == ([], SlicePosition(21, 0))
    parts, after = next_slice(connection, 1, SlicePosition(21, 0))
    assert [part.push_no for part in parts] == [25]
    assert after is None
    connection.close()
