"""`/v1/devices/tags` and `/v1/devices/removal`: changes of many devices, by a list of ids or by a filter."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import DeviceManager, services
from gateway.bulk_changes import CHANGED_DEVICES, BulkChange, TagsChange

CHANGE_BYTES = 128 * 1024
"""Bytes of a request: 1,000 of the longest ids, or the longest expression, with tags."""
CHECKED_DEVICES = 50
"""Devices whose waiting deliveries are put under the caps of their new tags before the loop has others to see to."""
router = APIRouter(prefix="/v1/devices", tags=["devices"])


@router.post("/tags", response_model=responses.ChangedDevicesResponse, openapi_extra=request_body(TagsChange))
async def change_tags(request: Request, principal: DeviceManager) -> Response:
    """Give tags to many devices, and take tags from them: listed ones, or those that a filter selects.

    Up to 1,000 devices with one request, with a result for each. A filter says how many devices it is expected to
    select, and nothing is changed if that is wrong by now. Go on with `cursor`. Devices are changed some hundred at a
    time: if the server ends half way, those have been. Needs a key with the scope `devices`.
    """
    change = await read_model(request, TagsChange, CHANGE_BYTES, CHANGED_DEVICES + 200)
    found = services(request)
    answer, changed = await found.bulk_changes.change_tags(principal.app_no, change, found.turns.next_slice)
    for place, device_no in enumerate(changed, 1):
        found.alert_limiter.device_changed(device_no)
        if place % CHECKED_DEVICES == 0:
            await found.turns.next_slice()
    return json_response(answer)


@router.post("/removal", response_model=responses.ChangedDevicesResponse, openapi_extra=request_body(BulkChange))
async def remove_many(request: Request, principal: DeviceManager) -> Response:
    """Remove many devices: listed ones, or those that a filter selects.

    Each is removed as by `DELETE /v1/devices/{device_id}`; up to 1,000 with one request, with a result for each. A
    filter says how many devices it is expected to select, and nothing is removed if that is wrong by now. Go on with
    `cursor`. Needs a key with the scope `devices`.
    """
    change = await read_model(request, BulkChange, CHANGE_BYTES, CHANGED_DEVICES + 200)
    found = services(request)
    answer = await found.bulk_changes.remove(principal.app_no, principal.app_id, change, found.turns.next_slice)
    return json_response(answer)
