"""Waiting deliveries that are not worth sending any more: recalled, over, or superseded by a newer push.

A recall and a newer push end what waits when they come, but not what is in flight. So whatever comes back from a
connection that ended, or from before a kill, is checked here. Everything runs on the writer thread, inside an
operation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pyroaring import BitMap

from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, by_push, handle_of
from gateway.delivery_states import DeliveryState
from gateway.store.audience.device_sets import SEGMENT_BITS
from gateway.store.deliveries.conditions import IS_WAITING, row_of_handle
from gateway.store.deliveries.delivery_sets import target_set, waiting_handles_among, waiting_of
from gateway.store.deliveries.ledger_statements import end_devices, end_rows
from gateway.store.transaction import Transaction

_USE_ANEW = f"UPDATE alert_use SET at = ? FROM json_each(?) AS handle WHERE {row_of_handle('alert_use')}"


def end_stale_rows(
    transaction: Transaction, handles: list[int], now_ms: int, awaiting_pubrec: AbstractSet[int] = frozenset()
) -> list[int]:
    """End the recalled, expired and superseded ones; the handles that are still waiting, in the order given.

    Limited ones are left to the alert limiter, those of `awaiting_pubrec` excepted, which count against caps from now
    on (see `Ledger.end_stale`).
    """
    in_sets = waiting_handles_among(transaction, handles)
    rows = transaction.execute(
        "SELECT handle.value, d.not_before IS NOT NULL, p.recalled_at IS NOT NULL, p.expires_at <= ?1,"
        " p.collapse_key IS NOT NULL AND EXISTS ("
        "  SELECT 1 FROM push AS q JOIN delivery AS n ON n.push_no = q.no AND n.device_no = handle.value & ?2"
        "  WHERE q.app_no = p.app_no AND q.collapse_key = p.collapse_key AND q.no > p.no"
        f"   AND n.state != {DeliveryState.SUPPRESSED:d}), p.app_no, p.collapse_key"
        " FROM json_each(?3) AS handle JOIN push AS p ON p.no = handle.value >> ?4"
        f" LEFT JOIN delivery AS d ON {row_of_handle('d')}"
        f" WHERE d.state {IS_WAITING} OR (d.state IS NULL AND handle.value IN (SELECT value FROM json_each(?5)))"
        " ORDER BY handle.key",
        (now_ms, DEVICE_MASK, json.dumps(handles), DEVICE_BITS, json.dumps(in_sets)),
    ).fetchall()
    alive: list[int] = []
    recalled: list[int] = []
    expired: list[int] = []
    superseded: list[int] = []
    limited: list[int] = []
    by_sets = _superseded_by_sets(transaction, rows)
    for handle, is_limited, is_recalled, is_expired, is_superseded, *_ in rows:
        is_superseded = is_superseded or handle in by_sets
        verdict = recalled if is_recalled else expired if is_expired else superseded if is_superseded else alive
        if verdict is alive and is_limited:
            verdict = alive if handle in awaiting_pubrec else limited
        verdict.append(handle)
    if awaiting_pubrec:
        again = json.dumps([handle for handle in alive if handle in awaiting_pubrec])
        transaction.execute(_USE_ANEW, (now_ms, again))
    end_rows(transaction, recalled, DeliveryState.CANCELLED, "recalled", now_ms)
    end_rows(transaction, expired, DeliveryState.EXPIRED, "ttl", now_ms)
    end_rows(transaction, superseded, DeliveryState.SUPERSEDED, "collapse_key", now_ms)
    return alive


def _superseded_by_sets(transaction: Transaction, rows: Sequence[Sequence[Any]]) -> set[int]:
    """Find the handles among the rows of `end_stale_rows` for whose devices a newer push was stored as sets."""
    older: dict[tuple[int, str], dict[int, BitMap]] = {}
    for handle, _, is_recalled, is_expired, is_superseded, app_no, collapse_key in rows:
        if collapse_key is not None and not (is_recalled or is_expired or is_superseded):
            of_key = older.setdefault((app_no, collapse_key), {})
            of_key.setdefault(handle >> DEVICE_BITS, BitMap()).add(handle & DEVICE_MASK)
    return {
        handle_of(push_no, device_no)
        for key, of_key in older.items()
        for push_no, devices in _with_newer_sets(transaction, *key, of_key).items()
        for device_no in devices
    }


def _with_newer_sets(
    transaction: Transaction, app_no: int, collapse_key: str, older: Mapping[int, BitMap]
) -> dict[int, BitMap]:
    """Find the devices of these pushes, by push, that a newer push with their collapse key is for, stored as sets.

    Each newer push is read once, the newest first, until nobody is left whom one may be for.
    """
    left = BitMap.union(*older.values())
    here = {"first": left.min(), "last": left.max(), "segment": left.min() >> SEGMENT_BITS}
    in_segments = f"push_no = q.no AND segment BETWEEN :segment AND {left.max() >> SEGMENT_BITS:d}"
    newer = transaction.execute(
        "SELECT q.no FROM push AS q INDEXED BY push_collapse"
        " WHERE q.app_no = :app_no AND q.collapse_key = :collapse_key AND q.no > :push_no AND q.in_sets"
        f" AND (EXISTS (SELECT 1 FROM waiting_set WHERE {in_segments})"
        f"  OR EXISTS (SELECT 1 FROM outcome_set WHERE {in_segments})"
        "  OR EXISTS (SELECT 1 FROM delivery WHERE push_no = q.no AND device_no BETWEEN :first AND :last))"
        " ORDER BY q.no DESC",
        {"app_no": app_no, "collapse_key": collapse_key, "push_no": min(older), **here},
    ).fetchall()
    found: dict[int, BitMap] = {}
    targets = BitMap()
    rest = sorted(older)
    for (no,) in newer:
        while rest[-1] >= no:
            found[rest[-1]] = older[rest[-1]] & targets
            rest.pop()
        if not left:
            break
        targets |= target_set(transaction, no, left)
        left -= targets
    found.update((push_no, older[push_no] & targets) for push_no in rest)
    return found


def pushes_to_recover(transaction: Transaction) -> list[int]:
    """List the pushes of which `recover_rows` may end something. Reader thread."""
    rows = transaction.execute(
        "SELECT no FROM push WHERE closed_at IS NULL AND (recalled_at IS NOT NULL OR collapse_key IS NOT NULL)"
    )
    return [push_no for (push_no,) in rows]


def recover_rows(transaction: Transaction, held: Sequence[int], now_ms: int) -> int:
    """End what was in flight when the server crashed and is recalled, or superseded by a newer push; how many ended.

    Those of `held` (handles past PUBREC) go on. A recall and a newer push end what waits when they come, so only what
    was in flight then can be found here. The sweep ends what is over.
    """
    suspects = [
        handle_of(push_no, device_no)
        for push_no, device_no in transaction.execute(
            "SELECT d.push_no, d.device_no FROM push AS p"
            f" JOIN delivery AS d ON d.push_no = p.no AND +d.state {IS_WAITING}"
            " WHERE p.closed_at IS NULL AND (p.recalled_at IS NOT NULL OR p.collapse_key IS NOT NULL)"
        )
    ]
    goes_on = set(held)
    suspects = [handle for handle in suspects if handle not in goes_on]
    ended = len(suspects) - len(end_stale_rows(transaction, suspects, now_ms))
    sets = transaction.execute(
        "SELECT DISTINCT w.push_no, p.app_no, p.collapse_key, p.recalled_at IS NOT NULL"
        " FROM waiting_set AS w JOIN push AS p ON p.no = w.push_no"
        " WHERE p.recalled_at IS NOT NULL OR p.collapse_key IS NOT NULL"
    ).fetchall()
    kept = by_push(goes_on)
    older: dict[tuple[int, str], dict[int, BitMap]] = {}
    for push_no, app_no, collapse_key, is_recalled in sets:
        waiting = waiting_of(transaction, push_no) - BitMap(kept.get(push_no, ()))
        if is_recalled:
            ended += end_devices(transaction, push_no, waiting, DeliveryState.CANCELLED, "recalled", now_ms)
        elif waiting:
            older.setdefault((app_no, collapse_key), {})[push_no] = waiting
    for key, of_key in older.items():
        by_sets = _with_newer_sets(transaction, *key, of_key)
        by_rows = _with_newer_rows(transaction, *key, of_key)
        for push_no in of_key:
            gone = by_sets[push_no] | by_rows[push_no]
            ended += end_devices(transaction, push_no, gone, DeliveryState.SUPERSEDED, "collapse_key", now_ms)
    return ended


def _with_newer_rows(
    transaction: Transaction, app_no: int, collapse_key: str, older: Mapping[int, BitMap]
) -> dict[int, BitMap]:
    """Find the devices of these pushes, by push, that a newer push with their collapse key is for, stored as rows."""
    latest: dict[int, BitMap] = {}
    for no, text in transaction.execute(
        "SELECT q.no, json_group_array(d.device_no) FROM push AS q INDEXED BY push_collapse"
        " CROSS JOIN delivery AS d ON d.push_no = q.no WHERE q.app_no = ? AND q.collapse_key = ? AND q.no > ?"
        f" AND NOT q.in_sets AND d.state != {DeliveryState.SUPPRESSED:d} GROUP BY q.no",
        (app_no, collapse_key, min(older)),
    ):
        latest[no] = BitMap(json.loads(text))
    found: dict[int, BitMap] = {}
    targets = BitMap()
    newer = sorted(latest)
    for push_no in sorted(older, reverse=True):
        while newer and newer[-1] > push_no:
            targets |= latest[newer.pop()]
        found[push_no] = older[push_no] & targets
    return found
