"""Request bodies: bounded while they are read, JSON by declaration and by content, parsed once.

A body is never larger in memory than its limit: a `Content-Length` above it is refused before the first byte is taken,
and a body that does not say its length is refused when it has grown too large. What is parsed is the bytes themselves
(pydantic's JSON parser), so a request is validated once and no dictionary is made in between.

Parsing holds the loop: a value takes about 0.5 us, a mistake about 1. So each route says how many bytes and values it
takes, and the values are counted (as commas and opening brackets) before they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from gateway.api.admission import ADMITTED
from gateway.api.body_budget import LINE_BYTES, VALUE_BYTES, BodyCharge
from gateway.api.problems import json_problem, validation_problem
from gateway.api.request_headers import header_of
from gateway.api.services import services
from gateway.errors import problem
from gateway.pages import ListPage, to_json
from gateway.store.audited_writes import note_details

Model = TypeVar("Model", bound=BaseModel)

BODY_BYTES = 128 * 1024
"""Bytes of an ordinary request: a device with the most attributes (16 KiB), every character escaped, and tags."""
BODY_VALUES = 16_384
"""Values in an ordinary request: as many as fit into attributes."""
DEVICE_VALUES = 4_096
"""Values in what a device may send with its own token."""
PUSH_BYTES = 4 * 1024 * 1024
"""Bytes of a push: the largest, every character escaped, with ten thousand device ids."""
BULK_BYTES = 16 * 1024 * 1024
"""Bytes of a bulk enrolment or a batch of pushes (docs/contract.md: A request for a push)."""
UNCOUNTED_BYTES = 8 * 1024
"""A body that is parsed without counting first: 4,000 values at most."""
ITEMS_PER_TURN = 250
"""Items of a long list that are worked on before the loop gets a turn: about 2 ms."""
BODY_CHARGE = "fleetpush.body_charge"
"""The key, in the scope of a request, of what its body is charged with, to be released when it is answered."""
NOTED_FIELDS = 32
"""Names of fields of a patch that the audit log notes; there are not so many that mean something."""
JSON = ("application/json",)
MERGE_PATCH = ("application/merge-patch+json", "application/json")
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


async def read_body(request: Request, media_types: tuple[str, ...] = JSON, limit: int = BODY_BYTES) -> bytes:
    """The whole body. Raises Problem 415, 413. A request that names no content type is taken at its word."""
    content_type = header_of(request, b"content-type")
    if content_type is not None and content_type not in media_types:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type not in media_types:
            raise problem("unsupported_media_type", f"send the header `Content-Type: {media_types[0]}`")
    length = header_of(request, b"content-length")
    if length is not None and int(length) > limit:  # the HTTP parser has checked that it is a number
        raise _too_large(limit)
    message = await request.receive()
    chunks: list[bytes] = []
    size = 0
    charge: BodyCharge | None = None
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body") or b""
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if charge is not None:
            charge.add(len(chunk))
        elif size > UNCOUNTED_BYTES:
            charge = request.scope[BODY_CHARGE] = services(request).bodies.charge(request.scope[ADMITTED])
            charge.add(size)
        if not message.get("more_body"):
            break
        message = await request.receive()
    body = b"".join(chunks)
    if charge is not None:
        if limit < BULK_BYTES:  # longer ones are lists, of which a part is parsed at a time
            # A route refuses a body of more values than any may have before it makes them.
            charge.add(VALUE_BYTES * min(values_in(body), services(request).push_values))
        chunks.clear()
        await services(request).turns.wait_for_large_body(request.scope[ADMITTED].key_id)
    return body


def charge_lines(request: Request, lines: int) -> None:
    """Count the lines of a batch until it is answered. Raises Problem 503."""
    charge: BodyCharge | None = request.scope.get(BODY_CHARGE)
    if charge is not None:  # otherwise it is a short one
        charge.add(LINE_BYTES * lines)


def _too_large(limit: int) -> Exception:
    return problem("payload_too_large", f"the body may have {limit} bytes here: send less, or in several requests")


def parse(  # Hot path.
    model: type[Model], body: bytes, values: int = BODY_VALUES, *, is_item: bool = False
) -> Model:
    """The body, of so many values at most, as a model. Raises Problem 400 malformed_json, 413, 422.

    An unknown field is answered with the one that was probably meant; not in an item of a list, of which there may be
    ten thousand: finding that takes longer than all the rest.
    """
    if len(body) > UNCOUNTED_BYTES:
        check_values(body, values)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise validation_problem(error, body, None if is_item else model) from None


def check_values(body: bytes, values: int) -> None:
    """Refuse a body with more than `values` JSON values. A comma in a text counts like one between values. Raises
    Problem 413."""
    if values_in(body) > values:
        raise problem("payload_too_large", f"the JSON may have {values} values (and commas): send less")


def values_in(body: bytes) -> int:
    """Count the values that a JSON text has at most."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def parse_patch(body: bytes) -> Any:
    """The body as what JSON says it is, to be merged. Raises Problem 400, 413, 422."""
    check_values(body, BODY_VALUES)
    try:
        patch = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise json_problem(str(error), body) from None
    if isinstance(patch, dict):
        note_details(fields=sorted(patch)[:NOTED_FIELDS])
    return patch


async def read_model(request: Request, model: type[Model], limit: int = BODY_BYTES, values: int = BODY_VALUES) -> Model:
    """The body as a model; the audit log notes which fields it had. Raises Problem as `read_body` and `parse`."""
    found = parse(model, await read_body(request, limit=limit), values)
    note_details(fields=sorted(found.model_fields_set))
    return found


def json_response(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(document), status, headers, media_type="application/json")


def page_response(page: ListPage, count: int | None = None) -> Response:
    return Response(page.encoded(count), media_type="application/json")
