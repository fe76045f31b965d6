"""Pinned keys: whose orders a device obeys, and why it refuses a push. It needs the extra `fleetpush[signed]`.

    trusted = TrustedKeys(Path("trusted-keys.json"))
    device = Device("kiosk-1", token, journal=Path("kiosk-1.db"), trusted_keys=trusted)

Such a device obeys what a publisher has signed for it, whoever brings it, and nothing else: a server that was stolen,
with every key that it has, can withhold commands, and cannot make one. What is refused is answered with its reason.

Laws
1. The device decides alone, from its files: nothing is fetched, and nothing that a server says is asked.
2. A handler is given what was signed. What stands beside it in the push (`data`, `notification`) is not.
3. A signed push has one effect, however often, whenever and in however many pushes it is sent. The journal knows which
   were used, and commits that before the effect. That needs no clock (`Journal.use_statement`). It remembers so many
   of each key: whoever has one key can have no statement of another one refused.
4. The version of the key set never goes back, and a key that was revoked never comes back; other pinned keys change
   neither. A device without a key set believes the pinned keys themselves; with one, those that the set names. Only
   pinned keys sign key sets.
5. Lateness needs a clock, and the device's own is the only one that a stolen server does not have. One that is more
   than `leeway_seconds` wrong refuses (`expired`, `clock`); a device without a clock says so (`clock=None`), and then
   obeys a command however late it was let through.

`PushVerifier` runs on the device's worker thread, one push at a time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client_sim.journal import Journal, Known, OutgoingMessage, Use
from client_sim.outgoing import receipt
from client_sim.push import Push
from client_sim.signatures import (
    KEY_SET_TYPE,
    PUSH_TYPE,
    EncryptionKey,
    Jwk,
    KeySet,
    PushRefused,
    SignedToken,
    Statement,
    decrypt,
    json_object,
    public_keys,
)

log = logging.getLogger(__name__)

LEEWAY_SECONDS = 300
"""Seconds that two clocks may differ: what Kerberos allows, and more than a kiosk drifts between two looks at NTP."""
REFUSAL_CHARACTERS = 500
"""Characters of a refusal: some of them are a stranger's, and the server keeps 4 KiB of a result."""
MAX_REVOKED_KEYS = 1_000
"""Thumbprints that a device remembers as revoked; a key set that would make it more is refused."""
UNSIGNED_FIELDS = ("data", "notification", "signed", "encrypted")
"""Fields of a push that a handler of a signed one is not given: it gets the `data` that was signed."""


class TrustedKeys:
    """The keys that a device was given when it was set up. One object may be used for several devices."""

    def __init__(
        self,
        pinned: Path | Iterable[Jwk],
        *,
        encryption_key: Path | None = None,
        tags: Collection[str] = (),
        kinds: Collection[str] = ("command",),
        clock: Callable[[], float] | None = time.time,
        leeway_seconds: int = LEEWAY_SECONDS,
    ) -> None:
        """Read the keys; nothing else is read later.

        pinned          a JWK set (`fleetpush signing show KEY`), as a file or as its keys: publishers, or roots.
        encryption_key  a file for the device's own key, made if it is not there. Without it nothing can be decrypted.
        tags            the tags that this device goes by, for what is signed for a tag: the server's are not believed.
        kinds           kinds of pushes that have to be signed.
        clock           gives seconds since 1970; None: this device has no clock that is worth asking (law 5).
        leeway_seconds  what its clock may differ from a publisher's.

        Raises OSError, and ValueError for keys that cannot be used.
        """
        jwks = json_object(pinned).get("keys") if isinstance(pinned, Path) else list(pinned)
        if not isinstance(jwks, list) or not jwks:
            raise ValueError(f"{pinned}: no keys (a JWK set is an object with a list of `keys`)")
        self.pinned = public_keys(jwks, "Ed25519")
        self.tags = frozenset(tags)
        self.kinds = frozenset(kinds)
        self.clock = clock
        self.leeway_seconds = leeway_seconds
        self._encryption_key = None if encryption_key is None else _made_or_loaded(encryption_key)

    @property
    def encryption_key(self) -> Jwk | None:
        """The public key that others encrypt for: `device.report({"encryption_key": trusted.encryption_key})`."""
        return None if self._encryption_key is None else self._encryption_key.public

    def verifier(self, app: str, device_id: str, journal: Journal) -> PushVerifier:
        """Decide by these keys what one device's program is given."""
        return PushVerifier(self, app, device_id, journal)

    def decrypt(self, text: str) -> str:
        """The signed push in an encrypted one. Raises PushRefused `cannot_decrypt`."""
        if self._encryption_key is None:
            raise PushRefused("cannot_decrypt", "it is encrypted, and this device has no key for that")
        return decrypt(text, self._encryption_key)


