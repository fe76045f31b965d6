"""The progress of escalations: what is due of them, what ends them, and what people are told of that.

How far one has come is on disk (`store/deliveries/escalations`); its duty says what comes next, and what counts as an
act. Every function runs inside an operation, on the writer thread, unless it says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gateway.delivery.duties import DutyFields
from gateway.store.deliveries.escalations import (
    Act,
    DueStep,
    EscalationState,
    add_step,
    due_steps,
    end_acted,
    end_exhausted,
    first_pushes,
    members_among,
    open_steps,
    steps_of,
)
from gateway.store.deliveries.event_log import log_of_app
from gateway.store.deliveries.ledger_statements import ReceiptRow
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none

RUNNING_ESCALATIONS = 1_000
"""Escalations of an app that may run at a time: a thousand alarms that nobody has seen to are no longer urgent each."""
ALL_ESCALATIONS = 10_000
"""Escalations of all apps: of those that are due together, each has to be looked at for whose turn it is."""
DUE_STEPS = 20
"""Escalations that one operation looks at; with a hundred devices a step it takes about 10 ms."""
CLEARED_PUSHES = 5
"""Steps that one operation takes back, of a hundred devices each: about 5 ms."""


class DueEscalation(NamedTuple):
    """An escalation whose time has come."""

    row: DueStep
    """Progress of the escalation, and what its next push is made of."""
    duty: DutyFields


def due_escalations(transaction: Transaction, now_ms: int) -> list[DueEscalation]:
    """Find escalations whose time has come, DUE_STEPS at most: apps in turn, of each the longest due first."""
    return [
        DueEscalation(row, DutyFields.model_validate_json(row.duty))
        for row in due_steps(transaction, now_ms, DUE_STEPS)
    ]


def advance(
    transaction: Transaction,
    due: DueEscalation,
    push_no: int,
    push_id: str,
    targeted: int,
    due_at: int,
    left_out: int,
    now_ms: int,
) -> None:
    """Note that the next step of an escalation is this push, and when the one behind it is due."""
    step = due.row.step + 1
    add_step(transaction, due.row.push_no, step, push_no, due_at, left_out)
    content = {"push_id": due.row.push_id, "duty": due.row.name, **place(due.duty, step)}
    content |= {"step_push_id": push_id, "targeted": targeted}
    log_of_app(transaction, "duty.escalated", now_ms, due.row.app_no, content)


def exhaust(transaction: Transaction, due: DueEscalation, now_ms: int) -> None:
    """End an escalation on which nobody has acted. What was sent of it stays: somebody may still act."""
    reason = "steps" if due.duty.step(due.row.step + 1) is None and now_ms < due.row.expires_at else "ttl"
    end_exhausted(transaction, due.row.push_no, reason, now_ms)
    content = {"push_id": due.row.push_id, "duty": due.row.name, "reason": reason, "steps": due.row.step + 1}
    log_of_app(transaction, "duty.exhausted", now_ms, due.row.app_no, content)


def place(duty: DutyFields, number: int) -> dict[str, int]:
    """The place of a step as people count: its number among the steps, and the round."""
    return {"step": number % len(duty.steps) + 1, "round": number // len(duty.steps) + 1}


def record_acts(transaction: Transaction, receipts: Sequence[ReceiptRow], now_ms: int) -> list[bool]:
    """End the escalations that some of these receipts act upon, in order.

    For each that was ended, whether it was running.
    """
    acts = [
        Act(push_no, device_no, event, detail)
        for push_no, device_no, event, detail, _ in receipts
        if event in ("acted", "opened")
    ]
    if not acts:
        return []
    ended: dict[int, bool] = {}
    for step in open_steps(transaction, acts):
        duty = DutyFields.model_validate_json(step.duty)
        if step.escalation_no in ended or not duty.counts(step.event, step.action):
            continue
        ended[step.escalation_no] = step.state == EscalationState.RUNNING
        end_acted(transaction, step, now_ms)
        content = {"push_id": step.push_id, "duty": step.name, **place(duty, step.step)}
        content |= {"step_push_id": step.step_push_id}
        content |= {"device_id": step.device_id, "event": step.event, "action": step.action}
        log_of_app(transaction, "duty.acted", now_ms, step.app_no, content)
    return list(ended.values())


# -- descriptions: reader thread ---------------------------------------------------------------------------------------


def describe_escalations(transaction: Transaction, push_nos: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Describe the escalations of those pushes, in order: (push number, description). Reader thread."""
    members = escalation_members(transaction, push_nos)
    pushes = {
        number: {"push_id": push_id, "sent_at": rfc3339(accepted_at)}
        for number, (push_id, accepted_at) in first_pushes(transaction, push_nos).items()
    }
    return ((number, pushes[number] | members[number]["escalation"]) for number in push_nos)


def escalation_members(transaction: Transaction, push_nos: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Members of the descriptions of those pushes that belong to escalations. Reader thread.

    `escalation` of one that was sent to a duty, without its steps; `escalation_of` of a later step.
    """
    found: dict[int, dict[str, Any]] = {}
    for member in members_among(transaction, push_nos):
        if member.push_no != member.escalation_no:
            found[member.push_no] = {"escalation_of": member.push_id}
            continue
        found[member.push_no] = {
            "escalation": {
                "duty": member.name,
                "state": member.state,
                **place(DutyFields.model_validate_json(member.duty), member.step),
                "next_at": rfc3339_or_none(member.due_at),
                "ended_at": rfc3339_or_none(member.ended_at),
                "reason": member.reason,
                "acted": None
                if member.acted_event is None
                else {
                    "push_id": member.acted_push_id,
                    "device_id": member.acted_device,
                    "event": member.acted_event,
                    "action": member.action,
                },
            }
        }
    return found


def sent_steps(transaction: Transaction, push_no: int) -> list[tuple[int, dict[str, Any]]]:
    """The steps of an escalation that were sent: (push number, description without counts) each. Reader thread."""
    found: list[tuple[int, dict[str, Any]]] = []
    for sent in steps_of(transaction, push_no):
        duty = DutyFields.model_validate_json(sent.duty)
        described: dict[str, Any] = {**place(duty, sent.step), "push_id": sent.push_id}
        described["target"] = json.loads(sent.target)
        if not sent.step:
            described["target"] = duty.steps[0].target().model_dump(mode="json", exclude_none=True)
        described |= {"sent_at": rfc3339(sent.sent_at), "left_out": sent.left_out, "targeted": sent.targeted}
        found.append((sent.push_no, described))
    return found
