"""ID tokens and documents of a provider that means harm, or is another one; with keys and a clock of our own."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any, cast

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from gateway.events.dns import RequestFailed
from gateway.events.guarded_client import GuardedClient, ReceiverResponse
from gateway.people.identity_provider import IdentityProvider, ProviderUnavailable, SignInRefused

ISSUER = "https://id.example/shops"
NOW = 1_800_000_000
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
CURVE = ECKey.generate_key("P-256", {"kid": "curve"})
CLAIMS = {"iss": ISSUER, "aud": "fleetpush", "sub": "ada", "iat": NOW, "exp": NOW + 300, "nonce": "n"}
JWKS = "https://id.example/jwks"
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://id.example/authorize",
    "token_endpoint": "https://id.example/token",
    "jwks_uri": JWKS,
    "id_token_signing_alg_values_supported": ["none", "HS256", "RS256", "ES256"],
}


class Web:
    """What the provider answers, by address; and what it was asked."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {
            f"{ISSUER}/.well-known/openid-configuration": dict(METADATA),
            JWKS: {"keys": [KEY.as_dict(private=False), CURVE.as_dict(private=False)]},
        }
        self.asked: list[str] = []
        self.is_down = False
        self.seconds = 1_000.0
        self.token_answer = (200, json.dumps({"id_token": "t"}))
        self.sent: tuple[bytes, dict[str, str]] = (b"", {})

    async def get(self, url: str, headers: dict[str, str]) -> ReceiverResponse:
        self.asked.append(url)
        if self.is_down:
            raise RequestFailed("no answer")
        return ReceiverResponse(200, None, json.dumps(self.documents[url]))

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> ReceiverResponse:
        if self.is_down:
            raise RequestFailed("no answer")
        self.sent = body, headers
        return ReceiverResponse(self.token_answer[0], None, self.token_answer[1])

    async def close(self) -> None:
        pass


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def provider(web: Web) -> IdentityProvider:
    return IdentityProvider(
        issuer=ISSUER,
        client_id="fleetpush",
        secret=None,
        make_client=lambda: cast(GuardedClient, web),
        clock=lambda: web.seconds,
        unix_time=lambda: float(NOW),
    )


def token(key: Any = KEY, algorithm: str = "RS256", kid: str | None = "one", **changes: Any) -> str:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    header = {"alg": algorithm} | ({} if kid is None else {"kid": kid})
    return jwt.encode(header, claims, key, algorithms=[algorithm])


async def test_a_token_that_the_provider_has_signed_counts(provider: IdentityProvider) -> None:
    for good in (
        token(),
        token(kid=None),
        token(CURVE, "ES256", "curve"),
        token(aud=["fleetpush", "other"], azp="fleetpush"),
        token(aud=["fleetpush"]),
        token(iat=NOW + 59, exp=NOW - 59),  # clocks differ
    ):
        assert (await provider.verify(good, "n"))["sub"] == "ada"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"iss": "https://id.example"}, id="another issuer"),
        pytest.param({"iss": None}, id="no issuer"),
        pytest.param({"aud": "other"}, id="another audience"),
        pytest.param({"aud": ["other"]}, id="other audiences"),
        pytest.param({"aud": None}, id="no audience"),
        pytest.param({"aud": ["fleetpush", "other"]}, id="two audiences and nobody it is for"),
        pytest.param({"azp": "other"}, id="for another client"),
        pytest.param({"exp": NOW - 61}, id="over"),
        pytest.param({"exp": None}, id="without end"),
        pytest.param({"exp": "never"}, id="an end that is no time"),
        pytest.param({"iat": NOW + 61}, id="of the future"),
        pytest.param({"iat": None}, id="of no time"),
        pytest.param({"nbf": NOW + 61}, id="not yet"),
        pytest.param({"nonce": "other"}, id="of another sign-in"),
        pytest.param({"nonce": None}, id="of no sign-in"),
        pytest.param({"sub": None}, id="of nobody"),
        pytest.param({"sub": ""}, id="of an empty name"),
        pytest.param({"sub": 7}, id="of a number"),
        pytest.param({"sub": "x" * 256}, id="of a long name"),
    ],
)
async def test_claims_have_to_be_ours(provider: IdentityProvider, wrong: dict[str, Any]) -> None:
    with pytest.raises(SignInRefused):
        await provider.verify(token(**wrong), "n")


def encoded(*parts: bytes) -> str:
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def unsigned() -> str:
    return encoded(json.dumps({"alg": "none", "kid": "one"}).encode(), json.dumps(CLAIMS).encode(), b"")


def confused() -> str:
    """Signed by HMAC with the public key, which everybody knows, as its secret: by hand, joserfc would not do it."""
    signed = encoded(json.dumps({"alg": "HS256", "kid": "one"}).encode(), json.dumps(CLAIMS).encode())
    return f"{signed}.{encoded(hmac.digest(KEY.as_pem(private=False), signed.encode(), 'sha256'))}"


def with_own_key() -> str:
    """Signed with a key that comes along in the header."""
    header = {"alg": "RS256", "kid": "one", "jwk": OTHER.as_dict(private=False)}
    return jwt.encode(header, CLAIMS, OTHER, algorithms=["RS256"])


def other_curve() -> str:
    return token(CURVE, "ES256", "one")


