"""`/v1/token-requests`: devices that have lost their token ask for another; an operator lists, confirms, refuses."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response
from gateway.api.services import Cursor, DeviceManager, DeviceReader, Limit, services
from gateway.store.audited_writes import note_details

router = APIRouter(prefix="/v1/token-requests", tags=["enrolment"])

RequestId = Annotated[
    str,
    Path(
        description="The id of a request (`q_..`). None of the key's app has it, or its device asks no more: 404"
        " `request_not_found`."
    ),
]


@router.get("", response_model=responses.TokenRequestsResponse)
async def list_token_requests(
    request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List the devices of the app that ask for a new token, by id. Requests are forgotten a day after they were made,
    5 minutes after their device has asked last, and at a restart, after which devices ask again. Needs a key with the
    scope `devices` or `read`."""
    return json_response(services(request).enrolment.token_requests.page(principal.app_no, limit, cursor))


@router.post("/{request_id}/confirm", response_model=responses.TokenRequestResponse)
async def confirm_token_request(request_id: RequestId, request: Request, principal: DeviceManager) -> Response:
    """Let a device have a new token, if what `confirmation` says is on its screen.

    It fetches it within an hour; the old one is void then, and not before. Other requests for the same device are
    refused. Needs a key with the scope `devices`.
    """
    found = services(request)
    confirmed = await found.enrolment.token_requests.confirm(principal.app_no, request_id)
    note_details(device=confirmed["device_id"])
    await found.audit.note_attempt()
    return json_response(confirmed)


@router.delete("/{request_id}", status_code=204)
async def refuse_token_request(request_id: RequestId, request: Request, principal: DeviceManager) -> Response:
    """Refuse a request; its device is told so. Needs a key with the scope `devices`."""
    found = services(request)
    await found.enrolment.token_requests.refuse(principal.app_no, request_id)
    await found.audit.note_attempt()
    return Response(status_code=204)
