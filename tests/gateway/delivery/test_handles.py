"""Handles name one delivery, in Python and in SQL."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.handles import DEVICE_BITS, DEVICE_MASK, handle_of, row_of_handle
from gateway.delivery_states import MISSED, DeliveryState, is_one_of
from tests.gateway.delivery.machinery import add_device, fresh_database


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_a_handle_is_its_push_and_its_device(push_no: int, device_no: int) -> None:
    handle = handle_of(push_no, device_no)
    assert (handle >> DEVICE_BITS, handle & DEVICE_MASK) == (push_no, device_no)
    assert handle < 2**63, "SQLite's integers"


def test_sql_finds_the_rows_of_handles() -> None:
    connection = fresh_database()
    for device_no in (1, 2):
        add_device(connection, device_no, f"d{device_no}")
    connection.executemany(
        "INSERT INTO failed_attempt (push_no, device_no, count) VALUES (?, ?, 1)", [(1, 1), (1, 2), (2, 1), (2, 2)]
    )
    found = connection.execute(
        f"SELECT a.push_no, a.device_no FROM json_each(?) AS handle JOIN failed_attempt AS a ON {row_of_handle('a')}",
        (json.dumps([handle_of(2, 1), handle_of(1, 2), handle_of(3, 1)]),),
    )
    assert sorted(found.fetchall()) == [(1, 2), (2, 1)]
    connection.close()


def test_sql_finds_states_by_their_names() -> None:
    assert is_one_of(DeliveryState.WAITING) == "IN (0)"
    assert is_one_of(*MISSED) == "IN (20, 22, 23)", "as the index that was made by a migration"
