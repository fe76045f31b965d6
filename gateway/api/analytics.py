"""`/v1/analytics`: funnels of a push, and by channel, tag or hour of the day; as JSON, CSV or NDJSON."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, TypeAdapter

from gateway.api import answers
from gateway.api.bodies import json_response
from gateway.api.services import ReaderOf, services, time_parameter
from gateway.delivery.analytics import By
from gateway.pages import to_json

router = APIRouter(prefix="/v1/analytics", tags=["analytics"])

_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)
From = Annotated[str | None, Query(alias="from", description="Accepted at or after; RFC 3339 with an offset.")]
To = Annotated[str | None, Query(description="Accepted before; RFC 3339 with an offset.")]


@router.get("/pushes/{push_id}", response_model=answers.PushFunnel)
async def push_funnel(push_id: str, request: Request, principal: ReaderOf) -> Response:
    """The funnel of a push, counted now: stages, rates, times to deliver and to open, and how many of those who got it
    withdrew their consent within a day."""
    return json_response(await services(request).analytics.of_push(principal.app_no, push_id))


@router.get("", response_model=answers.Funnels)
async def funnels(
    request: Request,
    principal: ReaderOf,
    by: Annotated[By, Query(description="`hour`: of the day, in the policy's time zone.")],
    since: From = None,
    to: To = None,
    as_: Annotated[Literal["json", "csv", "ndjson"], Query(alias="format")] = "json",
) -> Response:
    """The funnels of all pushes that were accepted in a time, together, by channel, tag or hour of the day. Whole hours
    count, and 500 tags of an app in an hour. `opted_out` are people who have muted the channel, or withdrawn consent,
    in that time. CSV and NDJSON say in the headers `Fleetpush-Limited`, `Fleetpush-Counted-From` and
    `Fleetpush-Uncounted` what JSON has beside its items."""
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
    "rates": answers.Rates,
    "time_to_deliver_ms": answers.Percentiles,
    "time_to_open_ms": answers.Percentiles,
}
_FIELDS = [
    (name, inner)
    for name in answers.Stages.model_fields
    for inner in (_WITHIN[name].model_fields if name in _WITHIN else ("",))
]
"""Of an item, and of what is within: the same columns whatever there is to say."""


def _csv(by: By, items: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([by, *(f"{name}_{inner}" if inner else name for name, inner in _FIELDS)])
    for item in items:
        values = ((item[name] or {}).get(inner) if inner else item[name] for name, inner in _FIELDS)
        writer.writerow([item[by], *values])
    return text.getvalue()
