"""`/v1/pushes` and below: send, batch, forecast, preview, report, recall. A body is parsed once, from its bytes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict
from starlette.requests import ClientDisconnect

from gateway.api import responses
from gateway.api.admission import begin_attempt
from gateway.api.bodies import (
    BULK_BYTES,
    ITEMS_PER_TURN,
    NDJSON,
    PUSH_BYTES,
    charge_lines,
    json_response,
    page_response,
    parse,
    read_body,
    read_model,
)
from gateway.api.openapi import idempotent, request_body
from gateway.api.request_headers import check_idempotency_key, header_of
from gateway.api.services import Cursor, Limit, PushId, ReaderOf, Sender, Services, app_of, services
from gateway.delivery.awaited_pushes import MAX_WAIT_SECONDS
from gateway.delivery.push import DeviceId, PushRequest
from gateway.delivery.push_timing import SCHEDULE_FIELD_SET, scheduled_by
from gateway.delivery.submission import (
    AcceptedPush,
    AppRef,
    IdempotencyKey,
    PendingPush,
    Submission,
)
from gateway.delivery_states import DeliveryState
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.pages import to_json
from gateway.plans.schedules import ScheduleFields, schedule_hash
from gateway.store.audited_writes import Attempt, note_details, open_attempt

Answer = TypeVar("Answer")
Stored = Awaitable[AcceptedPush]
PATH = "/v1/pushes"
SCHEDULES_PATH = "/v1/schedules"
router = APIRouter(prefix=PATH, tags=["pushes"])

StateName = Literal[
    "waiting",
    "sent",
    "delivered",
    "displayed",
    "dismissed",
    "opened",
    "acted",
    "expired",
    "superseded",
    "cancelled",
    "suppressed",
    "overflowed",
    "refused",
    "revoked",
]
Reason = Annotated[
    str | None,
    Query(
        max_length=64,
        description="Only deliveries with this reason, such as `ttl`; empty: only those without a reason.",
    ),
]
BATCH_LINES = 10_000


class BatchLine(PushRequest):
    """A line of a batch: a push, and what the header `Idempotency-Key` is for a single one."""

    idempotency_key: IdempotencyKey | None = None
    """1 to 255 printable ASCII characters, remembered for 24 hours per app. The same key with the same line is one
    push: the first answer is given again. With another line: 422 `idempotency_key_reused`. Left out: each line is a new
    push."""


@router.post(
    "",
    status_code=202,
    response_model=responses.AcceptedPushResponse,
    responses={
        200: {
            "model": responses.AwaitedPushResponse,
            "description": "With `wait`: the push is delivered or has come further, or it has ended undelivered.",
        }
    },
    openapi_extra=idempotent(request_body(PushRequest)),
)
async def send(
    request: Request,
    wait: Annotated[
        int | None,
        Query(
            ge=1,
            le=MAX_WAIT_SECONDS,
            description="Seconds to wait until a push to one device is delivered, 1 to 60. Left out: none.",
        ),
    ] = None,
    forecast: Annotated[
        bool, Query(description="Forecast the push as well, and keep that beside it. Default false.")
    ] = False,
) -> Response:
    """Accept a push to one or many devices; answered when it is on disk (fsync).

    With `send_at`, `send_at_local`, `repeat`, `window` or `spread` it is a schedule, and the answer is that of
    `POST /v1/schedules`. With the header `Idempotency-Key` the same key and body is one push: the first answer is given
    again, and nothing is sent twice.

    With `wait` the answer to a push to one device comes when it is delivered, or has ended undelivered: 200, with the
    delivery; or 202, as always, when that takes longer than `wait` seconds. The push goes on, and a repetition with the
    same `Idempotency-Key` waits again. At most 250 callers of an app wait at a time, 1,000 of all, calls included: 429
    `too_many_calls`.

    With `forecast` the push is forecast before it is accepted, and `GET /v1/pushes/{push_id}` shows the forecast beside
    what has happened. Needs a key with the scope `send`.
    """
    found = services(request)
    if wait is None and not forecast:
        return Response(await accept(request, found), 202, media_type="application/json")
    delivery: dict[str, Any] | None = None

    async def store(pending: PendingPush, push: PushRequest) -> AcceptedPush:
        nonlocal delivery
        if forecast:
            accepting = found.forecast.accept(pending, push, found.acceptance.accept_pending)
        else:
            accepting = found.acceptance.accept_pending(pending)
        if wait is None:
            return await accepting
        waiting = found.awaited_pushes.accept(pending, accepting, wait)
        accepted, delivery = await _while_connected(request, waiting)
        return accepted

    try:
        content = await accept(request, found, store)
    except ClientDisconnect:
        return Response(status_code=202)  # nobody hears it
    if delivery is None:
        return Response(content, 202, media_type="application/json")
    return Response(b'%b,"delivery":%b}' % (content[:-1], to_json(delivery)), media_type="application/json")


async def _while_connected(request: Request, answer: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for an answer, whose request has been read. Raises ClientDisconnect when the client goes away first."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_client_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def accept(  # Hot path.
    request: Request,
    found: Services,
    store: Callable[[PendingPush, PushRequest], Stored] | None = None,
) -> bytes:
    """Accept a push from the request that has it: the content of the answer, 202. Raises Problem.

    `store`: instead of `Acceptance.accept_pending`, with the request.
    """
    # Admitted here, not by a dependency: FastAPI's solving of one costs as much as the rest of this function.
    principal = await found.admission.admit(request, "send")
    attempt = None if principal.session_id is None else open_attempt()
    app = app_of(principal)
    body = await read_body(request, limit=PUSH_BYTES)
    acceptance = found.acceptance
    pending = acceptance.plain(app, body) if store is None else None
    push = parse(PushRequest, body, found.push_values) if pending is None else None
    key = header_of(request, b"idempotency-key")
    digest = None
    if key is not None:
        check_idempotency_key(key)
        digest = hashlib.sha256(body).digest()
    if push is not None:
        if SCHEDULE_FIELD_SET & push.__pydantic_fields_set__ and scheduled_by(push) is not None:
            if store is not None:
                raise problem("invalid_request", "wait, forecast: what is sent later takes neither: leave it out")
            fields = ScheduleFields.model_construct(name=None, missed="catch_up", push=push)
            begin_attempt(request, principal, SCHEDULES_PATH)
            return to_json(await found.schedules.create(app, fields, key, None if key is None else schedule_hash(body)))
        pending = acceptance.pending(app, Submission(push, key, digest))
    assert pending is not None, "it is plain or not"
    pending.idempotency_key, pending.body_hash, pending.key_id = key, digest, principal.key_id
    pending.attempt = attempt
    if store is None:
        accepted = await acceptance.accept_pending(pending)
    else:
        assert push is not None, "it was not plain"
        accepted = await store(pending, push)
    return f"{{{accepted.members()}}}".encode()


@router.post(
    "/batch",
    response_class=Response,
    responses={
        200: {
            "description": "A line for each line of the request, in its order.",
            "content": {NDJSON[0]: {"schema": {"type": "string", "description": "JSON documents, one per line."}}},
        }
    },
    openapi_extra=request_body(BatchLine, NDJSON[0]),
)
async def send_batch(request: Request, principal: Sender) -> Response:
    """Accept up to 10,000 pushes, one JSON object per line, in 16 MiB at most; more is refused as a whole with 413.

    The answer has one line for each line of the request, in its order, written after its commit: `{"status":
    202, "push_id", "targeted", "suppressed", "unknown"}`, or a problem document. Empty lines are skipped. A line
    that is refused does not keep the others from being accepted. Needs a key with the scope `send`.
    """
    body = await read_body(request, NDJSON, BULK_BYTES)
    found = services(request)
    breaks = body.count(b"\n")
    lines = [] if breaks > 2 * BATCH_LINES else [line for line in body.split(b"\n") if line and not line.isspace()]
    if breaks > 2 * BATCH_LINES or len(lines) > BATCH_LINES:
        raise problem("payload_too_large", f"{len(lines) or breaks} lines: send at most {BATCH_LINES} in one batch")
    del body  # its lines are a copy
    charge_lines(request, len(lines))
    app = app_of(principal)
    attempt = open_attempt()
    note_details(lines=len(lines))
    answers = await found.acceptance.accept_many(
        _checked(found, app, principal.key_id, attempt, line) for line in lines
    )
    results: list[bytes] = []
    for answer in answers:
        results.append(_line(answer))
        if len(results) % ITEMS_PER_TURN == 0:
            await found.turns.next_slice()
    return Response(b"".join(results), media_type=NDJSON[0])


def _checked(  # Hot path.
    found: Services, app: AppRef, key_id: str, attempt: Attempt | None, line: bytes
) -> PendingPush | Problem:
    pending = found.acceptance.plain(app, line, is_line=True)
    if pending is None:
        try:
            push = parse(BatchLine, line, found.push_values, is_item=True)
            key = push.idempotency_key
            pending = found.acceptance.pending(app, Submission(push, key, None if key is None else _hash(line)))
        except Problem as refusal:
            return refusal
    elif pending.idempotency_key is not None:
        pending.body_hash = _hash(line)
    pending.key_id, pending.attempt = key_id, attempt
    return pending


def _hash(line: bytes) -> bytes:
    return hashlib.sha256(line.strip()).digest()


def _line(answer: AcceptedPush | Problem) -> bytes:
    if isinstance(answer, AcceptedPush):
        return f'{{"status":202,{answer.members()}}}\n'.encode()
    return to_json(answer.document()) + b"\n"


@router.post("/forecast", response_model=responses.ForecastResponse, openapi_extra=request_body(PushRequest))
async def forecast(request: Request, principal: Sender) -> Response:
    """Count the devices that a push would reach if it were sent now; nothing is stored or sent.

    Refused for the same reasons as the push would be. Each device of the target is counted once: suppressed, dropped by
    caps or in quiet hours, likely to come within the ttl, not likely to (`will_expire`), or of unknown presence. Who
    comes is learned from the hours in which the devices were connected in the last four weeks; caps and quiet hours are
    asked as if the push were handed over to all of them now. Needs a key with the scope `send`.
    """
    found = services(request)
    push = await read_model(request, PushRequest, PUSH_BYTES, found.push_values)
    return json_response(await found.forecast.of(app_of(principal), push))


class PushPreview(DescribedModel):
    """A push that is being written, and a device."""

    model_config = ConfigDict(extra="forbid", strict=True)

    push: PushRequest
    """The push, as it would be sent. Whom it is for is not asked."""
    device: DeviceId
    """The device for which it is rendered. Unknown: 404 `device_not_found`."""


@router.post("/preview", response_model=responses.PreviewResponse, openapi_extra=request_body(PushPreview))
async def preview_push(request: Request, principal: Sender) -> Response:
    """Render a push for a device as it would get it now; nothing is stored or sent.

    What the device lacks is listed, and the push is null then. What is signed or encrypted is not rendered: 422. Needs
    a key with the scope `send`.
    """
    found = services(request)
    preview = await read_model(request, PushPreview, PUSH_BYTES, found.push_values)
    number = await found.devices.number(principal.app_no, preview.device)
    shown = await found.texts.preview_push(app_of(principal), preview.push, number)
    return json_response({"device_id": preview.device, **shown})


@router.get("", response_model=responses.PushesResponse)
async def list_pushes(request: Request, principal: ReaderOf, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List the pushes of the app with their counts, the newest first. Needs a key with the scope `read`."""
    found = services(request)

    async def read() -> bytes:
        return (await found.reports.pushes(principal.app_no, limit, cursor)).encoded()

    return await found.shared_answers.respond(request, principal, read)


