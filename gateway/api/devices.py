"""`/v1/devices` and below: enrolment, what is known of a device, its token, its mailbox, what it said."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import from_json

from gateway.api import answers
from gateway.api.bodies import (
    BODY_LIMIT,
    BULK_LIMIT,
    DEVICE_VALUES,
    MERGE_PATCH,
    PUSH_LIMIT,
    TURN,
    UNCOUNTED_BYTES,
    json_response,
    page_response,
    parse,
    parse_patch,
    read_body,
    read_model,
)
from gateway.api.docs import takes
from gateway.api.json_items import items_of
from gateway.api.problems import validation_problem
from gateway.api.services import (
    Cursor,
    DeviceManager,
    DeviceManagerOrOwner,
    DeviceReader,
    DeviceReaderOrOwner,
    Limit,
    Sender,
    app_of,
    services,
    time_parameter,
)
from gateway.audience.device_filter import DeviceFilter
from gateway.audience.devices import DeviceFields, NewDevice
from gateway.delivery.calls import CallRequest
from gateway.delivery.consent import Settings, TooManyChoices
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.pages import to_json

router = APIRouter(prefix="/v1/devices", tags=["devices"])

BULK_DEVICES = 10_000


class PreferencesChange(Settings):
    """What the person at a device wants. What is left out stays as it was."""

    model_config = ConfigDict(extra="forbid", strict=True)


class BulkRequest(DescribedModel):
    """Many devices to be enrolled."""

    model_config = ConfigDict(extra="forbid", strict=True)

    devices: Annotated[list[NewDevice], Field(max_length=BULK_DEVICES)]
    """At most 10,000 devices; more: 422 `invalid_request`. Each is judged by itself: one that cannot be enrolled does
    not keep the others from it. A device has 128 KiB of JSON at most."""


@router.post("", status_code=201, response_model=answers.EnrolledDevice, openapi_extra=takes(NewDevice))
async def enrol(request: Request, principal: DeviceManager) -> Response:
    """Enrol a device. Its token is shown this once."""
    device = await read_model(request, NewDevice)
    (answer,) = await services(request).devices.enrol(principal.app_no, principal.app_id, [device])
    if isinstance(answer, Problem):
        raise answer
    return json_response(answer, 201)


@router.post("/bulk", status_code=201, response_model=answers.EnrolledDevices, openapi_extra=takes(BulkRequest))
async def enrol_many(request: Request, principal: DeviceManager) -> Response:
    """Enrol up to 10,000; one result per item, in order: a credential, or the item's problem. Some hundreds are stored
    together; should the server end half way, those are enrolled and the rest is not."""
    give_way = services(request).turns.give_way
    items = await items_of(await read_body(request, limit=BULK_LIMIT), "devices", BULK_DEVICES, give_way)
    judged: list[NewDevice | Problem] = []
    for item in items:
        judged.append(_judged(item))
        if len(judged) % TURN == 0:
            await give_way()
    valid = [device for device in judged if isinstance(device, NewDevice)]
    enrolled = iter(await services(request).devices.enrol(principal.app_no, principal.app_id, valid))
    results: list[bytes] = []
    for item, device in zip(items, judged, strict=True):
        answer = next(enrolled) if isinstance(device, NewDevice) else device
        results.append(to_json(_refused(item, answer) if isinstance(answer, Problem) else answer))
        if len(results) % TURN == 0:
            await give_way()
    return Response(b'{"devices":[%b]}' % b",".join(results), 201, media_type="application/json")


def _judged(item: bytes) -> NewDevice | Problem:
    """Raises Problem 400: then the whole list is no JSON."""
    if len(item) > BODY_LIMIT:
        return problem("payload_too_large", f"a device may have {BODY_LIMIT} bytes")
    try:
        return parse(NewDevice, item)
    except Problem as refusal:
        if refusal.code == "malformed_json":
            raise
        return refusal


def _refused(item: bytes, refusal: Problem) -> dict[str, Any]:
    return {"device_id": _id_in(item), "error": refusal.document()}


def _id_in(item: bytes) -> str | None:
    """What a device that cannot be enrolled calls itself, if that can be told."""
    if len(item) > UNCOUNTED_BYTES:
        return None
    try:
        found = from_json(item)
    except ValueError:
        return None
    device_id = found.get("device_id") if isinstance(found, dict) else None
    return device_id if isinstance(device_id, str) else None


@router.get("", response_model=answers.Devices)
async def list_devices(
    request: Request,
    principal: DeviceReader,
    limit: Limit = 100,
    cursor: Cursor = None,
    online: Annotated[bool | None, Query(description="Whether it is connected now.")] = None,
    tag: Annotated[str | None, Query(max_length=64, description="It has this tag.")] = None,
    q: Annotated[
        str | None, Query(min_length=1, max_length=100, description="In its id or name, whatever the case.")
    ] = None,
    last_seen_before: Annotated[
        str | None,
        Query(max_length=40, description="Not connected, and last seen before this time (RFC 3339), or never."),
    ] = None,
    has_error: Annotated[bool | None, Query(description="Whether it has a `last_error`.")] = None,
    waiting: Annotated[bool | None, Query(description="Whether a push waits for it, or is in flight to it.")] = None,
) -> Response:
    """By id, with presence. Several conditions all hold; what they are compared with is some seconds old at most."""
    before = time_parameter("last_seen_before", last_seen_before)
    wanted = DeviceFilter(online, tag, q, before, has_error, waiting)
    return json_response(await services(request).devices.page(principal.app_no, limit, cursor, wanted))


@router.get("/{device_id}", response_model=answers.Device)
async def show_device(device_id: str, request: Request, principal: DeviceReader) -> Response:
    """One device, with presence and its last error."""
    return json_response(await services(request).devices.show(principal.app_no, device_id))


@router.patch("/{device_id}", response_model=answers.Device, openapi_extra=takes(DeviceFields, MERGE_PATCH[0]))
async def change_device(device_id: str, request: Request, principal: DeviceManager) -> Response:
    """JSON Merge Patch (RFC 7396): what is given replaces, null removes, `attributes` merge."""
    body = await read_body(request, MERGE_PATCH)
    parse(DeviceFields, body)  # by itself it must be valid as well: the problem then speaks of what was sent
    try:
        found = services(request)
        changed = await found.devices.change(principal.app_no, device_id, parse_patch(body))
        found.gate.zone_changed(await found.devices.number(principal.app_no, device_id))
        return json_response(changed)
    except ValidationError as error:
        raise validation_problem(error) from None


@router.delete("/{device_id}", status_code=204)
async def remove_device(device_id: str, request: Request, principal: DeviceManager) -> Response:
    """Its deliveries end `revoked`, its session is deleted, its connections close."""
    await services(request).devices.remove(principal.app_no, principal.app_id, device_id)
    return Response(status_code=204)


@router.post("/{device_id}/token", response_model=answers.EnrolledDevice)
async def rotate_token(device_id: str, request: Request, principal: DeviceManager) -> Response:
    """A new token, shown this once; the old one is void at once and its connections close."""
    return json_response(await services(request).devices.rotate(principal.app_no, principal.app_id, device_id))


@router.get("/{device_id}/mailbox", response_model=answers.Mailbox)
async def show_mailbox(
    device_id: str, request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """What waits for a device, in the order in which it will come."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response(await found.reports.mailbox(device_no, limit, cursor, principal.app_no))


