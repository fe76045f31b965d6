"""`/v1/devices` and below: enrolment, what is known of a device, its token, its mailbox, what it said."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import from_json

from gateway.api import responses
from gateway.api.bodies import (
    BODY_BYTES,
    BULK_BYTES,
    DEVICE_VALUES,
    ITEMS_PER_TURN,
    MERGE_PATCH,
    PUSH_BYTES,
    UNCOUNTED_BYTES,
    json_response,
    page_response,
    parse,
    parse_patch,
    read_body,
    read_model,
)
from gateway.api.cross_origin import permission, readable
from gateway.api.json_items import items_of
from gateway.api.openapi import patch_body, request_body
from gateway.api.problems import validation_problem
from gateway.api.request_headers import header_of
from gateway.api.services import (
    Cursor,
    DeviceId,
    DeviceManager,
    DeviceManagerOrOwner,
    DeviceReader,
    DeviceReaderOrOwner,
    Limit,
    PushId,
    Sender,
    app_of,
    services,
    time_parameter,
)
from gateway.audience.segment_language.syntax_tree import MAX_EXPRESSION_CHARACTERS
from gateway.auth import shown_token
from gateway.delivery.calls import CallRequest
from gateway.delivery.consent import DeviceSettings, TooManyChoices
from gateway.described_model import DescribedModel
from gateway.devices import DeviceFields, NewDevice
from gateway.errors import Problem, problem
from gateway.pages import to_json
from gateway.store.audience.device_filter import DeviceFilter

router = APIRouter(prefix="/v1/devices", tags=["devices"])

BULK_DEVICES = 10_000

Online = Annotated[bool | None, Query(description="true: devices that are connected now. false: those that are not.")]
Tag = Annotated[str | None, Query(max_length=64, description="Devices with this tag.")]
Text = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=100,
        description="Devices with this text in their id or name, in upper or lower case; 1 to 100 characters.",
    ),
]
LastSeenBefore = Annotated[
    str | None,
    Query(
        max_length=40,
        description="Devices that are offline, and were last connected before this time (RFC 3339 with an offset) or"
        " never.",
    ),
]
HasError = Annotated[bool | None, Query(description="true: devices with a `last_error`. false: devices without.")]
Waiting = Annotated[
    bool | None, Query(description="true: devices for which a push waits or is in flight. false: the others.")
]


TokenExpiresBefore = Annotated[
    str | None,
    Query(
        max_length=40,
        description="Devices whose token ends before this time (RFC 3339 with an offset), or has ended.",
    ),
]
Where = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_EXPRESSION_CHARACTERS,
        description="Devices for which this expression is true, such as `'store-7' in tags && !online`. With a mistake:"
        " 422 `invalid_expression`.",
    ),
]
WithCount = Annotated[
    bool, Query(description="true: answer `count` as well, the number of all devices that are selected. Default false.")
]
WithWaiting = Annotated[
    bool, Query(description="true: answer `waiting` of each device as well, how much waits for it. Default false.")
]


class PreferencesChange(DeviceSettings):
    """A change of what the person at a device wants. What is left out stays as it was."""

    model_config = ConfigDict(extra="forbid", strict=True)


class BulkRequest(DescribedModel):
    """Many devices to be enrolled."""

    model_config = ConfigDict(extra="forbid", strict=True)

    devices: Annotated[list[NewDevice], Field(max_length=BULK_DEVICES)]
    """At most 10,000 devices; more: 422 `invalid_request`. Each is checked by itself: one that cannot be enrolled does
    not keep the others from it. A device has 128 KiB of JSON at most."""


@router.post(
    "", status_code=201, response_model=responses.EnrolledDeviceResponse, openapi_extra=request_body(NewDevice)
)
async def enrol(request: Request, principal: DeviceManager) -> Response:
    """Enrol a device. Its token, the MQTT password, is shown this once. Needs a key with the scope `devices`."""
    device = await read_model(request, NewDevice)
    (answer,) = await services(request).devices.enrol(principal.app_no, principal.app_id, [device])
    if isinstance(answer, Problem):
        raise answer
    return json_response(answer, 201)


@router.post(
    "/bulk", status_code=201, response_model=responses.EnrolledDevicesResponse, openapi_extra=request_body(BulkRequest)
)
async def enrol_many(request: Request, principal: DeviceManager) -> Response:
    """Enrol up to 10,000 devices in 16 MiB of JSON at most: one result per device, in order, a credential or a problem.

    Devices are stored some hundreds at a time: if the server ends half way, those are enrolled and the rest is
    not. The body is `{"devices": [..]}` and nothing else. Needs a key with the scope `devices`.
    """
    next_slice = services(request).turns.next_slice
    items = await items_of(await read_body(request, limit=BULK_BYTES), "devices", BULK_DEVICES, next_slice)
    checked: list[NewDevice | Problem] = []
    for item in items:
        checked.append(_checked(item))
        if len(checked) % ITEMS_PER_TURN == 0:
            await next_slice()
    valid = [device for device in checked if isinstance(device, NewDevice)]
    enrolled = iter(await services(request).devices.enrol(principal.app_no, principal.app_id, valid))
    results: list[bytes] = []
    for item, device in zip(items, checked, strict=True):
        answer = next(enrolled) if isinstance(device, NewDevice) else device
        results.append(to_json(_refused(item, answer) if isinstance(answer, Problem) else answer))
        if len(results) % ITEMS_PER_TURN == 0:
            await next_slice()
    return Response(b'{"devices":[%b]}' % b",".join(results), 201, media_type="application/json")


def _checked(item: bytes) -> NewDevice | Problem:
    """Read an item of a bulk enrolment; a problem if it is no device. Raises Problem 400: then the whole list is no
    JSON."""
    if len(item) > BODY_BYTES:
        return problem("payload_too_large", f"a device may have {BODY_BYTES} bytes")
    try:
        return parse(NewDevice, item, is_item=True)
    except Problem as refusal:
        if refusal.code == "malformed_json":
            raise
        return refusal


def _refused(item: bytes, refusal: Problem) -> dict[str, Any]:
    return {"device_id": _id_in(item), "error": refusal.document()}


def _id_in(item: bytes) -> str | None:
    """Return the id that a device which cannot be enrolled has asked for, if that can be told."""
    if len(item) > UNCOUNTED_BYTES:
        return None
    try:
        found = from_json(item)
    except ValueError:
        return None
    device_id = found.get("device_id") if isinstance(found, dict) else None
    return device_id if isinstance(device_id, str) else None


@router.get("", response_model=responses.DevicesResponse)
async def list_devices(
    request: Request,
    principal: DeviceReader,
    limit: Limit = 100,
    cursor: Cursor = None,
    online: Online = None,
    tag: Tag = None,
    q: Text = None,
    last_seen_before: LastSeenBefore = None,
    has_error: HasError = None,
    waiting: Waiting = None,
    token_expires_before: TokenExpiresBefore = None,
    where: Where = None,
    with_count: WithCount = False,
    with_waiting: WithWaiting = False,
) -> Response:
    """List the devices of the app by id, with their presence. Conditions are combined with AND; what they are compared
    with is some seconds old at most. Needs a key with the scope `devices` or `read`."""
    before = time_parameter("last_seen_before", last_seen_before)
    ends = time_parameter("token_expires_before", token_expires_before)
    wanted = DeviceFilter(online, tag, q, before, has_error, waiting, ends, where)
    found = services(request)
    matching = await found.bulk_changes.matching(principal.app_no, where)
    return json_response(
        await found.devices.page(
            principal.app_no, limit, cursor, wanted, matching, with_count=with_count, with_waiting=with_waiting
        )
    )


@router.get("/{device_id}", response_model=responses.DeviceResponse)
async def show_device(device_id: DeviceId, request: Request, principal: DeviceReader) -> Response:
    """Show a device with its presence and its last error. Needs a key with the scope `devices` or `read`."""
    return json_response(await services(request).devices.show(principal.app_no, device_id))


@router.patch(
    "/{device_id}", response_model=responses.DeviceResponse, openapi_extra=patch_body(DeviceFields, MERGE_PATCH[0])
)
async def change_device(device_id: DeviceId, request: Request, principal: DeviceManager) -> Response:
    """Change a device with a JSON Merge Patch (RFC 7396). A given field replaces, null removes, `attributes` are
    merged. Needs a key with the scope `devices`."""
    body = await read_body(request, MERGE_PATCH)
    parse(DeviceFields, body)  # by itself it must be valid as well: the problem then speaks of what was sent
    try:
        found = services(request)
        changed = await found.devices.change(principal.app_no, device_id, parse_patch(body))
        found.alert_limiter.device_changed(await found.devices.number(principal.app_no, device_id))
        return json_response(changed)
    except ValidationError as error:
        raise validation_problem(error) from None


@router.delete("/{device_id}", status_code=204)
async def remove_device(device_id: DeviceId, request: Request, principal: DeviceManager) -> Response:
    """Remove a device. Its waiting deliveries end `revoked`, its MQTT session is deleted, its connections close within
    a second.

    The same id enrolled later is a new device, with a token and a mailbox of its own. Needs a key with the scope
    `devices`.
    """
    await services(request).devices.remove(principal.app_no, principal.app_id, device_id)
    return Response(status_code=204)


@router.post("/{device_id}/token", response_model=responses.EnrolledDeviceResponse)
async def rotate_token(device_id: DeviceId, request: Request, principal: DeviceManager) -> Response:
    """Give a device a new token, shown this once; the old one is void at once and its connections close. What waits
    stays. Needs a key with the scope `devices`."""
    return json_response(await services(request).devices.rotate(principal.app_no, principal.app_id, device_id))


@router.post("/{device_id}/token/renewal", response_model=responses.EnrolledDeviceResponse)
async def renew_token(device_id: DeviceId, request: Request, principal: DeviceManagerOrOwner) -> Response:
    """Give a device a new token in the place of one that ends. Connections stay.

    The token that it shows is good for 7 days longer, but not beyond its own end. A device that has lost the answer
    asks again with the token that it has. Once a minute at most: 429 `rate_limited`. Needs the device's own token as
    the key, or a key with the scope `devices`.
    """
    shown = shown_token(header_of(request, b"authorization")) if principal.is_device else None

    async def renewed(request: Request) -> Response:
        found = services(request).devices
        return json_response(await found.renew(principal.app_no, principal.app_id, device_id, shown))

    return await readable(request, renewed)


@router.options("/{device_id}/token/renewal", include_in_schema=False)
async def permit_renewal() -> Response:
    """Browsers ask before a page of another origin may show its token (CORS)."""
    return permission("POST", "Authorization, Content-Type")


@router.get("/{device_id}/mailbox", response_model=responses.MailboxResponse)
async def show_mailbox(
    device_id: DeviceId, request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List the pushes that wait for a device, in the order in which they will be sent. Needs a key with the scope
    `devices` or `read`."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response(await found.reports.mailbox(device_no, limit, cursor, principal.app_no))


@router.delete("/{device_id}/mailbox", response_model=responses.EmptiedMailboxResponse)
async def empty_mailbox(device_id: DeviceId, request: Request, principal: DeviceManager) -> Response:
    """Cancel everything that waits for a device (state `cancelled`, reason `mailbox_emptied`). What is in flight goes
    on. Needs a key with the scope `devices`."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response({"cancelled": await found.ledger.empty_mailbox(device_no, principal.app_no)})


