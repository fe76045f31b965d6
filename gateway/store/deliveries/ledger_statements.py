"""The statements of the ledger: with those of `delivery_sets`, the only SQL that writes the state of a delivery.

Every function runs on the writer thread inside an operation, over many deliveries; the laws that they keep are in
`ledger`. Events are logged with the statement that makes them true (`event_log`). Deliveries may be stored as sets or
as rows: what happens to many at once is done to their sets, for anything else they become rows first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain
from typing import Any

from pyroaring import BitMap

from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, by_push, handle_of
from gateway.delivery_states import ENDS_A_RECEIPT_REVIVES, PRIORITIES, RECEIPT_STATES, DeliveryState
from gateway.errors import problem
from gateway.store.deliveries import delivery_sets
from gateway.store.deliveries.conditions import IS_WAITING, row_of_handle
from gateway.store.deliveries.delivery_sets import (
    app_of,
    device_of_row,
    device_to_rows,
    handles_to_rows,
    listed,
    mailbox_entries,
    move_set,
    pushes_waiting_for,
    state_counts,
    stored_in_sets,
    to_rows,
    waiting_of,
)
from gateway.store.deliveries.event_log import HANDED_OVER, log_deliveries, log_handles, log_moved, log_push
from gateway.store.deliveries.mailboxes import rows_of_priority
from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

ENDED_DELIVERIES = 100
"""Deliveries of a mailbox that one operation ends, about 4 ms: each is of another push, and has an event of its own."""
RECALLED_DELIVERIES = 500
"""Deliveries of a push that one operation recalls, about 5 ms."""
LOOKED_UP_DEVICES = 20_000
"""Devices of a push that are looked up one by one for what it supersedes, about 10 ms; for more, everything that waits
with its collapse key is read."""
SWEEP_PUSHES = 200
"""Pushes whose lifetime ended that one sweep looks at; the writer is shared, so slices stay small."""
SWEEP_DEVICES = 500_000
"""Devices for which pushes that wait in sets are ended by one sweep, and those of the last push: about 5 ms."""

ReceiptRow = tuple[int, int, str, str | None, str | None]
"""A receipt: push number, device number, event, detail, result as JSON. The detail is the action of an `acted`, the
reason of a `dismissed`."""
RecordActs = Callable[[Transaction, Sequence[ReceiptRow], int], list[bool]]
"""What else an operation does with receipts (`escalations`)."""

_ARRIVED = f"BETWEEN {DeliveryState.DELIVERED:d} AND {DeliveryState.ACTED:d}"
_HANDED_OVER_OR_ARRIVED = f"BETWEEN {DeliveryState.SENT:d} AND {DeliveryState.ACTED:d}"
_RECALLED_TOO_LATE = [state for state in DeliveryState if DeliveryState.SENT <= state <= DeliveryState.ACTED]
_MOVES = f"< {DeliveryState.REVOKED:d}"
"""States that a receipt may move."""


def _becomes(otherwise: str) -> str:
    """SQL of the reason after a receipt: `after_<end>` for an end that it revives, else `otherwise`."""
    ends = " ".join(f"WHEN {state:d} THEN 'after_{state.label}'" for state in ENDS_A_RECEIPT_REVIVES)
    return f"CASE state {ends} ELSE {otherwise} END"


_AFTER = _becomes("reason")
_UNLESS_ANSWERED = (
    f"CASE WHEN state > {DeliveryState.DISMISSED:d} THEN reason"
    " ELSE coalesce(reason, CAST(receipt.value ->> 2 AS TEXT)) END"
)
_ONLY_OF_AN_END = "CASE WHEN reason LIKE 'after_%' THEN reason END"
_REASON_OF = {
    "dismissed": _becomes(_UNLESS_ANSWERED),
    "opened": _becomes(_ONLY_OF_AN_END),
    "acted": _becomes(_ONLY_OF_AN_END),
}
"""SQL of the reason after a receipt, where it is not kept: a device says why it dismissed a push by itself, and a
person's answer is stronger than that."""
# `+state` keeps SQLite on the primary key: without it the partial index over waiting rows looks attractive.
_TO_DELIVERED = (
    f"UPDATE delivery SET reason = {_AFTER},"
    f" state = CASE WHEN state {_ARRIVED} THEN state ELSE {DeliveryState.DELIVERED:d} END, qos = ?,"
    " delivered_at = coalesce(delivered_at, ?)"
)
_ACKNOWLEDGE = (
    f"{_TO_DELIVERED} WHERE push_no = ? AND device_no IN (SELECT value FROM json_each(?)) AND +state {_MOVES}"
)
_ACKNOWLEDGE_SINGLE = (
    f"{_TO_DELIVERED} FROM json_each(?) AS handle WHERE {row_of_handle('delivery')} AND +delivery.state {_MOVES}"
)
_FIRST = " AND delivery.delivered_at IS NULL"
"""Condition that nothing was known to have arrived before."""
_OF_PUSH = " WHERE push_no = ? AND device_no IN (SELECT value FROM json_each(?)) AND +state "
_SENT = f"UPDATE delivery SET state = {DeliveryState.SENT:d}, qos = 0{_OF_PUSH}{IS_WAITING}"
_SENT_AFTER_END = (
    f"UPDATE delivery SET reason = {_AFTER}, state = {DeliveryState.SENT:d}, qos = 0{_OF_PUSH}{HANDED_OVER}"
)
_END_HANDLES = (
    "UPDATE delivery SET state = ?, reason = ?, ended_at = coalesce(ended_at, ?) FROM json_each(?) AS handle"
    f" WHERE {row_of_handle('delivery')} AND +delivery.state {IS_WAITING}"
)


