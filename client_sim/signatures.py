"""Pushes that their publisher has signed: the format, and the keys on disk. It needs the extra `fleetpush[signed]`.

    key = SigningKey.load(Path("ops.jwk"))
    statement = Statement.new(["default/devices/kiosk-1"], "command", {"command": "reboot"}, time.time(), 3600)
    signed = sign_push(key, statement)       # the push's field `signed`

A push is signed before any server has seen it, and verified by the device: a server carries what it cannot make.
`trust` decides what a device believes; here is what the bytes say. docs/signed-commands.md describes both.

Laws
1. One algorithm each: Ed25519 (RFC 8032) in JWS (RFC 7515, 9864), X25519 with `ECDH-ES+A256KW` and `A256GCM` in JWE
   (RFC 7516, 8037). A header that names another one is refused, so nobody can talk a device down.
2. What a token is for stands in its signed header (`typ`, RFC 8725): a push is no key set, and the other way round.
3. A key is named by its thumbprint (RFC 7638), computed here. What a file or a header calls it, is a hint.
4. What is encrypted was signed before (a nested JWT, RFC 7519): the key of a device is public, so encryption alone
   proves nothing.
5. Nothing in a token is believed, nor shown to a program, before its signature was verified.

Cryptography and encodings are joserfc's.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

try:
    from joserfc import jwe, jws
    from joserfc.jwk import OKPKey
except ImportError as error:
    raise ImportError("signed commands need an extra: pip install 'fleetpush[signed]'") from error

SIGNATURE = "Ed25519"
ENCRYPTION = ("ECDH-ES+A256KW", "A256GCM")
"""How the key is agreed on and wrapped, and how the content is encrypted with it."""
PUSH_TYPE = "fleetpush-push+jwt"
KEY_SET_TYPE = "fleetpush-keys+jwt"
MAX_SIGNERS = 32
MAX_REVOCATIONS = 64
"""Keys, and revoked ones, of a key set: several times what fits into a push of 4 KiB."""
MAX_AUDIENCES = 1_000
"""Audiences of a statement."""
ID_CHARACTERS = 64
_SURROGATE = re.compile("[\ud800-\udfff]")

Jwk = dict[str, Any]
"""A public key as RFC 7517 writes it."""
Curve = Literal["Ed25519", "X25519"]


class PushRefused(Exception):
    """A device's refusal of a push. `reason` is one of docs/signed-commands.md, the text is for a person."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


# Keys


