"""`/v1/session/oidc`: the way of a browser to the identity provider and back, which ends on a page of the console.

A browser navigates here, so a refusal is no problem document but a way back to the sign-in, which says what it was.

The session's cookie is `SameSite=Strict`: a browser that comes from the provider does not send it, nor on a redirect
that follows. So the return is a page of ours, without any script, that leads to the console: from there on the browser
is on a way that this server began.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from html import escape
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from gateway.api.admission import actor_of, address_of
from gateway.api.console import HEADERS
from gateway.api.services import services
from gateway.api.session_cookies import cookie_value, give_cookie, name_over, own_origin, shown_session
from gateway.errors import Problem, RateLimited, problem
from gateway.people.browser_sign_in import SIGN_IN_SECONDS, FinishedSignIn, SignInFailed, return_path
from gateway.people.components import PeopleComponents
from gateway.store.audited_writes import CURRENT, PERSON, Attempt

if TYPE_CHECKING:
    from gateway.people.oidc_sign_in import OidcSignIn

log = logging.getLogger(__name__)

PATH: Final = "/v1/session/oidc"
CALLBACK: Final = "/callback"
SIGN_IN_PAGE: Final = "/console/sign-in"
COOKIE: Final = "fleetpush_sign_in"
ANSWER_CHARACTERS: Final = 4_096
"""Characters of the query with which a provider sends a browser back."""
POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_NO_STORE: Final = {**HEADERS, "Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
router = APIRouter(prefix=PATH, include_in_schema=False)


@router.get("")
async def begin(
    request: Request, to: Annotated[str | None, Query()] = None, app: Annotated[str | None, Query()] = None
) -> Response:
    """Lead to the identity provider. Raises Problem 404 if there is none, 422 for what is no page of the console."""
    people, oidc = _oidc(request)
    page = return_path(to)
    if page is None:
        raise problem("invalid_request", "to: a page of the console, as /console/fleet")
    before = shown_session(request)
    try:
        begun = await oidc.begin(own_origin(request, people.public_url) + PATH + CALLBACK, page, app, before)
    except SignInFailed as failed:
        return _failed(request, failed)
    response = Response(status_code=303, headers={**_NO_STORE, "Location": begun.address})
    _set_cookie(request, response, begun.cookie, SIGN_IN_SECONDS)
    return response


@router.get(CALLBACK)
async def come_back(request: Request) -> Response:
    """Finish the sign-in of a browser that the provider has sent back, with whatever parameters it adds."""
    people, oidc = _oidc(request)
    host = address_of(request)
    cookie = cookie_value(request.scope["headers"], name_over(request.scope["scheme"], COOKIE))
    try:
        if len(request.url.query) > ANSWER_CHARACTERS:
            raise SignInFailed("sign_in_refused", "the provider sent the person back with too long an answer")
        finished = await oidc.finish(cookie, dict(request.query_params))
    except SignInFailed as failed:
        services(request).audit.refuse(Attempt(None, "", "session.begin", "", host), failed.code)
        if failed.code in ("sign_in_refused", "no_role"):
            try:
                await people.guesses.delay(host)
            except Problem as refusal:
                return _failed(request, SignInFailed(refusal.code, refusal.detail))
        return _failed(request, failed)
    try:
        token = await _begin_session(people, finished, host, services(request).confirm)
    except RateLimited:
        return _failed(request, SignInFailed("busy", f"{finished.principal.key_id} signs in again and again"))
    response = Response(_page(finished.to), media_type="text/html", headers=_NO_STORE)
    give_cookie(response, request, token)
    _set_cookie(request, response, "", 0)
    return response


async def _begin_session(
    people: PeopleComponents, finished: FinishedSignIn, host: str, confirm: Callable[[], Awaitable[None]] | None
) -> str:
    """Begin the session of a person who came back, with its entry in the audit log; its cookie's value."""
    principal = finished.principal
    attempt = Attempt(principal.app_no, actor_of(principal), "session.begin", "", host, {PERSON: principal.name})
    CURRENT.set(attempt)
    try:
        token, _ = await people.sessions.begin(principal, finished.before)
    finally:
        attempt.is_open = False
    if confirm is not None:
        await confirm()  # the next request of the browser may come to another node
    return token


def _oidc(request: Request) -> tuple[PeopleComponents, OidcSignIn]:
    people = services(request).people
    if people.oidc is None:
        raise problem("not_found", "this server has no identity provider (setting oidc_issuer)")
    return people, people.oidc


def _failed(request: Request, failed: SignInFailed) -> Response:
    host = address_of(request)
    log.warning("%s: a sign-in at the console failed: %s (%s)", host, failed, failed.code, extra={"peer": host})
    address = f"{SIGN_IN_PAGE}?{urlencode({'error': failed.code})}"
    response = Response(status_code=303, headers={**_NO_STORE, "Location": address})
    _set_cookie(request, response, "", 0)
    return response


def _set_cookie(request: Request, response: Response, value: str, seconds: int) -> None:
    """Have the browser keep the cookie of a sign-in; `Lax`, because it comes back from another site."""
    scheme = request.scope["scheme"]
    response.set_cookie(
        name_over(scheme, COOKIE), value, seconds, path="/", secure=scheme == "https", httponly=True, samesite="lax"
    )


def _page(to: str) -> str:
    address = escape(to)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Fleetpush</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="0;url={address}">'
        f'</head><body><main><h1>Fleetpush</h1><p><a href="{address}">Go on</a></p></main></body></html>'
    )
