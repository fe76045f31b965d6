"""`/v1/events`: what happens, as it happens, as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from gateway.api.openapi import header
from gateway.api.services import ReaderOf, services
from gateway.errors import problem
from gateway.events.event_feed import EventFeed, wanted_types
from gateway.store.deliveries.event_log import EventPage, Position, position_of

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/events", tags=["events"])

PAGE_EVENTS = 200
"""Events read at a time."""
PIECE_BYTES = 65_536
"""Sent at a time, about what a socket takes; twice as much with what was gathered before."""
STALL_SECONDS = 60.0
"""Time that a stream may stand still while there is something to send; its client comes back later."""
HEARTBEAT_SECONDS = 15.0
"""Seconds of silence after which a comment is sent, so that nobody on the way gives the connection up."""

Since = Annotated[
    str | None,
    Query(
        max_length=40,
        description="The id of an event: the stream begins behind it. `0`: with the oldest kept. Left out: now.",
    ),
]
Types = Annotated[
    str | None,
    Query(
        max_length=1024, description="Event types, comma-separated; `delivery.*` is all that begin so. Left out: all."
    ),
]


@router.get(
    "",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events, until either side ends. A comment is sent after 15 seconds of silence.",
            "content": {"text/event-stream": {"schema": {"type": "string", "description": "Server-sent events."}}},
        }
    },
    openapi_extra={
        "parameters": [
            header("Last-Event-ID", "As `since`, which it goes before: browsers send it when they come back.")
        ]
    },
)
async def follow_events(
    request: Request, principal: ReaderOf, since: Since = None, types: Types = None
) -> StreamingResponse:
    """Follow what happens as server-sent events (`id`, `event`, `data`), until either side closes the connection.

    Without `since` the stream has what happens from now on. A client that comes back with the id of the last
    event, as `since` or in `Last-Event-ID` as browsers do, misses nothing that is still kept (by default 7 days,
    256 MiB of an app). At most 20 streams of a key, 100 of an app and 200 of all are open: 429
    `too_many_streams`. A stream that is not read for 60 seconds ends. Needs a key with the scope `read`.
    """
    feed, admission = services(request).feed, services(request).admission
    after = request.headers.get("last-event-id", since)
    position = await feed.last(principal.app_no) if after is None else position_of(after)
    if position is None:
        raise problem("invalid_request", "since: the id of an event, as it came, or 0")
    wanted_types(types)
    feed.admit_stream(principal.app_no, principal.key_id)

    async def pieces(position: Position) -> AsyncIterator[bytes]:
        more = asyncio.Event()
        follower = feed.follow(principal.app_no, more.set)
        try:
            yield b"retry: 3000\n\n"
            while not feed.ended and await admission.still_admitted(request):
                more.clear()
                page = await feed.read_shared(principal.app_no, position, PAGE_EVENTS, types)
                position = page.position
                for piece in _pieces(page):
                    yield piece
                if not page.events and not page.more:
                    try:
                        await asyncio.wait_for(more.wait(), HEARTBEAT_SECONDS)
                    except TimeoutError:
                        yield b":\n\n"
        finally:
            feed.unfollow(follower)

    return _EventStream(pieces(position), feed, (principal.app_no, principal.key_id))


class _EventStream(StreamingResponse):
    """Ends when nothing of it is read for a while: it has one of the places that others wait for. Who comes back says
    where it was, and misses nothing."""

    def __init__(self, pieces: AsyncIterator[bytes], feed: EventFeed, reader: tuple[int, str]) -> None:
        """`reader`: app number and key id."""
        super().__init__(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._feed = feed
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stalled = False

        async def send_in_time(message: Message) -> None:
            nonlocal stalled
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await send(message)
            except TimeoutError:
                stalled = True
                raise

        with self._feed.stream(*self._reader):
            try:
                await super().__call__(scope, receive, send_in_time)
            except (ClientDisconnect, TimeoutError):
                if not stalled:
                    raise
                self._feed.streams_stalled += 1
                log.info(
                    "app %d: a stream of events of key %s was not read for %.0f s: it is ended",
                    *self._reader, STALL_SECONDS,
                )  # fmt: skip


def _pieces(page: EventPage) -> Iterator[bytes]:
    """Divide a page's events into pieces. A connection that does not read them has no more than one in memory, beside
    the page, which it has together with others."""
    gathered: list[bytes] = []
    size = 0
    for _, event in page.events:
        gathered.append(b"id: %b\nevent: %b\ndata: " % (event.id.encode(), event.type.encode()))
        size += len(gathered[-1])
        for start in range(0, len(event.json), PIECE_BYTES):  # no copy of all of it, which may be a megabyte
            gathered.append(event.json[start : start + PIECE_BYTES])
            size += len(gathered[-1])
            if size >= PIECE_BYTES:
                yield b"".join(gathered)
                gathered, size = [], 0
        gathered.append(b"\n\n")
        size += 2
    if gathered:
        yield b"".join(gathered)