class PrivateKey:
    """A private key, in a file that only its owner may read."""

    curve: ClassVar[Curve]
    use: ClassVar[str]

    def __init__(self, key: OKPKey) -> None:
        self.okp = key
        self.key_id = key.thumbprint()
        """The thumbprint of the public key, by which everybody names it."""

    @classmethod
    def new(cls) -> Self:
        """Make a key."""
        return cls(OKPKey.generate_key(cls.curve))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key. Raises OSError, and ValueError for a file that is no such key or that others may read."""
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise ValueError(f"{path} is a private key, and others may read it: chmod 600 {path}")
        return cls(_imported(json_object(path), cls.curve, private=True))

    def write(self, path: Path) -> None:
        """Write the key to a new file with mode 0600, at once: a power cut leaves all of it, or nothing. Raises
        FileExistsError, OSError."""
        text = json.dumps(self.okp.as_dict(private=True) | {"use": self.use, "kid": self.key_id})
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)  # unlike a rename it takes the place of no other key
        finally:
            partial.unlink()

    @property
    def public(self) -> Jwk:
        """The public key, which is no secret."""
        return self.okp.as_dict(private=False) | {"use": self.use, "kid": self.key_id}


class SigningKey(PrivateKey):
    """The key of a publisher. It is never on a server."""

    curve = "Ed25519"
    use = "sig"


class EncryptionKey(PrivateKey):
    """The key of a device, for which others encrypt."""

    curve = "X25519"
    use = "enc"


def json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file. Raises OSError, ValueError."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found


def public_keys(jwks: Iterable[Any], curve: Curve) -> dict[str, OKPKey]:
    """The keys of a key set by their thumbprints. Raises ValueError for one that is no key of this curve."""
    found = [_imported(jwk, curve, private=False) for jwk in jwks]
    return {key.thumbprint(): key for key in found}


def _imported(jwk: Any, curve: Curve, *, private: bool) -> OKPKey:
    """A key of exactly this curve; what else a file says of it (`use`, `alg`, `kid`) does not count."""
    names = ("kty", "crv", "x", "d") if private else ("kty", "crv", "x")
    if not isinstance(jwk, dict) or any(not isinstance(jwk.get(name), str) for name in names):
        raise ValueError(f"no {'private ' if private else ''}key: a JWK with {', '.join(names)} (RFC 8037)")
    if (jwk["kty"], jwk["crv"]) != ("OKP", curve):
        raise ValueError(f"a key of {jwk['kty']} {jwk['crv']}: it has to be OKP {curve}")
    try:
        # A bad point or length is an error of cryptography's, a bad letter one of base64's.
        key = OKPKey.import_key({name: jwk[name] for name in names})
        if OKPKey.import_key(key.public_key).as_dict()["x"] != jwk["x"]:
            raise ValueError("its public half does not belong to its private half")
    except Exception as error:
        raise ValueError(f"a key that cannot be used: {error}") from error
    return key


# What is signed


@dataclass(frozen=True)
class Statement:
    """A publisher's words, which the signature covers: for whom, what, and until when."""

    statement_id: str
    """A UUIDv7 of the publisher's: the push's own id is made by the server, after the signature."""
    audiences: tuple[str, ...]
    """`APP/devices/ID`, `APP/tags/TAG`, `APP/all`."""
    kind: str
    data: Any
    issued_at: int
    """The publisher's clock, in seconds since 1970."""
    expires_at: int

    @classmethod
    def new(cls, audiences: Iterable[str], kind: str, data: Any, now: float, lifetime_seconds: int) -> Self:
        """Make a statement that ends `lifetime_seconds` after `now` (seconds since 1970)."""
        return cls(statement_id(now), tuple(audiences), kind, data, int(now), int(now) + lifetime_seconds)

    @classmethod
    def of_claims(cls, claims: dict[str, Any]) -> Self:
        """The statement that verified claims are. Raises PushRefused `malformed`."""
        audiences = claims.get("aud")
        audiences = [audiences] if isinstance(audiences, str) else audiences
        if not isinstance(audiences, list) or not 1 <= len(audiences) <= MAX_AUDIENCES or not _texts(audiences):
            raise PushRefused("malformed", "its audience (`aud`) is no list of texts")
        if not _texts([claims.get("jti"), claims.get("kind")]) or not 1 <= len(claims["jti"]) <= ID_CHARACTERS:
            raise PushRefused("malformed", f"it needs a `jti` of 1 to {ID_CHARACTERS} characters, and a `kind`")
        return cls(
            claims["jti"],
            tuple(audiences),
            claims["kind"],
            claims.get("data"),
            whole_number(claims, "iat"),
            whole_number(claims, "exp"),
        )

    def claims(self) -> dict[str, Any]:
        """The claims that are signed, by their names in RFC 7519."""
        found: dict[str, Any] = {"jti": self.statement_id, "aud": list(self.audiences), "kind": self.kind}
        found |= {"iat": self.issued_at, "exp": self.expires_at}
        return found if self.data is None else found | {"data": self.data}


@dataclass(frozen=True)
class KeySet:
    """The keys that may sign pushes, as a root key says it. A higher version takes the place of a lower one."""

    version: int
    signers: tuple[Jwk, ...]
    revoked: tuple[str, ...] = ()
    """Thumbprints of keys that are never to be believed again."""
    issued_at: int = 0
    expires_at: int | None = None
    """Seconds since 1970 after which a device believes none of them; None: never."""

    @classmethod
    def of_claims(cls, claims: dict[str, Any]) -> Self:
        """The key set that verified claims are. Raises PushRefused `malformed`."""
        keys, revoked = claims.get("keys"), claims.get("revoked", [])
        if not isinstance(keys, list) or len(keys) > MAX_SIGNERS:
            raise PushRefused("malformed", f"a key set has a list of at most {MAX_SIGNERS} `keys`")
        if not isinstance(revoked, list) or len(revoked) > MAX_REVOCATIONS or not _texts(revoked):
            raise PushRefused("malformed", f"`revoked` is a list of at most {MAX_REVOCATIONS} thumbprints")
        ends = whole_number(claims, "exp") if "exp" in claims else None
        return cls(whole_number(claims, "version"), tuple(keys), tuple(revoked), whole_number(claims, "iat"), ends)

    def claims(self) -> dict[str, Any]:
        """The claims that are signed."""
        found: dict[str, Any] = {"version": self.version, "keys": list(self.signers), "iat": self.issued_at}
        found |= {"revoked": list(self.revoked)} if self.revoked else {}
        return found if self.expires_at is None else found | {"exp": self.expires_at}


