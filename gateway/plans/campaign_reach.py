"""Reach of a campaign: the sizes of its groups and variants if it started now.

The target is resolved as it will be when the campaign starts, by the same code, and divided by the same arithmetic
(`campaign_fields.make_plan`). Who is in which group is not decided here: that needs the id of a campaign that was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from pyroaring import BitMap

from gateway.audience.target_resolution import TargetResolver
from gateway.delivery.push import Target
from gateway.delivery.submission import AppRef, listed_ids, nobody_known
from gateway.errors import problem
from gateway.plans.assignment import shares_of
from gateway.plans.campaign_fields import (
    DAY_MS,
    MAX_RATE_DAYS,
    CampaignRequest,
    Plan,
    RateRollout,
    duration_ms,
    make_plan,
    sizes_of_variants,
)
from gateway.store.audience.devices import device_rows
from gateway.store.database import Database
from gateway.store.transaction import Transaction


@dataclass(slots=True, frozen=True)
class Reach:
    """The size of a campaign, measured now."""

    targeted: int
    unknown: tuple[str, ...]
    """Ids that the target names and the app does not know."""
    plan: Plan


async def resolve_cohort(
    targets: TargetResolver, app: AppRef, fields: CampaignRequest, target: BitMap
) -> BitMap | None:
    """The devices of the target that are the canary; None if that is no cohort. Loop. Raises Problem 503."""
    canary = fields.canary
    return await targets.resolve(app.no, canary) & target if isinstance(canary, Target) else None


async def measure_reach(database: Database, targets: TargetResolver, app: AppRef, fields: CampaignRequest) -> Reach:
    """Measure a campaign. Loop. Raises Problem 404, 422, 503."""
    target = await targets.resolve(app.no, fields.push.target)
    listed = listed_ids(fields.push.target)
    unknown: list[str] = []
    if listed is not None and len(target) < len(listed):
        known = await database.read(partial(_known_ids, app_no=app.no, ids=listed), app.no)
        unknown = [device_id for device_id in listed if device_id not in known]
        if not known:
            raise nobody_known(unknown)
    cohort = await resolve_cohort(targets, app, fields, target)
    if cohort is not None and target and not cohort:
        raise problem("invalid_request", "canary: the push is for none of these devices")
    plan = make_plan(fields, len(target), None if cohort is None else len(cohort))
    if isinstance(fields.rollout, RateRollout):
        count = sum(group.size for group in plan.groups)
        if duration_ms(fields.rollout, count) > MAX_RATE_DAYS * DAY_MS:
            raise problem(
                "invalid_request", f"rollout: {count} devices at this rate take more than {MAX_RATE_DAYS} days"
            )
    return Reach(len(target), tuple(unknown), plan)


def _known_ids(transaction: Transaction, app_no: int, ids: list[str]) -> set[str]:
    """The ids among these that the app knows. Reader thread."""
    return set(device_rows(transaction, app_no, ids))


def describe_reach(fields: CampaignRequest, reach: Reach) -> dict[str, Any]:
    """The sizes of everything in a campaign, as the API shows them."""
    plan = reach.plan
    sizes = sizes_of_variants(fields, plan) if plan.groups else [0] * len(fields.weights)
    return {
        "targeted": reach.targeted,
        "unknown": list(reach.unknown),
        "holdout": plan.holdout,
        "not_planned": plan.left_out,
        "groups": [
            {"group": number + 1, "name": group.name, "size": group.size, "pace_ms": group.pace_ms}
            for number, group in enumerate(plan.groups)
        ],
        "variants": None
        if fields.variants is None
        else [{"id": variant.id, "size": size} for variant, size in zip(fields.variants, sizes, strict=True)],
        "parts": sum(1 for group in plan.groups for size in shares_of(group.size, fields.weights) if size),
    }
