"""`/v1/segments`: saved expressions over devices, and whom they select now."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.api import responses
from gateway.api.bodies import json_response, page_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import Cursor, DeviceManager, DeviceReader, Limit, NewSegmentName, SegmentName, services
from gateway.audience.segments import SegmentFields

router = APIRouter(prefix="/v1/segments", tags=["segments"])


@router.get("", response_model=responses.SegmentsResponse)
async def list_segments(
    request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List the segments of the app by name, without counting their devices. Needs a key with the scope `devices` or
    `read`."""
    return page_response(await services(request).segments.page(principal.app_no, limit, cursor))


@router.post("/preview", response_model=responses.SelectedResponse, openapi_extra=request_body(SegmentFields))
async def preview_segment(request: Request, principal: DeviceReader) -> Response:
    """Count the devices that an expression selects now, and name five of them; nothing is stored. Needs a key with the
    scope `devices` or `read`."""
    fields = await read_model(request, SegmentFields)
    return json_response(await services(request).segments.preview(principal.app_no, fields.expression))


@router.put("/{segment_name}", response_model=responses.SegmentResponse, openapi_extra=request_body(SegmentFields))
async def set_segment(segment_name: NewSegmentName, request: Request, principal: DeviceManager) -> Response:
    """Make a segment, or replace it. Pushes to it are for the devices that match when they are accepted. An app has
    1,000 segments at most. Needs a key with the scope `devices`."""
    fields = await read_model(request, SegmentFields)
    return json_response(await services(request).segments.put(principal.app_no, segment_name, fields))


@router.get("/{segment_name}", response_model=responses.SegmentResponse)
async def show_segment(segment_name: SegmentName, request: Request, principal: DeviceReader) -> Response:
    """Show a segment with how many devices it selects now, and five of them. Needs a key with the scope `devices` or
    `read`."""
    return json_response(await services(request).segments.get(principal.app_no, segment_name))


@router.delete("/{segment_name}", status_code=204)
async def remove_segment(segment_name: SegmentName, request: Request, principal: DeviceManager) -> Response:
    """Remove a segment. What was sent to it goes on. Needs a key with the scope `devices`."""
    await services(request).segments.remove(principal.app_no, segment_name)
    return Response(status_code=204)
