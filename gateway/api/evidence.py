"""`/v1/devices/{device_id}/evidence`: what became of a device's pushes, with the proof of the audit chain."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from gateway.api.admission import attempt_by
from gateway.api.bodies import NDJSON
from gateway.api.services import Administrator, DeviceId, app_of, services, time_parameter
from gateway.audit.evidence import EvidencePeriod
from gateway.audit_evidence import ACTION
from gateway.timestamps import rfc3339_or_none

router = APIRouter(prefix="/v1/devices", tags=["audit"])


@router.get(
    "/{device_id}/evidence",
    response_class=Response,
    responses={
        200: {
            "description": "A line for each delivery and event, and the proof of the audit chain.",
            "content": {NDJSON[0]: {"schema": {"type": "string", "description": "JSON objects, one per line."}}},
        }
    },
)
async def export_evidence(
    device_id: DeviceId,
    request: Request,
    principal: Administrator,
    since: Annotated[
        str | None, Query(alias="from", description="From this time on, RFC 3339. Left out: from the oldest.")
    ] = None,
    until: Annotated[
        str | None, Query(alias="to", description="Of before this time, RFC 3339. Left out: to the newest.")
    ] = None,
) -> Response:
    """Export a device's deliveries and events with a proof, as a stream that is verified with the file alone.

    With them come the audit log's entries about the device, and what shows that they are in its chain.
    Deliveries and events, the newest first, 100,000 of each at most; of a device that was removed, too. The export has
    an entry in the audit log that holds the SHA-256 of these lines: so the head of the chain is of them as well. A file
    without the line `head` at its end was broken off. One export of an app at a time: 503 `busy`. Needs a key with the
    scope `admin`.
    """
    exports = services(request).evidence
    period = EvidencePeriod(
        rfc3339_or_none(time_parameter("from", since)), rfc3339_or_none(time_parameter("to", until))
    )
    attempt = attempt_by(request, principal, ACTION, f"device:{device_id}")
    lines = await exports.begin(app_of(principal), device_id, period, attempt)
    return StreamingResponse(lines, media_type=NDJSON[0])