@router.get("/{push_id}", response_model=responses.PushResponse)
async def show_push(push_id: PushId, request: Request, principal: ReaderOf) -> Response:
    """Show a push with the counts of its deliveries. `counts` are by present state and sum to `targeted` (one
    snapshot); `reached` is cumulative.

    The counts are kept 400 days (setting `counts_days`) after the push has fully ended; then the answer is 410
    `gone`, later 404. Needs a key with the scope `read`.
    """
    found = services(request)

    async def read() -> bytes:
        return to_json(await found.reports.push(principal.app_no, push_id))

    return await found.shared_answers.respond(request, principal, read)


@router.get("/{push_id}/deliveries", response_model=responses.DeliveriesResponse)
async def list_deliveries(
    push_id: PushId,
    request: Request,
    principal: ReaderOf,
    limit: Limit = 100,
    cursor: Cursor = None,
    state: Annotated[StateName | None, Query(description="Only deliveries in this state.")] = None,
    device: Annotated[
        str | None, Query(max_length=64, description="Only the delivery to the device with this id.")
    ] = None,
    reason: Reason = None,
) -> Response:
    """List the deliveries of a push, one for each device: state, reason, effective QoS and time stamps.

    They are kept 30 days (setting `retention_days`) after the push has fully ended; then the answer is 410
    `gone`. Needs a key with the scope `read`.
    """
    found = services(request)
    wanted = None if state is None else DeliveryState[state.upper()]
    device_no = None if device is None else await found.devices.number(principal.app_no, device)
    return page_response(
        await found.reports.deliveries(
            principal.app_no, push_id, limit, cursor, wanted, device_no=device_no, reason=reason
        )
    )


