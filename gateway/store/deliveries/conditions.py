"""Parts of SQL about deliveries: conditions on their state and on their handle, and the trigger that counts states.

The numbers of states are said here and in `delivery_states`, where they come from, and nowhere else.
"""

from __future__ import annotations

from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK
from gateway.delivery_states import DeliveryState

IS_WAITING = f"= {DeliveryState.WAITING:d}"
"""The SQL condition for `waiting`, to stand behind a column of states."""


def is_one_of(*states: DeliveryState) -> str:
    """Return the SQL condition that a column, which stands before it, holds one of these states."""
    return f"IN ({', '.join(f'{state:d}' for state in states)})"


def row_of_handle(table: str, handle: str = "handle.value") -> str:
    """An SQL condition: this row of a table with `push_no` and `device_no` belongs to that handle."""
    return f"{table}.push_no = {handle} >> {DEVICE_BITS} AND {table}.device_no = {handle} & {DEVICE_MASK}"


COUNTED_TRIGGER = """CREATE TRIGGER delivery_counted AFTER UPDATE OF state ON delivery
WHEN OLD.counted = 1 AND OLD.state <> NEW.state BEGIN
UPDATE delivery_count SET count = count - 1 WHERE push_no = OLD.push_no AND state = OLD.state;
INSERT INTO delivery_count (push_no, state, count) VALUES (NEW.push_no, NEW.state, 1)
ON CONFLICT DO UPDATE SET count = count + 1;
END"""
"""Trigger that counts the states of a push that was stored as sets, when one of its rows moves."""
