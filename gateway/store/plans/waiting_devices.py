"""The devices of runs that still wait for their part, as sets in segments.

A run begins with a set of devices. Each part takes some of them out of it, in the operation that stores the push: so no
device is in two parts, and what is left in the set has had none. A part writes the segments that it takes devices of:
8 KiB each at most.
"""

from __future__ import annotations

from pyroaring import BitMap

from gateway.store.audience.device_sets import pack, segments_of, stored_devices, unpack
from gateway.store.deliveries.plan_parts import PlanKind
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction


def insert_waiting(transaction: Transaction, kind: PlanKind, run_no: int, devices: BitMap) -> None:
    """Store the devices that a run begins with. Writer thread."""
    rows = [(kind, run_no, segment, pack(here)) for segment, here in segments_of(devices)]
    insert_rows(transaction, "plan_waiting", "kind, run_no, segment, devices", rows)


def waiting_devices(transaction: Transaction, kind: PlanKind, run_no: int) -> BitMap:
    """The devices of a run that have had no part. Any thread."""
    return stored_devices(transaction, "SELECT devices FROM plan_waiting WHERE kind = ? AND run_no = ?", (kind, run_no))


def is_anybody_waiting(transaction: Transaction, kind: PlanKind, run_no: int) -> bool:
    """Whether a device of a run has had no part. Any thread."""
    (found,) = transaction.execute(
        "SELECT EXISTS (SELECT 1 FROM plan_waiting WHERE kind = ? AND run_no = ?)", (kind, run_no)
    ).fetchone()
    return bool(found)


def remove_from_waiting(transaction: Transaction, kind: PlanKind, run_no: int, devices: BitMap) -> int:
    """Take devices out of those that wait; how many did. Writer thread."""
    taken = 0
    for segment, here in segments_of(devices):
        key = kind, run_no, segment
        row = transaction.execute(
            "SELECT devices FROM plan_waiting WHERE kind = ? AND run_no = ? AND segment = ?", key
        ).fetchone()
        if row is None:
            continue
        stored = unpack(row[0])
        left = stored - here
        taken += len(stored) - len(left)
        if left:
            transaction.execute(
                "UPDATE plan_waiting SET devices = ? WHERE kind = ? AND run_no = ? AND segment = ?", (pack(left), *key)
            )
        else:
            transaction.execute("DELETE FROM plan_waiting WHERE kind = ? AND run_no = ? AND segment = ?", key)
    return taken


def clear_waiting(transaction: Transaction, kind: PlanKind, run_no: int) -> int:
    """Forget the devices of a run that wait, which has ended; how many did. Writer thread."""
    left = len(waiting_devices(transaction, kind, run_no))
    transaction.execute("DELETE FROM plan_waiting WHERE kind = ? AND run_no = ?", (kind, run_no))
    return left