def _receipt_statement(event: str, state: DeliveryState) -> str:
    action = (
        ", action = coalesce(action, CAST(receipt.value ->> 2 AS TEXT)),"
        " result = coalesce(result, CASE WHEN action IS NULL THEN CAST(receipt.value ->> 3 AS TEXT) END)"
    )
    stamps = dict.fromkeys(("delivered", event))
    return (
        f"UPDATE delivery SET reason = {_REASON_OF.get(event, _AFTER)},"
        f" state = CASE WHEN state {_ARRIVED} THEN max(state, {state:d}) ELSE {state:d} END,"
        f" {', '.join(f'{name}_at = coalesce({name}_at, ?1)' for name in stamps)}"
        f"{action if state is DeliveryState.ACTED else ''} FROM json_each(?2) AS receipt"
        " WHERE delivery.push_no = receipt.value ->> 0 AND delivery.device_no = receipt.value ->> 1"
        f" AND +delivery.state {_MOVES}"
    )


_RECEIPT_STATEMENTS = {event: _receipt_statement(event, state) for event, state in RECEIPT_STATES.items()}


def insert_single_rows(transaction: Transaction, rows: list[tuple[int, int, int, int, int]]) -> None:
    """Insert deliveries of pushes to one device each: (push_no, device_no, priority, size, state), by push number."""
    insert_rows(transaction, "delivery", "push_no, device_no, priority, size, state", rows)


def insert_listed_rows(
    transaction: Transaction, push_no: int, priority: int, size: int, devices: Sequence[int]
) -> None:
    """Insert deliveries of one push to these devices, sorted so that the clustered table is appended to."""
    transaction.execute(
        f"INSERT INTO delivery (push_no, device_no, priority, size, state)"
        f" SELECT ?, value, ?, ?, {DeliveryState.WAITING:d} FROM json_each(?) ORDER BY value",
        (push_no, priority, size, json.dumps(devices)),
    )


