"""Password hashes of all versions of mosquitto_passwd, as they stand behind `USER:` in its files.

    $7$ITERATIONS$SALT$HASH              2.0: PBKDF2 with SHA-512; salt and hash in base64. Ours, too
    $argon2id$v=19$m=..,t=..,p=..$..$..  2.1: Argon2id, in its usual text form (PHC)
    $6$SALT$HASH                         1.x: one round of SHA-512 over password and salt

`$6$` is read because such files exist: whoever has the file can try a billion passwords a second.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Protocol

PBKDF2_ITERATIONS = 10_000
"""Rounds in our own lines: about 7 ms per CONNECT. Foreign lines bring their own (mosquitto 2.0: 101)."""
MAX_PBKDF2_ITERATIONS = 10_000_000
"""A line that asks for more is a mistake: 7 s per CONNECT."""
MAX_ARGON2_KIBIBYTES = 1024 * 1024
MAX_ARGON2_PASSES = 100
MAX_ARGON2_KIBIBYTE_PASSES = 4 * MAX_ARGON2_KIBIBYTES
"""Memory times passes: about 7 s per CONNECT. mosquitto_passwd asks for 46 MiB once."""
SALT_BYTES = 12
HASH_BYTES = 64
_ARGON2 = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,9}),p=([0-9]{1,3})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,172})"
)


class BadHash(Exception):
    """A hash cannot be used; the message says why and what to do, and repeats nothing of the hash."""


class PasswordHash(Protocol):
    """The hash of one password, in any of the formats."""

    @property
    def seconds(self) -> float:
        """Duration of a comparison, about."""

    def matches(self, password: bytes) -> bool:
        """Compare a password. Takes `seconds`, without the interpreter lock: never call it on the *loop*."""


@dataclass(frozen=True, slots=True)
class HashedPassword:
    """Hash by PBKDF2 with SHA-512."""

    iterations: int
    salt: bytes
    hash: bytes

    @property
    def seconds(self) -> float:
        return self.iterations * 0.7e-6

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(_pbkdf2(password, self.salt, self.iterations, len(self.hash)), self.hash)


@dataclass(frozen=True, slots=True)
class Argon2Password:
    """Hash by Argon2id; `work` is memory (KiB) times passes."""

    text: str
    work: int

    @property
    def seconds(self) -> float:
        return self.work * 1.5e-6

    def matches(self, password: bytes) -> bool:
        from cryptography.exceptions import InvalidKey
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        try:
            Argon2id.verify_phc_encoded(password, self.text)
        except InvalidKey:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SaltedSha512:
    """Hash by one round of SHA-512."""

    salt: bytes
    hash: bytes

    @property
    def seconds(self) -> float:
        return 0.0

    def matches(self, password: bytes) -> bool:
        return hmac.compare_digest(hashlib.sha512(password + self.salt).digest(), self.hash)


def new_hash(password: bytes) -> str:
    """Return a new hash of a password, for a line of our own."""
    salt = os.urandom(SALT_BYTES)
    parts = [base64.b64encode(part).decode() for part in (salt, _pbkdf2(password, salt, PBKDF2_ITERATIONS, HASH_BYTES))]
    return f"$7${PBKDF2_ITERATIONS}${parts[0]}${parts[1]}"


def decoy_hash(known: list[PasswordHash]) -> PasswordHash:
    """Return a hash that no password matches, as slow as the slowest of these."""
    slowest = max(known, key=lambda one: one.seconds, default=None)
    if isinstance(slowest, Argon2Password):
        head, _, stored = slowest.text.rpartition("$")
        return Argon2Password(f"{head}${_unpadded(os.urandom(len(stored) * 6 // 8))}", slowest.work)
    iterations = slowest.iterations if isinstance(slowest, HashedPassword) else PBKDF2_ITERATIONS
    return HashedPassword(iterations, os.urandom(SALT_BYTES), os.urandom(HASH_BYTES))


def parse_hash(text: str) -> PasswordHash:
    """Parse the text behind `USER:`. Raises BadHash."""
    if text.startswith("$argon2"):
        return _argon2(text)
    parts = text.split("$")
    scheme = parts[1] if len(parts) > 2 and not parts[0] else ""
    if (scheme, len(parts)) not in (("7", 5), ("6", 4)):
        raise BadHash(
            "not a hash that is known here ($7$ITERATIONS$SALT$HASH, $argon2id$.. or $6$SALT$HASH); is it the password"
            " itself? mosquitto_passwd -U FILE turns those into hashes"
        )
    try:
        iterations = int(parts[2]) if scheme == "7" else 1
        salt, expected = (base64.b64decode(part, validate=True) for part in parts[-2:])
    except (ValueError, binascii.Error):
        raise BadHash("iterations, salt or hash cannot be read") from None
    if scheme == "6" and salt and len(expected) == hashlib.sha512().digest_size:
        return SaltedSha512(salt, expected)
    if scheme == "6" or not 0 < iterations <= MAX_PBKDF2_ITERATIONS or not salt or len(expected) < 16:
        raise BadHash("iterations, salt or hash are out of range")
    return HashedPassword(iterations, salt, expected)


def _argon2(text: str) -> Argon2Password:
    match = _ARGON2.fullmatch(text)
    if match is None:
        raise BadHash("not $argon2id$v=19$m=..,t=..,p=..$SALT$HASH; make the line anew with mosquitto_passwd")
    memory, passes, lanes = (int(match[group]) for group in (1, 2, 3))
    if not (
        8 * lanes <= memory <= MAX_ARGON2_KIBIBYTES
        and 0 < passes <= MAX_ARGON2_PASSES
        and lanes
        and memory * passes <= MAX_ARGON2_KIBIBYTE_PASSES
    ):
        raise BadHash("memory, passes or lanes of argon2id are out of range")
    try:
        import cryptography.hazmat.primitives.kdf.argon2  # noqa: F401  to say so at start, not at a CONNECT
    except ImportError:
        command = f"{shlex.quote(sys.executable)} -m pip install 'fleetpush[server]'"
        raise BadHash(f"argon2id needs the package cryptography, which is not installed; type: {command}") from None
    return Argon2Password(text, memory * passes)


def _pbkdf2(password: bytes, salt: bytes, iterations: int, length: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password, salt, iterations, length)


def _unpadded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
