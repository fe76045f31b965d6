"""`/v1/keys`: made, listed, revoked.

An admin key manages the keys of its own app. Those of the app `default` manage every app's, because somebody must make
the first key of a new one.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, StringConstraints

from gateway.api import responses
from gateway.api.apps import AppId, manages_all
from gateway.api.bodies import json_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import Administrator, Cursor, KeyId, Limit, services
from gateway.described_model import DescribedModel
from gateway.device_topics import DEFAULT_APP
from gateway.errors import problem
from gateway.roles import Scope

router = APIRouter(prefix="/v1/keys", tags=["keys"])


class KeyRequest(DescribedModel):
    """A key to be made. An app has 1,000 valid ones at most; one more: 422 `invalid_request`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """What the key is for, 1 to 128 characters."""
    scopes: Annotated[list[Scope], Field(min_length=1)]
    """What the key may do, at least one: `send` (pushes, calls, uploads), `read` (everything but keys and apps),
    `devices` (enrol, change and remove devices), `admin` (all of that, and apps, keys, channels, policy, webhooks)."""
    app: AppId | None = None
    """The id of the app that the key is for. Keys of the app `default` make keys of every app. Left out: the app of the
    key that asks."""


@router.post("", status_code=201, response_model=responses.NewKeyResponse, openapi_extra=request_body(KeyRequest))
async def add_key(request: Request, principal: Administrator) -> Response:
    """Make a key. Its secret is shown this once. Needs a key with the scope `admin`; one of the app `default` for
    another app."""
    body = await read_model(request, KeyRequest)
    app_id = body.app or principal.app_id
    if app_id != principal.app_id and not manages_all(principal):
        raise problem("forbidden", f"keys of another app are made with an admin key of the app {DEFAULT_APP!r}")
    found = services(request)
    key = await found.keys.add_key(principal.app_no, app_id, body.name, list(body.scopes), found.clock_ms())
    return json_response(key, 201)


@router.get("", response_model=responses.KeysResponse)
async def list_keys(
    request: Request,
    principal: Administrator,
    limit: Limit = 100,
    cursor: Cursor = None,
    app: Annotated[
        AppId | None,
        Query(description="The id of the app whose keys are listed. Left out: the app of the key that asks."),
    ] = None,
) -> Response:
    """List the keys of an app by id, revoked ones too, without their secrets. Needs a key with the scope `admin`; one
    of the app `default` for another app."""
    if app is not None and app != principal.app_id and not manages_all(principal):
        raise problem("forbidden", f"keys of another app are listed with an admin key of the app {DEFAULT_APP!r}")
    return json_response(await services(request).keys.keys(principal.app_no, app or principal.app_id, limit, cursor))


@router.delete("/{key_id}", status_code=204)
async def revoke_key(key_id: KeyId, request: Request, principal: Administrator) -> Response:
    """Revoke a key: it is void at once. Revoking it again does no harm; the last admin key of the app `default` stays
    (409). Needs a key with the scope `admin`."""
    found = services(request)
    among = None if manages_all(principal) else principal.app_no
    await found.keys.revoke(principal.app_no, among, key_id, found.clock_ms())
    return Response(status_code=204)