def digest_rows(
    transaction: Transaction,
    push_no: int,
    device_no: int,
    priority: int,
    size: int,
    members: Sequence[int],
    now_ms: int,
) -> None:
    """Insert the delivery of a digest, limited like its members, and end theirs."""
    transaction.execute(
        "INSERT INTO delivery (push_no, device_no, priority, size, state, not_before)"
        f" VALUES (?, ?, ?, ?, {DeliveryState.WAITING:d}, 0)",
        (push_no, device_no, priority, size),
    )
    log_deliveries(transaction, "superseded", now_ms, [(member, [device_no]) for member in members], "digested")
    transaction.execute(
        f"UPDATE delivery SET state = {DeliveryState.SUPERSEDED:d}, reason = 'digested', ended_at = ?, replaced_by = ?"
        f" WHERE push_no IN (SELECT value FROM json_each(?)) AND device_no = ? AND +state {IS_WAITING}",
        (now_ms, push_no, json.dumps(list(members)), device_no),
    )


def record_outcomes(
    transaction: Transaction,
    outcomes: dict[tuple[int, int], list[int]],
    refusals: Iterable[tuple[int, str]],
    now_ms: int,
    maybe_sets: Collection[int] = (),
) -> None:  # Hot path.
    """Record acknowledgements, by push and effective QoS, and refusals as (handle, reason).

    `maybe_sets`: the pushes among them that may have been stored as sets.
    """

    for handle, reason in refusals:
        end_rows(transaction, [handle], DeliveryState.REFUSED, reason, now_ms)
    single: dict[int, list[int]] = {}
    first: list[tuple[int, list[int]]] = []
    given: list[tuple[int, list[int]]] = []
    in_sets = frozenset(stored_in_sets(transaction, maybe_sets)) if maybe_sets else frozenset()
    for (push_no, qos), devices in outcomes.items():
        if push_no in in_sets:
            devices = _record_set(transaction, push_no, devices, qos, now_ms)
            if not devices:
                continue
        if not qos:
            given.append((push_no, devices))
        elif len(devices) == 1:
            single.setdefault(qos, []).append(handle_of(push_no, devices[0]))
        else:
            group = (qos, now_ms, push_no, json.dumps(devices))
            if transaction.execute(_ACKNOWLEDGE + _FIRST, group).rowcount < len(devices):
                handles = [handle_of(push_no, device_no) for device_no in devices]
                devices = [handle & DEVICE_MASK for handle in _newly_acknowledged(transaction, handles, qos, now_ms)]
                transaction.execute(_ACKNOWLEDGE, group)
            first.append((push_no, devices))
    for qos, handles in single.items():  # pushes to one device each: one statement for all of them
        parameters = (qos, now_ms, json.dumps(handles))
        if transaction.execute(_ACKNOWLEDGE_SINGLE + _FIRST, parameters).rowcount < len(handles):
            rest, handles = parameters, _newly_acknowledged(transaction, handles, qos, now_ms)
            transaction.execute(_ACKNOWLEDGE_SINGLE, rest)
        first += [(handle >> DEVICE_BITS, [handle & DEVICE_MASK]) for handle in handles]
    if first:
        log_moved(transaction, "delivered", now_ms, first)
    if given:
        log_deliveries(transaction, "sent", now_ms, given)
        for push_no, devices in given:
            of_push = (push_no, json.dumps(devices))
            if transaction.execute(_SENT, of_push).rowcount < len(devices):
                transaction.execute(_SENT_AFTER_END, of_push)


def _record_set(transaction: Transaction, push_no: int, devices: list[int], qos: int, now_ms: int) -> list[int]:
    """Record one outcome of devices for which a push waits in its sets; those for which it does not, which have rows
    now."""
    state = DeliveryState.DELIVERED if qos else DeliveryState.SENT
    reported = BitMap(devices)
    if len(devices) < delivery_sets.GROUP_DEVICES:
        to_rows(transaction, push_no, reported)
        return devices
    rest = reported - move_set(transaction, push_no, reported, state, now_ms, qos=qos)
    if rest:
        to_rows(transaction, push_no, rest)
    return list(rest)


