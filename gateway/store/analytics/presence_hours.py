"""Hours in which devices were connected, as rows: for each hour one set of devices, whichever their app, in segments.

`delivery/presence_hours` has the laws of what is written, and when.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from pyroaring import BitMap

from gateway.store.audience.device_sets import pack, segments_of, stored_devices, unpack, whole_segment
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

HOUR_MS = 3_600_000
WEEK_HOURS = 168
KEPT_WEEKS = 4
KEPT_HOURS = KEPT_WEEKS * WEEK_HOURS
"""Hours that are kept, before the present one."""
MIN_RECORDED_SHARE = 0.5
"""Part of a window's hours in which the server must have run for the window to say something: devices that were kept
away by an outage come when it is over."""


def write_hour(
    transaction: Transaction, hour: int, seen: BitMap, segments: range, written: dict[int, int]
) -> dict[int, int]:
    """Write the segments of an hour's set that have more devices than are `written`; how many they have. Writer
    thread."""
    changed: dict[int, int] = {}
    rows: list[tuple[int, int, bytes]] = []
    for segment in segments:
        here = seen & whole_segment(segment)
        if len(here) > written.get(segment, 0) or (segment == 0 and segment not in written):
            changed[segment] = len(here)
            rows.append((hour, segment, pack(here)))
    insert_rows(
        transaction,
        "presence_hour",
        "hour, segment, devices",
        rows,
        "(hour, segment) DO UPDATE SET devices = excluded.devices",
    )
    return changed


def remove_hours(transaction: Transaction, now_ms: int, limit: int) -> int:
    """Remove sets that are kept no longer, at most `limit`; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM presence_hour WHERE (hour, segment) IN"
        " (SELECT hour, segment FROM presence_hour WHERE hour < ? LIMIT ?)",
        (now_ms // HOUR_MS - KEPT_HOURS, limit),
    ).rowcount


def read_hour(transaction: Transaction, hour: int) -> list[tuple[int, BitMap]]:
    """The segments of an hour's set: number and devices."""
    rows = transaction.execute("SELECT segment, devices FROM presence_hour WHERE hour = ?", (hour,))
    return [(segment, unpack(devices)) for segment, devices in rows]


class PresenceSample(NamedTuple):
    """A window of earlier hours, as long as that of a push: who was there, and whose absence says something."""

    seen: BitMap
    """Devices that were connected in any of its hours."""
    enrolled_to: int
    """Number of the last device that had been enrolled when it began."""


def read_sample(transaction: Transaction, window: range, devices: BitMap) -> PresenceSample | None:
    """Read which of the devices were there in a window; None if the server did not run for long enough in it. Reader
    thread."""
    (recorded,) = transaction.execute(
        "SELECT count(*) FROM presence_hour WHERE hour >= ? AND hour < ? AND segment = 0", (window.start, window.stop)
    ).fetchone()
    if recorded < MIN_RECORDED_SHARE * len(window):
        return None
    seen = BitMap()
    if devices:
        # Only those with such devices: an app of two, enrolled with a million of others between them, reads two.
        segments = json.dumps([segment for segment, _ in segments_of(devices)])
        seen = stored_devices(
            transaction,
            "SELECT devices FROM presence_hour WHERE hour >= ? AND hour < ?"
            " AND segment IN (SELECT value FROM json_each(?))",
            (window.start, window.stop, segments),
        )
    return PresenceSample(seen & devices, _enrolled_before(transaction, window.start * HOUR_MS))


def _enrolled_before(transaction: Transaction, at_ms: int) -> int:
    """The number of the last device that was enrolled before a time. Numbers are given in the order of enrolment."""
    (last,) = transaction.execute("SELECT coalesce(max(no), 0) FROM device").fetchone()
    first = 0
    while first < last:
        middle = (first + last) // 2
        found = transaction.execute(
            "SELECT no, created_at FROM device WHERE no > ? ORDER BY no LIMIT 1", (middle,)
        ).fetchone()
        if found is None or found[1] >= at_ms:
            last = middle
        else:
            first = found[0]
    return first
