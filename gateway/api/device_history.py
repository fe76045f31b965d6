"""`/v1/devices/{id}` and below: the deliveries of a device, its timeline and its connections, the newest first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response
from gateway.api.events import Types
from gateway.api.pushes import Reason, StateName
from gateway.api.services import Cursor, DeviceId, DeviceReader, Limit, services
from gateway.delivery.history_pages import HistoryPage
from gateway.delivery_states import DeliveryState
from gateway.events.event_feed import wanted_types
from gateway.store.deliveries.device_history import Wanted

router = APIRouter(prefix="/v1/devices", tags=["devices"])


def history_response(page: HistoryPage) -> Response:
    return Response(page.encoded(), media_type="application/json")


@router.get("/{device_id}/deliveries", response_model=responses.DeviceDeliveriesResponse)
async def list_device_deliveries(
    device_id: DeviceId,
    request: Request,
    principal: DeviceReader,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[StateName | None, Query(description="Only deliveries in this state.")] = None,
    reason: Reason = None,
) -> Response:
    """List the deliveries to a device, those of the newest pushes first, each with what its push says.

    They are looked for among all pushes of the app, of which a request looks through some ten thousand: a page may have
    few items or none although there are more, and says with `searched_to` how far it has come. Deliveries are kept 30
    days (setting `retention_days`) after their push has fully ended. Needs a key with the scope `devices` or `read`.
    """
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    wanted = Wanted(None if state is None else DeliveryState[state.upper()], reason)
    return history_response(await found.device_deliveries.page(principal.app_no, device_no, limit, cursor, wanted))


@router.get("/{device_id}/events", response_model=responses.DeviceEventsResponse)
async def list_device_events(
    device_id: DeviceId,
    request: Request,
    principal: DeviceReader,
    limit: Limit = 100,
    cursor: Cursor = None,
    types: Types = None,
) -> Response:
    """List what has happened to a device, the newest first.

    Connections and why they ended, changes of its deliveries, what it has said, and what its person has decided. These
    are the events of `GET /v1/events` that are about the device, looked for in the log of the app, of which a request
    looks through a part: a page may have few items or none although there are more, and says with `searched_to` how far
    it has come. The log is kept 7 days (setting `event_days`). Needs a key with the scope `devices` or `read`.
    """
    wanted = wanted_types(types)
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return history_response(await found.device_timeline.page(principal.app_no, device_no, limit, cursor, wanted))


@router.get("/{device_id}/connection", response_model=responses.ConnectionResponse)
async def show_connection(device_id: DeviceId, request: Request, principal: DeviceReader) -> Response:
    """Show how a device is connected, and how its last ten connections ended. What has ended is in memory, and begins
    anew with the server. Needs a key with the scope `devices` or `read`."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response(await found.connection_report.of(device_no))