def _newly_acknowledged(transaction: Transaction, handles: list[int], qos: int, now_ms: int) -> list[int]:
    """Find the handles that _FIRST has just acknowledged.

    The others had a receipt before, and no QoS is known of them yet.
    """
    (text,) = transaction.execute(
        "SELECT json_group_array(handle.value) FROM json_each(?) AS handle CROSS JOIN delivery AS d"
        f" ON {row_of_handle('d')}"
        " WHERE d.delivered_at = ? AND d.qos = ?",
        (json.dumps(handles), now_ms, qos),
    ).fetchone()
    return list(json.loads(text))


def end_rows(
    transaction: Transaction,
    handles: list[int],
    state: DeliveryState,
    reason: str,
    now_ms: int,
) -> int:
    """End those of the handles that are waiting on disk; how many."""
    if not handles:
        return 0
    grouped = by_push(handles)
    ended = 0
    for push_no in stored_in_sets(transaction, grouped):
        devices = BitMap(grouped[push_no])
        if len(devices) >= delivery_sets.GROUP_DEVICES:
            moved = move_set(transaction, push_no, devices, state, now_ms, reason=reason)
            ended += len(moved)
            devices = waiting_of(transaction, push_no, devices - moved) if len(moved) < len(devices) else BitMap()
        if devices:
            to_rows(transaction, push_no, devices)
    log_handles(transaction, state.label, now_ms, handles, reason)
    return ended + transaction.execute(_END_HANDLES, (int(state), reason, now_ms, json.dumps(handles))).rowcount


def supersede_rows(
    transaction: Transaction,
    push_no: int,
    app_no: int,
    collapse_key: str,
    devices: Iterable[int],
    sent_of: Callable[[int], list[int]],
    now_ms: int,
) -> list[tuple[int, BitMap]]:
    """End older waiting deliveries with the push's collapse key to its devices; the devices, by push.

    Of rows the index has what waits with that key: as a rule one of a device at most, and those in flight.
    """
    new = BitMap(devices)
    transaction.execute(
        f"UPDATE delivery SET collapse_key = ? WHERE push_no = ? AND +state {IS_WAITING}", (collapse_key, push_no)
    )
    ended: list[tuple[int, BitMap]] = []
    older: dict[int, list[int]] = {}
    for older_no, device_no in _older_rows(transaction, push_no, collapse_key, new):
        older.setdefault(older_no, []).append(device_no)
    for older_no, found in older.items():
        gone = BitMap(found) - BitMap(sent_of(older_no))
        end_devices(transaction, older_no, gone, DeliveryState.SUPERSEDED, "collapse_key", now_ms)
        ended.append((older_no, gone))
    sets = transaction.execute(
        "SELECT DISTINCT w.push_no FROM waiting_set AS w INDEXED BY waiting_set_of_app"
        " JOIN push AS p ON p.no = w.push_no WHERE w.app_no = ? AND w.push_no < ? AND p.collapse_key = ?",
        (app_no, push_no, collapse_key),
    ).fetchall()
    for (older_no,) in sets:
        gone = waiting_of(transaction, older_no, new) - BitMap(sent_of(older_no)) if new else new
        end_devices(transaction, older_no, gone, DeliveryState.SUPERSEDED, "collapse_key", now_ms)
        ended.append((older_no, gone))
    return [(older_no, gone) for older_no, gone in ended if gone]


def _older_rows(transaction: Transaction, push_no: int, collapse_key: str, devices: BitMap) -> list[tuple[int, int]]:
    """Rows of older pushes, (push number, device number) each, that wait for one of the devices with the key."""
    by_device = "d.device_no = x.value AND " if len(devices) < LOOKED_UP_DEVICES else ""
    among = "json_each(?3) AS x CROSS JOIN " if by_device else ""  # CROSS: in this order, whatever it estimates
    rows = transaction.execute(
        f"SELECT d.push_no, d.device_no FROM {among}delivery AS d INDEXED BY delivery_collapse"
        f" WHERE {by_device}d.state {IS_WAITING} AND d.collapse_key = ?2 AND d.push_no < ?1",
        (push_no, collapse_key, *((listed(devices),) if by_device else ())),
    ).fetchall()
    return rows if by_device else [row for row in rows if row[1] in devices]


