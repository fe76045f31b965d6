"""Authentication: API keys with scopes over HTTP, device credentials over MQTT.

Keys (`key_..`) and device tokens (`dev_..`) are 256 random bits behind a kind prefix, for secret scanners. Stored is
the SHA-256 of the whole: they are not passwords, so nothing slow is needed (10,000 devices return at once). They are
compared in constant time and appear in no log, URL or error.

Devices are looked up in the database; those that arrive while a look-up is under way share the next one, so a reconnect
storm is a few statements. Nothing of any session is touched before the answer (see `broker.authorization`).

Laws
1. A changed credential is void at once. A CONNECT is answered either before the change is (and the disconnection that
   follows the change finds it) or from what the change stored: a change that overlaps a look-up has it repeated.
2. Keys are remembered; a revocation that overlaps a look-up has it repeated as well.
3. Who cannot prove who they are learn nothing: an unknown device and a wrong token get the same answer after the same
   comparison. Only the owner of a valid token hears that the client identifier is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

from broker.authorization import Accepted, ClientCertificate, Credentials, Refused
from broker.protocol.packets import ReasonCode
from gateway.device_topics import DEFAULT_APP
from gateway.errors import problem
from gateway.store.access.credentials import FoundDevice, device_tokens, find_devices
from gateway.store.access.keys import ValidKey, find_key
from gateway.store.protocols import Timers
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339
from gateway.token_lifetimes import TokenTerms

log = logging.getLogger(__name__)
T = TypeVar("T")

TOKEN_BYTES = 32
GENERATION_DIGITS = 32
"""Hexadecimal digits: 128 bits. X.520 allows a serialNumber 64 characters."""
APP_ID = re.compile(r"[a-z0-9-]{1,32}")
DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
USER_NAME = re.compile(rf"(?:({APP_ID.pattern})/)?({DEVICE_ID.pattern})")
"""A device, with its app unless that is `default`."""
GENERATION = re.compile(rf"[0-9a-f]{{{GENERATION_DIGITS}}}")
"""Other serial numbers are a company's own, of the machine as a rule (IEEE 802.1AR), and say nothing of a token."""
SIDE_SUFFIX = re.compile(r"[A-Za-z0-9_-]{1,16}")
"""Text that may follow in a side connection's client identifier, `USERNAME:suffix`."""
LOOKUP_PAUSE_SECONDS = 0.005
"""Seconds between two look-ups while CONNECTs wait, so that a fleet that returns is looked up by the dozen.

Each look-up is two passes of the interpreter lock between threads, and without a pause they cost more than the rest."""
MAX_BATCH_CREDENTIALS = 2_000
"""Credentials that one read looks up; more wait for the next, so that the loop is never held long."""
MAX_CACHED_KEYS = 1_024
"""Keys remembered after their first use; a revoked one is dropped at once."""
_NOBODY = bytes(32).hex()
"""A hash to compare the token of a device that does not exist with."""
_UNAVAILABLE = Refused(ReasonCode.SERVER_UNAVAILABLE)


def new_key() -> str:
    return f"key_{secrets.token_urlsafe(TOKEN_BYTES)}"


def new_token() -> str:
    return f"dev_{secrets.token_urlsafe(TOKEN_BYTES)}"


def secret_hash(secret: str | bytes) -> bytes:
    """SHA-256 of a key or token, as stored."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def credential_generation(token_hash: bytes) -> str:
    """Return the generation of a credential, as device certificates have it (subject attribute serialNumber).

    It changes with the token, so a new token, or the device's removal, voids the certificate as well. It is no secret,
    and tells nothing about the token: a hash of the hash of 256 random bits.
    """
    return hashlib.sha256(b"fleetpush certificate " + token_hash).hexdigest()[:GENERATION_DIGITS]


# -- HTTP ----------------------------------------------------------------------------------------------------


class KeyReader(Protocol):
    """The part of the database that keys need."""

    async def read_soon(self, operation: Callable[[Transaction], T]) -> T: ...


class CredentialReader(Protocol):
    """The part of the database that a device authenticator needs."""

    def look_up(
        self,
        operation: Callable[[Transaction], T],
        on_done: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> None: ...


@dataclass(slots=True, frozen=True)
class Principal:
    """The holder of a valid key, a device with its own token, or a person who has signed in without a key."""

    app_no: int
    app_id: str
    key_id: str
    """Id of the key (`k_..`) or the person (`u_..`); of a device `device NUMBER`."""
    scopes: frozenset[str]
    is_device: bool = False
    """Whether the holder is a device with its own token, which may do what that device may; `key_id` names it."""
    name: str = ""
    """Name of the key, or of the person as the identity provider gives it; empty for a device."""
    session_id: str | None = None
    """Id of the session that the request came with (`s_..`); None: it came with the key itself."""

    @property
    def kind(self) -> Literal["key", "person", "device"]:
        """Kind of thing that `key_id` is the id of."""
        if self.is_device:
            return "device"
        return "person" if self.key_id.startswith("u_") else "key"

    def require(self, scope: str) -> None:
        """Raise Problem 403 unless the key has the scope; `admin` includes all."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise problem("forbidden", f"this key lacks the scope {scope!r}; make one with POST /v1/keys")


