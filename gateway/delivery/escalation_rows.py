"""The statements of escalations: how far a push to a duty has come, and who acted.

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
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from gateway.delivery.duties import DutyFields
from gateway.store.deliveries.event_log import log_of_app
from gateway.store.deliveries.ledger_statements import ReceiptRow
from gateway.timestamps import rfc3339, rfc3339_or_none

RUNNING_ESCALATIONS = 1_000
"""Escalations of an app that may run at a time: a thousand alarms that nobody has seen to are no longer urgent each."""
ALL_ESCALATIONS = 10_000
"""Escalations of all apps: of those that are due together, each has to be looked at for whose turn it is."""
DUE_STEPS = 20
"""Escalations that one operation looks at; with a hundred devices a step it takes about 10 ms."""
CLEARED_PUSHES = 5
"""Steps that one operation takes back, of a hundred devices each: about 5 ms."""


class EscalationState(StrEnum):
    """States of an escalation, as the database holds them."""

    RUNNING = "running"  #: nobody has acted yet
    ACTED = "acted"  #: somebody has
    EXHAUSTED = "exhausted"  #: nobody has, and there is no further step, or the push's lifetime is over
    RECALLED = "recalled"  #: its push was recalled
    SUPERSEDED = "superseded"  #: a newer push to a duty has its collapse key


RUNNING = f"'{EscalationState.RUNNING}'"
OPEN = f"('{EscalationState.RUNNING}', '{EscalationState.EXHAUSTED}')"
"""States, in SQL, in which an act counts."""


class DueEscalation(NamedTuple):
    """An escalation whose time has come, with what its next push is made of."""

    push_no: int
    app_no: int
    app_id: str
    push_id: str
    name: str
    duty: DutyFields
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


class StepPush(NamedTuple):
    """A push of an escalation that has ended."""

    push_no: int
    push_id: str
    app_id: str
    kept_for: str | None
    """Id of the device on which somebody acted upon this push: it shows what it did."""


def insert_escalation(
    connection: sqlite3.Connection,
    push_no: int,
    app_no: int,
    name: str,
    duty: DutyFields,
    collapse_key: str,
    due_at: int,
    left_out: int,
    now_ms: int,
) -> int:
    """Store a new escalation, whose first step is the push, and end those that it supersedes; how many."""
    ended = connection.execute(
        f"UPDATE escalation SET state = '{EscalationState.SUPERSEDED}', due_at = NULL, ended_at = ?, cleared = 0"
        " WHERE app_no = ? AND collapse_key = ? AND due_at IS NOT NULL",
        (now_ms, app_no, collapse_key),
    ).rowcount
    connection.execute(
        "INSERT INTO escalation (push_no, app_no, duty, content, collapse_key, state, step, due_at)"
        f" VALUES (?, ?, ?, ?, ?, {RUNNING}, 0, ?)",
        (push_no, app_no, name, duty.model_dump_json(exclude_none=True), collapse_key, due_at),
    )
    _insert_step(connection, push_no, 0, push_no, left_out)
    return ended


def _insert_step(connection: sqlite3.Connection, escalation_no: int, step: int, push_no: int, left_out: int) -> None:
    connection.execute(
        "INSERT INTO escalation_step (escalation_no, step, push_no, left_out) VALUES (?, ?, ?, ?)",
        (escalation_no, step, push_no, left_out),
    )


def count_running(connection: sqlite3.Connection, app_no: int) -> int:
    """Count the escalations of an app that are running."""
    row = connection.execute(
        "SELECT count(*) FROM escalation INDEXED BY escalation_of_app WHERE app_no = ? AND due_at IS NOT NULL",
        (app_no,),
    ).fetchone()
    return int(row[0])


def due_escalations(connection: sqlite3.Connection, now_ms: int) -> list[DueEscalation]:
    """Find escalations whose time has come, DUE_STEPS at most: apps in turn, of each the longest due first."""
    rows = connection.execute(
        "SELECT e.push_no, e.app_no, a.id, p.id, e.duty, e.content, e.step, p.kind, p.priority, p.qos, p.channel,"
        " e.collapse_key, p.content, p.size, p.expires_at FROM (SELECT push_no, due_at,"
        "  row_number() OVER (PARTITION BY app_no ORDER BY due_at, push_no) AS turn"
        "  FROM escalation INDEXED BY escalation_due WHERE due_at <= ? ORDER BY turn, due_at LIMIT ?) AS due"
        " JOIN escalation AS e ON e.push_no = due.push_no JOIN push AS p ON p.no = e.push_no"
        " JOIN application AS a ON a.no = e.app_no ORDER BY due.turn, due.due_at",
        (now_ms, DUE_STEPS),
    ).fetchall()
    return [DueEscalation._make([*row[:5], DutyFields.model_validate_json(row[5]), *row[6:]]) for row in rows]


def next_due(connection: sqlite3.Connection, after: int) -> int | None:
    """The time behind this one at which the next escalation is due; None if there is none."""
    found: int | None = connection.execute("SELECT min(due_at) FROM escalation WHERE due_at > ?", (after,)).fetchone()[
        0
    ]
    return found


def advance(
    connection: sqlite3.Connection,
    due: DueEscalation,
    push_no: int,
    push_id: str,
    targeted: int,
    due_at: int,
    left_out: int,
    now_ms: int,
) -> None:
    """Note that the next step of an escalation is this push, and when the one behind it is due."""
    step = due.step + 1
    connection.execute("UPDATE escalation SET step = ?, due_at = ? WHERE push_no = ?", (step, due_at, due.push_no))
    _insert_step(connection, due.push_no, step, push_no, left_out)
    content = {"push_id": due.push_id, "duty": due.name, **place(due.duty, step)}
    content |= {"step_push_id": push_id, "targeted": targeted}
    log_of_app(connection, "duty.escalated", now_ms, due.app_no, content)


def exhaust(connection: sqlite3.Connection, due: DueEscalation, now_ms: int) -> None:
    """End an escalation on which nobody has acted. What was sent of it stays: somebody may still act."""
    reason = "steps" if due.duty.step(due.step + 1) is None and now_ms < due.expires_at else "ttl"
    connection.execute(
        f"UPDATE escalation SET state = '{EscalationState.EXHAUSTED}', due_at = NULL, ended_at = ?, reason = ?"
        " WHERE push_no = ?",
        (now_ms, reason, due.push_no),
    )
    content = {"push_id": due.push_id, "duty": due.name, "reason": reason, "steps": due.step + 1}
    log_of_app(connection, "duty.exhausted", now_ms, due.app_no, content)


def place(duty: DutyFields, number: int) -> dict[str, int]:
    """The place of a step as people count: its number among the steps, and the round."""
    return {"step": number % len(duty.steps) + 1, "round": number // len(duty.steps) + 1}


def record_acts(connection: sqlite3.Connection, receipts: Sequence[ReceiptRow], now_ms: int) -> list[bool]:
    """End the escalations that some of these receipts act upon, in order.

    For each that was ended, whether it was running.
    """
    acts = [
        (push_no, device_no, event, detail)
        for push_no, device_no, event, detail, _ in receipts
        if event in ("acted", "opened")
    ]
    if not acts:
        return []
    rows = connection.execute(
        "SELECT e.push_no, e.app_no, p.id, e.duty, e.content, e.state, s.step, s.push_no, t.id, v.id,"
        " w.value ->> 2, w.value ->> 3 FROM json_each(?) AS w"
        " CROSS JOIN escalation_step AS s ON s.push_no = w.value ->> 0"
        " CROSS JOIN escalation AS e ON e.push_no = s.escalation_no CROSS JOIN push AS p ON p.no = e.push_no"
        " CROSS JOIN push AS t ON t.no = s.push_no CROSS JOIN device AS v ON v.no = w.value ->> 1"
        f" WHERE e.state IN {OPEN} ORDER BY w.key",
        (json.dumps(acts),),
    ).fetchall()
    ended: dict[int, bool] = {}
    for push_no, app_no, push_id, name, text, state, step, step_no, step_id, device_id, event, action in rows:
        duty = DutyFields.model_validate_json(text)
        if push_no in ended or not duty.counts(event, action):
            continue
        ended[push_no] = state == EscalationState.RUNNING
        connection.execute(
            f"UPDATE escalation SET state = '{EscalationState.ACTED}', due_at = NULL, ended_at = ?, acted_push_no = ?,"
            " acted_device = ?, acted_event = ?, action = ?, cleared = 0 WHERE push_no = ?",
            (now_ms, step_no, device_id, event, action, push_no),
        )
        content = {"push_id": push_id, "duty": name, **place(duty, step), "step_push_id": step_id}
        content |= {"device_id": device_id, "event": event, "action": action}
        log_of_app(connection, "duty.acted", now_ms, app_no, content)
    return list(ended.values())


def end_recalled(connection: sqlite3.Connection, app_no: int, push_id: str, now_ms: int) -> str | None:
    """End the escalation of a push that is being recalled; its state before, None if there was nothing to end."""
    row = connection.execute(
        "SELECT e.push_no, e.state FROM push AS p JOIN escalation AS e ON e.push_no = p.no"
        f" WHERE p.id = ? AND p.app_no = ? AND e.state IN {OPEN}",
        (push_id, app_no),
    ).fetchone()
    if row is None:
        return None
    connection.execute(
        f"UPDATE escalation SET state = '{EscalationState.RECALLED}', due_at = NULL, ended_at = ?, cleared = 0"
        " WHERE push_no = ?",
        (now_ms, row[0]),
    )
    return str(row[1])


def steps_to_clear(connection: sqlite3.Connection, after: tuple[int, int]) -> list[tuple[int, int, StepPush]]:
    """Find pushes of an escalation that has ended and was not cleared, behind (escalation, step); CLEARED_PUSHES.

    (Escalation, step, push) each. All of one escalation.
    """
    rows = connection.execute(
        "SELECT e.push_no, s.step, p.no, p.id, a.id, iif(e.acted_push_no = p.no, e.acted_device, NULL)"
        " FROM (SELECT push_no, app_no, acted_push_no, acted_device FROM escalation INDEXED BY escalation_to_clear"
        "  WHERE cleared = 0 AND push_no >= ?1 ORDER BY push_no LIMIT 1) AS e"
        " CROSS JOIN escalation_step AS s ON s.escalation_no = e.push_no AND s.step > iif(e.push_no = ?1, ?2, -1)"
        " CROSS JOIN push AS p ON p.no = s.push_no AND p.gone_at IS NULL"
        " JOIN application AS a ON a.no = e.app_no ORDER BY s.step LIMIT ?3",
        (*after, CLEARED_PUSHES),
    ).fetchall()
    return [(escalation_no, step, StepPush(*rest)) for escalation_no, step, *rest in rows]


def remove_escalations(connection: sqlite3.Connection, push_nos: Sequence[int]) -> None:
    """Remove the escalations of pushes whose counts are no longer kept."""
    numbers = json.dumps(list(push_nos))
    for table, column in (("escalation_step", "escalation_no"), ("escalation", "push_no")):
        connection.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))", (numbers,))


# -- reading -----------------------------------------------------------------------------------------------------------


def escalation_numbers(
    connection: sqlite3.Connection, app_no: int, states: Iterable[EscalationState], before: int, limit: int
) -> list[int]:
    """Numbers of an app's escalations in any of these states below one number, the newest first. Reader thread."""
    found: list[int] = []
    for state in states:  # one after the other: of all states together an index has no order
        found += [
            number
            for (number,) in connection.execute(
                "SELECT push_no FROM escalation INDEXED BY escalation_of_state"
                " WHERE app_no = ? AND state = ? AND push_no < ? ORDER BY push_no DESC LIMIT ?",
                (app_no, state, before, limit),
            )
        ]
    return sorted(found, reverse=True)[:limit]


