"""`/v1/attachments`: what pushes refer to, uploaded by senders and fetched by devices."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from gateway.api import responses
from gateway.api.bodies import json_response
from gateway.api.openapi import FILE_SCHEMA, header
from gateway.api.services import Fetcher, Sender, services
from gateway.delivery.attachments import ATTACHMENT_ID, CONTENT_TYPE, DEFAULT_TTL_SECONDS, Attachments, StoredAttachment
from gateway.delivery.push import MAX_TTL_SECONDS
from gateway.errors import RetryableProblem, problem

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/attachments", tags=["pushes"])

MAX_DOWNLOADS = 100
"""Downloads at a time; one more is sent away for a random while."""
DOWNLOADS_OF_APP = 75
"""Downloads at a time of one app's devices and keys."""
DOWNLOADS_OF_ONE = 20
"""Downloads at a time of one device or key: a browser opens six."""
DOWNLOAD_SECONDS = 30.0
"""Time that a download may take, and as long again as it takes at:"""
DOWNLOAD_BYTES_PER_SECOND = 8_192
"""The rate of a poor mobile network (EDGE)."""
AWAY = (1, 30)
"""Seconds."""
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
"""Content types of clients that were told of none: the bytes are not a form's."""
UPLOADED = ("application/octet-stream", "image/png", "image/jpeg", "text/plain")
"""Content types that the form at `/docs` offers; any other is taken as well."""
HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    # What somebody has uploaded is shown by whoever fetched it, and runs nowhere in our name.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    # Without a credential, which no page has of itself, there is nothing to read.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

Ttl = Annotated[
    int,
    Query(
        ge=1,
        le=MAX_TTL_SECONDS,
        description="Seconds that it is kept, 1 to 31,536,000, default 604,800 (7 days), and at least a day longer than"
        " every push that refers to it.",
    ),
]
Id = Annotated[
    str,
    Path(
        pattern=f"^{ATTACHMENT_ID.pattern}$",
        description="SHA-256 of the file in hexadecimal. None in this app, or expired: 404 `attachment_not_found`.",
    ),
]


@router.post(
    "",
    status_code=201,
    response_model=responses.AttachmentResponse,
    responses={
        200: {
            "model": responses.AttachmentResponse,
            "description": "The app had this file: it is kept as long as either.",
        }
    },
    openapi_extra={
        "requestBody": {
            "description": "The file, as it is. Any content type is taken but those of forms.",
            "required": True,
            # By name: a form that is to send `*/*` sends just that, and it is no content type.
            "content": {kind: {"schema": FILE_SCHEMA} for kind in UPLOADED},
        }
    },
)
async def upload_attachment(request: Request, principal: Sender, ttl: Ttl = DEFAULT_TTL_SECONDS) -> Response:
    """Store a file under the SHA-256 of its bytes; pushes refer to it as `attachment:ID`.

    The body is the file itself, 5 MiB at most (setting `max_attachment`; larger: 413), with its media type as
    `Content-Type`, not a form. 201, or 200 if the app had it: it is then kept as long as either upload asked
    for. No room for it: 507 `storage_full`. At most 20 uploads of an app and 60 of all are under way: 503
    `busy`. Needs a key with the scope `send`.
    """
    content_type = request.headers.get("content-type", "application/octet-stream").strip().lower()
    if content_type.partition(";")[0] in FORMS or not CONTENT_TYPE.fullmatch(content_type):
        raise problem(
            "unsupported_media_type", "send the bytes as they are, and what they are: `Content-Type: image/png`"
        )
    length = request.headers.get("content-length")
    attachments = services(request).attachments
    attachment, is_new = await attachments.store(
        principal.app_no, content_type, ttl, int(length) if length is not None else None, _chunks(request)
    )
    return json_response(attachments.described(attachment), 201 if is_new else 200)


@router.get(
    "/{attachment_id}",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The file, with the content type of its upload.",
            "content": {"*/*": {"schema": FILE_SCHEMA}},
            "headers": {"ETag": {"description": "The attachment's id, quoted.", "schema": {"type": "string"}}},
        },
        304: {"description": "The client has it already, as `If-None-Match` says. The answer has no body."},
    },
    openapi_extra={
        "parameters": [
            header("If-None-Match", "The `ETag` of a copy that the client has. The same: 304, without body.")
        ]
    },
)
async def fetch_attachment(attachment_id: Id, request: Request, principal: Fetcher) -> Response:
    """Download an attachment.

    For a key with the scope `send` or `read`, or for a device with HTTP Basic: its MQTT user name and its token.
    At most 20 downloads of a key or device, 75 of an app and 100 of all are under way: 503 `busy` with
    `Retry-After`. One that takes longer than 30 seconds and a second per 8 KiB is ended.
    """
    attachments = services(request).attachments
    attachment = attachments.get(principal.app_no, attachment_id)
    tag = f'"{attachment.id}"'
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={**HEADERS, "ETag": tag})
    of_app, of_one = attachments.downloads_of((principal.app_no, principal.key_id))
    if attachments.downloads >= MAX_DOWNLOADS or of_app >= DOWNLOADS_OF_APP or of_one >= DOWNLOADS_OF_ONE:
        attachments.downloads_sent_away += 1
        log.warning(
            "app %d: a download is refused: %d are under way, %d of this app, %d of %s",
            principal.app_no, attachments.downloads, of_app, of_one, principal.key_id,
        )  # fmt: skip
        raise RetryableProblem(
            "busy",
            f"{attachments.downloads} downloads are under way, {of_app} of this app and {of_one} of this device or key;"
            " wait as long as Retry-After says",
            random.uniform(*AWAY),
        )
    reader = principal.app_no, principal.key_id
    with attachments.download(reader):  # it may have to come from the database
        path = await attachments.path_of(attachment)
    if path is None:  # a backup that was made while it expired
        raise problem("attachment_not_found", "its file is not here any more: upload it again")
    return _Download(path, {**HEADERS, "ETag": tag}, attachment, attachments, reader)


@router.options("/{attachment_id}", include_in_schema=False)
async def permit_pages() -> Response:
    """Browsers ask before a page of another origin may send its credential along (CORS)."""
    allowed = {"Access-Control-Allow-Headers": "Authorization", "Access-Control-Allow-Methods": "GET"}
    return Response(status_code=204, headers={**HEADERS, **allowed, "Access-Control-Max-Age": "86400"})


@router.delete("/{attachment_id}", status_code=204)
async def remove_attachment(attachment_id: Id, request: Request, principal: Sender) -> Response:
    """Remove an attachment at once, also if pushes refer to it: devices then get 404. Needs a key with the scope
    `send`."""
    await services(request).attachments.remove(principal.app_no, attachment_id)
    return Response(status_code=204)


class _Download(FileResponse):
    """Ends by itself when it is read too slowly: it has one of the places that others wait for."""

    def __init__(
        self,
        path: FilePath,
        headers: Mapping[str, str],
        attachment: StoredAttachment,
        attachments: Attachments,
        reader: tuple[int, str],
    ) -> None:
        super().__init__(path, headers=headers, media_type=attachment.content_type)
        self._attachments = attachments
        self._reader = reader
        self._seconds = DOWNLOAD_SECONDS + attachment.size / DOWNLOAD_BYTES_PER_SECOND

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._attachments.download(self._reader):
            try:
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)
            except TimeoutError:  # what is missing tells the reader; the connection ends with it
                log.info("a download by %s of app %d took more than %.0f s", *self._reader[::-1], self._seconds)
                self._attachments.downloads_ended += 1


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk
