"""Deliveries one after the other, as people ask for them, wherever they are stored.

A delivery is a row, or a member of a set that says what is known of all its members (`delivery_sets`). Reads only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from pyroaring import BitMap

from gateway.delivery_handles import DEVICE_MASK
from gateway.delivery_states import DeliveryState
from gateway.store.audience.device_sets import SEGMENT_BITS, whole_segment
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.delivery_sets import (
    Outcome,
    mailbox_entries,
    outcomes_of,
    rows_by_state,
    segments_of_push,
    stored_in_sets,
    waiting_of,
)
from gateway.store.transaction import Transaction

CHUNK_DEVICES = 1_000
"""Devices of a set that are looked up together, as many as a page has at most."""


class WholeDelivery(NamedTuple):
    """Everything the ledger knows of a delivery; times in milliseconds of server time."""

    device_no: int
    state: int
    reason: str | None = None
    qos: int | None = None
    delivered_at: int | None = None
    displayed_at: int | None = None
    dismissed_at: int | None = None
    opened_at: int | None = None
    acted_at: int | None = None
    ended_at: int | None = None
    action: str | None = None
    result: str | None = None
    not_before: int | None = None
    replaced_by: int | None = None


_COLUMNS = ", ".join(WholeDelivery._fields)


def whole_deliveries(
    transaction: Transaction,
    push_no: int,
    after: int = 0,
    state: DeliveryState | None = None,
    device_no: int | None = None,
    reason: str | None = None,
) -> Iterator[WholeDelivery]:
    """The deliveries of a push to devices with numbers behind `after`, in order.

    Of a state, to a device, or with a reason, if given; an empty reason is none. The state is that on the disk, where
    what is in flight waits.
    """
    rows = map(
        WholeDelivery._make,
        transaction.execute(
            f"SELECT {_COLUMNS} FROM delivery WHERE push_no = ?1 AND device_no > ?2 AND (?3 IS NULL OR state = ?3)"
            " AND (?4 IS NULL OR coalesce(reason, '') = ?4)"
            f"{'' if device_no is None else ' AND device_no = ?5'} ORDER BY device_no",
            (push_no, after, state, reason, *(() if device_no is None else (device_no,))),
        ),
    )
    if not stored_in_sets(transaction, [push_no]):
        return rows
    return merge(rows, _of_sets(transaction, push_no, after, state, device_no, reason), key=lambda one: one.device_no)


def whole_delivery(transaction: Transaction, push_no: int, device_no: int) -> WholeDelivery | None:
    """The delivery of a push to a device; None if it has none."""
    return next(whole_deliveries(transaction, push_no, device_no - 1, None, device_no), None)


def ids_of_deliveries(
    transaction: Transaction, push_no: int, deliveries: Sequence[WholeDelivery]
) -> list[tuple[str | None, str | None, int]]:
    """Look up what other tables say of some deliveries of a push.

    In their order: (device id, id of the push that it was digested into, attempts that have failed) each.
    """
    return transaction.execute(
        "SELECT v.id, r.id, coalesce(a.count, 0) FROM json_each(?) AS w"
        " LEFT JOIN device AS v ON v.no = w.value ->> 0 LEFT JOIN push AS r ON r.no = w.value ->> 1"
        " LEFT JOIN failed_attempt AS a ON a.push_no = ? AND a.device_no = w.value ->> 0"
        " ORDER BY w.key",
        (json.dumps([(one.device_no, one.replaced_by) for one in deliveries]), push_no),
    ).fetchall()


def moved_on(transaction: Transaction, push_nos: Sequence[int]) -> list[int]:
    """The pushes among these, to a single device each, whose delivery is neither waiting nor sent any more.

    A push to a single device has a row; a thousand of them are found in a millisecond. Reader thread.
    """
    rows = transaction.execute(
        "SELECT w.value FROM json_each(?) AS w CROSS JOIN delivery AS d ON d.push_no = w.value"
        f" WHERE NOT (d.state {IS_WAITING}) AND d.state <> {DeliveryState.SENT:d}",
        (json.dumps(push_nos),),
    )
    return [push_no for (push_no,) in rows]


def acted_on(transaction: Transaction, push_nos: Sequence[int]) -> list[tuple[int, int]]:
    """Find the deliveries, (push number, device number) each, of these pushes to a single device that were acted on.
    Reader thread."""
    return transaction.execute(
        "SELECT d.push_no, d.device_no FROM json_each(?) AS w CROSS JOIN delivery AS d ON d.push_no = w.value"
        f" WHERE d.state = {DeliveryState.ACTED:d}",
        (json.dumps(push_nos),),
    ).fetchall()


def waiting_counts(transaction: Transaction, app_no: int, device_nos: Sequence[int]) -> Counter[int]:
    """Count what waits for each of some devices of an app, or is in flight to it. At most what their mailboxes may
    have is walked."""
    found = Counter(
        dict(
            transaction.execute(
                "SELECT device_no, count(*) FROM delivery INDEXED BY delivery_mailbox"
                f" WHERE device_no IN (SELECT value FROM json_each(?)) AND state {IS_WAITING} GROUP BY device_no",
                (json.dumps(list(device_nos)),),
            ).fetchall()
        )
    )
    for entry in mailbox_entries(transaction, [app_no], BitMap(device_nos)):
        found.update(entry.devices)
    return found


def _of_sets(
    transaction: Transaction,
    push_no: int,
    after: int,
    state: DeliveryState | None,
    device_no: int | None,
    reason: str | None,
) -> Iterator[WholeDelivery]:
    for segment in segments_of_push(transaction, push_no, after >> SEGMENT_BITS):
        first, last = segment << SEGMENT_BITS, ((segment + 1) << SEGMENT_BITS) - 1
        if device_no is not None and not first <= device_no <= last:
            continue
        waiting = (
            waiting_of(transaction, push_no, whole_segment(segment))
            if state in (None, DeliveryState.WAITING) and not reason
            else BitMap()
        )
        outcomes = [
            outcome
            for outcome in outcomes_of(transaction, push_no, segment=segment)
            if (state is None or outcome.state is state) and (reason is None or (outcome.reason or "") == reason)
        ]
        members = BitMap.union(waiting, *(outcome.devices for outcome in outcomes))
        if device_no is not None:
            members &= BitMap([device_no])
        members.remove_range(0, min(after, DEVICE_MASK) + 1)
        members -= BitMap.union(BitMap(), *rows_by_state(transaction, push_no, first, last).values())
        while members:
            chunk = members[:CHUNK_DEVICES]
            members -= chunk
            yield from _chunk(chunk, outcomes)


def _chunk(devices: BitMap, outcomes: list[Outcome]) -> Iterator[WholeDelivery]:
    known: dict[int, Outcome] = {}
    for outcome in outcomes:
        known.update(dict.fromkeys(outcome.devices & devices, outcome))
    for device_no in devices:
        found = known.get(device_no)
        if found is None:
            yield WholeDelivery(device_no, DeliveryState.WAITING)
            continue
        yield member_of(found, device_no)


def member_of(outcome: Outcome, device_no: int) -> WholeDelivery:
    """The delivery to a device of an outcome set."""
    return WholeDelivery(
        device_no,
        outcome.state,
        outcome.reason,
        outcome.qos,
        delivered_at=outcome.at if outcome.state is DeliveryState.DELIVERED else None,
        ended_at=outcome.at if outcome.state >= DeliveryState.EXPIRED else None,
    )
