"""`/v1/campaigns`: pushes with a plan. Make, forecast, follow, pause, resume, approve and abort them."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ConfigDict, Field, StringConstraints

from gateway.api import responses
from gateway.api.bodies import PUSH_BYTES, json_response, page_response, parse, read_body, read_model
from gateway.api.openapi import idempotent, request_body
from gateway.api.request_headers import check_idempotency_key, header_of
from gateway.api.services import Cursor, Limit, ReaderOf, Sender, app_of, services
from gateway.described_model import DescribedModel
from gateway.plans.campaign_fields import CampaignRequest
from gateway.printable import Printable

router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])

CampaignId = Annotated[
    str,
    Path(description="The campaign's id. No campaign of the key's app has it: 404 `campaign_not_found`."),
]


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StopRequest(_Strict):
    """The reason for which a campaign is paused or aborted."""

    reason: Annotated[Printable, StringConstraints(min_length=1, max_length=256)] | None = None
    """Text for people, 1 to 256 characters. Left out: that somebody did it."""


class ResumeRequest(_Strict):
    """A wish that a paused campaign goes on."""

    next_group: bool = Field(default=False)
    """`true`: with the next group at once. Default `false`: the present group is sent to its end, and observed from now
    on."""


@router.post(
    "",
    status_code=201,
    response_model=responses.CampaignResponse,
    openapi_extra=idempotent(request_body(CampaignRequest), "campaign", "as long as the campaign is kept"),
)
async def create_campaign(request: Request, principal: Sender) -> Response:
    """Make a campaign. It starts at once or at its `send_at`, unless another key has to approve it.

    With the header `Idempotency-Key` the same key and body is one campaign, as long as that is kept. An app has 100
    campaigns at most that have not ended, and 1,000 in all: the one that has ended first leaves for a new one. Needs a
    key with the scope `send`.
    """
    found = services(request)
    body = await read_body(request, limit=PUSH_BYTES)
    fields = parse(CampaignRequest, body, found.push_values)
    key = header_of(request, b"idempotency-key")
    remembered = None
    if key is not None:
        check_idempotency_key(key)
        remembered = key, hashlib.sha256(body).digest()
    campaign_id = await found.campaigns.create(app_of(principal), principal.key_id, fields, remembered)
    return json_response(await found.campaign_reports.one(principal.app_no, campaign_id), 201)


@router.post(
    "/forecast",
    response_model=responses.CampaignForecastResponse,
    openapi_extra=request_body(CampaignRequest),
)
async def forecast_campaign(request: Request, principal: Sender) -> Response:
    """Count who would be in what if a campaign started now: groups, variants, holdout. Nothing is stored or sent.

    Refused for the same reasons as the campaign would be. Needs a key with the scope `send`.
    """
    found = services(request)
    fields = await read_model(request, CampaignRequest, PUSH_BYTES, found.push_values)
    return json_response(await found.campaign_reports.forecast(app_of(principal), fields))


@router.get("", response_model=responses.CampaignsResponse)
async def list_campaigns(
    request: Request,
    principal: ReaderOf,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[
        Literal["awaiting_approval", "scheduled", "running", "paused", "completed", "aborted"] | None,
        Query(description="Only campaigns in this state."),
    ] = None,
) -> Response:
    """List the campaigns of the app, the newest first, without their counts. Needs a key with the scope `read`."""
    return page_response(await services(request).campaign_reports.page(principal.app_no, state, limit, cursor))


@router.get("/{campaign_id}", response_model=responses.CampaignResponse)
async def show_campaign(campaign_id: CampaignId, request: Request, principal: ReaderOf) -> Response:
    """Show a campaign with its plan, its state, its groups, variants and parts with counts, and its blast radius.

    Needs a key with the scope `read`."""
    return json_response(await services(request).campaign_reports.one(principal.app_no, campaign_id))


@router.get("/{campaign_id}/holdout", response_model=responses.HoldoutResponse)
async def list_holdout(
    campaign_id: CampaignId, request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List the devices that a campaign sends nothing to, in order of enrolment. Needs a key with the scope `read`."""
    found = services(request).campaign_reports
    return page_response(await found.holdout(principal.app_no, campaign_id, limit, cursor))


@router.post("/{campaign_id}/pause", response_model=responses.CampaignResponse, openapi_extra=request_body(StopRequest))
async def pause_campaign(campaign_id: CampaignId, request: Request, principal: Sender) -> Response:
    """Pause a campaign: nothing more is sent. What was sent goes on. Needs a key with the scope `send`."""
    asked = await read_model(request, StopRequest)
    found = services(request)
    await found.campaigns.pause(principal.app_no, campaign_id, principal.key_id, asked.reason)
    return json_response(await found.campaign_reports.one(principal.app_no, campaign_id))


@router.post(
    "/{campaign_id}/resume", response_model=responses.CampaignResponse, openapi_extra=request_body(ResumeRequest)
)
async def resume_campaign(campaign_id: CampaignId, request: Request, principal: Sender) -> Response:
    """Have a paused campaign go on. A condition that would stop it now is overruled until it counts more. Needs a key
    with the scope `send`."""
    asked = await read_model(request, ResumeRequest)
    found = services(request)
    await found.campaigns.resume(principal.app_no, campaign_id, principal.key_id, next_group=asked.next_group)
    return json_response(await found.campaign_reports.one(principal.app_no, campaign_id))


@router.post("/{campaign_id}/approve", response_model=responses.CampaignResponse)
async def approve_campaign(campaign_id: CampaignId, request: Request, principal: Sender) -> Response:
    """Approve a campaign that awaits it, with another key than the one that made it. Needs a key with the scope
    `send`."""
    found = services(request)
    await found.campaigns.approve(principal.app_no, campaign_id, principal.key_id)
    return json_response(await found.campaign_reports.one(principal.app_no, campaign_id))


@router.post("/{campaign_id}/abort", response_model=responses.CampaignResponse, openapi_extra=request_body(StopRequest))
async def abort_campaign(campaign_id: CampaignId, request: Request, principal: Sender) -> Response:
    """End a campaign, and recall what still waits of it, as `DELETE /v1/pushes/ID` does with each part. Needs a key
    with the scope `send`."""
    asked = await read_model(request, StopRequest)
    found = services(request)
    await found.campaigns.abort(principal.app_no, campaign_id, principal.key_id, asked.reason)
    return json_response(await found.campaign_reports.one(principal.app_no, campaign_id))
