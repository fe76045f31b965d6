"""The cookie of a person's session, and who may send requests with it.

A browser adds the cookie by itself, whatever page asked for the request. So a request that changes something has to
prove that it comes from a page of this server, by two things that no other page can have a browser send: the header
`Fleetpush-Console`, for which a browser asks us first (CORS), and we never permit it; and `Sec-Fetch-Site` or `Origin`,
which a page cannot choose. The cookie is `SameSite=Strict` besides, but a site is more than an origin: it includes
other ports and other hosts of the same domain.

Over TLS the cookie's name begins with `__Host-`: then no other host of the domain can set one of that name. Where two
cookies of the name come all the same, none counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import Request, Response

from gateway.api.request_headers import header_of
from gateway.errors import problem
from gateway.settings import ORIGIN

COOKIE: Final = "fleetpush_session"
CONSOLE_HEADER: Final = "Fleetpush-Console"
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing (RFC 9110, 9.2.1)."""
_CONSOLE_HEADER: Final = CONSOLE_HEADER.lower().encode()


def session_token(headers: Sequence[tuple[bytes, bytes]], scheme: str) -> str | None:
    """Return the value of the session's cookie, if there is one and not two. `scheme` is that of the request."""
    return cookie_value(headers, name_over(scheme))


def shown_session(request: Request) -> str | None:
    """Return the value of the session's cookie that a request has, as `session_token`."""
    return session_token(request.scope["headers"], request.scope["scheme"])


def cookie_value(headers: Sequence[tuple[bytes, bytes]], wanted: str) -> str | None:
    """Return the value of a cookie, if there is one and not two."""
    found: list[str] = []
    for name, value in headers:
        if name == b"cookie":
            for cookie in value.decode("latin-1").split(";"):
                key, _, content = cookie.strip().partition("=")
                if key == wanted:
                    found.append(content)
    return found[0] if len(found) == 1 and found[0] else None


def require_same_origin(request: Request) -> None:
    """Refuse what a page of another origin asks for. Raises Problem 403 not_same_origin."""
    site = header_of(request, b"sec-fetch-site")
    if request.method in SAFE_METHODS:
        # None: a browser that does not say, or over plain HTTP. `none`: a person has typed the address.
        if site not in (None, "same-origin", "none"):
            raise problem("not_same_origin", "a page of another origin cannot use the session of the console")
        return
    if header_of(request, _CONSOLE_HEADER) != "1":
        raise problem("not_same_origin", f"a request with the session's cookie needs the header `{CONSOLE_HEADER}: 1`")
    if site != "same-origin" if site is not None else not _is_own_origin(request):
        raise problem("not_same_origin", "only pages of this server send requests with the session's cookie")


def _is_own_origin(request: Request) -> bool:
    """Compare `Origin` with the host that was asked. A proxy may speak TLS for us, and not the other way round."""
    scheme, _, host = (header_of(request, b"origin") or "").partition("://")
    is_scheme = scheme == "https" or (scheme == "http" and request.scope["scheme"] == "http")
    return is_scheme and host.lower() == (header_of(request, b"host") or "").lower() != ""


def own_origin(request: Request, public_url: str | None) -> str:
    """Return the origin that browsers reach this server at. Raises Problem 400 for a header `Host` that is none."""
    if public_url is not None:
        return public_url
    origin = f"{request.scope['scheme']}://{header_of(request, b'host') or ''}"
    if ORIGIN.fullmatch(origin) is None:
        raise problem("malformed_request", "the header Host names no host")
    return origin


def give_cookie(response: Response, request: Request, token: str) -> None:
    """Have the browser keep a session's cookie until it is closed; the server ends the session earlier."""
    scheme = request.scope["scheme"]
    response.set_cookie(name_over(scheme), token, path="/", secure=scheme == "https", httponly=True, samesite="strict")


def remove_cookie(response: Response, request: Request) -> None:
    scheme = request.scope["scheme"]
    response.delete_cookie(name_over(scheme), path="/", secure=scheme == "https", httponly=True, samesite="strict")


def name_over(scheme: str, cookie: str = COOKIE) -> str:
    """Return the name of a cookie over this scheme."""
    return f"__Host-{cookie}" if scheme == "https" else cookie
