"""`/v1/heartbeats` and `/v1/watches`: which devices are to answer, and who is to send."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import (
    Administrator,
    Cursor,
    HeartbeatName,
    Limit,
    NewHeartbeatName,
    NewWatchName,
    ReaderOf,
    WatchName,
    app_of,
    services,
)
from gateway.delivery.heartbeat_states import HeartbeatFields
from gateway.delivery.watches import WatchFields

router = APIRouter(prefix="/v1", tags=["heartbeats and watches"])


@router.put(
    "/heartbeats/{heartbeat_name}",
    response_model=responses.HeartbeatResponse,
    openapi_extra=request_body(HeartbeatFields),
)
async def set_heartbeat(heartbeat_name: NewHeartbeatName, request: Request, principal: Administrator) -> Response:
    """Make a heartbeat, or replace it. Its devices are sent a push of the kind `heartbeat` every minute, and events say
    who is slow or silent. Needs a key with the scope `admin`."""
    fields = await read_model(request, HeartbeatFields)
    return json_response(await services(request).heartbeats.put(principal.app_no, heartbeat_name, fields))


@router.get("/heartbeats", response_model=responses.HeartbeatsResponse)
async def list_heartbeats(request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the heartbeats of the app by name. Needs a key with the scope `read`."""
    return json_response(await services(request).heartbeats.page(principal.app_no, limit, cursor))


@router.get("/heartbeats/{heartbeat_name}", response_model=responses.HeartbeatResponse)
async def show_heartbeat(heartbeat_name: HeartbeatName, request: Request, principal: ReaderOf) -> Response:
    """Show a heartbeat, device by device. Needs a key with the scope `read`."""
    return json_response(await services(request).heartbeats.get(principal.app_no, heartbeat_name))


@router.delete("/heartbeats/{heartbeat_name}", status_code=204)
async def remove_heartbeat(heartbeat_name: HeartbeatName, request: Request, principal: Administrator) -> Response:
    """Remove a heartbeat. Needs a key with the scope `admin`."""
    await services(request).heartbeats.remove(app_of(principal), heartbeat_name)
    return Response(status_code=204)


@router.put("/watches/{watch_name}", response_model=responses.WatchResponse, openapi_extra=request_body(WatchFields))
async def set_watch(watch_name: NewWatchName, request: Request, principal: Administrator) -> Response:
    """Make a watch, or replace it. An event says when nothing that fits was accepted for as long as it says. Its time
    begins now. Needs a key with the scope `admin`."""
    fields = await read_model(request, WatchFields)
    return json_response(await services(request).watches.put(app_of(principal), watch_name, fields))


@router.get("/watches", response_model=responses.WatchesResponse)
async def list_watches(request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the watches of the app by name. Needs a key with the scope `read`."""
    return json_response(services(request).watches.page(principal.app_no, limit, cursor))


@router.get("/watches/{watch_name}", response_model=responses.WatchResponse)
async def show_watch(watch_name: WatchName, request: Request, principal: ReaderOf) -> Response:
    """Show a watch. Needs a key with the scope `read`."""
    return json_response(services(request).watches.get(principal.app_no, watch_name))


@router.delete("/watches/{watch_name}", status_code=204)
async def remove_watch(watch_name: WatchName, request: Request, principal: Administrator) -> Response:
    """Remove a watch. Needs a key with the scope `admin`."""
    await services(request).watches.remove(principal.app_no, watch_name)
    return Response(status_code=204)
