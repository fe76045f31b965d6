"""Limited deliveries, and the alerts that were let through: rows that caps and the ration of critical pushes count by.

What is checked at hand-over, and what comes of it, is decided by `delivery/alert_limiter`; when a limited delivery is
looked at again is in `not_before`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.transaction import Transaction

LimitedDelivery: TypeAlias = tuple[int, int, int, str, str | None, int, int, int]
"""Device number, push number, not before (ms; 0: as soon as may be), kind, channel, priority, ttl (s), expires at (ms).
As the database has it: an alert to many would make an object for each."""


class PassedCriticalPush(NamedTuple):
    """A critical push that passed a rule."""

    no: int
    device_id: str | None
    push_id: str | None
    """None, as of the device: it has left."""
    passed: str
    """The rule."""
    at: int
    """Milliseconds of server time."""


# -- limited deliveries ------------------------------------------------------------------------------------------------


def is_any_limited(transaction: Transaction) -> bool:
    """Whether any delivery that waits is limited."""
    found = transaction.execute(
        "SELECT EXISTS (SELECT 1 FROM delivery INDEXED BY delivery_gated"
        f" WHERE state {IS_WAITING} AND not_before IS NOT NULL)"
    ).fetchone()
    return bool(found[0])


def count_limited(transaction: Transaction, devices: Sequence[int]) -> dict[int, int]:
    """Count the limited deliveries that wait for each of some devices; those without any are left out."""
    return dict(
        transaction.execute(
            "SELECT device_no, count(*) FROM delivery INDEXED BY delivery_gated"
            f" WHERE state {IS_WAITING} AND not_before IS NOT NULL AND device_no IN (SELECT value FROM json_each(?))"
            " GROUP BY device_no",
            (json.dumps(devices),),
        ).fetchall()
    )


def limited_deliveries(transaction: Transaction, devices: Sequence[int], lowest_priority: int) -> list[LimitedDelivery]:
    """The limited deliveries that wait for devices, in their order, each mailbox in its own; down to a priority."""
    return transaction.execute(
        "SELECT d.device_no, d.push_no, d.not_before, p.kind, p.channel, p.priority, p.ttl, p.expires_at"
        " FROM json_each(?) AS wanted CROSS JOIN delivery AS d INDEXED BY delivery_gated"
        f"  ON d.device_no = wanted.value AND d.state {IS_WAITING} AND d.not_before IS NOT NULL AND d.priority <= ?"
        " JOIN push AS p ON p.no = d.push_no WHERE p.recalled_at IS NULL"
        " ORDER BY wanted.key, d.priority, d.push_no",
        (json.dumps(devices), lowest_priority),
    ).fetchall()


# -- alerts that were let through --------------------------------------------------------------------------------------


def uses_since(transaction: Transaction, devices: Iterable[int], after: int) -> list[tuple[int, int, str | None, int]]:
    """The alerts that devices were let through after a time (ms), in order.

    (Device number, push number, channel, time) each.
    """
    return transaction.execute(
        "SELECT device_no, push_no, channel, at FROM alert_use"
        " WHERE device_no IN (SELECT value FROM json_each(?)) AND at > ? ORDER BY at",
        (json.dumps(list(devices)), after),
    ).fetchall()


def count_uses(transaction: Transaction, uses: Iterable[tuple[int, int, str | None, int]]) -> None:
    """Count alerts that are let through: (device number, push number, channel, time) each. Writer thread.

    One that is counted already counts at the new time.
    """
    transaction.executemany(
        "INSERT OR REPLACE INTO alert_use (device_no, push_no, channel, at) VALUES (?, ?, ?, ?)", uses
    )


def forget_uses(transaction: Transaction, devices: Iterable[int], before: int) -> None:
    """Remove the alerts that devices were let through so long ago that no cap counts them. Writer thread."""
    transaction.execute(
        "DELETE FROM alert_use WHERE device_no IN (SELECT value FROM json_each(?)) AND at <= ?",
        (json.dumps(list(devices)), before),
    )


def forget_single_uses(transaction: Transaction, uses: Iterable[tuple[int, int]]) -> None:
    """Remove alerts that were let through: (device number, push number) each. Writer thread."""
    transaction.executemany("DELETE FROM alert_use WHERE device_no = ? AND push_no = ?", uses)


# -- critical pushes that passed a rule --------------------------------------------------------------------------------


def critical_pushes_since(transaction: Transaction, devices: Iterable[int], after: int) -> list[tuple[int, int]]:
    """The critical pushes that passed a rule after a time (ms): (device number, push number) each."""
    return transaction.execute(
        "SELECT device_no, push_no FROM critical_use WHERE device_no IN (SELECT value FROM json_each(?)) AND at > ?",
        (json.dumps(list(devices)), after),
    ).fetchall()


def record_critical_uses(transaction: Transaction, uses: Iterable[tuple[int, int, int, str, int]]) -> None:
    """Record critical pushes that pass a rule: (app number, device number, push number, rule, time). Writer thread."""
    transaction.executemany(
        "INSERT INTO critical_use (app_no, device_no, push_no, passed, at) VALUES (?, ?, ?, ?, ?)", uses
    )


def repeat_critical_uses(transaction: Transaction, uses: Iterable[tuple[int, int, int]]) -> None:
    """Move recorded uses to the time at which they pass again: (time, device number, push number). Writer thread."""
    transaction.executemany("UPDATE critical_use SET at = ? WHERE device_no = ? AND push_no = ?", uses)


def remove_critical_uses(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` uses from before a time, and of it; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM critical_use WHERE no IN (SELECT no FROM critical_use WHERE at <= ? LIMIT ?)",
        (before, count),
    ).rowcount


def critical_uses(transaction: Transaction, app_no: int, before: int | None, count: int) -> list[PassedCriticalPush]:
    """The last critical pushes of an app that passed a rule, those before a number, the newest first."""
    rows = transaction.execute(
        "SELECT c.no, v.id, p.id, c.passed, c.at FROM critical_use AS c"
        " LEFT JOIN device AS v ON v.no = c.device_no LEFT JOIN push AS p ON p.no = c.push_no"
        " WHERE c.app_no = ? AND c.no < ? ORDER BY c.no DESC LIMIT ?",
        (app_no, before if before is not None else 2**62, count),
    )
    return list(map(PassedCriticalPush._make, rows.fetchall()))