def whole_number(claims: dict[str, Any], name: str) -> int:
    """A claim that is a whole number, 0 or more. Raises PushRefused `malformed`."""
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise PushRefused("malformed", f"its `{name}` is no whole number")
    return value


def _texts(values: list[Any]) -> bool:
    """Whether all are texts, and can be stored: JSON can name half a surrogate pair, which UTF-8 cannot."""
    return all(isinstance(value, str) and not _SURROGATE.search(value) for value in values)


def statement_id(now: float) -> str:
    """Make a UUIDv7 (RFC 9562): its text sorts by the time (seconds since 1970) of its making."""
    milliseconds = int(now * 1000) & (1 << 48) - 1
    value = milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def sign_push(key: SigningKey, statement: Statement) -> str:
    """The push's field `signed`: a compact JWS. Raises ValueError for data that is no JSON."""
    return _signed(key, PUSH_TYPE, statement.claims())


def sign_key_set(root: SigningKey, key_set: KeySet) -> str:
    """A key set for devices that have pinned `root`; it travels as the field `signed` of a `command`."""
    return _signed(root, KEY_SET_TYPE, key_set.claims())


def _signed(key: SigningKey, typ: str, claims: dict[str, Any]) -> str:
    payload = json.dumps(claims, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    header = {"alg": SIGNATURE, "typ": typ, "kid": key.key_id}
    return jws.serialize_compact(header, payload, key.okp, [SIGNATURE])


class SignedToken:
    """A compact JWS as it arrived. Its header is a claim like any other until `verify`."""

    def __init__(self, text: str) -> None:
        """Raises PushRefused `malformed`."""
        try:
            self._jws = jws.extract_compact(text.encode("ascii"))
            header = self._jws.headers()
            self.key_id, self.type = str(header["kid"]), header.get("typ")
        except Exception as error:  # whatever a library says to bytes of a stranger, they are no token
            raise PushRefused("malformed", f"no signed push: {error}") from error
        if "crit" in header:  # nothing that we sign has it; it would ask for the understanding of an extension
            raise PushRefused("malformed", "its header asks for an extension")

    def verify(self, key: OKPKey) -> dict[str, Any]:
        """Return the claims, if the owner of this key has signed them. Raises PushRefused `bad_signature`,
        `malformed`."""
        try:
            genuine = jws.validate_compact(self._jws, key, [SIGNATURE])
        except Exception as error:  # another algorithm, a header that is not allowed
            raise PushRefused("malformed", f"no signed push: {error}") from error
        if not genuine:
            raise PushRefused("bad_signature", "its signature is wrong: it was altered, or never signed")
        try:
            claims = json.loads(self._jws.payload or b"")
        except (ValueError, RecursionError) as error:
            raise PushRefused("malformed", f"its claims are no JSON: {error}") from error
        if not isinstance(claims, dict):
            raise PushRefused("malformed", "its claims are no JSON object")
        return claims


# What is encrypted


def encrypt_for(jwk: Jwk, signed: str) -> str:
    """The push's field `encrypted`: a compact JWE of a signed push, which the owner of that key alone can read. Raises
    ValueError for a key that cannot be used."""
    ((key_id, key),) = public_keys([jwk], "X25519").items()
    agreement, content = ENCRYPTION
    header = {"alg": agreement, "enc": content, "cty": "JWT", "kid": key_id}
    return jwe.encrypt_compact(header, signed, key, list(ENCRYPTION))


def decrypt(text: str, key: EncryptionKey) -> str:
    """The signed push in an encrypted one. Raises PushRefused `cannot_decrypt`."""
    try:
        plaintext = jwe.decrypt_compact(text.encode("ascii"), key.okp, list(ENCRYPTION)).plaintext
        return (plaintext or b"").decode("ascii")
    except Exception as error:  # whatever a library says to bytes of a stranger, they are not for this key
        raise PushRefused("cannot_decrypt", f"it is not encrypted for this device's key: {error}") from error
