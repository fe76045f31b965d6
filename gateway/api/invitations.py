"""`/v1/invitations`: codes by which devices enrol themselves. Made, listed, revoked by an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ConfigDict, Field

from gateway.api import responses
from gateway.api.bodies import (
    BODY_BYTES,
    BULK_BYTES,
    ITEMS_PER_TURN,
    json_response,
    page_response,
    parse,
    read_body,
    read_model,
)
from gateway.api.json_items import items_of
from gateway.api.openapi import request_body
from gateway.api.services import Cursor, DeviceManager, DeviceReader, Limit, services
from gateway.auth import Principal
from gateway.described_model import DescribedModel
from gateway.enrolment.invitations import MAX_INVITATIONS, InvitationRequest, MadeInvitation, NewInvitation
from gateway.enrolment.qr_codes import qr_svg
from gateway.errors import Problem, problem
from gateway.pages import to_json
from gateway.timestamps import rfc3339

router = APIRouter(prefix="/v1/invitations", tags=["enrolment"])

State = Annotated[
    Literal["open", "used", "expired"] | None, Query(description="Invitations in this state. Left out: all.")
]
Batch = Annotated[str | None, Query(max_length=64, description="Invitations that one request has made.")]
InvitationId = Annotated[
    str,
    Path(
        description="The id of an invitation (`i_..`) or of a batch (`b_..`). None of the key's app has it: 404"
        " `invitation_not_found`."
    ),
]


class InvitationsRequest(DescribedModel):
    """Many invitations, each for a device of its own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    invitations: Annotated[list[NewInvitation], Field(max_length=MAX_INVITATIONS)]
    """At most 10,000; more: 422 `invalid_request`. Each is checked by itself: one that is wrong does not keep the
    others from being made. One has 128 KiB of JSON at most."""


@router.post(
    "", status_code=201, response_model=responses.NewInvitationsResponse, openapi_extra=request_body(InvitationRequest)
)
async def invite(request: Request, principal: DeviceManager) -> Response:
    """Make codes that are all alike but for themselves, up to 10,000, each of which enrols one device.

    They are shown this once, as QR codes, too, if asked for. A device trades its code for a token with `POST
    /v1/enrol`. Needs a key with the scope `devices`.
    """
    wanted = await read_model(request, InvitationRequest)
    return await _made(request, principal, [wanted] * wanted.count, drawn=wanted.qr)


@router.post(
    "/bulk",
    status_code=201,
    response_model=responses.NewInvitationsResponse,
    openapi_extra=request_body(InvitationsRequest),
)
async def invite_many(request: Request, principal: DeviceManager) -> Response:
    """Make up to 10,000 codes in 16 MiB of JSON at most: one result for each item, in order, a code or a problem.

    The body is `{"invitations": [..]}` and nothing else. Needs a key with the scope `devices`.
    """
    next_slice = services(request).turns.next_slice
    body = await read_body(request, limit=BULK_BYTES)
    items = await items_of(body, "invitations", MAX_INVITATIONS, next_slice)
    checked: list[NewInvitation | Problem] = []
    for item in items:
        checked.append(_checked(item))
        if len(checked) % ITEMS_PER_TURN == 0:
            await next_slice()
    return await _made(request, principal, checked)


@router.get("", response_model=responses.InvitationsResponse)
async def list_invitations(
    request: Request,
    principal: DeviceReader,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: State = None,
    batch: Batch = None,
) -> Response:
    """List the invitations of the app, the oldest first, without their codes. They leave 30 days after their codes have
    expired. Needs a key with the scope `devices` or `read`."""
    return page_response(
        await services(request).enrolment.invitations.page(principal.app_no, limit, cursor, state, batch)
    )


@router.delete("/{invitation_id}", response_model=responses.RevokedInvitationsResponse)
async def revoke_invitation(invitation_id: InvitationId, request: Request, principal: DeviceManager) -> Response:
    """Remove an invitation, or what is not used of a batch: the codes are void at once. Devices that are enrolled stay.
    Needs a key with the scope `devices`."""
    return json_response(
        {"revoked": await services(request).enrolment.invitations.revoke(principal.app_no, invitation_id)}
    )


async def _made(
    request: Request, principal: Principal, checked: Sequence[NewInvitation | Problem], *, drawn: bool = False
) -> Response:
    """Make invitations, and answer one result for each, in order."""
    found = services(request)
    wanted = [item for item in checked if isinstance(item, NewInvitation)]
    made = iter(
        await found.enrolment.invitations.add(principal.app_no, principal.key_id, wanted, found.turns.next_slice)
    )
    results: list[bytes] = []
    for item in checked:
        answer: dict[str, Any] = (
            {"error": item.document()} if isinstance(item, Problem) else _shown(next(made), found.enrolment.address_of)
        )
        if drawn:
            await found.turns.next_slice()
            answer["qr"] = qr_svg(answer["url"])
        results.append(to_json(answer))
        if len(results) % ITEMS_PER_TURN == 0:
            await found.turns.next_slice()
    return Response(b'{"invitations":[%b]}' % b",".join(results), 201, media_type="application/json")


def _shown(made: MadeInvitation, address_of: Callable[[str], str]) -> dict[str, Any]:
    return {
        "id": made.invitation_id,
        "batch": made.batch,
        "code": made.code,
        "url": address_of(made.code),
        "device_id": made.wanted.device_id,
        "name": made.wanted.name,
        "expires_at": rfc3339(made.expires_at),
    }


def _checked(item: bytes) -> NewInvitation | Problem:
    """Read an item of a list; a problem if it is no invitation. Raises Problem 400: then the whole list is no JSON."""
    if len(item) > BODY_BYTES:
        return problem("payload_too_large", f"an invitation may have {BODY_BYTES} bytes")
    try:
        return parse(NewInvitation, item, is_item=True)
    except Problem as refusal:
        if refusal.code == "malformed_json":
            raise
        return refusal
