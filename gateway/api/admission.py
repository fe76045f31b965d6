"""Admission of requests: a valid key or session, the scope that the call needs, and not more often than agreed.

In this order, so that a stranger learns nothing but 401, and before a body is read. The rate is a bucket per key that
holds one second's worth: it keeps one runaway sender from taking the whole loop, and nothing finer is promised.

Whoever is admitted to what may change something makes an attempt, which the audit log has an entry of when it does
(`store/audited_writes`). Who is not admitted is in that log as well, as far as there is room for refusals.

A key wins over a session: the cookie is read where no key is shown, so requests with keys pay nothing for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fastapi import Request

from gateway.api.audited_actions import action_of
from gateway.api.request_headers import header_of
from gateway.api.session_cookies import SAFE_METHODS, require_same_origin, session_token, shown_session
from gateway.audit.audit_log import AuditLog
from gateway.auth import KeyCache, Principal, basic_credential, token_of
from gateway.errors import BasicUnauthorized, Problem, RateLimited, problem
from gateway.people.sessions import ConsoleSessions
from gateway.store.audit_entries import Detail
from gateway.store.audited_writes import CURRENT, PERSON, SESSION, Attempt

log = logging.getLogger(__name__)

ADMITTED = "fleetpush.admitted"
"""The key, in the scope of a request whose key is valid, of its `Principal`: its connection is not a stranger's any
more."""
ATTEMPT = "fleetpush.attempt"
"""The key, in the scope of a request that may change something, of its `Attempt`."""
MAX_BUCKETS = 10_000
"""Buckets in memory; over it all are forgotten, which is generous for a second."""


class Admission:
    """Admits requests with a valid key, or session, of the right scope, at most `rate` a second for each key. `clock`
    gives seconds that only grow. Runs on the *loop*."""

    def __init__(
        self,
        *,
        keys: KeyCache,
        sessions: ConsoleSessions,
        audit: AuditLog,
        rate: int,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._audit = audit
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """Key id -> (requests left, when that was so)."""
        self.admitted = 0
        """Requests with a valid key, for metrics."""

    async def admit(
        self, request: Request, scope: str, or_scope: str | None = None, device_id: str | None = None
    ) -> Principal:
        """Return the holder of the request's key, which has one of the scopes. Where the path names a device, that may
        be the device with its token, as a key or with its user name (RFC 7617). Raises Problem 401, 403, 429."""
        device = None
        if device_id is not None:
            header = header_of(request, b"authorization")
            token, basic = token_of(header), basic_credential(header)
            if token:
                device = (device_id, token)
            elif basic is not None and basic[0].rpartition("/")[2] == device_id:
                device = basic
        return await self._admit(request, scope, or_scope, device)

    async def admit_device_or(self, request: Request, scope: str, or_scope: str) -> Principal:
        """The holder of a key which has one of the scopes; or a device, by its MQTT user name and token (RFC 7617).
        Raises Problem 401, 403, 429."""
        header = header_of(request, b"authorization")
        if token_of(header):  # no path says here whose it is
            raise BasicUnauthorized("a device sends HTTP Basic here: its MQTT user name, and its token")
        try:
            return await self._admit(request, scope, or_scope, basic_credential(header))
        except Problem as refusal:
            if refusal.code == "unauthorized":
                raise BasicUnauthorized(refusal.detail) from None
            raise

    async def still_admitted(self, request: Request) -> bool:
        """Whether the key of a request that goes on and on has not been revoked meanwhile, nor the session ended."""
        header = header_of(request, b"authorization")
        if _may_be_session(header):
            token = shown_session(request)
            return token is not None and self._sessions.known(token) is not None
        try:
            await self._keys.authenticate(header)
        except Problem:
            return False
        return True

    async def _admit(
        self, request: Request, scope: str, or_scope: str | None, device: tuple[str, str] | None
    ) -> Principal:
        """Admit a key with one of the scopes, or the device: `device` is its user name or id, and its token."""
        try:
            if device is not None:
                return self._let_in(request, await self._keys.authenticate_device(*device))
            header = header_of(request, b"authorization")
            principal = None
            if header is None or header[:5] == "Basic":  # as in `_may_be_session`, without its call
                principal = self._holder_of_session(request)
            if principal is None:
                principal = await self._keys.authenticate(header)
        except Problem as refusal:
            peer = address_of(request)
            log.info("%s: %s", peer, refusal.detail, extra={"peer": peer})
            if refusal.status in (401, 403):
                self._audit.refuse(Attempt(None, "", "request", operation_of(request), peer), refusal.code)
            raise
        # A push by itself has no route; it has an attempt if it comes from the console.
        if ("route" in request.scope or principal.session_id is not None) and (
            request.scope["method"] not in SAFE_METHODS
        ):
            begin_attempt(request, principal)
        if or_scope is None or or_scope not in principal.scopes:
            try:
                principal.require(scope)
            except Problem as refusal:
                attempt = request.scope.get(ATTEMPT) or attempt_by(request, principal, "request", operation_of(request))
                self._audit.refuse(attempt, refusal.code)
                raise
        return self._let_in(request, principal)

    def share_of(self, headers: Sequence[tuple[bytes, bytes]], scheme: str) -> str | None:
        """Return the share that a request counts for while it waits: that of its key or session, if those are known."""
        for name, value in headers:
            if name == b"authorization" and (share := self._keys.share_of(value.decode("latin-1"))) is not None:
                return share
        token = session_token(headers, scheme)
        principal = self._sessions.known(token) if token is not None else None
        return principal.key_id if principal is not None else None

    def _holder_of_session(self, request: Request) -> Principal | None:
        """Return the holder of the session whose cookie a request has; None if it has none. Raises Problem 401, 403
        not_same_origin."""
        token = shown_session(request)
        if token is None:
            return None
        require_same_origin(request)
        session = self._sessions.find(token)
        if session is None:
            raise problem("unauthorized", "the session has ended: sign in again")
        return session.principal

    def _let_in(self, request: Request, principal: Principal) -> Principal:
        request.scope[ADMITTED] = principal
        now = self._clock()
        left, since = self._buckets.get(principal.key_id, (self._rate, now))
        left = min(self._rate, left + (now - since) * self._rate) - 1
        if left < 0:
            raise RateLimited(-left / self._rate)
        if len(self._buckets) >= MAX_BUCKETS:
            self._buckets.clear()
        self._buckets[principal.key_id] = (left, now)
        self.admitted += 1
        return principal


def begin_attempt(request: Request, principal: Principal, action_path: str | None = None) -> None:
    """Begin the attempt of a request that may change something, if its change is in the audit log. `http.Api` closes it
    when the request has been answered.

    `action_path`: the path of the POST that it is instead, such as a schedule's that comes as a push.
    """
    action = action_of("post", action_path) if action_path else action_of(request.method, path_of(request))
    if action is None or (action.is_push and principal.session_id is None):
        return
    object_id = request.path_params.get(action.parameter, "") if action.parameter is not None else None
    about = "" if object_id is None else f"{action.kind}:{object_id}"
    attempt = request.scope[ATTEMPT] = attempt_by(request, principal, action.name, about)
    CURRENT.set(attempt)


def attempt_by(request: Request, principal: Principal, action: str, about: str) -> Attempt:
    """Return an attempt of whoever a request comes from."""
    return Attempt(principal.app_no, actor_of(principal), action, about, address_of(request), person_of(principal))


def begin_attempt_by_code(request: Request) -> None:
    """Begin the attempt of a device that has no key but a code; what is written says for which app."""
    action = action_of(request.method, path_of(request))
    assert action is not None, "codes are traded for something"
    attempt = request.scope[ATTEMPT] = Attempt(None, "code", action.name, "", address_of(request))
    CURRENT.set(attempt)


def actor_of(principal: Principal) -> str:
    """Return what the audit log calls the holder of a key, or a person who signed in without one."""
    return f"{principal.kind}:{principal.key_id}"


def person_of(principal: Principal) -> dict[str, Detail]:
    """Return what the audit log says besides of somebody at the console."""
    if principal.session_id is None:
        return {}
    found: dict[str, Detail] = {SESSION: principal.session_id}
    if principal.kind == "person":
        found[PERSON] = principal.name
    return found


def address_of(request: Request) -> str:
    """Return the address that a request comes from; as its proxy says, if that is trusted."""
    return request.client.host if request.client is not None else "unknown"


def path_of(request: Request) -> str:
    """Return the path of a request's operation, as the OpenAPI document has it."""
    route = request.scope.get("route")  # none where `http.Api` goes around the routes, for its one path
    path: str = request.scope["path"] if route is None else route.path
    return path


def operation_of(request: Request) -> str:
    """Return the operation of a request as `DELETE /v1/devices/{device_id}`."""
    return f"{request.method} {path_of(request)}"


def _may_be_session(authorization: str | None) -> bool:
    """Whether a request may come with a session instead of a key. Of HTTP Basic, a proxy in front may be whom it is
    for."""
    return authorization is None or authorization[:5] == "Basic"
