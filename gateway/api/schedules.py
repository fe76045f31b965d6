"""`/v1/schedules`: pushes with dates. A push with dates that is sent to `/v1/pushes` is made one here, too."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from gateway.api import responses
from gateway.api.bodies import (
    MERGE_PATCH,
    PUSH_BYTES,
    json_response,
    page_response,
    parse,
    parse_patch,
    read_body,
    read_model,
)
from gateway.api.openapi import idempotent, patch_body, request_body
from gateway.api.request_headers import check_idempotency_key, header_of
from gateway.api.services import Cursor, Limit, ReaderOf, ScheduleId, Sender, app_of, services
from gateway.merge_patch import merge_patch
from gateway.pages import to_json
from gateway.plans.schedules import ScheduleFields, schedule_hash

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])


@router.post(
    "",
    status_code=202,
    response_model=responses.AcceptedScheduleResponse,
    openapi_extra=idempotent(request_body(ScheduleFields)),
)
async def make_schedule(request: Request, principal: Sender) -> Response:
    """Make a schedule: a push that is sent at a time, by the devices' clocks, again and again, or over minutes. It is
    checked like a push; what can only be known when it is due is a run's problem. An app has 1,000 at most that are
    active or paused. Needs a key with the scope `send`."""
    found = services(request)
    body = await read_body(request, limit=PUSH_BYTES)
    fields = parse(ScheduleFields, body, found.push_values)
    key = header_of(request, b"idempotency-key")
    if key is not None:
        check_idempotency_key(key)
    answer = await found.schedules.create(app_of(principal), fields, key, None if key is None else schedule_hash(body))
    return json_response(answer, 202)


@router.post("/preview", response_model=responses.SchedulePreviewResponse, openapi_extra=request_body(ScheduleFields))
async def preview_schedule(request: Request, principal: Sender) -> Response:
    """Show the next five dates of a schedule, without making it. Refused for the same reasons as the schedule would be.
    Needs a key with the scope `send`."""
    found = services(request)
    fields = await read_model(request, ScheduleFields, PUSH_BYTES, found.push_values)
    return json_response(await found.schedules.preview(app_of(principal), fields))


@router.get("", response_model=responses.SchedulesResponse)
async def list_schedules(
    request: Request,
    principal: ReaderOf,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[
        Literal["active", "paused", "ended", "cancelled"] | None, Query(description="Only schedules in this state.")
    ] = None,
) -> Response:
    """List the schedules of the app, the newest first. Those that have ended are kept 30 days (setting
    `retention_days`). Needs a key with the scope `read`."""
    return page_response(await services(request).schedules.page(principal.app_no, state, limit, cursor))


@router.get("/{schedule_id}", response_model=responses.ScheduleResponse)
async def show_schedule(schedule_id: ScheduleId, request: Request, principal: ReaderOf) -> Response:
    """Show a schedule with its next dates and its last run. Needs a key with the scope `read`."""
    return json_response(await services(request).schedules.get(principal.app_no, schedule_id))


@router.get("/{schedule_id}/runs", response_model=responses.ScheduleRunsResponse)
async def list_schedule_runs(
    schedule_id: ScheduleId, request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List the runs of a schedule, the newest first, with the pushes they were sent in and the sums of their counts.
    The last 100 are kept. Needs a key with the scope `read`."""
    return page_response(await services(request).schedules.runs(principal.app_no, schedule_id, limit, cursor))


@router.patch(
    "/{schedule_id}",
    response_model=responses.ScheduleResponse,
    openapi_extra=patch_body(ScheduleFields, MERGE_PATCH[0]),
)
async def change_schedule(schedule_id: ScheduleId, request: Request, principal: Sender) -> Response:
    """Change a schedule with a JSON Merge Patch (RFC 7396): a given field replaces, null removes. Its dates are counted
    from now; a run that is under way goes on as it began. Needs a key with the scope `send`."""
    found = services(request)
    patch = parse_patch(await read_body(request, MERGE_PATCH, PUSH_BYTES))
    app = app_of(principal)
    merged = merge_patch(await found.schedules.fields(app.no, schedule_id), patch)
    fields = parse(ScheduleFields, to_json(merged), found.push_values)
    return json_response(await found.schedules.change(app, schedule_id, fields))


@router.post("/{schedule_id}/pause", response_model=responses.ScheduleResponse)
async def pause_schedule(schedule_id: ScheduleId, request: Request, principal: Sender) -> Response:
    """Send nothing of a schedule until it is resumed, the rest of a run that is under way included. Needs a key with
    the scope `send`."""
    return json_response(await services(request).schedules.pause(principal.app_no, schedule_id))


@router.post("/{schedule_id}/resume", response_model=responses.ScheduleResponse)
async def resume_schedule(schedule_id: ScheduleId, request: Request, principal: Sender) -> Response:
    """Go on with a schedule that was paused. The dates of a repetition that were due meanwhile are left out; a single
    time, and the rest of a run, are late now (`missed`). Needs a key with the scope `send`."""
    return json_response(await services(request).schedules.resume(principal.app_no, schedule_id))


@router.post("/{schedule_id}/run", status_code=202, response_model=responses.ScheduleResponse)
async def run_schedule(schedule_id: ScheduleId, request: Request, principal: Sender) -> Response:
    """Begin a run of a schedule now, besides its dates. It is for all devices at once, or over its `spread`, whatever
    its window. Needs a key with the scope `send`."""
    return json_response(await services(request).schedules.run_now(principal.app_no, schedule_id), 202)


@router.delete("/{schedule_id}", response_model=responses.CancelledScheduleResponse)
async def cancel_schedule(
    schedule_id: ScheduleId,
    request: Request,
    principal: Sender,
    recall: Annotated[
        bool, Query(description="Also recall the pushes that were sent and have not ended. Default: they stay.")
    ] = False,
) -> Response:
    """Cancel a schedule: nothing more of it is sent, the rest of a run that is under way included. Its history stays.
    Cancelling it again does no harm. Needs a key with the scope `send`."""
    return json_response(await services(request).schedules.cancel(app_of(principal), schedule_id, recall=recall))
