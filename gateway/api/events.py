"""`/v1/events`: what happens, as it happens, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from gateway.api.services import ReaderOf, services
from gateway.delivery.event_log import Event, Position, position_of
from gateway.errors import problem
from gateway.outreach.event_feed import type_filter
from gateway.pages import to_json

router = APIRouter(prefix="/v1/events", tags=["events"])

PAGE = 200
"""Events read at a time."""
HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent, so that nobody on the way gives the connection up."""

Since = Annotated[
    str | None, Query(max_length=40, description="The id of an event: what came after it. `0`: everything kept.")
]
Types = Annotated[
    str | None, Query(max_length=1024, description="Event types, comma-separated; `delivery.*` is all that begin so.")
]


@router.get("", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {"schema": {}}}}})
async def follow_events(
    request: Request, principal: ReaderOf, since: Since = None, types: Types = None
) -> StreamingResponse:
    """A stream of server-sent events (`id`, `event`, `data`); without `since` of what happens from now on. A client
    that comes back says `Last-Event-ID`, as browsers do, and misses nothing of the last days."""
    feed, admission = services(request).feed, services(request).admission
    after = request.headers.get("last-event-id", since)
    position = await feed.last() if after is None else position_of(after)
    if position is None:
        raise problem("invalid_request", "since: the id of an event, as it came, or 0")
    wanted = type_filter(None if types is None else types.split(","))
    feed.admit_stream(principal.app_no, principal.key_id)

    async def frames(position: Position) -> AsyncIterator[bytes]:
        more = asyncio.Event()
        follower = feed.follow(principal.app_no, more.set)
        try:
            with feed.stream(principal.app_no, principal.key_id):
                yield b"retry: 3000\n\n"
                while not feed.ended and await admission.still_admitted(request):
                    more.clear()
                    page = await feed.read(principal.app_no, position, PAGE, wanted)
                    position = page.position
                    if page.events:
                        yield b"".join(_frame(event) for _, event in page.events)
                    elif not page.more:
                        try:
                            await asyncio.wait_for(more.wait(), HEARTBEAT)
                        except TimeoutError:
                            yield b":\n\n"
        finally:
            feed.leave(follower)

    return StreamingResponse(frames(position), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _frame(event: Event) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event["id"].encode(), event["type"].encode(), to_json(event))