class KeyCache:
    """Authenticates API keys by their hash, and remembers those it has found; `forget` makes a revocation immediate."""

    def __init__(self, database: KeyReader, clock_ms: Callable[[], int]) -> None:
        """`clock_ms` gives server time in milliseconds."""
        self._database = database
        self._clock_ms = clock_ms
        self._known: dict[bytes, Principal] = {}
        self._revocations = 0
        self.failures = 0
        """Requests with a wrong or revoked key, for metrics."""

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an `Authorization: Bearer KEY` header. Raises Problem 401."""
        kind, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if kind.lower() != "bearer" or not key:
            raise problem("unauthorized", "send the header `Authorization: Bearer KEY`")
        digest = secret_hash(key)
        principal = self._known.get(digest)
        if principal is None:
            principal = await self._find(digest)
            if principal is None:
                self.failures += 1
                what = "a device's token, and no key" if token_of(authorization) else "wrong or was revoked"
                remedy = "take the one in admin.key of the server's data directory, or make one with POST /v1/keys"
                raise problem("unauthorized", f"this key is {what}; {remedy}")
            if len(self._known) >= MAX_CACHED_KEYS:
                del self._known[next(iter(self._known))]
            self._known[digest] = principal
        return principal

    def known(self, authorization: str) -> Principal | None:
        """The principal of an `Authorization: Bearer KEY` header whose key has been looked up before."""
        kind, _, key = authorization.partition(" ")
        return self._known.get(secret_hash(key.strip())) if kind.lower() == "bearer" else None

    def share_of(self, authorization: str) -> str | None:
        """Return the share that a request counts for: that of its key, if `known` knows it."""
        principal = self.known(authorization)
        return principal.key_id if principal is not None else None

    async def _find(self, digest: bytes) -> Principal | None:
        while True:
            revocations = self._revocations
            found = await self._database.read_soon(lambda transaction: find_key(transaction, digest))
            if revocations == self._revocations:
                return _holder(found, digest)

    async def authenticate_device(self, name: str, token: str) -> Principal:
        """The device of that id (with `APP/` before it: of that app) with its own token. Not remembered. Raises Problem
        401."""
        digest = secret_hash(token)
        app, _, device_id = name.rpartition("/")
        rows = await self._database.read_soon(lambda transaction: device_tokens(transaction, device_id))
        now_ms = self._clock_ms()
        expired = False
        for device_no, app_no, app_id, token_hash, stored_terms in rows:
            terms = None if stored_terms is None else TokenTerms.of(stored_terms)
            current = hmac.compare_digest(token_hash, digest)
            previous = terms is not None and terms.accepts_previous(digest.hex(), now_ms)
            if not (current or previous) or app not in ("", app_id):
                continue
            expired = current and terms is not None and terms.expires_at <= now_ms
            if not expired:
                return Principal(app_no, app_id, f"device {device_no}", frozenset(), is_device=True)
        self.failures += 1
        if expired:
            raise problem("unauthorized", "this token has expired: ask for another with POST /v1/enrol/again")
        raise problem("unauthorized", "this token is wrong, was rotated, or is of another device")

    def forget(self, key_id: str) -> None:
        """The key was revoked: call this when that has committed, before it is answered."""
        self._revocations += 1
        self._known = {digest: p for digest, p in self._known.items() if p.key_id != key_id}


def token_of(authorization: str | None) -> str | None:
    """A device's token, if an `Authorization` header has one instead of a key."""
    kind, _, secret = (authorization or "").partition(" ")
    secret = secret.strip()
    return secret if kind.lower() == "bearer" and secret.startswith("dev_") else None


