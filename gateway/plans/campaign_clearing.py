"""Clearing of campaigns that have ended: what waits is recalled, sets that nobody will be sent leave.

An aborted campaign may have two hundred parts, and each recall is several operations. So one part, or one slice of
sets, is cleared at a time, and `campaign.cleared` stays 0 until nothing is left: a server that ends in between goes on
with its next start. Recalling a part again does no harm.

The holdout stays as long as the campaign: who was sent nothing is asked for when it has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from gateway.delivery.submission import AppRef
from gateway.plans.campaign_counts import count_failed
from gateway.plans.campaign_fields import CampaignRequest
from gateway.store.database import Database
from gateway.store.plans import campaigns as rows
from gateway.store.plans.campaigns import Campaign, CampaignState

Recall = Callable[[AppRef, str], Awaitable[object]]
"""Takes back a push, and clears it from screens."""


async def clear_one(database: Database, recall: Recall, campaign: Campaign) -> bool:
    """Do the next piece of what is left of a campaign that has ended; whether that was all. Loop."""
    app = AppRef(campaign.app_no, campaign.app_id)
    if campaign.state == CampaignState.ABORTED:
        found = await database.read(partial(rows.part_to_recall, campaign_no=campaign.no), app.no)
        if found is not None:
            push_no, push_id = found
            await recall(app, push_id)
            await database.write(lambda transaction: rows.note_recalled(transaction, push_no), app.no)
            return False
    if await database.write(lambda transaction: rows.remove_sets(transaction, campaign.no, keep_holdout=True), app.no):
        return False
    content = await database.read(partial(rows.read_content, campaign_no=campaign.no), app.no)
    if content is not None and CampaignRequest.model_validate_json(content).counts_failures:
        await _note_failures(database, campaign)
    await database.write(lambda transaction: rows.note_cleared(transaction, campaign.no), app.no)
    return True


async def _note_failures(database: Database, campaign: Campaign) -> None:
    """Note how many results had an error, for when the deliveries have left."""
    parts = await database.read(partial(rows.parts_of, campaign_no=campaign.no), campaign.app_no)
    failed = {
        part.push_no: await count_failed(database, campaign.app_no, part.push_no) for part in parts if not part.is_final
    }
    await database.write(lambda transaction: rows.note_failed(transaction, failed), campaign.app_no)
