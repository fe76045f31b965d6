"""Links between plans and the pushes that are their parts: a row for each, stored with the push.

A plan (a schedule, for example) is sent in parts, and each part is a push of its own with its deliveries: the
conservation law knows nothing of plans. Here is only the link between the two, for reports and for retention; what a
plan is and how far it has come is above (`plans/`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum

from gateway.store.transaction import Transaction


class PlanKind(StrEnum):
    """Kinds of plans whose parts are linked here, as the database holds them.

    With `_id` behind it each is a member of a push in the API. Campaigns have tables of their own (`campaign_parts`).
    """

    SCHEDULE = "schedule"


def insert_part(transaction: Transaction, push_no: int, kind: PlanKind, plan_id: str, run_no: int) -> None:
    """Note that a push is a part of a run. Writer thread, in the operation that stores the push."""
    transaction.execute(
        "INSERT INTO plan_part (push_no, kind, plan_id, run_no) VALUES (?, ?, ?, ?)", (push_no, kind, plan_id, run_no)
    )


def remove_parts(transaction: Transaction, push_nos: Sequence[int]) -> None:
    """Forget pushes whose counts are no longer kept. Writer thread."""
    transaction.execute(
        "DELETE FROM plan_part WHERE push_no IN (SELECT value FROM json_each(?))", (json.dumps(list(push_nos)),)
    )


def plan_members(transaction: Transaction, push_nos: Sequence[int]) -> dict[int, dict[str, str]]:
    """Members of the descriptions of those pushes that are parts: `schedule_id`, for example. Reader thread."""
    rows = transaction.execute(
        "SELECT t.push_no, t.kind, t.plan_id FROM json_each(?) AS w CROSS JOIN plan_part AS t ON t.push_no = w.value",
        (json.dumps(list(push_nos)),),
    )
    return {push_no: {f"{kind}_id": plan_id} for push_no, kind, plan_id in rows}


def parts_of_run(transaction: Transaction, kind: PlanKind, run_no: int) -> list[tuple[int, str]]:
    """The pushes of a run that are still kept, in their order: number and id each. Any thread."""
    return transaction.execute(
        "SELECT p.no, p.id FROM plan_part AS t CROSS JOIN push AS p ON p.no = t.push_no AND p.gone_at IS NULL"
        " WHERE t.kind = ? AND t.run_no = ? ORDER BY t.push_no",
        (kind, run_no),
    ).fetchall()
