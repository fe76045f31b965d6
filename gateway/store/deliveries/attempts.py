"""Attempts that failed: how often a delivery was sent to its device, which did not take it.

A push that is larger than the device's buffer, or that crashes it, would be sent first at each start until its ttl is
over. So attempts are counted, those that the broker says the device did not take (`broker.unhandled`), and after
`max_attempts` the delivery ends `refused`, reason `not_acknowledged`. A receipt may still prove that it arrived.

A row is written when an attempt has failed, and only then: a delivery costs one insert and one update. Rows outlive the
server, so a device that crashes reaches the limit across restarts; they leave with their deliveries (`retention`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyroaring import BitMap

from gateway.delivery_handles import DEVICE_MASK
from gateway.store.deliveries.conditions import IS_WAITING, row_of_handle
from gateway.store.deliveries.delivery_sets import handles_to_rows, note_rows_made
from gateway.store.transaction import Transaction


def count_attempts(transaction: Transaction, handles: Sequence[int], limit: int) -> list[int]:
    """Count one more failed attempt of these deliveries; those that have reached the limit. Writer thread."""
    handles_to_rows(transaction, handles)
    note_rows_made(transaction, BitMap([handle & DEVICE_MASK for handle in handles]))
    listed = json.dumps(handles)
    transaction.execute(
        "INSERT INTO failed_attempt (push_no, device_no, count) SELECT d.push_no, d.device_no, 1"
        " FROM json_each(?) AS handle CROSS JOIN delivery AS d"
        f" ON {row_of_handle('d')} AND +d.state {IS_WAITING}"
        " WHERE true ON CONFLICT DO UPDATE SET count = count + 1",
        (listed,),
    )
    (text,) = transaction.execute(
        "SELECT json_group_array(handle.value) FROM json_each(?) AS handle CROSS JOIN failed_attempt AS a"
        f" ON {row_of_handle('a')} WHERE a.count >= ?",
        (listed, limit),
    ).fetchone()
    return list(json.loads(text))


def remove_attempts(transaction: Transaction, push_no: int) -> None:
    """Forget the failed attempts of a push that has ended. Writer thread."""
    transaction.execute("DELETE FROM failed_attempt WHERE push_no = ?", (push_no,))
