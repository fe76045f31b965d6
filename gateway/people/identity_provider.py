"""An identity provider as a client of it sees it (OpenID Connect Core 1.0, Discovery 1.0): found, asked, not believed.

Laws
1. What it says of itself is fetched from its issuer alone, by the guarded client and within its bounds, and kept for
   KEPT_SECONDS. If it cannot be asked anew, what is known stays good for STALE_SECONDS; after a failure nobody asks
   again for RETRY_SECONDS.
2. An ID token counts if one of the provider's own public keys has signed it, with an algorithm of ALGORITHMS: never
   `none`, and no HMAC, for which anybody could use a public key. Then issuer, audience, times, subject and nonce are
   checked. A key that is not known has the keys fetched anew, once in RETRY_SECONDS.
3. Nothing that it answers is shown or logged beyond an error's name; codes and tokens never are.

joserfc does the cryptography. Authlib, which is built on it, would bring a client of its own for HTTP, which follows
redirects and asks whom it is told to; what is left of it is this module.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.events.dns import RequestFailed
from gateway.events.guarded_client import GuardedClient, ReceiverResponse

log = logging.getLogger(__name__)

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
KEPT_SECONDS: Final = 3_600.0
"""Time until what the provider says of itself, and its keys, are fetched anew."""
STALE_SECONDS: Final = 86_400.0
"""Time for which they are good when they cannot be."""
RETRY_SECONDS: Final = 5.0
"""Time between two attempts to fetch what could not be fetched, or keys that were not there."""
LEEWAY_SECONDS: Final = 60
"""By which the provider's clock and ours may differ."""
MAX_KEYS: Final = 32
ANSWER_BYTES: Final = 128 * 1024
"""Bytes of an answer: keys with their certificates have some ten thousand."""
TOKEN_CHARACTERS: Final = 32 * 1024
SUBJECT_CHARACTERS: Final = 255
"""OpenID Connect Core, section 2."""
_ERROR_NAME: Final = re.compile(r"[a-z_]{1,64}")