def end_devices(
    transaction: Transaction, push_no: int, devices: BitMap, state: DeliveryState, reason: str, now_ms: int
) -> int:
    """End what waits of a push for these devices; how many."""
    if not devices:
        return 0
    moved = BitMap()
    if len(devices) >= delivery_sets.GROUP_DEVICES and stored_in_sets(transaction, [push_no]):
        moved = move_set(transaction, push_no, devices, state, now_ms, reason=reason)
    rest = [handle_of(push_no, device_no) for device_no in devices - moved]
    return len(moved) + end_rows(transaction, rest, state, reason, now_ms)


def overflow_rows(
    transaction: Transaction,
    crowded: Iterable[tuple[int, int, int]],
    limit: int,
    limit_bytes: int,
    is_sent: Callable[[int, int], bool],
    now_ms: int,
) -> list[int]:
    """Bring mailboxes back below the limits: (device number, deliveries, bytes) each; handles of the losers.

    The oldest of the lowest priority goes first, the new ones included; what is in flight counts but stays.
    """
    losers: dict[str, list[int]] = {"mailbox_limit": [], "mailbox_bytes": []}
    for device_no, count, total in crowded:
        evicted = losers["mailbox_limit" if count > limit else "mailbox_bytes"]
        for push_no, size in _least_valuable_first(transaction, device_no):
            if count <= limit and total <= limit_bytes:
                break
            if is_sent(push_no, device_no):
                continue
            evicted.append(handle_of(push_no, device_no))
            count -= 1
            total -= size
    for reason, handles in losers.items():
        end_rows(transaction, handles, DeliveryState.OVERFLOWED, reason, now_ms)
    return [handle for handles in losers.values() for handle in handles]


def _least_valuable_first(transaction: Transaction, device_no: int) -> Iterator[tuple[int, int]]:
    """Yield (push number, bytes) of what waits for a device, in rows and in sets, the least valuable first."""
    in_sets = list(mailbox_entries(transaction, [app_of(transaction, device_no)], BitMap([device_no])))
    for priority in reversed(range(len(PRIORITIES))):
        sets = [(entry.push_no, entry.size) for entry in in_sets if entry.priority == priority]
        yield from merge(rows_of_priority(transaction, device_no, priority), sets)


def receipt_rows(
    transaction: Transaction,
    receipts: Sequence[ReceiptRow],
    now_ms: int,
) -> None:
    """Store receipts of existing deliveries; the first ones win."""
    handles_to_rows(transaction, [handle_of(push_no, device_no) for push_no, device_no, *_ in receipts])
    by_event: dict[str, dict[tuple[int, int], list[Any]]] = {}
    for push_no, device_no, event, detail, result in receipts:
        by_event.setdefault(event, {}).setdefault((push_no, device_no), [push_no, device_no, detail, result])
    for event in RECEIPT_STATES:  # in the order of a delivery's life; what a device has shown it also has
        of_event = by_event.get(event, {}) if event != "delivered" else dict.fromkeys(chain(*by_event.values()))
        if of_event:
            log_handles(transaction, event, now_ms, [handle_of(*key) for key in of_event])
    for event, rows in by_event.items():
        transaction.execute(_RECEIPT_STATEMENTS[event], (now_ms, json.dumps(list(rows.values()))))


_EXPIRED = (
    "FROM push WHERE closed_at IS NULL AND expires_at <= ? AND (ttl > 0 OR accepted_at < ?)"
    " AND no NOT IN (SELECT value FROM json_each(?))"
)


def expired_pushes(
    transaction: Transaction, now_ms: int, offered_before: int, expired_in_flight: list[int]
) -> list[tuple[int, int]]:
    """List the pushes that `sweep_rows` would look at first: number and app each. A single statement."""
    return transaction.execute(
        f"SELECT no, app_no {_EXPIRED} ORDER BY expires_at LIMIT ?",
        (now_ms, offered_before, json.dumps(expired_in_flight), SWEEP_PUSHES),
    ).fetchall()


