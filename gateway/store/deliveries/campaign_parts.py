"""Pushes that are parts of campaigns, for reports and analytics.

A part is a push like any other: only who asks about pushes sees that it belongs to a campaign. What a campaign is, and
how far it has come, is above (`store/plans/campaigns`), which writes the rows that are read here.

Sums of campaigns and variants need nothing on the way of a push: each push has its counts (`push_funnel`), and a
campaign has a few hundred pushes at most, which are added up when somebody asks.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from gateway.store.analytics.funnels import HOUR_MS
from gateway.store.transaction import Transaction

READ_CAMPAIGNS = 20
"""Campaigns that one read adds up: with 200 parts each about 30 ms."""


def campaign_members(transaction: Transaction, push_nos: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Members of the descriptions of those pushes that are parts of campaigns. Any thread."""
    rows = transaction.execute(
        "SELECT p.push_no, c.id, p.group_no, c.content ->> ('$.variants[' || p.variant_no || '].id')"
        " FROM json_each(?) AS w CROSS JOIN campaign_part AS p ON p.push_no = w.value"
        " CROSS JOIN campaign AS c ON c.no = p.campaign_no",
        (json.dumps(list(push_nos)),),
    )
    return {
        push_no: {"campaign_id": campaign_id, "group": group_no + 1, "variant": variant}
        for push_no, campaign_id, group_no, variant in rows.fetchall()
    }


class CampaignSums(NamedTuple):
    """Campaigns that were added up."""

    tallies: dict[str, Counter[str]]
    before: int | None
    """Number of the campaign to read on before; None: that was all."""


def add_up_campaigns(
    transaction: Transaction,
    app_no: int,
    by: Literal["campaign", "variant"],
    first_hour: int,
    before_hour: int,
    before: int,
) -> CampaignSums:
    """Add up the parts of the next READ_CAMPAIGNS campaigns before a number, the newest first. Reader thread.

    Only parts that were accepted in these hours count. Variants are named `CAMPAIGN/VARIANT`; parts without one are
    left out of those.
    """
    numbers = [
        number
        for (number,) in transaction.execute(
            "SELECT no FROM campaign WHERE app_no = ? AND no < ? ORDER BY no DESC LIMIT ?",
            (app_no, before, READ_CAMPAIGNS),
        )
    ]
    name = "c.id" if by == "campaign" else "c.id || '/' || (c.content ->> ('$.variants[' || p.variant_no || '].id'))"
    rows = transaction.execute(
        f"SELECT {name}, f.content -> '$.tally' FROM json_each(?) AS w CROSS JOIN campaign AS c ON c.no = w.value"
        " CROSS JOIN campaign_part AS p ON p.campaign_no = c.no CROSS JOIN push AS t ON t.no = p.push_no"
        " AND t.accepted_at >= ? AND t.accepted_at < ? CROSS JOIN push_funnel AS f ON f.push_no = t.no",
        (json.dumps(numbers), first_hour * HOUR_MS, before_hour * HOUR_MS),
    )
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    for key, tally in rows.fetchall():
        if key is not None:
            tallies[key].update(json.loads(tally))
    for summed in tallies.values():
        summed.pop("opted_out", None)  # known of those only whose deliveries have left
    return CampaignSums(tallies, numbers[-1] if len(numbers) == READ_CAMPAIGNS else None)