def describe_escalations(
    connection: sqlite3.Connection, push_nos: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Describe the escalations of those pushes, in order: (push number, description). Reader thread."""
    members = escalation_members(connection, push_nos)
    pushes = {
        number: {"push_id": push_id, "sent_at": rfc3339(accepted_at)}
        for number, push_id, accepted_at in connection.execute(
            "SELECT p.no, p.id, p.accepted_at FROM json_each(?) AS w CROSS JOIN push AS p ON p.no = w.value",
            (json.dumps(list(push_nos)),),
        )
    }
    return ((number, pushes[number] | members[number]["escalation"]) for number in push_nos)


def step_numbers(connection: sqlite3.Connection, push_no: int) -> list[int]:
    """Numbers of the pushes that are the steps of an escalation, in order. Reader thread."""
    rows = connection.execute("SELECT push_no FROM escalation_step WHERE escalation_no = ? ORDER BY step", (push_no,))
    return [number for (number,) in rows]


def escalation_members(connection: sqlite3.Connection, push_nos: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Members of the descriptions of those pushes that belong to escalations. Reader thread.

    `escalation` of one that was sent to a duty, without its steps; `escalation_of` of a later step.
    """
    rows = connection.execute(
        "SELECT s.push_no, s.escalation_no, p.id, e.duty, e.content, e.state, e.step, e.due_at, e.ended_at, e.reason,"
        " e.acted_device, e.acted_event, e.action, t.id FROM json_each(?) AS w"
        " CROSS JOIN escalation_step AS s ON s.push_no = w.value"
        " CROSS JOIN escalation AS e ON e.push_no = s.escalation_no JOIN push AS p ON p.no = e.push_no"
        " LEFT JOIN push AS t ON t.no = e.acted_push_no",
        (json.dumps(list(push_nos)),),
    ).fetchall()
    found: dict[int, dict[str, Any]] = {}
    for push_no, escalation_no, push_id, name, content, state, step, due_at, ended_at, reason, *act in rows:
        if push_no != escalation_no:
            found[push_no] = {"escalation_of": push_id}
            continue
        device_id, event, action, acted_push_id = act
        found[push_no] = {
            "escalation": {
                "duty": name,
                "state": state,
                **place(DutyFields.model_validate_json(content), step),
                "next_at": rfc3339_or_none(due_at),
                "ended_at": rfc3339_or_none(ended_at),
                "reason": reason,
                "acted": None
                if event is None
                else {"push_id": acted_push_id, "device_id": device_id, "event": event, "action": action},
            }
        }
    return found


def later_step_ids(connection: sqlite3.Connection, app_no: int, push_id: str) -> list[str]:
    """Ids of the pushes that are the further steps of a push to a duty. Reader or writer thread."""
    rows = connection.execute(
        "SELECT t.id FROM push AS p JOIN escalation_step AS s ON s.escalation_no = p.no AND s.step > 0"
        " JOIN push AS t ON t.no = s.push_no AND t.gone_at IS NULL WHERE p.id = ? AND p.app_no = ? ORDER BY s.step",
        (push_id, app_no),
    )
    return [step_id for (step_id,) in rows]


def sent_steps(connection: sqlite3.Connection, push_no: int) -> list[tuple[int, dict[str, Any]]]:
    """The steps of an escalation that were sent: (push number, description without counts) each. Reader thread."""
    rows = connection.execute(
        "SELECT s.push_no, s.step, s.left_out, e.content, p.id, p.target, p.accepted_at, p.targeted"
        " FROM escalation_step AS s JOIN escalation AS e ON e.push_no = s.escalation_no"
        " JOIN push AS p ON p.no = s.push_no WHERE s.escalation_no = ? AND p.gone_at IS NULL ORDER BY s.step",
        (push_no,),
    ).fetchall()
    found: list[tuple[int, dict[str, Any]]] = []
    for number, step, left_out, content, push_id, target, sent_at, targeted in rows:
        duty = DutyFields.model_validate_json(content)
        described: dict[str, Any] = {**place(duty, step), "push_id": push_id, "target": json.loads(target)}
        if not step:
            described["target"] = duty.steps[0].target().model_dump(mode="json", exclude_none=True)
        found.append((number, described | {"sent_at": rfc3339(sent_at), "left_out": left_out, "targeted": targeted}))
    return found