def sweep_rows(
    transaction: Transaction,
    now_ms: int,
    offered_before: int,
    expired_in_flight: list[int],
    sent_of: Callable[[int], list[int]],
    apps: Collection[int] | None = None,
) -> tuple[list[int], bool, int | None]:
    """End the waiting deliveries of pushes whose lifetime is over.

    Answers those pushes of which some are in flight (lost, they will end `expired`), whether the slice was full, and
    when to sweep again (ms; None: nothing unfinished). Left alone are pushes of ttl 0 accepted from `offered_before`
    on, which may still be handed over at once, and those of `expired_in_flight`, which could otherwise fill every
    slice. `apps`: of these alone.
    """
    found = (now_ms, offered_before, json.dumps(expired_in_flight))
    if apps is None:
        due = transaction.execute(
            f"SELECT no, app_no, in_sets {_EXPIRED} ORDER BY expires_at LIMIT ?", (*found, SWEEP_PUSHES)
        ).fetchall()
    else:
        due = transaction.execute(
            f"SELECT no, app_no, in_sets {_EXPIRED} AND app_no IN (SELECT value FROM json_each(?))"
            " ORDER BY expires_at LIMIT ?",
            (*found, json.dumps(list(apps)), SWEEP_PUSHES),
        ).fetchall()
    in_flight: list[int] = []
    room = SWEEP_DEVICES
    seen = 0
    for push_no, app_no, in_sets in due:
        sent = sent_of(push_no)
        if in_sets:
            if room <= 0:
                break
            room -= len(
                move_set(transaction, push_no, None, DeliveryState.EXPIRED, now_ms, reason="ttl", but_not=BitMap(sent))
            )
        seen += 1
        among, listed = "device_no NOT IN (SELECT value FROM json_each(?))", json.dumps(sent)
        if log_push(transaction, app_no, "expired", now_ms, push_no, "ttl", among, (listed,)):
            transaction.execute(
                f"UPDATE delivery SET state = {DeliveryState.EXPIRED:d}, reason = 'ttl', ended_at = ?"
                f" WHERE push_no = ? AND +state {IS_WAITING} AND {among}",
                (now_ms, push_no, listed),
            )
        if sent:
            in_flight.append(push_no)
        else:
            transaction.execute("UPDATE push SET closed_at = ? WHERE no = ?", (now_ms, push_no))
    (next_expiry,) = transaction.execute(
        "SELECT min(expires_at) FROM push WHERE closed_at IS NULL AND no NOT IN (SELECT value FROM json_each(?))",
        (json.dumps(expired_in_flight + in_flight),),
    ).fetchone()
    return in_flight, len(due) == SWEEP_PUSHES or seen < len(due), next_expiry


def start_recall(transaction: Transaction, push_no: int, now_ms: int) -> dict[str, int] | None:
    """Note that a push is recalled; its final answer if it has no deliveries any more.

    Raises Problem 410 for a push whose counts are no longer kept.
    """
    row = transaction.execute("SELECT final_counts FROM push WHERE no = ? AND gone_at IS NULL", (push_no,)).fetchone()
    if row is None:
        raise problem("gone", "this push ended long ago and its counts are no longer kept")
    (final,) = row
    if final is not None:  # retention has removed its deliveries
        counts = json.loads(final)
        return {"cancelled": 0, "in_flight": 0, "too_late": sum(counts[state.label] for state in _RECALLED_TOO_LATE)}
    transaction.execute("UPDATE push SET recalled_at = coalesce(recalled_at, ?) WHERE no = ?", (now_ms, push_no))
    return None


