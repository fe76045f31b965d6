"""`/v1/webhooks`: where an app wants its events sent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from gateway.api import responses
from gateway.api.bodies import MERGE_PATCH, json_response, page_response, parse, parse_patch, read_body, read_model
from gateway.api.openapi import patch_body, request_body
from gateway.api.problems import validation_problem
from gateway.api.services import Administrator, Cursor, Limit, ReaderOf, WebhookId, services
from gateway.described_model import DescribedModel
from gateway.events.webhooks import NewWebhook, WebhookFields
from gateway.merge_patch import merge_patch

router = APIRouter(prefix="/v1/webhooks", tags=["events"])

LetterId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]


class Replay(DescribedModel):
    """The dead letters to send once more."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: Annotated[list[LetterId], Field(min_length=1, max_length=1_000)] | None = None
    """Ids of 1 to 1,000 dead letters; those that there are not are left out. null or left out: all."""


@router.post("", status_code=201, response_model=responses.NewWebhookResponse, openapi_extra=request_body(NewWebhook))
async def add_webhook(request: Request, principal: Administrator) -> Response:
    """Have events sent to an address from now on. The secret that requests are signed with is shown this once. Needs a
    key with the scope `admin`."""
    new = await read_model(request, NewWebhook)
    return json_response(await services(request).webhooks.add(principal.app_no, new), 201)


@router.get("", response_model=responses.WebhooksResponse)
async def list_webhooks(request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the webhooks of the app in the order in which they were made. Needs a key with the scope `read`."""
    return json_response(services(request).webhooks.page(principal.app_no, limit, cursor))


@router.get("/{webhook_id}", response_model=responses.WebhookResponse)
async def show_webhook(webhook_id: WebhookId, request: Request, principal: ReaderOf) -> Response:
    """Show a webhook with what became of the last attempts. Needs a key with the scope `read`."""
    return json_response(services(request).webhooks.get(principal.app_no, webhook_id).described())


@router.patch(
    "/{webhook_id}", response_model=responses.WebhookResponse, openapi_extra=patch_body(WebhookFields, MERGE_PATCH[0])
)
async def change_webhook(webhook_id: WebhookId, request: Request, principal: Administrator) -> Response:
    """Change a webhook with a JSON Merge Patch (RFC 7396): a given field replaces, null removes. `{"enabled": true}`
    has a disabled one go on where it was. Needs a key with the scope `admin`."""
    body = await read_body(request, MERGE_PATCH)
    webhooks = services(request).webhooks
    webhook = webhooks.get(principal.app_no, webhook_id)
    patch = parse_patch(body)
    try:
        merged = WebhookFields.model_validate(merge_patch(webhook.fields.model_dump(), patch))
    except ValidationError as error:
        raise validation_problem(error, model=WebhookFields) from None
    return json_response(await webhooks.change(webhook, merged))


@router.delete("/{webhook_id}", status_code=204)
async def remove_webhook(webhook_id: WebhookId, request: Request, principal: Administrator) -> Response:
    """Remove a webhook with its dead letters. Needs a key with the scope `admin`."""
    webhooks = services(request).webhooks
    await webhooks.remove(webhooks.get(principal.app_no, webhook_id))
    return Response(status_code=204)


@router.post("/{webhook_id}/secret", response_model=responses.NewWebhookResponse)
async def rotate_secret(webhook_id: WebhookId, request: Request, principal: Administrator) -> Response:
    """Give a webhook a new secret, shown this once. For 24 hours requests have a second signature, with the old one.
    Needs a key with the scope `admin`."""
    webhooks = services(request).webhooks
    return json_response(await webhooks.rotate(webhooks.get(principal.app_no, webhook_id)))


@router.post("/{webhook_id}/test", response_model=responses.TestedWebhookResponse)
async def test_webhook(webhook_id: WebhookId, request: Request, principal: Administrator) -> Response:
    """Send a webhook a test, and show the receiver's answer. The event has the type `webhook.test`, is signed like any
    other, and has 15 seconds. A webhook that is disabled is sent it, too; nothing that is known of the webhook changes.
    One test of a webhook at a time: 503 `busy`. Needs a key with the scope `admin`."""
    found = services(request)
    return json_response(await found.webhook_sender.test(found.webhooks.get(principal.app_no, webhook_id)))


@router.get("/{webhook_id}/dead-letters", response_model=responses.DeadLettersResponse)
async def list_dead_letters(
    webhook_id: WebhookId,
    request: Request,
    principal: ReaderOf,
    limit: Limit = 100,
    cursor: Cursor = None,
    with_count: Annotated[bool, Query(description="Also count all dead letters of the webhook: `count`.")] = False,
) -> Response:
    """List the events that a webhook's receiver did not accept within 24 hours, the newest first. 1,000 and 32 MiB are
    kept; the oldest make room. Needs a key with the scope `read`."""
    webhooks = services(request).webhooks
    webhook = webhooks.get(principal.app_no, webhook_id)
    page = await webhooks.dead_letters(webhook, limit, cursor)
    return page_response(page, count=await webhooks.count_dead_letters(webhook) if with_count else None)


@router.post(
    "/{webhook_id}/dead-letters/replay",
    status_code=202,
    response_model=responses.ReplayedResponse,
    openapi_extra=request_body(Replay, required=False),
)
async def replay_dead_letters(webhook_id: WebhookId, request: Request, principal: Administrator) -> Response:
    """Send dead letters once more, all or some; what is accepted leaves the list. A webhook that is disabled: 422
    `invalid_request`. Needs a key with the scope `admin`."""
    body = await read_body(request)
    wanted = parse(Replay, body) if body else Replay()
    webhooks = services(request).webhooks
    ids = None if wanted.ids is None else [int(letter_id) for letter_id in wanted.ids]
    return json_response({"replaying": await webhooks.replay(webhooks.get(principal.app_no, webhook_id), ids)}, 202)