@router.delete("/{device_id}/mailbox", response_model=answers.EmptiedMailbox)
async def empty_mailbox(device_id: str, request: Request, principal: DeviceManager) -> Response:
    """Cancel what waits (reason `mailbox_emptied`); what is in flight goes on."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response({"cancelled": await found.ledger.empty_mailbox(device_no, principal.app_no)})


@router.get("/{device_id}/preferences", response_model=answers.Preferences)
async def show_preferences(device_id: str, request: Request, principal: DeviceReaderOrOwner) -> Response:
    """What the person at the device wants: consent, and every channel with their choice. Also for the device itself,
    with its token as the key."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response(await found.wishes.preferences(principal.app_no, device_no))


@router.patch("/{device_id}/preferences", response_model=answers.Preferences, openapi_extra=takes(PreferencesChange))
async def change_preferences(device_id: str, request: Request, principal: DeviceManagerOrOwner) -> Response:
    """What the device can say on its `settings` topic, said over HTTP, by the device or on behalf of its person."""
    change = await read_model(request, PreferencesChange, values=DEVICE_VALUES)
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    try:
        await found.wishes.change(principal.app_no, device_no, change, "http" if principal.is_device else "operator")
    except TooManyChoices as complaint:
        raise problem("invalid_request", str(complaint)) from None
    found.notices.preferences_changed(principal.app_id, device_id)
    return json_response(await found.wishes.preferences(principal.app_no, device_no))


@router.get("/{device_id}/consent", response_model=answers.ConsentRecords)
async def show_consent(device_id: str, request: Request, principal: DeviceReader) -> Response:
    """The proof: the last 100 answers of its person, the newest first, with the text that asked and how it was said."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response({"items": await found.wishes.consents(principal.app_no, device_no)})


@router.post("/{device_id}/call", response_model=answers.CallAnswer, openapi_extra=takes(CallRequest))
async def call(device_id: str, request: Request, principal: Sender) -> Response:
    """Send a command and wait for what the device answers: 200 with its result, or with how it ended; 202 `queued`
    when there was no answer in `wait` seconds. It goes on then, and the result can be looked up by its id."""
    found = services(request)
    order = await read_model(request, CallRequest, PUSH_LIMIT, found.push_values)
    device_no = await found.devices.number(principal.app_no, device_id)
    try:
        answer = await found.calls.call(app_of(principal), device_no, device_id, order)
    except ValidationError as error:
        raise validation_problem(error) from None
    return json_response(answer, 202 if answer["status"] == "queued" else 200)


@router.get("/{device_id}/uplink", response_model=answers.Uplink)
async def show_uplink(
    device_id: str, request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """The last messages it said, the newest first."""
    return page_response(await services(request).devices.uplink(principal.app_no, device_id, limit, cursor))
