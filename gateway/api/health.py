"""`/healthz`, `/readyz`, `/metrics`: for whoever watches over the process, without an API key.

The first two say a word that a load balancer must be able to read. Metrics tell a stranger how large the fleet is and
how busy: the setting `metrics_key` has them ask for a key of their own.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.api import responses
from gateway.api.admission import address_of
from gateway.api.bodies import json_response
from gateway.api.request_headers import header_of
from gateway.api.services import services
from gateway.errors import problem
from gateway.store.server_time import check_answers

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=responses.HealthResponse)
async def alive(request: Request) -> Response:
    """Check that the process answers. Needs no key. A node that hands its devices to the others before it ends answers
    404 `not_found`, which balancers tell from one that has died (`http-check disable-on-404` of HAProxy)."""
    if services(request).is_moving_devices():
        raise problem("not_found", "this node is ending, and hands its devices to the others")
    return json_response({"status": "ok"})


@router.get("/readyz", response_model=responses.HealthResponse)
async def ready(request: Request) -> Response:
    """Check that pushes are accepted: 503 `unavailable` while the server ends, or when its database does not answer.
    Needs no key."""
    found = services(request)
    reason = found.unready()
    if reason is None:
        try:
            await found.database.read_soon(check_answers)
        except Exception as error:  # whatever it is, it is the answer to the question
            reason = f"the database does not answer: {type(error).__name__}"
    if reason is not None:
        raise problem("unavailable", reason)
    return json_response({"status": "ready"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in the text format of Prometheus.",
            "content": {"text/plain": {"schema": {"type": "string", "description": "Prometheus text."}}},
        }
    },
)
async def metrics(request: Request) -> Response:
    """Get metrics as Prometheus text. They are made 20 times a second at most; asked for more often, the last ones are
    sent. Needs no key. With the server's setting `metrics_key` it needs that one, as `Authorization: Bearer KEY`; an
    API key does not do."""
    found = services(request)
    if found.metrics_key is not None:
        found.metrics_key.check(header_of(request, b"authorization"), address_of(request))
    return Response(found.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
