"""Waiting deliveries that are not worth sending any more: recalled, over, or superseded by a newer push.

A recall and a newer push end what waits when they come, but not what is in flight. So whatever comes back from a
connection that ended, or from before a kill, is checked here. Everything runs on the writer thread, inside an
operation.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from pyroaring import BitMap

from gateway.delivery.delivery_sets import (
    by_push,
    is_wanted_target,
    target_set,
    waiting_handles_among,
    waiting_of,
)
from gateway.delivery.handles import DEVICE_BITS, DEVICE_MASK, handle_of, row_of_handle
from gateway.delivery.ledger_statements import end_devices, end_rows
from gateway.delivery_states import IS_WAITING, DeliveryState

_USE_ANEW = f"UPDATE alert_use SET at = ? FROM json_each(?) AS handle WHERE {row_of_handle('alert_use')}"


def end_stale_rows(
    connection: sqlite3.Connection, handles: list[int], now_ms: int, awaiting_pubrec: AbstractSet[int] = frozenset()
) -> list[int]:
    """End the recalled, expired and superseded ones; the handles that are still waiting, in the order given.

    Limited ones are left to the alert limiter, those of `awaiting_pubrec` excepted, which count against caps from now
    on (see `Ledger.end_stale`).
    """
    in_sets = waiting_handles_among(connection, handles)
    rows = connection.execute(
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
    for handle, is_limited, is_recalled, is_expired, is_superseded, app_no, collapse_key in rows:
        if collapse_key is not None and not (is_recalled or is_expired or is_superseded):
            is_superseded = _superseded_by_set(connection, handle, app_no, collapse_key)
        verdict = recalled if is_recalled else expired if is_expired else superseded if is_superseded else alive
        if verdict is alive and is_limited:
            verdict = alive if handle in awaiting_pubrec else limited
        verdict.append(handle)
    if awaiting_pubrec:
        again = json.dumps([handle for handle in alive if handle in awaiting_pubrec])
        connection.execute(_USE_ANEW, (now_ms, again))
    end_rows(connection, recalled, DeliveryState.CANCELLED, "recalled", now_ms)
    end_rows(connection, expired, DeliveryState.EXPIRED, "ttl", now_ms)
    end_rows(connection, superseded, DeliveryState.SUPERSEDED, "collapse_key", now_ms)
    return alive


def _superseded_by_set(connection: sqlite3.Connection, handle: int, app_no: int, collapse_key: str) -> bool:
    """Whether a newer push with the collapse key was stored as sets and is for the handle's device."""
    newer = connection.execute(
        "SELECT no FROM push INDEXED BY push_collapse WHERE app_no = ? AND collapse_key = ? AND no > ? AND in_sets"
        " ORDER BY no DESC",
        (app_no, collapse_key, handle >> DEVICE_BITS),
    ).fetchall()
    return any(is_wanted_target(connection, no, handle & DEVICE_MASK) for (no,) in newer)


def recover_rows(connection: sqlite3.Connection, held: Sequence[int], now_ms: int) -> int:
    """End what was in flight when the server crashed and is recalled, or superseded by a newer push; how many ended.

    Those of `held` (handles past PUBREC) go on. A recall and a newer push end what waits when they come, so only what
    was in flight then can be found here. The sweep ends what is over.
    """
    suspects = [
        handle_of(push_no, device_no)
        for push_no, device_no in connection.execute(
            "SELECT d.push_no, d.device_no FROM push AS p"
            f" JOIN delivery AS d ON d.push_no = p.no AND +d.state {IS_WAITING}"
            " WHERE p.closed_at IS NULL AND (p.recalled_at IS NOT NULL OR p.collapse_key IS NOT NULL)"
        )
    ]
    goes_on = set(held)
    suspects = [handle for handle in suspects if handle not in goes_on]
    ended = len(suspects) - len(end_stale_rows(connection, suspects, now_ms))
    sets = connection.execute(
        "SELECT DISTINCT w.push_no, p.app_no, p.collapse_key, p.recalled_at IS NOT NULL"
        " FROM waiting_set AS w JOIN push AS p ON p.no = w.push_no"
        " WHERE p.recalled_at IS NOT NULL OR p.collapse_key IS NOT NULL"
    ).fetchall()
    kept = by_push(goes_on)
    for push_no, app_no, collapse_key, is_recalled in sets:
        waiting = waiting_of(connection, push_no) - BitMap(kept.get(push_no, ()))
        if is_recalled:
            ended += end_devices(connection, push_no, waiting, DeliveryState.CANCELLED, "recalled", now_ms)
        else:
            waiting &= _newer_targets(connection, push_no, app_no, collapse_key)
            ended += end_devices(connection, push_no, waiting, DeliveryState.SUPERSEDED, "collapse_key", now_ms)
    return ended


def _newer_targets(connection: sqlite3.Connection, push_no: int, app_no: int, collapse_key: str) -> BitMap:
    """The devices that newer pushes with the collapse key are for."""
    newer = "q.app_no = ? AND q.collapse_key = ? AND q.no > ?"
    key = (app_no, collapse_key, push_no)
    (text,) = connection.execute(
        "SELECT json_group_array(DISTINCT d.device_no) FROM push AS q INDEXED BY push_collapse"
        " CROSS JOIN delivery AS d ON d.push_no = q.no"
        f" WHERE {newer} AND NOT q.in_sets AND d.state != {DeliveryState.SUPPRESSED:d}",
        key,
    ).fetchone()
    found = BitMap(json.loads(text))
    in_sets = f"SELECT q.no FROM push AS q INDEXED BY push_collapse WHERE {newer} AND q.in_sets"
    for (no,) in connection.execute(in_sets, key).fetchall():
        found |= target_set(connection, no)
    return found
