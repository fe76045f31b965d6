"""Escalations in the database: how far a push to a duty has come, and who acted.

An escalation is a row beside the push that was sent to the duty, and each step that was sent is a push of its own, with
its deliveries: the conservation law knows nothing of escalations. The first step is the push itself.

    running ── due: the next step, a push ──▶ running
       ├── somebody acts ─────────────────▶ acted         an exhausted one too: late is better than never
       ├── the last wait or the ttl is over ▶ exhausted ──▶ acted
       ├── recalled ──────────────────────▶ recalled
       └── a newer push to a duty with its collapse key ▶ superseded

Laws
1. A step is stored by the operation that notes it (`due_at` moves with it), and an act ends the escalation in the
   operation that stores the receipt. So a kill between any two of them neither loses a step nor sends one twice.
2. What has ended is cleared: its pushes are taken back, and devices that show one are told. `cleared` is 0 until that
   is done, so the next start finishes it.

Every function runs inside an operation, on the writer thread, unless it says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from gateway.store.transaction import Transaction


class EscalationState(StrEnum):
    """States of an escalation, as the database holds them."""

    RUNNING = "running"  #: nobody has acted yet
    ACTED = "acted"  #: somebody has
    EXHAUSTED = "exhausted"  #: nobody has, and there is no further step, or the push's lifetime is over
    RECALLED = "recalled"  #: its push was recalled
    SUPERSEDED = "superseded"  #: a newer push to a duty has its collapse key


_RUNNING = f"'{EscalationState.RUNNING}'"
_OPEN = f"('{EscalationState.RUNNING}', '{EscalationState.EXHAUSTED}')"
"""States, in SQL, in which an act counts."""


class DueStep(NamedTuple):
    """An escalation whose time has come, with what its next push is made of."""

    push_no: int
    app_no: int
    app_id: str
    push_id: str
    name: str
    duty: str
    """`delivery.duties.DutyFields` as JSON."""
    step: int
    """Number of the step that was sent last."""
    kind: str
    priority: int
    qos: int
    channel: str | None
    collapse_key: str
    content: str
    size: int
    expires_at: int


class Act(NamedTuple):
    """A receipt that may end an escalation."""

    push_no: int
    device_no: int
    event: str
    """`acted` or `opened`."""
    action: str | None


class OpenStep(NamedTuple):
    """A step of an escalation in which an act counts, and the act."""

    escalation_no: int
    app_no: int
    push_id: str
    name: str
    duty: str
    """As of `DueStep`."""
    state: str
    step: int
    step_push_no: int
    step_push_id: str
    device_id: str
    event: str
    action: str | None


class StepPush(NamedTuple):
    """A push of an escalation that has ended."""

    push_no: int
    push_id: str
    app_id: str
    kept_for: str | None
    """Id of the device on which somebody acted upon this push: it shows what it did."""


class EscalationMember(NamedTuple):
    """A push that belongs to an escalation, and how that stands. Times are server time in milliseconds."""

    push_no: int
    escalation_no: int
    """Number of the push that was sent to the duty."""
    push_id: str
    name: str
    duty: str
    """As of `DueStep`."""
    state: str
    step: int
    due_at: int | None
    ended_at: int | None
    reason: str | None
    acted_device: str | None
    acted_event: str | None
    action: str | None
    acted_push_id: str | None


class SentStep(NamedTuple):
    """A step of an escalation that was sent."""

    push_no: int
    step: int
    left_out: int
    duty: str
    """As of `DueStep`."""
    push_id: str
    target: str
    """As JSON."""
    sent_at: int
    targeted: int


# -- steps -------------------------------------------------------------------------------------------------------------


def count_running(transaction: Transaction, app_no: int) -> int:
    """Count the escalations of an app that are running."""
    row = transaction.execute(
        "SELECT count(*) FROM escalation INDEXED BY escalation_of_app WHERE app_no = ? AND due_at IS NOT NULL",
        (app_no,),
    ).fetchone()
    return int(row[0])


def count_all_running(transaction: Transaction) -> tuple[bool, int]:
    """Whether there is any escalation, and how many are running. Reader thread."""
    (in_use,) = transaction.execute("SELECT EXISTS (SELECT 1 FROM escalation)").fetchone()
    (running,) = transaction.execute("SELECT count(*) FROM escalation WHERE due_at IS NOT NULL").fetchone()
    return bool(in_use), running


def insert_escalation(
    transaction: Transaction,
    push_no: int,
    app_no: int,
    name: str,
    duty: str,
    collapse_key: str,
    due_at: int,
    left_out: int,
    now_ms: int,
) -> int:
    """Store a new escalation, whose first step is the push, and end those that it supersedes; how many.

    `duty`: as of `DueStep`.
    """
    ended = transaction.execute(
        f"UPDATE escalation SET state = '{EscalationState.SUPERSEDED}', due_at = NULL, ended_at = ?, cleared = 0"
        " WHERE app_no = ? AND collapse_key = ? AND due_at IS NOT NULL",
        (now_ms, app_no, collapse_key),
    ).rowcount
    transaction.execute(
        "INSERT INTO escalation (push_no, app_no, duty, content, collapse_key, state, step, due_at)"
        f" VALUES (?, ?, ?, ?, ?, {_RUNNING}, 0, ?)",
        (push_no, app_no, name, duty, collapse_key, due_at),
    )
    _insert_step(transaction, push_no, 0, push_no, left_out)
    return ended


def add_step(transaction: Transaction, escalation_no: int, step: int, push_no: int, due_at: int, left_out: int) -> None:
    """Note that a step of an escalation is this push, and when the one behind it is due."""
    transaction.execute("UPDATE escalation SET step = ?, due_at = ? WHERE push_no = ?", (step, due_at, escalation_no))
    _insert_step(transaction, escalation_no, step, push_no, left_out)


def _insert_step(transaction: Transaction, escalation_no: int, step: int, push_no: int, left_out: int) -> None:
    transaction.execute(
        "INSERT INTO escalation_step (escalation_no, step, push_no, left_out) VALUES (?, ?, ?, ?)",
        (escalation_no, step, push_no, left_out),
    )


def due_steps(transaction: Transaction, now_ms: int, count: int) -> list[DueStep]:
    """Find escalations whose time has come, `count` at most: apps in turn, of each the longest due first."""
    rows = transaction.execute(
        "SELECT e.push_no, e.app_no, a.id, p.id, e.duty, e.content, e.step, p.kind, p.priority, p.qos, p.channel,"
        " e.collapse_key, p.content, p.size, p.expires_at FROM (SELECT push_no, due_at,"
        "  row_number() OVER (PARTITION BY app_no ORDER BY due_at, push_no) AS turn"
        "  FROM escalation INDEXED BY escalation_due WHERE due_at <= ? ORDER BY turn, due_at LIMIT ?) AS due"
        " JOIN escalation AS e ON e.push_no = due.push_no JOIN push AS p ON p.no = e.push_no"
        " JOIN application AS a ON a.no = e.app_no ORDER BY due.turn, due.due_at",
        (now_ms, count),
    ).fetchall()
    return [DueStep._make(row) for row in rows]


def next_due(transaction: Transaction, after: int) -> int | None:
    """The time behind this one at which the next escalation is due; None if there is none."""
    row = transaction.execute("SELECT min(due_at) FROM escalation WHERE due_at > ?", (after,)).fetchone()
    found: int | None = row[0]
    return found


def due_or_uncleared(transaction: Transaction) -> tuple[int | None, bool]:
    """Find when the first escalation is due (None: there is none), and whether any has to be cleared.

    A single statement.
    """
    first, is_uncleared = transaction.execute(
        "SELECT (SELECT min(due_at) FROM escalation),"
        " EXISTS (SELECT 1 FROM escalation INDEXED BY escalation_to_clear WHERE cleared = 0)"
    ).fetchone()
    return first, bool(is_uncleared)


# -- ends --------------------------------------------------------------------------------------------------------------


def end_exhausted(transaction: Transaction, escalation_no: int, reason: str, now_ms: int) -> None:
    """End an escalation on which nobody has acted."""
    transaction.execute(
        f"UPDATE escalation SET state = '{EscalationState.EXHAUSTED}', due_at = NULL, ended_at = ?, reason = ?"
        " WHERE push_no = ?",
        (now_ms, reason, escalation_no),
    )


def open_steps(transaction: Transaction, acts: Sequence[Act]) -> list[OpenStep]:
    """Find the open escalations whose steps these acts are about, in the order of the acts."""
    rows = transaction.execute(
        "SELECT e.push_no, e.app_no, p.id, e.duty, e.content, e.state, s.step, s.push_no, t.id, v.id,"
        " w.value ->> 2, w.value ->> 3 FROM json_each(?) AS w"
        " CROSS JOIN escalation_step AS s ON s.push_no = w.value ->> 0"
        " CROSS JOIN escalation AS e ON e.push_no = s.escalation_no CROSS JOIN push AS p ON p.no = e.push_no"
        " CROSS JOIN push AS t ON t.no = s.push_no CROSS JOIN device AS v ON v.no = w.value ->> 1"
        f" WHERE e.state IN {_OPEN} ORDER BY w.key",
        (json.dumps(acts),),
    ).fetchall()
    return [OpenStep._make(row) for row in rows]


def end_acted(transaction: Transaction, step: OpenStep, now_ms: int) -> None:
    """End an escalation because somebody has acted upon a step of it."""
    transaction.execute(
        f"UPDATE escalation SET state = '{EscalationState.ACTED}', due_at = NULL, ended_at = ?, acted_push_no = ?,"
        " acted_device = ?, acted_event = ?, action = ?, cleared = 0 WHERE push_no = ?",
        (now_ms, step.step_push_no, step.device_id, step.event, step.action, step.escalation_no),
    )


def end_recalled(transaction: Transaction, app_no: int, push_id: str, now_ms: int) -> str | None:
    """End the escalation of a push that is being recalled; its state before, None if there was nothing to end."""
    row = transaction.execute(
        "SELECT e.push_no, e.state FROM push AS p JOIN escalation AS e ON e.push_no = p.no"
        f" WHERE p.id = ? AND p.app_no = ? AND e.state IN {_OPEN}",
        (push_id, app_no),
    ).fetchone()
    if row is None:
        return None
    transaction.execute(
        f"UPDATE escalation SET state = '{EscalationState.RECALLED}', due_at = NULL, ended_at = ?, cleared = 0"
        " WHERE push_no = ?",
        (now_ms, row[0]),
    )
    return str(row[1])


def steps_to_clear(transaction: Transaction, after: tuple[int, int], count: int) -> list[tuple[int, int, StepPush]]:
    """Find pushes of an escalation that has ended and was not cleared, behind (escalation, step); `count` at most.

    (Escalation, step, push) each. All of one escalation.
    """
    rows = transaction.execute(
        "SELECT e.push_no, s.step, p.no, p.id, a.id, iif(e.acted_push_no = p.no, e.acted_device, NULL)"
        " FROM (SELECT push_no, app_no, acted_push_no, acted_device FROM escalation INDEXED BY escalation_to_clear"
        "  WHERE cleared = 0 AND push_no >= ?1 ORDER BY push_no LIMIT 1) AS e"
        " CROSS JOIN escalation_step AS s ON s.escalation_no = e.push_no AND s.step > iif(e.push_no = ?1, ?2, -1)"
        " CROSS JOIN push AS p ON p.no = s.push_no AND p.gone_at IS NULL"
        " JOIN application AS a ON a.no = e.app_no ORDER BY s.step LIMIT ?3",
        (*after, count),
    ).fetchall()
    return [(escalation_no, step, StepPush(*rest)) for escalation_no, step, *rest in rows]


def note_cleared(transaction: Transaction, escalation_no: int) -> None:
    """Note that all pushes of an escalation that has ended were taken back."""
    transaction.execute("UPDATE escalation SET cleared = 1 WHERE push_no = ?", (escalation_no,))


def remove_escalations(transaction: Transaction, push_nos: Sequence[int]) -> None:
    """Remove the escalations of pushes whose counts are no longer kept."""
    numbers = json.dumps(list(push_nos))
    for table, column in (("escalation_step", "escalation_no"), ("escalation", "push_no")):
        transaction.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))", (numbers,))


# -- reading -----------------------------------------------------------------------------------------------------------


def escalation_numbers(
    transaction: Transaction, app_no: int, states: Iterable[EscalationState], before: int, limit: int
) -> list[int]:
    """Numbers of an app's escalations in any of these states below one number, the newest first. Reader thread."""
    found: list[int] = []
    for state in states:  # one after the other: of all states together an index has no order
        found += [
            number
            for (number,) in transaction.execute(
                "SELECT push_no FROM escalation INDEXED BY escalation_of_state"
                " WHERE app_no = ? AND state = ? AND push_no < ? ORDER BY push_no DESC LIMIT ?",
                (app_no, state, before, limit),
            )
        ]
    return sorted(found, reverse=True)[:limit]


