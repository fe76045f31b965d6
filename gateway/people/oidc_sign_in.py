"""Sign-in by an identity provider: the code flow with PKCE, from the button to the person who came back.

Laws
1. What a sign-in needs at its return (state, nonce, PKCE's verifier, the page it came from) travels in a cookie that
   this process has encrypted. So strangers who begin sign-ins take no memory, and nobody can come back with another
   browser's code: the cookie and the address have to fit.
2. A state counts once, and for SIGN_IN_SECONDS. Those that were used are remembered until then, MAX_USED_SIGN_INS of
   them; then a further one is refused, because one that is forgotten could be used again.
3. Roles come from the claim and the settings alone. Somebody without one is told so, and gets no session.
4. A sign-in comes back to a page of the console, and to nowhere else (`return_path`).
5. A restart of the server makes sign-ins that are under way begin anew: the key of their cookies was in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from gateway.auth import Principal
from gateway.people.browser_sign_in import SIGN_IN_SECONDS, BegunSignIn, FinishedSignIn, SignInFailed
from gateway.people.identity_provider import IdentityProvider, ProviderUnavailable, SignInRefused
from gateway.printable import UNPRINTABLE
from gateway.roles import SCOPES_OF_ROLE, RoleClaim, claim_values, roles_by_app
from gateway.store.access.apps import app_numbers
from gateway.store.database import Database

log = logging.getLogger(__name__)

MAX_USED_SIGN_INS: Final = 10_000
"""Used sign-ins that are remembered; that many in ten minutes are no people."""
MAX_EXCHANGES: Final = 8
"""Codes that are traded at a time; one more is refused, so that nobody has us flood the provider."""
NAME_CHARACTERS: Final = 128
_ALGORITHMS: Final = {"alg": "dir", "enc": "A256GCM"}


class OidcSignIn:
    """Sign-ins at the identity provider of the settings. `unix_time` gives seconds of the wall clock. Runs on the
    *loop*."""

    def __init__(
        self,
        *,
        provider: IdentityProvider,
        database: Database,
        name: str | None,
        scopes: Sequence[str],
        claim: str,
        role_claims: Sequence[RoleClaim],
        unix_time: Callable[[], float],
    ) -> None:
        """`name` of the provider, as people are shown it; `claim` and `role_claims` say which roles it gives."""
        self.provider = provider
        self.name = name or str(urlsplit(provider.issuer).hostname)
        self._database = database
        self._scopes = " ".join(dict.fromkeys(("openid", "profile", *scopes)))
        self._claim = claim
        self._role_claims = role_claims
        self._unix_time = unix_time
        self._key = OctKey.import_key(secrets.token_bytes(32))
        self._used: dict[str, float] = {}
        """State -> the time at which its cookie ends. The oldest is the first."""
        self._exchanges = 0
        self._use: Callable[[str, int], Awaitable[bool]] | None = None

    def share(self, key: bytes, use: Callable[[str, int], Awaitable[bool]]) -> None:
        """Share sign-ins with other nodes, to which people may come back.

        `key` is that of all nodes' cookies. `use` says of a state, and when its cookie ends (Unix seconds), whether it
        is used for the first time.
        """
        self._key, self._use = OctKey.import_key(key), use

    async def begin(self, redirect_uri: str, to: str, app_id: str | None, before: str | None) -> BegunSignIn:
        """Begin a sign-in.

        It comes back to `redirect_uri`, and then to the page `to`; into this app, if the person may. `before`: the
        value of the session's cookie that the browser shows. Raises SignInFailed.
        """
        try:
            metadata = await self.provider.metadata()
        except ProviderUnavailable as error:
            raise SignInFailed("provider_unavailable", str(error)) from None
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": self.provider.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        separator = "&" if "?" in metadata.authorization_endpoint else "?"
        kept = {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "redirect_uri": redirect_uri,
            "to": to,
            "app": app_id,
            "before": before,
            "ends": self._unix_time() + SIGN_IN_SECONDS,
        }
        cookie = jwe.encrypt_compact(_ALGORITHMS, json.dumps(kept), self._key)
        return BegunSignIn(f"{metadata.authorization_endpoint}{separator}{urlencode(asked)}", cookie)

    async def finish(self, cookie: str | None, answer: Mapping[str, str]) -> FinishedSignIn:
        """Finish the sign-in of this cookie with the parameters that the provider has sent the browser back with.
        Raises SignInFailed."""
        kept = self._open(cookie, answer.get("state"))
        if self._use is not None and not await self._use(kept["state"], int(kept["ends"]) + 1):
            raise SignInFailed("sign_in_expired", "a sign-in is finished a second time, at another node")
        try:
            await self._check_issuer(answer)
            if "error" in answer or "code" not in answer:
                refused = answer.get("error", "")
                raise SignInRefused(f"it sent the person back with {refused!r:.64} instead of a code")
            if self._exchanges >= MAX_EXCHANGES:
                raise SignInFailed("busy", f"{MAX_EXCHANGES} sign-ins are being finished")
            self._exchanges += 1
            try:
                token = await self.provider.exchange(answer["code"], kept["verifier"], kept["redirect_uri"])
                claims = await self.provider.verify(token, kept["nonce"])
            finally:
                self._exchanges -= 1
        except ProviderUnavailable as error:
            raise SignInFailed("provider_unavailable", str(error)) from None
        except SignInRefused as error:
            raise SignInFailed("sign_in_refused", str(error)) from None
        return FinishedSignIn(await self._person(claims, kept["app"]), kept["to"], kept["before"])

    def sign_out_address(self, after: str) -> str | None:
        """Return the address at which a person signs out of the provider, too.

        It leads back to `after`. None: there is none, or the provider has not been asked since the start."""
        metadata = self.provider.known_metadata()
        if metadata is None or metadata.end_session_endpoint is None:
            return None
        separator = "&" if "?" in metadata.end_session_endpoint else "?"
        asked = {"client_id": self.provider.client_id, "post_logout_redirect_uri": after}
        return f"{metadata.end_session_endpoint}{separator}{urlencode(asked)}"

    def _open(self, cookie: str | None, state: str | None) -> Any:
        """Return what a cookie holds, whose state counts now for the first and only time. Raises SignInFailed."""
        if cookie is None or state is None:
            raise SignInFailed("sign_in_expired", "a browser came back without a sign-in under way")
        try:
            opened = jwe.decrypt_compact(cookie, self._key, algorithms=list(_ALGORITHMS.values()))
            kept = json.loads(opened.plaintext or b"")
        except (JoseError, ValueError):
            raise SignInFailed("sign_in_expired", "the sign-in was begun before the server was started") from None
        now = self._unix_time()
        for used in [used for used, ends in self._used.items() if ends <= now]:
            del self._used[used]
        if not hmac.compare_digest(kept["state"].encode(), state.encode()):
            raise SignInFailed("sign_in_expired", "a browser came back with the state of another sign-in")
        if kept["ends"] <= now or state in self._used:
            raise SignInFailed("sign_in_expired", "a sign-in has ended, or is finished a second time")
        if len(self._used) >= MAX_USED_SIGN_INS:
            raise SignInFailed("busy", f"there were {MAX_USED_SIGN_INS} sign-ins in {SIGN_IN_SECONDS} s")
        self._used[state] = kept["ends"]
        return kept

    async def _check_issuer(self, answer: Mapping[str, str]) -> None:
        """Refuse an answer of another provider than the one that was asked (RFC 9207). Raises SignInRefused."""
        issuer = answer.get("iss")
        if issuer is None and (await self.provider.metadata()).sends_issuer:
            raise SignInRefused("its answer does not say whose it is (iss)")
        if issuer is not None and issuer != self.provider.issuer:
            raise SignInRefused("the answer is another provider's (iss)")

    async def _person(self, claims: Mapping[str, Any], wanted: str | None) -> Principal:
        """Return the person of these claims, in the wanted app or the first that they may be in. Raises
        SignInFailed."""
        roles = roles_by_app(self._role_claims, claim_values(claims, self._claim))
        app_ids = [wanted] if wanted in roles else [] if wanted is not None else list(roles)
        subject = f"{self.provider.issuer}\0{claims['sub']}"
        person_id = f"u_{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
        apps = await self._database.read_soon(lambda transaction: app_numbers(transaction, app_ids))
        for app_id in app_ids:
            if app_id in apps:
                scopes = frozenset(SCOPES_OF_ROLE[roles[app_id]])
                return Principal(apps[app_id], app_id, person_id, scopes, name=_name_of(claims))
        raise SignInFailed("no_role", f"{person_id} has no role here: the claim {self._claim} gives none")


def _name_of(claims: Mapping[str, Any]) -> str:
    """Return the name of a person for those who read it in a log: cut, and without what a terminal obeys."""
    names = (claims.get(name) for name in ("name", "preferred_username", "email", "sub"))
    found = next(name for name in names if isinstance(name, str) and name.strip())
    return UNPRINTABLE.sub("", found)[:NAME_CHARACTERS].strip()