def _made_or_loaded(path: Path) -> EncryptionKey:
    try:
        return EncryptionKey.load(path)
    except FileNotFoundError:
        key = EncryptionKey.new()
        key.write(path)
        return key


class PushVerifier:
    """Decides for one device which pushes its program is given. Worker thread, but for the constructor."""

    def __init__(self, trusted: TrustedKeys, app: str, device_id: str, journal: Journal) -> None:
        """Load the key set that the journal keeps, if a key that is pinned today has signed it."""
        self._trusted = trusted
        self._journal = journal
        self._audiences = {f"{app}/devices/{device_id}", f"{app}/all", *(f"{app}/tags/{tag}" for tag in trusted.tags)}
        self._revoked: set[str] = set(json.loads(journal.trusted("revoked") or "[]"))
        self._versions: dict[str, int] = json.loads(journal.trusted("versions") or "{}")
        """Pinned key, also of earlier ones -> the highest version that it has signed. One that was stolen may have
        signed any: it is of no account when the key is pinned no more."""
        self._key_set: KeySet | None = None
        self._signers = dict(trusted.pinned)
        kept = journal.trusted("key_set")
        if kept is not None:
            try:
                token = SignedToken(kept)
                self._adopt(KeySet.of_claims(token.verify(self._root(token.key_id))))
            except (PushRefused, ValueError) as error:
                # The pinned keys are others now. Whoever could change those could have changed everything.
                log.warning("%s: the key set of before is forgotten: %s", device_id, error)

    def _root(self, key_id: str) -> Any:
        if key_id not in self._trusted.pinned:
            raise PushRefused("unknown_key", f"a key set has to be signed by a pinned key, which {key_id} is not")
        return self._trusted.pinned[key_id]

    def _adopt(self, key_set: KeySet) -> None:
        self._signers = public_keys(key_set.signers, "Ed25519")
        self._key_set = key_set

    def signed_only(self, kind: str) -> bool:
        """Whether pushes of a kind have to be signed. Any thread."""
        return kind in self._trusted.kinds

    def admit(self, push: Push, known: Known) -> Push | OutgoingMessage:
        """The push as it was signed, for the program; or the receipt that answers it in the program's place.

        `known` is what the journal knew of the push's id. That of a finished push is acknowledged, and not admitted.
        """
        try:
            signed = push.message.get("signed")
            if "encrypted" in push.message:
                signed = self._trusted.decrypt(str(push.message["encrypted"]))
            if signed is None:
                if self.signed_only(push.kind):
                    raise PushRefused("unsigned", f"this device obeys no {push.kind} that nobody has signed")
                return push
            if not isinstance(signed, str):
                raise PushRefused("malformed", "no signed push: `signed` is no text")
            token = SignedToken(signed)
            if token.type == KEY_SET_TYPE:
                return receipt(push, "acted", result={"key_set": self._take_over(token, signed)})
            return self._verified(push, token, known)
        except PushRefused as refused:
            log.warning("push %s is refused: %s: %s", push.push_id, refused.reason, refused)
            if push.kind == "command":
                return receipt(push, "acted", result=refusal(refused))
            return receipt(push, "dismissed", reason=refused.reason)

    def _verified(self, push: Push, token: SignedToken, known: Known) -> Push:
        if token.type != PUSH_TYPE:
            raise PushRefused("malformed", f"it is signed as {token.type!r}, not as a push")
        if token.key_id in self._revoked:
            raise PushRefused("revoked_key", f"the key {token.key_id} was revoked")
        if token.key_id not in self._signers:
            raise PushRefused("unknown_key", f"the key {token.key_id} is none that this device trusts")
        statement = Statement.of_claims(token.verify(self._signers[token.key_id]))
        if not self._audiences.intersection(statement.audiences):
            raise PushRefused("other_device", f"it was signed for {', '.join(statement.audiences[:3])}")
        if statement.kind != push.kind:
            raise PushRefused("other_kind", f"it was signed as {statement.kind!r}, and comes as {push.kind!r}")
        self._check_time(statement)
        match self._journal.use_statement(token.key_id, statement.statement_id, statement.expires_at, push.push_id):
            case Use.AGAIN if known is Known.INTERRUPTED:
                pass  # only told of
            case Use.REPLAYED | Use.AGAIN:
                # Of the same push: one that is new to a journal which keeps fewer push ids than a server can make up.
                raise PushRefused("replayed", "it was used before")
            case Use.FORGOTTEN:
                raise PushRefused("expired", "it ends before what this device remembers of its key")
        message = {name: value for name, value in push.message.items() if name not in UNSIGNED_FIELDS}
        if statement.data is not None:
            message["data"] = statement.data
        return replace(push, message=message, signed_by=token.key_id)

    def _check_time(self, statement: Statement) -> None:
        if self._trusted.clock is None:
            return
        now, leeway = self._trusted.clock(), self._trusted.leeway_seconds
        key_set = self._key_set
        if key_set is not None and key_set.expires_at is not None and now > key_set.expires_at + leeway:
            raise PushRefused(
                "keys_expired", f"the key set ended at {_time(key_set.expires_at)}; here it is {_time(now)}"
            )
        if now > statement.expires_at + leeway:
            raise PushRefused("expired", f"it ended at {_time(statement.expires_at)}; here it is {_time(now)}")
        if now < statement.issued_at - leeway:
            raise PushRefused("clock", f"it was signed at {_time(statement.issued_at)}; here it is {_time(now)} only")

    def _take_over(self, token: SignedToken, signed: str) -> dict[str, Any]:
        """Take a key set in the place of the present one; what to answer."""
        if token.key_id in self._revoked:
            raise PushRefused("revoked_key", f"the key {token.key_id} was revoked")
        key_set = KeySet.of_claims(token.verify(self._root(token.key_id)))
        present = max((self._versions.get(key_id, 0) for key_id in self._trusted.pinned), default=0)
        if key_set.version < present or (key_set.version == present and key_set != self._key_set):
            raise PushRefused("old_key_set", f"a key set of version {key_set.version}; this device has {present}")
        revoked = self._revoked.union(key_set.revoked)
        if len(revoked) > MAX_REVOKED_KEYS:
            raise PushRefused("malformed", f"more than {MAX_REVOKED_KEYS} revoked keys")
        try:
            signers = public_keys(key_set.signers, "Ed25519")
        except ValueError as error:
            raise PushRefused("malformed", f"it has {error}") from error
        versions = self._versions | {token.key_id: key_set.version}
        facts = {"key_set": signed, "revoked": json.dumps(sorted(revoked)), "versions": json.dumps(versions)}
        self._journal.keep_trusted(facts, signers.keys())
        self._revoked, self._versions = revoked, versions
        self._adopt(key_set)
        return {"version": key_set.version, "keys": sorted(self._signers)}


def refusal(refused: PushRefused) -> dict[str, str]:
    """The result of a command that was refused."""
    return {"error": f"refused: {refused}"[:REFUSAL_CHARACTERS], "refused": refused.reason}


def _time(seconds: float) -> str:
    """A time as people read it; a clock may show anything."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970"