def first_pushes(transaction: Transaction, push_nos: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Ids of the pushes that escalations began with, and when they were accepted, by number. Reader thread."""
    rows = transaction.execute(
        "SELECT p.no, p.id, p.accepted_at FROM json_each(?) AS w CROSS JOIN push AS p ON p.no = w.value",
        (json.dumps(list(push_nos)),),
    )
    return {number: (push_id, accepted_at) for number, push_id, accepted_at in rows}


def step_numbers(transaction: Transaction, push_no: int) -> list[int]:
    """Numbers of the pushes that are the steps of an escalation, in order. Reader thread."""
    rows = transaction.execute("SELECT push_no FROM escalation_step WHERE escalation_no = ? ORDER BY step", (push_no,))
    return [number for (number,) in rows]


def members_among(transaction: Transaction, push_nos: Sequence[int]) -> list[EscalationMember]:
    """Find those of these pushes that belong to escalations. Reader thread."""
    rows = transaction.execute(
        "SELECT s.push_no, s.escalation_no, p.id, e.duty, e.content, e.state, e.step, e.due_at, e.ended_at, e.reason,"
        " e.acted_device, e.acted_event, e.action, t.id FROM json_each(?) AS w"
        " CROSS JOIN escalation_step AS s ON s.push_no = w.value"
        " CROSS JOIN escalation AS e ON e.push_no = s.escalation_no JOIN push AS p ON p.no = e.push_no"
        " LEFT JOIN push AS t ON t.no = e.acted_push_no",
        (json.dumps(list(push_nos)),),
    ).fetchall()
    return [EscalationMember._make(row) for row in rows]


def later_step_ids(transaction: Transaction, app_no: int, push_id: str) -> list[str]:
    """Ids of the pushes that are the further steps of a push to a duty. Reader or writer thread."""
    rows = transaction.execute(
        "SELECT t.id FROM push AS p JOIN escalation_step AS s ON s.escalation_no = p.no AND s.step > 0"
        " JOIN push AS t ON t.no = s.push_no AND t.gone_at IS NULL WHERE p.id = ? AND p.app_no = ? ORDER BY s.step",
        (push_id, app_no),
    )
    return [step_id for (step_id,) in rows]


def steps_of(transaction: Transaction, push_no: int) -> list[SentStep]:
    """Read the steps of an escalation that were sent, and are still kept, in order. Reader thread."""
    rows = transaction.execute(
        "SELECT s.push_no, s.step, s.left_out, e.content, p.id, p.target, p.accepted_at, p.targeted"
        " FROM escalation_step AS s JOIN escalation AS e ON e.push_no = s.escalation_no"
        " JOIN push AS p ON p.no = s.push_no WHERE s.escalation_no = ? AND p.gone_at IS NULL ORDER BY s.step",
        (push_no,),
    ).fetchall()
    return [SentStep._make(row) for row in rows]