def basic_credential(authorization: str | None) -> tuple[str, str] | None:
    """User name and password of HTTP Basic (RFC 7617); None for another scheme, or if it cannot be read."""
    kind, _, encoded = (authorization or "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (name, password) if colon else None


def shown_token(authorization: str | None) -> str | None:
    """The token that a device shows in an `Authorization` header, as a key or with its user name."""
    basic = basic_credential(authorization)
    return basic[1] if basic is not None else token_of(authorization)


def _holder(key: ValidKey | None, digest: bytes) -> Principal | None:
    """The holder of a key that was found by its hash; compared in constant time."""
    if key is None or not hmac.compare_digest(key.secret_hash, digest):
        return None
    return Principal(key.app_no, key.app_id, key.key_id, frozenset(key.scopes.split()), name=key.name)


# -- MQTT ----------------------------------------------------------------------------------------------------


class DeviceIdentity(NamedTuple):
    """Identity of a device, which the broker attaches to every event of its connections.

    `client_id` is that of the device's main connection, also for a side connection.
    """

    device_no: int
    app_no: int
    app_id: str
    device_id: str
    client_id: str
    peer: str = ""
    """Address that it connects from, HOST:PORT; as its proxy says, if that is trusted."""


class DevicePermissions:
    """Permissions of a device: its own few topics (the device contract), and nothing else."""

    __slots__ = ("_identity", "_on_denied", "_prefix", "_side")

    def __init__(self, identity: DeviceIdentity, side: bool, on_denied: Callable[[DeviceIdentity, str], None]) -> None:
        self._identity = identity
        self._prefix = f"{identity.app_id}/devices/{identity.device_id}/"
        self._side = side
        self._on_denied = on_denied

    def may_publish(self, topic: str, retain: bool) -> bool:
        if topic.startswith(self._prefix):
            leaf = topic[len(self._prefix) :]
            if leaf == "presence":
                return True
            if leaf in ("receipts", "settings", "report") or leaf.startswith("uplink/") or leaf == "uplink":
                if not retain:
                    return True
                self._deny(f"retain on {topic}: only presence may be retained")
                return False
        self._deny(f"publish to {topic}: not one of its own topics")
        return False

    def may_subscribe(self, topic_filter: str) -> bool:
        own = topic_filter in (f"{self._prefix}push", f"{self._prefix}notices")
        if own and not self._side:
            return True
        self._deny(
            f"subscribe to {topic_filter}: a side connection only publishes"
            if own
            else f"subscribe to {topic_filter}: only its own push and notices topics, exactly"
        )
        return False

    def _deny(self, text: str) -> None:
        self._on_denied(self._identity, text)


class _Claim(NamedTuple):
    """A CONNECT on its way through the database."""

    app_id: str
    device_id: str
    main: str
    """The user name, and client identifier of the main connection."""
    client_id: str
    digest: str | None
    """Hash of the token; None: its certificate has to do."""
    generation: str | None
    """Generation of its certificate; None if that does not say (a company's own), or there is none."""
    peer: str
    answer: Callable[[Accepted | Refused], None]


class DeviceAuthenticator:
    """Answers the broker; see `broker.authorization.Authenticator`. `on_denied` is called for every topic refused,
    `on_expired` (device number, words) for a token that was good once. `clock_ms` gives server time in milliseconds."""

    def __init__(
        self,
        *,
        database: CredentialReader,
        on_denied: Callable[[DeviceIdentity, str], None],
        on_expired: Callable[[int, str], None],
        timers: Timers,
        clock_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._on_expired = on_expired
        self._clock_ms = clock_ms
        self._timers = timers
        self._on_denied = on_denied
        self._pending: list[_Claim] = []
        self._under_way = False
        self._revocations = 0
        self.failures = 0
        """CONNECTs with wrong credentials, for metrics."""

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        claim = _claim(credentials, answer)
        if isinstance(claim, str):
            answer(self._refused(claim))
            return
        self._pending.append(claim)
        if not self._under_way:
            self._look_up()

    def exchange(self, method: str, credentials: Credentials) -> None:
        """Devices have a token and no other method."""

    @property
    def revocations(self) -> int:
        """Number of times that credentials have become void."""
        return self._revocations

    def forget(self) -> None:
        """A token is void or a device removed: call this when that has committed, before its connections are closed.

        What is being looked up may have been read before, and is looked up again.
        """
        self._revocations += 1

    def _look_up(self) -> None:
        """Look up what has collected; what arrives meanwhile, and in the pause after it, is the next batch."""
        claims, self._pending = self._pending[:MAX_BATCH_CREDENTIALS], self._pending[MAX_BATCH_CREDENTIALS:]
        revocations = self._revocations
        wanted = [(claim.app_id, claim.device_id) for claim in claims]
        self._under_way = True

        def answered(found: dict[int, FoundDevice] | None) -> None:
            self._timers.call_later(LOOKUP_PAUSE_SECONDS, self._start_next)
            for index, claim in enumerate(claims):
                try:
                    claim.answer(_UNAVAILABLE if found is None else self._decide(claim, found.get(index)))
                except Exception:  # the others wait as well
                    log.exception("an answer to a CONNECT failed")

        def on_done(found: dict[int, FoundDevice]) -> None:
            if revocations != self._revocations:
                self._pending = [*claims, *self._pending]
                self._look_up()
                return
            answered(found)

        def on_error(error: BaseException) -> None:
            log.error("devices cannot be authenticated: %s", error)
            answered(None)

        self._database.look_up(lambda transaction: find_devices(transaction, wanted), on_done, on_error)

    def _start_next(self) -> None:
        self._under_way = False
        if self._pending:
            self._look_up()

    def _decide(self, claim: _Claim, found: FoundDevice | None) -> Accepted | Refused:
        stored = found[2] if found is not None else _NOBODY
        # An unknown device is compared as well: how long an answer takes must not tell which ids exist.
        matches = claim.digest is None or hmac.compare_digest(stored, claim.digest)
        if found is not None and found[3] is not None:
            return self._decide_by_terms(claim, found, TokenTerms.of(found[3]), matches)
        if found is None or not matches:
            return self._refused("its token is wrong" if found is not None else "no such device is enrolled")
        return self._accept(claim, found, (stored,))

    def _decide_by_terms(
        self, claim: _Claim, found: FoundDevice, terms: TokenTerms, is_current: bool
    ) -> Accepted | Refused:
        """Decide about a device whose token ends."""
        now_ms = self._clock_ms()
        is_previous = claim.digest is not None and terms.accepts_previous(claim.digest, now_ms)
        if not is_current and not is_previous:
            return self._refused("its token is wrong")
        if is_current and terms.expires_at <= now_ms:
            self._on_expired(found[0], f"its token expired at {rfc3339(terms.expires_at)}, and it did not renew it")
            return self._refused("its token has expired")
        overlaps = terms.previous_until is not None and now_ms < terms.previous_until
        return self._accept(claim, found, (found[2], terms.previous) if overlaps else (found[2],))

    def _accept(self, claim: _Claim, found: FoundDevice, hashes: tuple[str, ...]) -> Accepted | Refused:
        """Accept a device with a good token, or a certificate of one of these: those that are good now."""
        if claim.generation is not None and not any(
            hmac.compare_digest(credential_generation(bytes.fromhex(token_hash)), claim.generation)
            for token_hash in hashes
        ):
            return self._refused("its certificate belongs to an earlier token of this device")
        side = claim.client_id != claim.main
        if side and not _is_side(claim.main, claim.client_id):
            return Refused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID)
        identity = DeviceIdentity(found[0], found[1], claim.app_id, claim.device_id, claim.main, claim.peer)
        return Accepted(claim.main, DevicePermissions(identity, side, self._on_denied), identity, not side)

    def _refused(self, why: str) -> Refused:
        self.failures += 1
        return Refused(ReasonCode.BAD_USER_NAME_OR_PASSWORD, why)


def _claim(credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> _Claim | str:
    """The credentials as a device of an app; in words why they cannot be one.

    A certificate that was verified is enough, and has to be of the device that it comes with.
    """
    username, password, certificate = credentials.username, credentials.password, credentials.certificate
    if username is None and certificate is not None:
        username = certificate.common_name
    if username is None or (password is None and certificate is None):
        return "it has neither a token nor a certificate"
    if certificate is not None and certificate.common_name != username:
        return f"its certificate is of {certificate.common_name!r:.80}"
    named = USER_NAME.fullmatch(username)
    if named is None:
        return "that is no name of a device"
    app_id, device_id = named.groups()
    if app_id is None:
        app_id = DEFAULT_APP
    elif app_id == DEFAULT_APP:
        return "devices of the app default go without its name"
    return _Claim(
        app_id,
        device_id,
        username,
        credentials.client_id,
        secret_hash(password).hex() if password is not None else None,
        _generation(certificate),
        credentials.peer,
        answer,
    )


def _generation(certificate: ClientCertificate | None) -> str | None:
    number = certificate.serial_number if certificate is not None else None
    return number if number is not None and GENERATION.fullmatch(number) else None


def _is_side(main: str, actual: str) -> bool:
    return actual.startswith(main + ":") and SIDE_SUFFIX.fullmatch(actual, len(main) + 1) is not None
