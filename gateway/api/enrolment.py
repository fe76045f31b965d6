"""`/v1/enrol`: a device without a token. It shows a code instead of a key.

Strangers come here, so everything is small: a body of 8 KiB, one look-up of a code. Pages of any origin may call it,
because a browser can be a device, and because it gives nothing to who has no code.
"""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from gateway.api import responses
from gateway.api.admission import address_of, begin_attempt_by_code
from gateway.api.bodies import UNCOUNTED_BYTES, json_response, read_model
from gateway.api.cross_origin import HEADERS, permission, readable
from gateway.api.openapi import request_body
from gateway.api.problems import validation_problem
from gateway.api.services import services
from gateway.enrolment.invitations import EnrolmentRequest
from gateway.enrolment.token_requests import POLL_SECONDS, TokenRequest, confirmation_of
from gateway.errors import problem

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/enrol", tags=["enrolment"])


@router.post(
    "", status_code=201, response_model=responses.EnrolledDeviceResponse, openapi_extra=request_body(EnrolmentRequest)
)
async def enrol_by_code(request: Request) -> Response:
    """Trade a code for a token, once. The device sends what it knows of itself; what the invitation says counts more.

    If the answer is lost, the device asks again with the same `nonce`. A wrong code is answered late, and the later the
    more of them come from an address. Needs no key.
    """
    return await readable(request, _enrolled)


@router.post(
    "/again",
    response_model=responses.EnrolledDeviceResponse,
    response_description="An operator has confirmed it: the new token. The one before is void.",
    responses={
        202: {
            "model": responses.PendingTokenResponse,
            "description": "It waits for an operator; or there is no such device, or no room for its request.",
        }
    },
    openapi_extra=request_body(TokenRequest),
)
async def ask_for_token(request: Request) -> Response:
    """Ask for a new token, for a device that has lost its own; the same call again asks what has become of it.

    The device shows `confirmation` on its screen, and calls again as often as `Retry-After` says. An operator who sees
    the same text confirms the request; the next call then has the token. Needs no key.
    """
    return await readable(request, _asked_again)


async def _asked_again(request: Request) -> Response:
    asked = await read_model(request, TokenRequest, UNCOUNTED_BYTES)
    credential = await services(request).enrolment.token_requests.ask(asked, address_of(request))
    if credential is not None:
        return json_response(credential)
    answer = json_response({"status": "pending", "confirmation": confirmation_of(asked.secret)}, 202)
    answer.headers["Retry-After"] = str(POLL_SECONDS)
    return answer


async def _enrolled(request: Request) -> Response:
    asked = await read_model(request, EnrolmentRequest, UNCOUNTED_BYTES)
    found = services(request)
    host = address_of(request)
    begin_attempt_by_code(request)
    try:
        credential = await found.enrolment.invitations.exchange(asked, host)
    except ValidationError as error:
        raise validation_problem(error) from None
    if credential is None:
        log.info("%s: a wrong enrolment code", host, extra={"peer": host})
        await found.enrolment.guesses.delay(host)
        raise problem("code_unknown", "nobody has this code: it was revoked, has long expired, or is another server's")
    return json_response(credential, 201)


@router.get(
    "/ca",
    response_class=Response,
    responses={
        200: {
            "description": "The certificate of the fleet's CA in PEM.",
            "content": {"application/x-pem-file": {"schema": {"type": "string", "description": "PEM."}}},
        }
    },
)
async def show_ca(request: Request) -> Response:
    """Get the certificate of the fleet's CA, if it has signed what the server shows; else 404 `not_found`.

    A device that knows its fingerprint, from a QR code for example, fetches it before it trusts the server.
    Needs no key.
    """
    ca = services(request).enrolment.fleet_ca
    if ca is None:
        raise problem("not_found", "this server has no certificate of a fleet CA: trust it as other web servers")
    return Response(ca.pem, media_type="application/x-pem-file", headers=HEADERS)


@router.options("", include_in_schema=False)
@router.options("/again", include_in_schema=False)
@router.options("/ca", include_in_schema=False)
async def permit_pages() -> Response:
    """Browsers ask before a page of another origin may send JSON (CORS)."""
    return permission("GET, POST", "Content-Type")
