"""`/v1/session`: a person signs in at the console, is shown who they are, and signs out.

The key is exchanged for a cookie that scripts cannot read, so it is never stored in a page. `session_cookies` says who
may send requests with the cookie, and `people.sessions` how long it is good.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, StringConstraints

from gateway.api import responses
from gateway.api.admission import address_of, begin_attempt
from gateway.api.bodies import UNCOUNTED_BYTES, json_response, read_model
from gateway.api.openapi import request_body
from gateway.api.services import services
from gateway.api.session_cookies import give_cookie, own_origin, remove_cookie, require_same_origin, shown_session
from gateway.described_model import DescribedModel
from gateway.errors import Problem, problem
from gateway.people.sessions import ConsoleSession
from gateway.roles import granted_scopes, role_of
from gateway.store.audited_writes import Attempt
from gateway.timestamps import rfc3339

router = APIRouter(prefix="/v1/session", tags=["session"])


class SignInRequest(DescribedModel):
    """A key that a session is begun with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,256}$")]
    """The API key. It is not stored: the session ends with it when it is revoked."""


@router.post("", status_code=201, response_model=responses.SessionResponse, openapi_extra=request_body(SignInRequest))
async def sign_in(request: Request) -> Response:
    """Begin a session of the console with a key.

    The answer sets a cookie, `fleetpush_session`, or `__Host-fleetpush_session` over TLS. Pages of this server alone
    may call it, with the header `Fleetpush-Console: 1`. The session that the browser had ends. A wrong key is answered
    late, and the later the more of them come from an address. Needs no key.
    """
    require_same_origin(request)
    body = await read_model(request, SignInRequest, UNCOUNTED_BYTES)
    host = address_of(request)
    found = services(request)
    try:
        principal = await found.people.holder_of_key(body.key, host)
    except Problem as refusal:
        if refusal.status == 401:
            found.audit.refuse(Attempt(None, "", "session.begin", "", host), refusal.code)
        raise
    begin_attempt(request, principal)
    token, session = await found.people.sessions.begin(principal, shown_session(request))
    response = json_response(_document(request, session), 201)
    give_cookie(response, request, token)
    return response


@router.get("", response_model=responses.SessionResponse)
async def show_session(request: Request) -> Response:
    """Show whose session the request's cookie is, and until when. Without one: 401 `unauthorized`. Needs no key."""
    return json_response(_document(request, _session(request)))


@router.delete(
    "",
    status_code=204,
    responses={
        200: {
            "model": responses.SignedOutResponse,
            "description": "An identity provider had signed the person in, where they still are.",
        }
    },
)
async def sign_out(request: Request) -> Response:
    """End the session of the request's cookie. Without one: 401 `unauthorized`. Needs no key."""
    session = _session(request)
    begin_attempt(request, session.principal)
    await services(request).people.sessions.end(session)
    people = services(request).people
    address = None
    if session.sign_in == "oidc" and people.oidc is not None:
        address = people.oidc.sign_out_address(f"{own_origin(request, people.public_url)}/console/sign-in")
    response = Response(status_code=204) if address is None else json_response({"provider_sign_out": address})
    remove_cookie(response, request)
    return response


@router.get("/options", response_model=responses.SignInOptionsResponse)
async def show_options(request: Request) -> Response:
    """List the ways to sign in besides a key. Needs no key."""
    oidc = services(request).people.oidc
    return json_response({"oidc": None if oidc is None else {"name": oidc.name}})


def _session(request: Request) -> ConsoleSession:
    """Return the session of the request's cookie. Raises Problem 401, 403 not_same_origin."""
    require_same_origin(request)
    token = shown_session(request)
    session = services(request).people.sessions.find(token) if token is not None else None
    if session is None:
        raise problem("unauthorized", "nobody is signed in here, or the session has ended: sign in with a key")
    return session


def _document(request: Request, session: ConsoleSession) -> dict[str, Any]:
    principal = session.principal
    return {
        "id": session.id,
        "app": principal.app_id,
        "role": role_of(principal.scopes),
        "scopes": granted_scopes(principal.scopes),
        "name": principal.name,
        "sign_in": session.sign_in,
        "signed_in_at": rfc3339(session.created_at),
        "expires_at": rfc3339(services(request).people.sessions.expires_at(session)),
        "ends_at": rfc3339(session.ends_at),
    }
