"""`/v1/channels` and `/v1/policy`: what people can mute, and what an app lets be sent to them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from gateway.api import responses
from gateway.api.bodies import MERGE_PATCH, json_response, parse_patch, read_body, read_model
from gateway.api.openapi import header, patch_body, request_body
from gateway.api.problems import validation_problem
from gateway.api.request_headers import header_of
from gateway.api.services import Administrator, ChannelId, Cursor, Limit, ReaderOf, services
from gateway.audience.policy import ChannelFields, NewChannel, Policy
from gateway.delivery.reports import cursor_number
from gateway.merge_patch import merge_patch
from gateway.pages import entity_tag

router = APIRouter(prefix="/v1", tags=["channels and policy"])
POLICY_TAG: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "headers": {
            "ETag": {"description": "Changes with the rules; for `If-Match`.", "schema": {"type": "string"}},
        }
    }
}


@router.post(
    "/channels", status_code=201, response_model=responses.ChannelResponse, openapi_extra=request_body(NewChannel)
)
async def add_channel(request: Request, principal: Administrator) -> Response:
    """Make a channel: a category of pushes that a person can mute. A push may name a channel that was not made; only
    one that was made has a name for people, and rules. Needs a key with the scope `admin`."""
    new = await read_model(request, NewChannel)
    return json_response(await services(request).policies.add_channel(principal.app_no, new), 201)


@router.get("/channels", response_model=responses.ChannelsResponse)
async def list_channels(request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the channels of the app by id. Needs a key with the scope `read`."""
    return json_response(services(request).policies.channels(principal.app_no, limit, cursor))


@router.get("/channels/{channel_id}", response_model=responses.ChannelResponse)
async def show_channel(channel_id: ChannelId, request: Request, principal: ReaderOf) -> Response:
    """Show a channel. Needs a key with the scope `read`."""
    return json_response(services(request).policies.channel(principal.app_no, channel_id))


@router.patch(
    "/channels/{channel_id}",
    response_model=responses.ChannelResponse,
    openapi_extra=patch_body(ChannelFields, MERGE_PATCH[0]),
)
async def change_channel(channel_id: ChannelId, request: Request, principal: Administrator) -> Response:
    """Change a channel with a JSON Merge Patch (RFC 7396): a given field replaces, null removes. New rules also hold
    for what waits, soon after the answer. Needs a key with the scope `admin`."""
    body = await read_body(request, MERGE_PATCH)
    policies = services(request).policies
    current = policies.channel(principal.app_no, channel_id)
    patch = parse_patch(body)
    known = {name: current[name] for name in ChannelFields.model_fields}
    try:
        merged = ChannelFields.model_validate(merge_patch(known, patch))
    except ValidationError as error:
        raise validation_problem(error, model=ChannelFields) from None
    return json_response(await policies.change_channel(principal.app_no, channel_id, merged))


@router.delete("/channels/{channel_id}", status_code=204)
async def remove_channel(channel_id: ChannelId, request: Request, principal: Administrator) -> Response:
    """Remove a channel. Pushes may go on naming it, and people's choices about it stay. Needs a key with the scope
    `admin`."""
    await services(request).policies.remove_channel(principal.app_no, channel_id)
    return Response(status_code=204)


@router.get("/policy/critical-uses", response_model=responses.CriticalUsesResponse)
async def list_critical_uses(
    request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List every critical push that passed a muted channel, a cap or quiet hours, the newest first. Needs a key with
    the scope `read`."""
    return json_response(
        await services(request).alert_limiter.critical_uses(principal.app_no, limit, cursor_number(cursor))
    )


@router.get("/policy", response_model=responses.PolicyResponse, responses=POLICY_TAG)
async def show_policy(request: Request, principal: ReaderOf) -> Response:
    """Show the rules of the app; what was never set has its default. Needs a key with the scope `read`."""
    policy = services(request).policies.policy(principal.app_no)
    return json_response(policy, headers={"ETag": entity_tag(policy)})


@router.put(
    "/policy",
    response_model=responses.PolicyResponse,
    openapi_extra={
        **request_body(Policy),
        "parameters": [
            header("If-Match", "The `ETag` of the rules to be replaced. Others by now: 412, and no change.")
        ],
    },
    responses=POLICY_TAG,
)
async def set_policy(request: Request, principal: Administrator) -> Response:
    """Replace the rules of the app; what is left out gets its default. New rules also hold for what waits, soon after
    the answer. With the header `If-Match` only if nobody has changed them since. Needs a key with the scope `admin`."""
    policy = await read_model(request, Policy)
    expected = header_of(request, b"if-match")
    found = await services(request).policies.set_policy(principal.app_no, policy, expected)
    return json_response(found, headers={"ETag": entity_tag(found)})
