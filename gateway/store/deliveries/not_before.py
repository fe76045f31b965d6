"""Marks of limited deliveries: which are checked when they are handed over, and when (`Delivery.not_before`).

NULL: not at all, the delivery has its place in the mailbox. 0: as soon as it can be handed over. A time in
milliseconds: it was held back, and is checked again from then on. The state of a delivery is the ledger's (`ledger`),
and the check itself is the alert limiter's (`alert_limiter`). Everything runs on the writer thread, inside an
operation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyroaring import BitMap

from gateway.store.deliveries.app_slices import EVERY_DEVICE, PushPart
from gateway.store.deliveries.conditions import IS_WAITING, row_of_handle
from gateway.store.deliveries.delivery_sets import device_to_rows, note_rows_made
from gateway.store.transaction import Transaction


def mark_limited_rows(transaction: Transaction, push_nos: list[int]) -> None:
    """Mark what waits of these pushes to be checked at hand-over (`alert_limiter`), if it is not marked."""
    transaction.execute(
        "UPDATE delivery SET not_before = 0"
        f" WHERE push_no IN (SELECT value FROM json_each(?)) AND +state {IS_WAITING} AND not_before IS NULL",
        (json.dumps(push_nos),),
    )


_MUTED = "(SELECT v.channels ->> ? FROM device AS v WHERE v.no = delivery.device_no) = 0"


def mark_muted_rows(
    transaction: Transaction, push_no: int, channel: str, after: int = 0, last: int = EVERY_DEVICE
) -> list[int]:
    """Mark what waits of a push, or of a part of it, for those who have muted its channel; those devices."""
    rows = transaction.execute(
        "UPDATE delivery SET not_before = 0"
        f" WHERE push_no = ? AND device_no > ? AND device_no <= ? AND +state {IS_WAITING}"
        f" AND not_before IS NULL AND {_MUTED} RETURNING device_no",
        (push_no, after, last, f'$."{channel}"'),
    )
    return [device_no for (device_no,) in rows.fetchall()]


_DUE = "min(coalesce(not_before, 0), ?1)"
"""Checked as soon as may be. What a cap has held back keeps a time, so that it is known to have been (see
`alert_limiter`)."""


def mark_part_rows(transaction: Transaction, part: PushPart, now_ms: int, limited_only: bool) -> None:
    """Mark what waits of a part of a push to be checked as soon as may be, whatever was marked before.

    `limited_only`: what already is, so that nothing else loses its place.
    """
    moved = "not_before > ?1" if limited_only else "(not_before IS NULL OR not_before > ?1)"
    transaction.execute(
        f"UPDATE delivery SET not_before = {_DUE}"
        f" WHERE push_no = ?2 AND device_no > ?3 AND device_no <= ?4 AND +state {IS_WAITING} AND {moved}",
        (now_ms, *part.range),
    )


def mark_device_rows(transaction: Transaction, device_no: int, now_ms: int, limited_only: bool) -> int:
    """Mark the alerts that wait for a device, `limited_only` as for a part of a push; how many."""
    if limited_only:
        among = (
            "SELECT push_no FROM delivery INDEXED BY delivery_gated"
            f" WHERE device_no = ?2 AND state {IS_WAITING} AND not_before IS NOT NULL"
        )
    else:
        device_to_rows(transaction, device_no, "kind = 'alert'")
        note_rows_made(transaction, BitMap([device_no]))
        among = (
            "SELECT d.push_no FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
            f" WHERE d.device_no = ?2 AND d.state {IS_WAITING} AND p.kind = 'alert'"
        )
    return transaction.execute(
        f"UPDATE delivery SET not_before = {_DUE} WHERE device_no = ?2 AND push_no IN ({among})",
        (now_ms, device_no),
    ).rowcount


def mark_channels_rows(transaction: Transaction, device_no: int, channels: Sequence[str]) -> int:
    """Mark the critical pushes of these channels that wait for a device; how many."""
    device_to_rows(transaction, device_no, "priority = 0 AND kind IN ('alert', 'in_app')")
    note_rows_made(transaction, BitMap([device_no]))
    return transaction.execute(
        "UPDATE delivery SET not_before = 0 WHERE device_no = ?1 AND not_before IS NULL AND push_no IN ("
        " SELECT d.push_no FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
        f" WHERE d.device_no = ?1 AND d.state {IS_WAITING} AND d.priority = 0 AND p.kind IN ('alert', 'in_app')"
        " AND p.channel IN (SELECT value FROM json_each(?2)))",
        (device_no, json.dumps(list(channels))),
    ).rowcount


def defer_rows(transaction: Transaction, deferred: list[tuple[int, int]]) -> None:
    """Have deliveries, (handle, time in ms) each, checked again then."""
    if deferred:
        transaction.execute(
            "UPDATE delivery SET not_before = wanted.value ->> 1 FROM json_each(?) AS wanted"
            f" WHERE {row_of_handle('delivery', '(wanted.value ->> 0)')} AND +delivery.state {IS_WAITING}",
            (json.dumps(deferred),),
        )
