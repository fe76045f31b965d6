"""`/v1/analytics`: funnels by push, channel, tag, hour, campaign or variant, as JSON, CSV or NDJSON; and fatigue."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, TypeAdapter

from gateway.api import responses
from gateway.api.bodies import json_response
from gateway.api.services import PushId, ReaderOf, services, time_parameter
from gateway.delivery.analytics import By
from gateway.errors import problem
from gateway.pages import to_json

router = APIRouter(prefix="/v1/analytics", tags=["analytics"])

_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)
From = Annotated[
    str | None,
    Query(
        alias="from",
        description="Pushes accepted from this time on, rounded down to the hour. RFC 3339 with an offset.",
    ),
]
To = Annotated[
    str | None,
    Query(description="Pushes accepted before this time, rounded up to the hour. RFC 3339 with an offset."),
]


@router.get("/pushes/{push_id}", response_model=responses.PushFunnelResponse)
async def push_funnel(push_id: PushId, request: Request, principal: ReaderOf) -> Response:
    """Show the funnel of a push, counted now. It has stages, rates, times to deliver and to open, and how many people
    withdrew their consent within a day. Needs a key with the scope `read`."""
    return json_response(await services(request).analytics.of_push(principal.app_no, push_id))


@router.get("/fatigue", response_model=responses.FatigueResponse)
async def fatigue(
    request: Request,
    principal: ReaderOf,
    channel: Annotated[
        str | None,
        Query(max_length=64, description="Only alerts of this channel. Empty: only alerts without a channel."),
    ] = None,
    tag: Annotated[
        str | None, Query(max_length=64, description="Only devices with this tag. Not with `channel`.")
    ] = None,
    since: Annotated[
        str | None,
        Query(
            alias="from",
            description="Days of UTC from this time on, rounded down. RFC 3339 with an offset. Default: 28 days.",
        ),
    ] = None,
    to: Annotated[
        str | None, Query(description="Days of UTC before this time, rounded up. RFC 3339 with an offset.")
    ] = None,
) -> Response:
    """Show what people do about alerts, by how many they had in the last seven days, and at which number they leave.

    Counted when a day of UTC is over; kept as long as the counts of pushes. Needs a key with the scope `read`.
    """
    if channel is not None and tag is not None:
        raise problem("invalid_request", "channel and tag: figures are kept of one or the other; leave one out")
    first, last = time_parameter("from", since), time_parameter("to", to)
    found = services(request).fatigue
    return json_response(await found.report(principal.app_no, channel=channel, tag=tag, since=first, until=last))


@router.get(
    "",
    response_model=responses.FunnelsResponse,
    responses={
        200: {
            "description": "The funnels, in the media type that was asked for with `format`.",
            "content": {
                "text/csv": {"schema": {"type": "string", "description": "A line of headings, and one per funnel."}},
                "application/x-ndjson": {"schema": {"type": "string", "description": "A funnel on each line."}},
            },
            "headers": {
                "Fleetpush-Limited": {
                    "description": "Of CSV and NDJSON: `limited` of the JSON answer, `true` or `false`.",
                    "schema": {"type": "string"},
                },
                "Fleetpush-Counted-From": {
                    "description": "Of CSV and NDJSON: `counted_from` of the JSON answer. Missing if that is null.",
                    "schema": {"type": "string"},
                },
                "Fleetpush-Uncounted": {
                    "description": "Of CSV and NDJSON: `uncounted` of the JSON answer.",
                    "schema": {"type": "integer"},
                },
            },
        }
    },
)
async def funnels(
    request: Request,
    principal: ReaderOf,
    by: Annotated[
        By,
        Query(
            description="One funnel for each `channel`, `tag`, `hour` of the day in the policy's time zone, `campaign`,"
            " or `variant` of a campaign."
        ),
    ],
    since: From = None,
    to: To = None,
    as_: Annotated[
        Literal["json", "csv", "ndjson"],
        Query(alias="format", description="Media type of the answer: JSON, CSV or NDJSON."),
    ] = "json",
) -> Response:
    """Show the funnels of all pushes that were accepted in a time, by channel, tag, hour, campaign or variant.

    Only whole hours count: `from` is rounded down and `to` up. CSV and NDJSON have one line per funnel, and
    the headers `Fleetpush-Limited`, `Fleetpush-Counted-From` and `Fleetpush-Uncounted` for what JSON has beside its
    items. Needs a key with the scope `read`.
    """
    first, last = time_parameter("from", since), time_parameter("to", to)
    found = await services(request).analytics.by(principal.app_no, by, first, last)
    items = found["items"]
    beside = {"Fleetpush-Limited": str(found["limited"]).lower(), "Fleetpush-Uncounted": str(found["uncounted"])}
    if found["counted_from"] is not None:
        beside["Fleetpush-Counted-From"] = found["counted_from"]
    if as_ == "csv":
        return Response(_csv(by, items), headers=beside, media_type="text/csv; charset=utf-8")
    if as_ == "ndjson":
        lines = b"".join(to_json(item) + b"\n" for item in items)
        return Response(lines, headers=beside, media_type="application/x-ndjson")
    return json_response(found)


_WITHIN: dict[str, type[BaseModel]] = {
    "rates": responses.RatesResponse,
    "time_to_deliver_ms": responses.PercentilesResponse,
    "time_to_open_ms": responses.PercentilesResponse,
}
_FIELDS = [
    (name, inner)
    for name in responses.StagesResponse.model_fields
    for inner in (_WITHIN[name].model_fields if name in _WITHIN else ("",))
]
"""Columns of an item, and of what is within it: the same whatever there is to say."""


def _csv(by: By, items: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([by, *(f"{name}_{inner}" if inner else name for name, inner in _FIELDS)])
    for item in items:
        values = ((item[name] or {}).get(inner) if inner else item[name] for name, inner in _FIELDS)
        writer.writerow([item[by], *values])
    return text.getvalue()
