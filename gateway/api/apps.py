"""`/v1/apps`: the tenants. Managed with an admin key of the app `default`; any other sees its own app only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, StringConstraints

from gateway.api import responses
from gateway.api.bodies import json_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import Administrator, Cursor, Limit, services
from gateway.auth import Principal
from gateway.described_model import DescribedModel
from gateway.device_topics import DEFAULT_APP
from gateway.errors import problem

router = APIRouter(prefix="/v1/apps", tags=["apps"])
AppId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")]


class AppRequest(DescribedModel):
    """An app to be made. There are 1,000 at most; one more: 422 `invalid_request`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: AppId
    """The app's id, 1 to 32 characters of `a-z`, `0-9` and `-`. It cannot be changed, and an app cannot be removed."""


def manages_all(principal: Principal) -> bool:
    return principal.app_id == DEFAULT_APP


@router.post("", status_code=201, response_model=responses.ApplicationResponse, openapi_extra=request_body(AppRequest))
async def add_app(request: Request, principal: Administrator) -> Response:
    """Make an app, a tenant of its own. Its first key is made with `POST /v1/keys` and `"app"`. Needs a key of the app
    `default` with the scope `admin`."""
    body = await read_model(request, AppRequest)
    if not manages_all(principal):
        raise problem("forbidden", f"apps are made with an admin key of the app {DEFAULT_APP!r}")
    found = services(request)
    return json_response(await found.keys.add_app(principal.app_no, body.id, found.clock_ms()), 201)


@router.get("", response_model=responses.ApplicationsResponse)
async def list_apps(request: Request, principal: Administrator, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List all apps by id; a key of another app than `default` sees its own. Needs a key with the scope `admin`."""
    only = None if manages_all(principal) else principal.app_id
    return json_response(await services(request).keys.apps(principal.app_no, limit, cursor, only))
