"""Deliveries that ended without reaching their devices, since each of these was told last.

What a device is told of them, and when, is decided by `delivery/missed_pushes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from pyroaring import BitMap

from gateway.delivery_states import MISSED, DeliveryState
from gateway.store.audience.device_sets import segments_of, unpack
from gateway.store.deliveries.conditions import is_one_of
from gateway.store.deliveries.delivery_sets import with_rows
from gateway.store.transaction import Transaction

MISSED_SETS = 2_000
"""Outcomes that one operation looks at for what devices have missed, about 10 ms; the next one goes on behind them."""


class MissedPush(NamedTuple):
    """A delivery that ended without reaching its device."""

    device_no: int
    push_id: str
    state: int
    reason: str | None
    ended_at: int
    """Milliseconds of server time."""
    push_no: int


class _MissedInSet(NamedTuple):
    """A delivery that ended, in a set, without reaching its device."""

    device_no: int
    push_no: int
    state: DeliveryState
    reason: str | None
    at: int


def missed_since_told(
    transaction: Transaction, devices: Sequence[int], now_ms: int
) -> tuple[list[MissedPush], dict[int, int]]:
    """Find what devices have missed since they were told last, in the order in which it ended.

    And up to which time (ms) sets were looked at, for those devices of whose segments anything was: what is later is
    for the next part.
    """
    rows = transaction.execute(
        "SELECT v.no, p.id, d.state, d.reason, d.ended_at, p.no FROM json_each(?) AS wanted"
        " CROSS JOIN device AS v ON v.no = wanted.value"
        f" CROSS JOIN delivery AS d INDEXED BY delivery_missed ON d.device_no = v.no AND d.state {is_one_of(*MISSED)}"
        "  AND d.ended_at > coalesce(v.gap_told_to, 0) AND d.ended_at <= ?"
        " JOIN push AS p ON p.no = d.push_no AND p.app_no > 0 ORDER BY wanted.key, d.ended_at",  # but for beats
        (json.dumps(devices), now_ms),
    ).fetchall()
    in_sets, looked_to = _missed_in_sets(transaction, devices, now_ms)
    # What ended behind where sets were looked at is told with the next part, in rows too.
    rows = [row for row in rows if row[4] <= looked_to.get(row[0], now_ms)]
    missed = [*map(MissedPush._make, rows), *in_sets]
    return sorted(missed, key=itemgetter(4, 5)), looked_to


def note_told(transaction: Transaction, told_to: Mapping[int, int]) -> None:
    """Note up to which time (ms) devices, by number, have been told what they missed. Writer thread."""
    transaction.execute(
        "UPDATE device SET gap_told_to = told.value ->> 1 FROM json_each(?) AS told WHERE device.no = told.value ->> 0",
        (json.dumps(list(told_to.items())),),
    )


def _missed_in_sets(
    transaction: Transaction, devices: Sequence[int], now_ms: int
) -> tuple[list[MissedPush], dict[int, int]]:
    """What devices have missed of pushes that were stored as sets; and up to when that was looked at."""
    told_to = dict(
        transaction.execute(
            "SELECT no, coalesce(gap_told_to, created_at) FROM device WHERE no IN (SELECT value FROM json_each(?))",
            (json.dumps(devices),),
        ).fetchall()
    )
    found, looked_to = _missed_of(transaction, told_to, now_ms)
    ids = dict(
        transaction.execute(
            "SELECT no, id FROM push WHERE no IN (SELECT value FROM json_each(?))",
            (json.dumps(list({missed.push_no for missed in found})),),
        ).fetchall()
    )
    missed = [MissedPush(one.device_no, ids[one.push_no], one.state, one.reason, one.at, one.push_no) for one in found]
    return missed, looked_to


def _missed_of(
    transaction: Transaction, devices: dict[int, int], now_ms: int
) -> tuple[list[_MissedInSet], dict[int, int]]:
    """Find what has ended, in sets, without reaching these devices (number -> after which time), the oldest first.

    And up to which time was looked, for those devices of whose segments anything was: not before the time given.
    """
    found: list[_MissedInSet] = []
    looked_to: dict[int, int] = {}
    room = MISSED_SETS
    ended = (
        "SELECT push_no, state, reason, at, devices FROM outcome_set INDEXED BY outcome_set_missed"
        f" WHERE segment = ? AND state {is_one_of(*MISSED)} AND"
    )
    for segment, here in segments_of(BitMap(devices)):
        if room <= 0:
            looked_to.update((device_no, devices[device_no]) for device_no in here)
            continue
        after, until = min(devices[device_no] for device_no in here), now_ms
        rows = transaction.execute(
            f"{ended} at > ? AND at <= ? ORDER BY at LIMIT ?", (segment, after, now_ms, room)
        ).fetchall()
        if len(rows) == room:  # up to a moment and with all of it: a sweep ends many at once
            until = rows[-1][3]
            rows = [row for row in rows if row[3] < until]
            rows += transaction.execute(f"{ended} at = ?", (segment, until)).fetchall()
        if rows:
            looked_to.update((device_no, max(devices[device_no], until)) for device_no in here)
        room -= len(rows)
        for push_no, state, reason, at, blob in rows:
            hit = unpack(blob) & here
            if hit:
                hit -= with_rows(transaction, push_no, hit)
            found += [
                _MissedInSet(device_no, push_no, DeliveryState(state), reason, at)
                for device_no in hit
                if at > devices[device_no]
            ]
    return found, looked_to
