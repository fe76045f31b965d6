"""Reports about campaigns: what they do and why, their groups and variants with counts, and whom they have reached.

The blast radius is the number of devices that any part was sent to: each device is in one part at most, so it is the
sum over the parts of those targeted without the suppressed, and no estimate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway.delivery.reports import cursor_number, reached
from gateway.delivery.significance import Share, wilson_interval
from gateway.delivery.submission import AppRef
from gateway.delivery_states import DeliveryState
from gateway.pages import ListPage, fill_page
from gateway.plans.assignment import shares_of
from gateway.plans.campaign_counts import CountedPart, count_parts, sample_of
from gateway.plans.campaign_fields import CampaignRequest, Plan, sizes_of_variants
from gateway.plans.campaign_reach import describe_reach
from gateway.plans.campaigns import KEPT_CAMPAIGNS, Campaigns, unknown_campaign
from gateway.plans.conditions import FAILED
from gateway.plans.statistics import compare_variants, describe_verdicts
from gateway.store.audience.devices import removed_or_not
from gateway.store.database import Database
from gateway.store.plans import campaigns as rows
from gateway.store.plans.campaigns import Campaign, CampaignState, Phase
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none, wall_time

_STATES = [state.label for state in DeliveryState]


class CampaignReports:
    """Answers the questions of people about their campaigns. Loop."""

    def __init__(self, *, database: Database, campaigns: Campaigns) -> None:
        self._database = database
        self._campaigns = campaigns

    async def forecast(self, app: AppRef, fields: CampaignRequest) -> dict[str, Any]:
        """Describe what a campaign would do if it were started now. Raises as `Campaigns.create`."""
        kinds = await self._campaigns.check(app, fields)
        reach = await self._campaigns.measure(app, fields)
        return describe_reach(fields, reach) | {
            "needs_approval": self._campaigns.needs_approval(app.no, kinds, reach.targeted)
        }

    async def page(self, app_no: int, state: str | None, limit: int, cursor: str | None) -> ListPage:
        """A page of campaigns, in this state or in any, the newest first, without counts. Raises Problem 422."""
        before = cursor_number(cursor)

        def read(transaction: Transaction) -> ListPage:
            # Whether one is scheduled is no column: of those that are kept the ones in a state are looked for here.
            most = limit + 1 if state is None else KEPT_CAMPAIGNS
            found = rows.campaigns_before(transaction, app_no, 2**62 if before is None else before, most)
            wanted = (campaign for campaign in found if state is None or shown_state(campaign) == state)
            return fill_page(wanted, limit, _summary, lambda campaign: campaign.no)

        return await self._database.read(read, app_no)

    async def one(self, app_no: int, campaign_id: str) -> dict[str, Any]:
        """A campaign with everything that is known about it. Raises Problem 404."""

        def read(transaction: Transaction) -> tuple[Campaign, str]:
            found = rows.find_campaign(transaction, app_no, campaign_id)
            content = None if found is None else rows.read_content(transaction, found.no)
            if found is None or content is None:
                raise unknown_campaign(campaign_id)
            return found, content

        campaign, content = await self._database.read(read, app_no)
        fields = CampaignRequest.model_validate_json(content)
        failures = fields.counts_failures
        parts = await count_parts(self._database, app_no, campaign.no, failures=failures)
        # After the parts, so that it is not behind them.
        later = await self._database.read(lambda transaction: rows.read_campaign(transaction, campaign.no), app_no)
        campaign = campaign if later is None else later
        plan = None if campaign.plan is None else Plan.model_validate_json(campaign.plan)
        return describe_campaign(campaign, fields, json.loads(content), plan, parts)

    async def holdout(self, app_no: int, campaign_id: str, limit: int, cursor: str | None) -> ListPage:
        """A page of the devices that a campaign sends nothing to, in order of enrolment. Raises Problem 404, 422."""
        after = cursor_number(cursor) or 0

        def read(transaction: Transaction) -> ListPage:
            campaign = rows.find_campaign(transaction, app_no, campaign_id)
            if campaign is None:
                raise unknown_campaign(campaign_id)
            devices = rows.set_of_part(transaction, campaign.no, rows.HOLDOUT, 0)
            start = devices.rank(after) if after else 0
            some = list(devices[start : start + limit + 1])
            found = removed_or_not(transaction, some)
            return fill_page(found, limit, lambda row: {"device_id": row[1], "removed": row[2]}, lambda row: row[0])

        return await self._database.read(read, app_no)


def shown_state(campaign: Campaign) -> str:
    """The state as people see it: what waits for its time is `scheduled`."""
    if campaign.state == CampaignState.RUNNING and campaign.phase == Phase.STARTING and campaign.started_at is None:
        return "scheduled" if campaign.start_at > wall_time.of(campaign.created_at) else "running"
    return campaign.state


def _summary(campaign: Campaign) -> dict[str, Any]:
    is_running = campaign.state == CampaignState.RUNNING
    return {
        "campaign_id": campaign.id,
        "name": campaign.name,
        "state": shown_state(campaign),
        "phase": campaign.phase if is_running else None,
        "reason": campaign.reason,
        "group": campaign.group_no + 1 if campaign.groups else None,
        "groups": campaign.groups,
        "targeted": campaign.targeted,
        "created_by": campaign.key_id,
        "approved_by": campaign.approved_by,
        "created_at": rfc3339(campaign.created_at),
        "start_at": rfc3339(wall_time.to_server(campaign.start_at)),
        "started_at": rfc3339_or_none(campaign.started_at),
        "paused_at": rfc3339_or_none(campaign.paused_at if campaign.state == CampaignState.PAUSED else None),
        "ended_at": rfc3339_or_none(campaign.ended_at),
    }


def describe_campaign(
    campaign: Campaign,
    fields: CampaignRequest,
    content: dict[str, Any],
    plan: Plan | None,
    parts: Sequence[CountedPart],
) -> dict[str, Any]:
    """A campaign as the API shows it."""
    everything = describe_counts(parts)
    return {
        **_summary(campaign),
        "plan": content,
        "holdout": None if plan is None else plan.holdout,
        "not_planned": None if plan is None else plan.left_out,
        "blast_radius": everything["counts"]["targeted"] - everything["counts"]["suppressed"],
        **everything,
        "group_results": [] if plan is None else _groups(campaign, fields, plan, parts),
        "variants": None if fields.variants is None else _variants(fields, plan, parts),
        "result": None if fields.variants is None else _result(campaign, fields, parts),
    }


def _groups(
    campaign: Campaign, fields: CampaignRequest, plan: Plan, parts: Sequence[CountedPart]
) -> list[dict[str, Any]]:
    """Describe the groups, each with its parts and what its conditions say."""
    described = []
    for group_no, group in enumerate(plan.groups):
        own = [part for part in parts if part.part.group_no == group_no]
        planned = sum(1 for size in shares_of(group.size, fields.weights) if size)
        state = "sent" if own and len(own) >= planned else "sending" if own else "waiting"
        if group_no == campaign.group_no and campaign.phase == Phase.OBSERVING and campaign.ended_at is None:
            state = "observing"
        sample = sample_of(own)
        described.append(
            {
                "group": group_no + 1,
                "name": group.name,
                "size": group.size,
                "state": state,
                "conditions": [
                    {
                        "kind": kind,
                        "condition": condition.shown(sample),
                        "holds": condition.is_true(sample, fields.min_sample),
                    }
                    for kind, conditions in (("go_on", fields.go_on_conditions), ("stop", fields.stop_conditions))
                    for condition in conditions
                ]
                if own
                else [],
                **describe_counts(own),
                "parts": [
                    {
                        "push_id": part.part.push_id,
                        "variant": fields.variant_ids[part.part.variant_no],
                        "targeted": part.targeted,
                        "sent_at": rfc3339(part.part.sent_at),
                        "recalled": bool(part.part.recalled),
                    }
                    for part in own
                ],
            }
        )
    return described


def describe_counts(parts: Sequence[CountedPart]) -> dict[str, Any]:
    """Add up the counts of parts: `counts` by present state, `reached` cumulative, and `failed`."""
    sample = sample_of(parts)
    counts = {label: sample.counts.get(label, 0) for label in _STATES}
    return {
        "counts": {"targeted": sum(part.targeted for part in parts), **counts},
        "reached": reached(counts),
        "failed": sample.counts.get(FAILED, 0),
    }


def _shares(fields: CampaignRequest, parts: Sequence[CountedPart]) -> dict[str, Share]:
    """What each variant has achieved of the goal."""
    goal = fields.goal or "acted"
    found: dict[str, Share] = {}
    for variant_no, variant in enumerate(fields.variants or ()):
        sample = sample_of(part for part in parts if part.part.variant_no == variant_no)
        found[variant.id] = Share(sample.count([goal]), sample.base)
    return found


def _variants(fields: CampaignRequest, plan: Plan | None, parts: Sequence[CountedPart]) -> list[dict[str, Any]]:
    shares = _shares(fields, parts)
    sizes = None if plan is None else sizes_of_variants(fields, plan)
    described = []
    for variant_no, variant in enumerate(fields.variants or ()):
        share = shares[variant.id]
        low, high = wilson_interval(share, fields.confidence)
        own = [part for part in parts if part.part.variant_no == variant_no]
        described.append(
            {
                "id": variant.id,
                "weight": variant.weight,
                "size": None if sizes is None else sizes[variant_no],
                "goal": {
                    "count": share.successes,
                    "of": share.trials,
                    "rate": round(share.rate, 6) if share.trials else None,
                    "interval": [round(low, 6), round(high, 6)],
                },
                **describe_counts(own),
            }
        )
    return described


def _result(campaign: Campaign, fields: CampaignRequest, parts: Sequence[CountedPart]) -> dict[str, Any]:
    verdicts = compare_variants(_shares(fields, parts), fields.confidence)
    is_final = campaign.ended_at is not None
    return {"goal": fields.goal or "acted", **describe_verdicts(verdicts, fields.confidence, is_final=is_final)}