Key = RSAKey | ECKey | OKPKey
_KINDS: Final[dict[str, type[Key]]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class ProviderUnavailable(Exception):
    """The provider cannot be asked, or says of itself what cannot be used; the text is for the operator's log."""


class SignInRefused(Exception):
    """The provider has refused a sign-in, or its ID token does not count; the text is for the operator's log."""


@dataclass(slots=True, frozen=True)
class ProviderMetadata:
    """Addresses and abilities of a provider, as it says itself."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str | None
    algorithms: tuple[str, ...]
    """Algorithms with which it signs, of ALGORITHMS."""
    sends_issuer: bool
    """Whether each of its answers at the return names its issuer (RFC 9207)."""
    takes_basic: bool
    """Whether the secret goes into the `Authorization` header; into the body else."""


@dataclass(slots=True)
class _Fetched:
    """Something that was fetched, and when; seconds of the clock."""

    value: Any = None
    fetched_at: float = float("-inf")
    failed_at: float = float("-inf")


class IdentityProvider:
    """The identity provider of the settings. `clock` gives seconds that only grow, `unix_time` those of the wall clock;
    `make_client` makes a client for one host. Runs on the *loop*."""

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        secret: str | None,
        make_client: Callable[[], GuardedClient],
        clock: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self.issuer = issuer
        self.client_id = client_id
        self._secret = secret
        self._make_client = make_client
        self._clock = clock
        self._unix_time = unix_time
        self._metadata = _Fetched()
        self._keys = _Fetched()
        self._fetching = asyncio.Lock()

    async def metadata(self) -> ProviderMetadata:
        """Return what the provider says of itself. Raises ProviderUnavailable."""
        found: ProviderMetadata = await self._kept(self._metadata, self._fetch_metadata)
        return found

    def known_metadata(self) -> ProviderMetadata | None:
        """Return what the provider has said of itself before, without asking it."""
        found: ProviderMetadata | None = self._metadata.value
        return found

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> str:
        """Trade a code for an ID token, a text that nobody has checked. Raises ProviderUnavailable, SignInRefused."""
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            "client_id": self.client_id,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if self._secret is not None and metadata.takes_basic:
            pair = f"{quote(self.client_id, safe='')}:{quote(self._secret, safe='')}"  # RFC 6749, 2.3.1
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        elif self._secret is not None:
            form["client_secret"] = self._secret
        answer = await self._ask(lambda client: client.post(metadata.token_endpoint, urlencode(form).encode(), headers))
        document = _json_object(answer.text)
        if answer.status != 200:
            name = document.get("error") if document is not None else None
            known = name if isinstance(name, str) and _ERROR_NAME.fullmatch(name) else "without a reason"
            if answer.status >= 500:
                raise ProviderUnavailable(f"its token endpoint answered {answer.status}")
            raise SignInRefused(f"its token endpoint answered {answer.status} ({known})")
        token = document.get("id_token") if document is not None else None
        if not isinstance(token, str) or len(token) > TOKEN_CHARACTERS:
            raise SignInRefused("its token endpoint answered no ID token that can be used")
        return token

    async def verify(self, id_token: str, nonce: str) -> Mapping[str, Any]:
        """Return the claims of an ID token that counts. Raises ProviderUnavailable, SignInRefused."""
        metadata = await self.metadata()
        header = _header(id_token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in metadata.algorithms:
            raise SignInRefused(f"its ID token is signed with {algorithm!r:.20}, which is not one of its algorithms")
        claims = None
        for key in await self._keys_for(key_id):
            try:
                claims = jwt.decode(id_token, key, algorithms=[algorithm]).claims
                break
            except (JoseError, ValueError):
                pass  # another one of its keys may have signed it
        if claims is None:
            raise SignInRefused("none of its keys has signed its ID token")
        self._check(claims, nonce)
        return claims

    def _check(self, claims: Mapping[str, Any], nonce: str) -> None:
        registry = jwt.JWTClaimsRegistry(
            now=int(self._unix_time()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            registry.validate(dict(claims))
        except (JoseError, ValueError, TypeError) as error:
            raise SignInRefused(f"its ID token does not count: {error}") from None
        party = claims.get("azp")
        audience = claims["aud"]
        if (party is not None or (isinstance(audience, list) and len(audience) > 1)) and party != self.client_id:
            raise SignInRefused("its ID token is for another client (azp)")
        if not 0 < len(claims["sub"]) <= SUBJECT_CHARACTERS:
            raise SignInRefused("its ID token names nobody")

    # -- what it says of itself ----------------------------------------------------------------------------------------

    async def _kept(self, kept: _Fetched, fetch: Callable[[], Any], *, anew: bool = False) -> Any:
        """Return what is kept, or fetch it. `anew`: what is kept does not do. Raises ProviderUnavailable."""
        async with self._fetching:  # one asks, and the others hear of it
            now = self._clock()
            is_fresh = now - kept.fetched_at < (RETRY_SECONDS if anew else KEPT_SECONDS)
            has_failed = now - kept.failed_at < RETRY_SECONDS
            if not is_fresh and not has_failed:
                try:
                    kept.value = await fetch()
                    kept.fetched_at = self._clock()
                    return kept.value
                except ProviderUnavailable as error:
                    log.warning("the identity provider %s: %s", self.issuer, error)
                    kept.failed_at = self._clock()
            if now - kept.fetched_at < STALE_SECONDS:
                return kept.value
            raise ProviderUnavailable("it could not be asked a moment ago")

    async def _fetch_metadata(self) -> ProviderMetadata:
        document = await self._document(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != self.issuer:
            raise ProviderUnavailable("it says that it is another issuer: set oidc_issuer to just what it says")
        signed_with = document.get("id_token_signing_alg_values_supported")
        offered = signed_with if isinstance(signed_with, list) else ["RS256"]
        methods = document.get("token_endpoint_auth_methods_supported")
        return ProviderMetadata(
            authorization_endpoint=self._endpoint(document, "authorization_endpoint"),
            token_endpoint=self._endpoint(document, "token_endpoint"),
            jwks_uri=self._endpoint(document, "jwks_uri"),
            end_session_endpoint=self._endpoint(document, "end_session_endpoint")
            if document.get("end_session_endpoint")
            else None,
            algorithms=tuple(algorithm for algorithm in ALGORITHMS if algorithm in offered),
            sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
            takes_basic=not isinstance(methods, list) or "client_secret_basic" in methods,
        )

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str:
        """Return an address of the document; of a provider with TLS, one with TLS. Raises ProviderUnavailable."""
        value = document.get(name)
        try:
            url = urlsplit(value) if isinstance(value, str) and value.isascii() and value.isprintable() else None
            is_usable = url is not None and bool(url.hostname) and "@" not in url.netloc and not url.fragment
        except ValueError:
            is_usable = False
        if not is_usable or url is None or url.scheme not in ("https", urlsplit(self.issuer).scheme):
            raise ProviderUnavailable(f"its {name} is no address that can be used")
        assert isinstance(value, str), "checked above"
        return value

    async def _keys_for(self, key_id: object) -> list[Key]:
        """Return its keys that may have signed something; fetched anew if none has this id."""
        for anew in (False, True):
            known: list[tuple[str | None, Key]] = await self._kept(self._keys, self._fetch_keys, anew=anew)
            found = [key for own_id, key in known if key_id is None or own_id == key_id]
            if found:
                return found
        return []

    async def _fetch_keys(self) -> list[tuple[str | None, Key]]:
        # Not by `metadata`, which waits for the lock that we have.
        metadata: ProviderMetadata = self._metadata.value
        document = await self._document(metadata.jwks_uri)
        listed = document.get("keys")
        found: list[tuple[str | None, Key]] = []
        for fields in listed[:MAX_KEYS] if isinstance(listed, list) else []:
            kind = _KINDS.get(str(fields.get("kty"))) if isinstance(fields, dict) else None
            if kind is None or fields.get("use", "sig") != "sig":
                continue
            try:
                key_id = fields.get("kid")
                found.append((key_id if isinstance(key_id, str) else None, kind.import_key(fields)))
            except (JoseError, ValueError, TypeError, KeyError):
                continue  # of a curve that we do not know, for example
        if not found:
            raise ProviderUnavailable("it has no key that signs")
        return found

    async def _document(self, url: str) -> dict[str, Any]:
        answer = await self._ask(lambda client: client.get(url, {"Accept": "application/json"}))
        document = _json_object(answer.text) if answer.status == 200 else None
        if document is None:
            raise ProviderUnavailable(f"{url} answered {answer.status}, and no JSON that can be used")
        return document

    async def _ask(self, ask: Callable[[GuardedClient], Any]) -> ReceiverResponse:
        client = self._make_client()  # for each request: its hosts may share an address, and not their certificates
        try:
            answer: ReceiverResponse = await ask(client)
            return answer
        except RequestFailed as error:
            raise ProviderUnavailable(str(error)) from None
        finally:
            await client.close()


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _header(token: str) -> Mapping[str, Any]:
    try:
        return jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, UnicodeError):
        raise SignInRefused("its ID token is no JWS") from None
