"""`/v1/duties`: who is told of what is urgent, one step after the other, until somebody acts; and `/v1/escalations`:
how far pushes to duties have come."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response, page_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import Administrator, Cursor, DutyName, Limit, NewDutyName, ReaderOf, services
from gateway.delivery.duties import DutyFields
from gateway.store.deliveries.escalations import EscalationState

router = APIRouter(prefix="/v1", tags=["duties"])

StateName = Literal["running", "acted", "exhausted", "recalled", "superseded"]
"""The states of an escalation."""


@router.put("/duties/{duty_name}", response_model=responses.DutyResponse, openapi_extra=request_body(DutyFields))
async def set_duty(duty_name: NewDutyName, request: Request, principal: Administrator) -> Response:
    """Make a duty, or replace it; what is left out gets its default. Pushes under way go on with what it was. An app
    has 100 duties at most. Needs a key with the scope `admin`."""
    duty = await read_model(request, DutyFields)
    return json_response(await services(request).duties.put(principal.app_no, duty_name, duty))


@router.get("/duties", response_model=responses.DutiesResponse)
async def list_duties(request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the duties of the app by name. Needs a key with the scope `read`."""
    return json_response(await services(request).duties.page(principal.app_no, limit, cursor))


@router.get("/duties/{duty_name}", response_model=responses.DutyResponse)
async def show_duty(duty_name: DutyName, request: Request, principal: ReaderOf) -> Response:
    """Show a duty. Needs a key with the scope `read`."""
    return json_response(await services(request).duties.get(principal.app_no, duty_name))


@router.delete("/duties/{duty_name}", status_code=204)
async def remove_duty(duty_name: DutyName, request: Request, principal: Administrator) -> Response:
    """Remove a duty. Pushes to it that are under way go on. Needs a key with the scope `admin`."""
    await services(request).duties.remove(principal.app_no, duty_name)
    return Response(status_code=204)


@router.get("/escalations", response_model=responses.EscalationsResponse)
async def list_escalations(
    request: Request,
    principal: ReaderOf,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[StateName | None, Query(description="Only pushes to duties in this state.")] = None,
) -> Response:
    """List the pushes to duties, the newest first, each with how far it has come.

    These are those under way, and those that have ended, as long as their counts are kept. The steps are in the answer
    to each push. Needs a key with the scope `read`.
    """
    wanted = None if state is None else EscalationState(state)
    return page_response(await services(request).reports.escalations(principal.app_no, limit, cursor, wanted))
