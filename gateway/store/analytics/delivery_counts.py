"""Counts of all deliveries, of what waits and of what is logged: what metrics and curves are made of.

Each takes time that grows with what is stored, so who asks says how often (`measurements`). Reader thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from pyroaring import BitMap

from gateway.delivery_states import PRIORITIES
from gateway.store.audience.device_sets import unpack
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.numbers import last_number
from gateway.store.transaction import Transaction

_CRITICAL = PRIORITIES.index("critical")


def count_by_state(transaction: Transaction) -> tuple[list[tuple[int, int]], int]:
    """Count deliveries by state, and devices. Reader thread."""
    states = transaction.execute(
        "SELECT state, sum(count) FROM ("
        " SELECT state, count(*) AS count FROM delivery WHERE counted IS NULL GROUP BY state"
        " UNION ALL SELECT state, sum(count) FROM delivery_count GROUP BY state) GROUP BY state"
    ).fetchall()
    devices = transaction.execute("SELECT count(*) FROM device WHERE removed_at IS NULL").fetchone()
    return states, devices[0]


def count_waiting(transaction: Transaction) -> dict[int, int]:
    """Count what waits, by app. Reader thread."""
    rows = transaction.execute(
        "SELECT app_no, sum(count) FROM ("
        " SELECT p.app_no, count(*) AS count FROM delivery AS d INDEXED BY delivery_mailbox"
        f"  CROSS JOIN push AS p ON p.no = d.push_no WHERE d.state {IS_WAITING} GROUP BY p.app_no"
        " UNION ALL SELECT app_no, sum(count) FROM waiting_set INDEXED BY waiting_set_of_app GROUP BY app_no)"
        " GROUP BY app_no"
    )
    return dict(rows.fetchall())


class EventCount(NamedTuple):
    """Devices of logged events that have everything in common which is counted."""

    app_no: int
    event: str
    reason: str | None
    unit: int
    """Minutes since the Unix epoch, for example."""
    devices: int


def count_events(
    transaction: Transaction, after: int, entries: int, types: Sequence[str], unit_ms: int, last: int | None = None
) -> tuple[list[EventCount], int, bool]:
    """Count logged events of some types behind an entry, in the next `entries`, by app, type, reason and unit of time.

    `unit_ms`: its milliseconds; `last`: entry to stop at, None is the newest. Where that led to, and whether there is
    more. Reader thread.
    """
    if last is None:
        last = last_number(transaction, "event")
    to = min(last, after + entries)
    if to <= after:
        return [], max(after, last), False
    rows = transaction.execute(
        "SELECT app_no, type, reason, at / ? AS minute, sum(size) FROM event WHERE no > ? AND no <= ?"
        " AND type IN (SELECT value FROM json_each(?)) AND app_no > 0"  # beats are nobody's
        " GROUP BY app_no, type, reason, minute",
        (unit_ms, after, to, json.dumps(types)),
    ).fetchall()
    return list(map(EventCount._make, rows)), to, to < last


class PushCount(NamedTuple):
    """Pushes of an app that were accepted in a unit of time, and their deliveries."""

    app_no: int
    unit: int
    pushes: int
    targeted: int


def count_pushes(transaction: Transaction, after: int, last: int, unit_ms: int) -> list[PushCount]:
    """Count the pushes behind one, up to another, by app and unit of time (`unit_ms` milliseconds). Reader thread."""
    rows = transaction.execute(
        "SELECT app_no, accepted_at / ? AS minute, count(*), sum(targeted) FROM push WHERE no > ? AND no <= ?"
        " AND app_no > 0 GROUP BY app_no, minute",  # beats are nobody's
        (unit_ms, after, last),
    )
    return list(map(PushCount._make, rows.fetchall()))


class WaitingPush(NamedTuple):
    """A critical push that waits, and devices for which it does."""

    accepted_at: int
    devices: BitMap


def longest_waiting_critical(transaction: Transaction, most: int) -> list[WaitingPush]:
    """Find the critical pushes that have waited longest, the oldest first. Reader thread.

    `most`: devices with such a push as a row, and pushes that wait in sets, which are looked at.
    """
    waiting: dict[int, BitMap] = {}
    for device_no, push_no in transaction.execute(
        "SELECT device_no, min(push_no) FROM delivery INDEXED BY delivery_mailbox"
        f" WHERE state {IS_WAITING} AND priority = ? GROUP BY device_no ORDER BY 2 LIMIT ?",
        (_CRITICAL, most),
    ):
        waiting.setdefault(push_no, BitMap()).add(device_no)
    for push_no, blob in transaction.execute(
        "SELECT push_no, devices FROM waiting_set WHERE priority = ? ORDER BY push_no LIMIT ?",
        (_CRITICAL, most),
    ):
        waiting.setdefault(push_no, BitMap()).update(unpack(blob))
    accepted = transaction.execute(
        "SELECT no, accepted_at FROM push WHERE no IN (SELECT value FROM json_each(?)) ORDER BY no",
        (json.dumps(list(waiting)),),
    )
    return [WaitingPush(accepted_at, waiting[push_no]) for push_no, accepted_at in accepted]