@router.get("/{push_id}/reasons", response_model=responses.ReasonsResponse)
async def count_reasons(push_id: PushId, request: Request, principal: ReaderOf) -> Response:
    """Count the deliveries of a push by state and reason: who did not get it, and why.

    They are kept 30 days (setting `retention_days`) after the push has fully ended; then the answer is 410
    `gone`. Needs a key with the scope `read`.
    """
    found = services(request)

    async def read() -> bytes:
        return to_json(await found.reports.reasons(principal.app_no, push_id))

    return await found.shared_answers.respond(request, principal, read)


@router.get("/{push_id}/texts", response_model=responses.TextsResponse)
async def list_texts(
    push_id: PushId,
    request: Request,
    principal: ReaderOf,
    limit: Limit = 100,
    cursor: Cursor = None,
    device: Annotated[str | None, Query(max_length=64, description="Only the text of the device with this id.")] = None,
) -> Response:
    """List the texts that the devices of a push got, or the one that a device got.

    There is one for all, or what templates and texts by locale were rendered to. They are kept as long as its
    deliveries; then the answer is 410 `gone`. Needs a key with the scope `read`.
    """
    found = services(request)
    device_no = None if device is None else await found.devices.number(principal.app_no, device)
    return page_response(await found.reports.texts(principal.app_no, push_id, limit, cursor, device_no=device_no))


@router.delete("/{push_id}", response_model=responses.RecallResponse)
async def recall(push_id: PushId, request: Request, principal: Sender) -> Response:
    """Recall a push: what still waits ends `cancelled`, and nothing of it is sent to a device after the answer.

    Devices that have it already are told on their `notices` topic to remove it from the screen. Of a push to a duty
    all steps are recalled, and there is no further one. Recalling it again does no harm. Needs a key with the scope
    `send`.
    """
    result = await services(request).escalations.recall(app_of(principal), push_id)
    if result is None:
        raise problem("push_not_found", f"no push {push_id!r} in this app")
    return json_response(result)
