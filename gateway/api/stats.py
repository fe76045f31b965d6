"""`/v1/stats`: the figures and curves that an overview shows, of an app and, for those who may see it, of the server.

They are in memory: a console may ask every few seconds.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gateway.api import responses
from gateway.api.apps import manages_all
from gateway.api.bodies import json_response
from gateway.api.services import ReaderOf, app_of, services
from gateway.minute_counts import KEPT_MINUTES

router = APIRouter(prefix="/v1/stats", tags=["analytics"])


@router.get("", response_model=responses.StatsResponse)
async def stats(
    request: Request,
    principal: ReaderOf,
    minutes: Annotated[
        int, Query(ge=1, le=KEPT_MINUTES, description=f"Minutes of the curves, 1 to {KEPT_MINUTES}. Default 60.")
    ] = 60,
) -> Response:
    """Show what happens now and in the last minutes: of the app of the key, and of the server.

    Figures of the server are for those who may see `/metrics`: all keys, unless the setting `metrics_key` is set; then
    administrators' keys of the app `default`. Needs a key with the scope `read`.
    """
    found = services(request)
    with_server = found.metrics_key is None or (manages_all(principal) and "admin" in principal.scopes)
    return json_response(await found.overview.of_app(app_of(principal), minutes, with_server=with_server))
