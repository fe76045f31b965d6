"""`/v1/tags`: which tags the devices of an app have."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response
from gateway.api.services import NAME_LETTERS, Cursor, DeviceReader, Limit, services
from gateway.names import NAME_PATTERN

router = APIRouter(prefix="/v1/tags", tags=["devices"])

Prefix = Annotated[
    str | None,
    Query(pattern=NAME_PATTERN, description=f"Only tags that begin so: {NAME_LETTERS}. Left out: all."),
]


@router.get("", response_model=responses.TagsResponse)
async def list_tags(
    request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None, prefix: Prefix = None
) -> Response:
    """List the tags that any device of the app has, by name. Needs a key with the scope `devices` or `read`."""
    return json_response(await services(request).tags.page(principal.app_no, limit, cursor, prefix))