def recall_rows(
    transaction: Transaction, push_no: int, after: int, sent: list[int], now_ms: int
) -> tuple[dict[str, int], int | None]:
    """Cancel what waits of a push for the next RECALLED_DELIVERIES devices, with numbers behind `after`.

    Answers how many of them are cancelled, in flight and too late, and where to go on (None: that was all).
    """
    (app_no,) = transaction.execute("SELECT app_no FROM push WHERE no = ?", (push_no,)).fetchone()
    edge = device_of_row(transaction, push_no, after, RECALLED_DELIVERIES)
    here = (after, DEVICE_MASK if edge is None else edge)
    cancelled = 0
    in_sets = bool(stored_in_sets(transaction, [push_no]))
    if in_sets and not after:
        gone = waiting_of(transaction, push_no) - BitMap(sent)
        cancelled = end_devices(transaction, push_no, gone, DeliveryState.CANCELLED, "recalled", now_ms)
    among = "device_no > ? AND device_no <= ? AND device_no NOT IN (SELECT value FROM json_each(?))"
    listed = (*here, json.dumps(sent))
    if log_push(transaction, app_no, "cancelled", now_ms, push_no, "recalled", among, listed):
        cancelled += transaction.execute(
            f"UPDATE delivery SET state = {DeliveryState.CANCELLED:d}, reason = 'recalled', ended_at = ?"
            f" WHERE push_no = ? AND +state {IS_WAITING} AND {among}",
            (now_ms, push_no, *listed),
        ).rowcount
    in_flight, too_late = transaction.execute(
        f"SELECT count(*) FILTER (WHERE state {IS_WAITING}), count(*) FILTER (WHERE state {_HANDED_OVER_OR_ARRIVED})"
        " FROM delivery WHERE push_no = ? AND device_no > ? AND device_no <= ?",
        (push_no, *here),
    ).fetchone()
    if edge is None and in_sets:  # its counters have all of it
        found = state_counts(transaction, push_no)
        in_flight = found.get(DeliveryState.WAITING, 0)
        too_late = sum(found.get(state, 0) for state in _RECALLED_TOO_LATE)
    elif in_sets:
        in_flight = too_late = 0
    counts = {"cancelled": cancelled, "in_flight": in_flight, "too_late": too_late}
    return counts, edge


def waiting_devices(transaction: Transaction, push_nos: Iterable[int]) -> BitMap:
    """The devices for which any of these pushes waits on disk, those in flight included."""
    found = BitMap()
    for push_no in push_nos:
        rows = transaction.execute(
            f"SELECT device_no FROM delivery WHERE push_no = ? AND +state {IS_WAITING}", (push_no,)
        )
        found |= waiting_of(transaction, push_no) | BitMap(device_no for (device_no,) in rows)
    return found


def waiting_handles(transaction: Transaction, device_no: int) -> list[int]:
    """Handles of what waits for a device, in flight or not."""
    in_sets = pushes_waiting_for(transaction, device_no)
    return [handle_of(push_no, device_no) for push_no in in_sets] + [
        handle_of(push_no, device_no)
        for (push_no,) in transaction.execute(
            f"SELECT push_no FROM delivery WHERE device_no = ? AND state {IS_WAITING}", (device_no,)
        ).fetchall()
    ]


def revoke_rows(transaction: Transaction, device_no: int, now_ms: int) -> int:
    """End what a removed device had waiting or in flight as `revoked`, at most ENDED_DELIVERIES; how many."""
    device_to_rows(transaction, device_no, "true")  # in one go: a later start finds rows
    waiting = transaction.execute(
        f"SELECT push_no FROM delivery WHERE device_no = ? AND state {IS_WAITING} LIMIT ?",
        (device_no, ENDED_DELIVERIES),
    )
    handles = [handle_of(push_no, device_no) for (push_no,) in waiting]
    return end_rows(transaction, handles, DeliveryState.REVOKED, "device_removed", now_ms)


def revoke_removed_rows(transaction: Transaction, now_ms: int) -> int:
    """End deliveries of a device whose removal was interrupted, at a start; how many."""
    found = transaction.execute(
        "SELECT no FROM device INDEXED BY device_removed WHERE removed_at IS NOT NULL AND EXISTS (SELECT 1"
        f" FROM delivery INDEXED BY delivery_mailbox WHERE device_no = device.no AND state {IS_WAITING}) LIMIT 1"
    ).fetchone()
    return 0 if found is None else revoke_rows(transaction, found[0], now_ms)
