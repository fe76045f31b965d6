"""The format of signed pushes: what is signed is what is read, and nothing else is read."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import ECKey, OctKey, OKPKey

from client_sim.signatures import (
    ENCRYPTION,
    KEY_SET_TYPE,
    PUSH_TYPE,
    EncryptionKey,
    KeySet,
    PushRefused,
    SignedToken,
    SigningKey,
    Statement,
    decrypt,
    encrypt_for,
    json_object,
    public_keys,
    sign_key_set,
    sign_push,
    statement_id,
)

NOW = 1_796_000_000.25
KEY = SigningKey.new()
ORDER = Statement.new(["default/devices/kiosk-1"], "command", {"command": "reboot"}, NOW, 60)
SIGNED = sign_push(KEY, ORDER)


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def refused(token: str, key: OKPKey = KEY.okp) -> str:
    """The reason."""
    with pytest.raises(PushRefused) as caught:
        SignedToken(token).verify(key)
    return caught.value.reason


def test_a_signed_push_is_a_compact_jws() -> None:
    """Read by hand and verified by another library: what a small device does."""
    header, payload, signature = SIGNED.split(".")
    assert json.loads(decoded(header)) == {"alg": "Ed25519", "typ": "fleetpush-push+jwt", "kid": KEY.key_id}
    claims = {"jti": ORDER.statement_id, "aud": ["default/devices/kiosk-1"], "kind": "command"}
    claims |= {"iat": 1_796_000_000, "exp": 1_796_000_060, "data": {"command": "reboot"}}  # type: ignore[dict-item]
    assert json.loads(decoded(payload)) == claims
    public = Ed25519PublicKey.from_public_bytes(decoded(KEY.public["x"]))
    public.verify(decoded(signature), f"{header}.{payload}".encode())  # or it raises


def test_what_was_signed_is_read() -> None:
    token = SignedToken(SIGNED)
    assert (token.key_id, token.type) == (KEY.key_id, PUSH_TYPE)
    assert Statement.of_claims(token.verify(public_keys([KEY.public], "Ed25519")[KEY.key_id])) == ORDER


def test_a_key_set_is_read_as_it_was_signed() -> None:
    for ends in (None, 1_800_000_000):
        key_set = KeySet(7, (KEY.public,), ("old",), 1_796_000_000, ends)
        token = SignedToken(sign_key_set(KEY, key_set))
        assert token.type == KEY_SET_TYPE
        assert KeySet.of_claims(token.verify(KEY.okp)) == key_set


def test_ids_sort_by_time_and_say_their_version() -> None:
    ids = [statement_id(NOW + number / 1000) for number in range(20)]
    assert ids == sorted(set(ids))
    assert all(found[14] == "7" and found[19] in "89ab" for found in ids)


def test_an_altered_byte_is_found() -> None:
    header, payload, signature = SIGNED.split(".")
    claims = json.loads(decoded(payload)) | {"data": {"command": "wipe"}}
    assert refused(f"{header}.{encoded(json.dumps(claims).encode())}.{signature}") == "bad_signature"
    assert refused(f"{header}.{payload}.{encoded(bytes(64))}") == "bad_signature"
    assert refused(SIGNED, SigningKey.new().okp) == "bad_signature"


def test_another_algorithm_is_refused() -> None:
    """`none`, and the public key as a secret of HMAC: how JWS were forged."""
    _, payload, _ = SIGNED.split(".")
    names = {"typ": PUSH_TYPE, "kid": KEY.key_id}
    assert refused(f"{encoded(json.dumps({'alg': 'none', **names}).encode())}.{payload}.") == "malformed"
    secret = OctKey.import_key(decoded(KEY.public["x"]))
    assert refused(jws.serialize_compact({"alg": "HS256", **names}, decoded(payload), secret, ["HS256"])) == "malformed"
    ec = ECKey.generate_key("P-256")
    assert refused(jws.serialize_compact({"alg": "ES256", **names}, decoded(payload), ec, ["ES256"])) == "malformed"


@pytest.mark.parametrize("header", [{"crit": ["b64"], "b64": False}, {"crit": ["exp"], "exp": 1}])
def test_an_extension_of_the_format_is_refused(header: dict[str, Any]) -> None:
    whole = {"alg": "Ed25519", "typ": PUSH_TYPE, "kid": KEY.key_id, **header}
    first = encoded(json.dumps(whole).encode())
    signature = encoded(KEY.okp.private_key.sign(f"{first}.e30".encode()))  # type: ignore[union-attr]  # it is Ed25519
    assert refused(f"{first}.e30.{signature}") == "malformed"


@given(st.text(max_size=40) | st.text("Aa0_.-", max_size=60))
@settings(max_examples=40)
def test_whatever_is_no_token_is_refused(text: str) -> None:
    assert refused(text) in ("malformed", "bad_signature")
    with pytest.raises(PushRefused):
        decrypt(text, DEVICE)


@pytest.mark.parametrize("payload", ["", "7", "[]", "{", '"x"', "[" * 100_000, "é".encode("latin-1")])
def test_claims_are_an_object(payload: str | bytes) -> None:
    token = jws.serialize_compact({"alg": "Ed25519", "typ": PUSH_TYPE, "kid": "k"}, payload, KEY.okp, ["Ed25519"])
    assert refused(token) == "malformed"


@pytest.mark.parametrize(
    "change",
    [{"jti": None}, {"jti": ""}, {"jti": "x" * 65}, {"jti": 7}, {"aud": None}, {"aud": []}, {"aud": [7]}, {"aud": {}},
     {"kind": None}, {"iat": None}, {"iat": True}, {"iat": 1.5}, {"iat": -1}, {"exp": "soon"}, {"exp": 2**53}],
)  # fmt: skip
def test_every_claim_of_a_push_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(PushRefused, match=r"its|it needs") as caught:
        Statement.of_claims(ORDER.claims() | change)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "change",
    [{"version": None}, {"version": "8"}, {"keys": None}, {"keys": [{}] * 33}, {"revoked": {}}, {"revoked": [1]},
     {"revoked": ["k"] * 65}, {"exp": "soon"}, {"iat": None}],
)  # fmt: skip
def test_every_claim_of_a_key_set_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(PushRefused) as caught:
        KeySet.of_claims(KeySet(1, (KEY.public,)).claims() | change)
    assert caught.value.reason == "malformed"


def test_one_audience_may_be_a_text() -> None:
    """RFC 7519, 4.1.3."""
    assert Statement.of_claims(ORDER.claims() | {"aud": "default/all"}).audiences == ("default/all",)


# What is encrypted

DEVICE = EncryptionKey.new()


def test_only_its_device_reads_what_is_encrypted() -> None:
    encrypted = encrypt_for(DEVICE.public, SIGNED)
    assert encrypted.count(".") == 4
    header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "cty": "JWT", "kid": DEVICE.key_id}
    assert {**json.loads(decoded(encrypted.split(".")[0])), "epk": None} == {**header, "epk": None}
    assert decrypt(encrypted, DEVICE) == SIGNED
    assert encrypt_for(DEVICE.public, SIGNED) != encrypted, "a key of its own for each"
    with pytest.raises(PushRefused, match="not encrypted for this device") as caught:
        decrypt(encrypted, EncryptionKey.new())
    assert caught.value.reason == "cannot_decrypt"


def test_every_part_of_what_is_encrypted_is_protected() -> None:
    parts = encrypt_for(DEVICE.public, SIGNED).split(".")
    for number, part in enumerate(parts):
        other = [*parts]
        other[number] = encoded(bytes([decoded(part)[0] ^ 1]) + decoded(part)[1:])
        with pytest.raises(PushRefused):
            decrypt(".".join(other), DEVICE)


def test_another_way_of_encrypting_is_refused() -> None:
    for alg, enc in (("ECDH-ES", "A256GCM"), ("ECDH-ES+A128KW", "A256GCM"), (ENCRYPTION[0], "A128CBC-HS256")):
        key = OKPKey.import_key(DEVICE.okp.as_dict(private=False))
        token = jwe.encrypt_compact({"alg": alg, "enc": enc}, SIGNED, key, [alg, enc])
        with pytest.raises(PushRefused):
            decrypt(token, DEVICE)


# Keys on disk


def test_a_key_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ops.jwk"
    KEY.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).key_id == KEY.key_id
    kept = path.read_bytes()
    (tmp_path / ".ops.jwk.partial").touch()  # of a process that died
    with pytest.raises(FileExistsError):
        SigningKey.new().write(path)
    assert path.read_bytes() == kept
    assert os.listdir(tmp_path) == ["ops.jwk"]
    path.chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        SigningKey.load(path)
    assert "d" not in KEY.public


def test_a_key_is_named_by_its_thumbprint_whatever_its_file_says(tmp_path: Path) -> None:
    """The example of RFC 8037, A.1 to A.3."""
    public = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert [*public_keys([public | {"kid": "mine"}], "Ed25519")] == ["kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"]
    path = tmp_path / "rfc.jwk"
    path.write_text(json.dumps(public | {"d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "kid": "mine"}))
    path.chmod(0o600)
    assert SigningKey.load(path).key_id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    "jwk",
    [
        None, "key", {}, {"kty": "OKP"}, DEVICE.public, {**KEY.public, "crv": "Ed448"}, {**KEY.public, "kty": "EC"},
        {**KEY.public, "x": "AAAA"}, {**KEY.public, "x": "?"}, {**KEY.public, "x": 7},
        {"kty": "oct", "k": "AAAA"},
    ],
)  # fmt: skip
def test_another_key_is_none(jwk: Any) -> None:
    with pytest.raises(ValueError, match="key"):
        public_keys([jwk], "Ed25519")


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for text in ("", "[]", "{}", json.dumps(DEVICE.okp.as_dict(private=True)), json.dumps(KEY.public)):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(ValueError, match="key"):
            SigningKey.load(path)
    halves = KEY.okp.as_dict(private=True) | {"x": SigningKey.new().public["x"]}
    path.write_text(json.dumps(halves))
    with pytest.raises(ValueError, match="public half"):
        SigningKey.load(path)
    with pytest.raises(FileNotFoundError):
        json_object(tmp_path / "none")
    assert os.listdir(tmp_path) == ["key"]
