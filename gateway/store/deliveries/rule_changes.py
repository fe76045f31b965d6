"""Waiting deliveries beside the preferences of their people: what is checked when either side's rules change.

Which of them ends is decided outside, by the rules of the app (`delivery/consent`, `delivery/rule_changes`); the note
that rules have changed (`rule_change`) is here too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Sequence
from typing import NamedTuple

from gateway.store.deliveries.app_slices import PushPart, ranges_json
from gateway.store.deliveries.conditions import IS_WAITING, row_of_handle
from gateway.store.deliveries.delivery_sets import pushes_waiting_for
from gateway.store.transaction import Transaction


class CheckedPush(NamedTuple):
    """The part of a push that rules look at."""

    push_no: int
    kind: str
    channel: str | None
    priority: int


class WaitingHandle(NamedTuple):
    """A delivery that waits, by its handle, with everything that is compared."""

    handle: int
    app_no: int
    kind: str
    channel: str | None
    priority: int
    consent: str
    choices: str
    """JSON, as `choices_of` reads it."""


def pushes_waiting_in_mailbox(transaction: Transaction, device_no: int) -> list[CheckedPush]:
    """The pushes that wait for a device, as rows and in sets."""
    waiting = transaction.execute(
        "SELECT d.push_no, p.kind, p.channel, d.priority FROM delivery AS d INDEXED BY delivery_mailbox"
        f" JOIN push AS p ON p.no = d.push_no WHERE d.device_no = ? AND d.state {IS_WAITING}",
        (device_no,),
    ).fetchall()
    waiting += transaction.execute(
        "SELECT no, kind, channel, priority FROM push WHERE no IN (SELECT value FROM json_each(?))",
        (json.dumps(pushes_waiting_for(transaction, device_no)),),
    ).fetchall()
    return list(map(CheckedPush._make, waiting))


def preferences_of_waiting(
    transaction: Transaction, parts: Sequence[PushPart], consents: Collection[str]
) -> Generator[tuple[int, int, str, str], None, None]:
    """The rows of these pushes that wait for people who have made a choice, or whose consent is one of these.

    (Push number, device number, consent, choices as JSON) each.
    """
    # Device by device: a list of all who do not want something would be walked for each push.
    rows = transaction.execute(
        "SELECT d.push_no, d.device_no, v.consent, v.channels FROM json_each(?1) AS part"
        f" CROSS JOIN delivery AS d ON d.push_no = part.value ->> 0 AND +d.state {IS_WAITING}"
        "  AND d.device_no > part.value ->> 1 AND d.device_no <= part.value ->> 2"
        " CROSS JOIN device AS v ON v.no = d.device_no"
        "  AND (v.channels <> '{}' OR v.consent IN (SELECT value FROM json_each(?2)))",
        (ranges_json(parts), json.dumps(list(consents))),
    )
    try:
        yield from rows
    finally:
        rows.close()


def preferences_of_handles(transaction: Transaction, handles: Sequence[int]) -> list[WaitingHandle]:
    """Find those of the handles that wait, as rows, with the preferences of their people."""
    rows = transaction.execute(
        "SELECT handle.value, p.app_no, p.kind, p.channel, d.priority, v.consent, v.channels"
        " FROM json_each(?) AS handle CROSS JOIN delivery AS d"
        f"  ON {row_of_handle('d')} AND +d.state {IS_WAITING}"
        " CROSS JOIN push AS p ON p.no = d.push_no CROSS JOIN device AS v ON v.no = d.device_no",
        (json.dumps(handles),),
    )
    return list(map(WaitingHandle._make, rows.fetchall()))


def pushes_waiting_in_sets(transaction: Transaction, app_no: int, after: int, count: int) -> list[CheckedPush]:
    """The next pushes of an app, behind a number, of which something waits in a set, at most `count`."""
    rows = transaction.execute(
        "SELECT DISTINCT w.push_no, p.kind, p.channel, p.priority FROM waiting_set AS w INDEXED BY waiting_set_of_app"
        " JOIN push AS p ON p.no = w.push_no WHERE w.app_no = ? AND w.push_no > ? ORDER BY w.push_no LIMIT ?",
        (app_no, after, count),
    )
    return list(map(CheckedPush._make, rows.fetchall()))


def note_rule_change(transaction: Transaction, app_no: int, number: int) -> None:
    """Note that what waits in an app is not under its rules yet, unless that is noted. Writer thread."""
    transaction.execute("INSERT OR IGNORE INTO rule_change (app_no, number) VALUES (?, ?)", (app_no, number))


def forget_rule_change(transaction: Transaction, app_no: int, number: int) -> None:
    """Note that what waits in an app is under its rules as of a change. Writer thread."""
    transaction.execute("DELETE FROM rule_change WHERE app_no = ? AND number <= ?", (app_no, number))
