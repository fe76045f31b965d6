"""SQL finds deliveries by their handles and by the names of their states."""

from __future__ import annotations

import json

from gateway.delivery_handles import handle_of
from gateway.delivery_states import MISSED, DeliveryState
from gateway.store.deliveries.conditions import is_one_of, row_of_handle
from tests.gateway.delivery.machinery import add_device, fresh_database


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