def altered() -> str:
    head, _, signature = token().split(".")
    return f"{head}.{encoded(json.dumps({**CLAIMS, 'sub': 'eve'}).encode())}.{signature}"


FORGED = {
    "alg none": unsigned(),
    "key confusion": confused(),
    "its own key in the header": with_own_key(),
    "another key": token(OTHER),
    "another key, unnamed": token(OTHER, kid=None),
    "a key of another kind": other_curve(),
    "altered": altered(),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_forged_token_does_not_count(provider: IdentityProvider, forged: str) -> None:
    with pytest.raises(SignInRefused):
        await provider.verify(forged, "n")


@pytest.mark.parametrize("odd", ["", "a.b", "a.b.c", "é.é.é", f"{'A' * 5_000}.e30.x"])
async def test_what_is_no_token_is_refused(provider: IdentityProvider, odd: str) -> None:
    with pytest.raises(SignInRefused):
        await provider.verify(odd, "n")


async def test_new_keys_are_fetched_when_one_is_unknown_but_not_for_each_token(
    provider: IdentityProvider, web: Web
) -> None:
    await provider.verify(token(), "n")
    new = RSAKey.generate_key(2048, {"kid": "two"})
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "two"}
    web.documents[JWKS] = {"keys": [secret, new.as_dict(private=False)]}
    for _ in range(5):  # a moment later nobody asks
        with pytest.raises(SignInRefused):
            await provider.verify(token(new, kid="two"), "n")
    assert web.asked.count(JWKS) == 1
    web.seconds += 5
    assert (await provider.verify(token(new, kid="two"), "n"))["sub"] == "ada"
    with pytest.raises(SignInRefused):
        await provider.verify(token(), "n")  # withdrawn


async def test_what_it_said_is_kept_for_an_hour_and_a_day_if_it_is_away(provider: IdentityProvider, web: Web) -> None:
    await provider.verify(token(), "n")
    await provider.verify(token(), "n")
    assert len(web.asked) == 2
    web.is_down = True
    web.seconds += 3_600
    await provider.verify(token(), "n")
    assert len(web.asked) == 4
    await provider.verify(token(), "n")  # not asked again at once
    assert len(web.asked) == 4
    web.seconds += 86_400
    with pytest.raises(ProviderUnavailable):
        await provider.metadata()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"issuer": "https://id.example"}, id="another issuer"),
        pytest.param({"token_endpoint": "http://id.example/token"}, id="without TLS"),
        pytest.param({"token_endpoint": "https://user@id.example/token"}, id="with a user"),
        pytest.param({"authorization_endpoint": "javascript:alert(1)"}, id="a script"),
        pytest.param({"authorization_endpoint": None}, id="no address"),
        pytest.param({"jwks_uri": "file:///etc/passwd"}, id="a file"),
        pytest.param({"jwks_uri": "https://[id.example/"}, id="no URL"),
        pytest.param({"end_session_endpoint": "http://id.example/\nx"}, id="two lines"),
    ],
)
async def test_what_it_says_of_itself_has_to_be_usable(
    provider: IdentityProvider, web: Web, change: dict[str, Any]
) -> None:
    web.documents[f"{ISSUER}/.well-known/openid-configuration"].update(change)
    with pytest.raises(ProviderUnavailable):
        await provider.metadata()


@pytest.mark.parametrize("keys", [[], None, [{"kty": "oct", "k": "c2VjcmV0"}], [{"kty": "RSA"}], [7], "x"])
async def test_without_a_key_nothing_counts(provider: IdentityProvider, web: Web, keys: Any) -> None:
    web.documents[JWKS] = {"keys": keys}
    with pytest.raises(ProviderUnavailable):
        await provider.verify(token(), "n")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, '{"error": "invalid_grant"}', SignInRefused),
        (400, '{"error": "<script>"}', SignInRefused),
        (500, "{}", ProviderUnavailable),
        (302, "", SignInRefused),
        (200, "{}", SignInRefused),
        (200, "[]", SignInRefused),
        (200, "no JSON", SignInRefused),
        (200, '{"id_token": 7}', SignInRefused),
        (200, json.dumps({"id_token": "x" * 40_000}), SignInRefused),
    ],
)
async def test_a_code_that_gives_no_token_ends_the_sign_in(
    provider: IdentityProvider, web: Web, status: int, body: str, expected: type[Exception]
) -> None:
    web.token_answer = status, body
    with pytest.raises(expected) as refusal:
        await provider.exchange("code", "verifier", "https://push.example/v1/session/oidc/callback")
    assert "script" not in str(refusal.value)


async def test_the_secret_goes_where_the_provider_takes_it(provider: IdentityProvider, web: Web) -> None:
    provider._secret = "100% & more"
    await provider.exchange("code", "verifier", "https://push.example/")
    body, headers = web.sent
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"fleetpush:100%25%20%26%20more"
    assert b"client_secret" not in body
    web.documents[f"{ISSUER}/.well-known/openid-configuration"]["token_endpoint_auth_methods_supported"] = [
        "client_secret_post"
    ]
    web.seconds += 3_600
    await provider.exchange("code", "verifier", "https://push.example/")
    body, headers = web.sent
    assert b"client_secret=100%25+%26+more" in body
    assert "Authorization" not in headers