@router.delete("/{device_id}/mailbox/{push_id}", response_model=responses.RemovedFromMailboxResponse)
async def remove_from_mailbox(
    device_id: DeviceId, push_id: PushId, request: Request, principal: DeviceManager
) -> Response:
    """Cancel one push for one device (state `cancelled`, reason `removed_from_mailbox`); for others it goes on. Needs a
    key with the scope `devices`."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    removed = await found.ledger.remove_from_mailbox(principal.app_no, push_id, device_no)
    if removed is None:
        raise problem("push_not_found", f"no push {push_id!r} was for this device")
    return json_response(removed)


@router.get("/{device_id}/preferences", response_model=responses.PreferencesResponse)
async def show_preferences(device_id: DeviceId, request: Request, principal: DeviceReaderOrOwner) -> Response:
    """Show the consent of the person at a device, and every channel with their choice.

    Needs a key with the scope `devices` or `read`, or the device's own token as the key.
    """
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response(await found.preferences.document(principal.app_no, device_no))


@router.patch(
    "/{device_id}/preferences",
    response_model=responses.PreferencesResponse,
    openapi_extra=request_body(PreferencesChange),
)
async def change_preferences(device_id: DeviceId, request: Request, principal: DeviceManagerOrOwner) -> Response:
    """Change consent, channel choices and quiet hours of the person at a device. What waits and is not wanted any more
    ends `suppressed`.

    A device can say the same on its MQTT topic `settings`. Needs a key with the scope `devices`, which acts on
    behalf of the person, or the device's own token as the key.
    """
    change = await read_model(request, PreferencesChange, values=DEVICE_VALUES)
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    try:
        await found.preferences.change(
            principal.app_no, device_no, change, "http" if principal.is_device else "operator"
        )
    except TooManyChoices as complaint:
        raise problem("invalid_request", str(complaint)) from None
    found.notices.preferences_changed(principal.app_id, device_id)
    return json_response(await found.preferences.document(principal.app_no, device_no))


@router.get("/{device_id}/consent", response_model=responses.ConsentRecordsResponse)
async def show_consent(device_id: DeviceId, request: Request, principal: DeviceReader) -> Response:
    """List the last 100 answers of a device's person to the question for consent, the newest first: the proof. Needs a
    key with the scope `devices` or `read`."""
    found = services(request)
    device_no = await found.devices.number(principal.app_no, device_id)
    return json_response({"items": await found.preferences.consents(principal.app_no, device_no)})


@router.post(
    "/{device_id}/call",
    response_model=responses.CallAnswerResponse,
    response_description="The device has answered, or the command has ended without being carried out.",
    responses={
        202: {
            "model": responses.CallAnswerResponse,
            "description": "No answer within `wait` seconds. The command goes on.",
        }
    },
    openapi_extra=request_body(CallRequest),
)
async def call(device_id: DeviceId, request: Request, principal: Sender) -> Response:
    """Send a command to a device and wait for its answer.

    200 when the device has answered, or when the command has ended without being carried out; 202 with the
    status `queued` when `wait` seconds are over. The command then goes on, and its result can be looked up with
    `push_id`. At most 250 calls of an app wait at a time, 1,000 of all: 429 `too_many_calls`. Needs a key with
    the scope `send`.
    """
    found = services(request)
    order = await read_model(request, CallRequest, PUSH_BYTES, found.push_values)
    device_no = await found.devices.number(principal.app_no, device_id)
    try:
        answer = await found.calls.call(app_of(principal), device_no, device_id, order, principal.key_id)
    except ValidationError as error:
        raise validation_problem(error) from None
    return json_response(answer, 202 if answer["status"] == "queued" else 200)


@router.get("/{device_id}/uplink", response_model=responses.UplinkResponse)
async def show_uplink(
    device_id: DeviceId, request: Request, principal: DeviceReader, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """List the messages that a device has published below its `uplink` topic, the newest first. By default the last 100
    are kept, for 7 days. Needs a key with the scope `devices` or `read`."""
    return page_response(await services(request).devices.uplink(principal.app_no, device_id, limit, cursor))
