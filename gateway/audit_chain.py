"""The chain of an app's audit log: what its hashes are made of, and how somebody verifies them without the server.

Laws
1. The *digest* of an entry is the SHA-256 of its content as JSON: the fields of FIELDS, keys in alphabetical order, no
   blanks, everything but ASCII escaped. Its *hash* is the SHA-256 of the hash before it and that digest. The first
   entry follows the genesis, which is made of the app's id.
2. So the hash of the last entry, the *head*, is of all entries and their order. Whoever changes, removes, adds or moves
   one has to make all hashes after it anew, and the head is another one.
3. An entry that somebody is not to see is proven by its digest alone: the chain goes over it, and says nothing of it.

What a chain proves: that what is there agrees with a head. Whoever can write the file can make a whole chain anew, head
included. That is found by who has noted a head elsewhere before: `fleetpush audit head`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FIELDS = ("seq", "at", "actor", "action", "object", "address", "result", "details")
HASH_BYTES = 32
_GENESIS = b"fleetpush audit 1 "
_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


class ChainBroken(Exception):
    """The entries are not those that the chain was made of. The message says where, and what does not agree."""


@dataclass(slots=True, frozen=True)
class Head:
    """A place in a chain: the number of an entry, and its hash. As text `NUMBER:HEXADECIMAL`."""

    seq: int
    hash: bytes

    @classmethod
    def genesis(cls, app_id: str) -> Head:
        """Return the place before an app's first entry."""
        return cls(0, hashlib.sha256(_GENESIS + app_id.encode()).digest())

    @classmethod
    def parse(cls, text: str) -> Head:
        """Raise ValueError for what is no head."""
        found = _HEAD.fullmatch(text.strip().lower())
        if found is None:
            raise ValueError(f"{text!r} is no head: it is NUMBER:HASH, as `audit head` prints it")
        return cls(int(found[1]), bytes.fromhex(found[2]))

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    def follow(self, digest: bytes) -> Head:
        """Return the place of the entry behind this one, which has the digest."""
        return Head(self.seq + 1, hashlib.sha256(self.hash + digest).digest())


def digest_of(entry: Mapping[str, Any]) -> bytes:
    """Return the digest of an entry, given as the API shows it (law 1). Fields that are not of the content are left
    out. Raises KeyError if one is missing."""
    content = {name: entry[name] for name in FIELDS}
    return hashlib.sha256(canonical(content)).digest()


def canonical(document: Any) -> bytes:
    """Encode a document as JSON in the one way that digests are made of."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


class ChainVerifier:
    """Goes along a chain entry by entry, in constant memory, and raises ChainBroken where it does not hold."""

    def __init__(self, app_id: str, base: Head, noted: Iterable[Head] = ()) -> None:
        """`base`: the place before the first entry that is kept of the app's chain. `noted`: heads that somebody has
        noted before."""
        if base.seq == 0 and base != Head.genesis(app_id):
            raise ChainBroken(f"the chain does not begin with the hash that the id of the app {app_id!r} gives")
        self.at = base
        self.entries = 0
        """Entries and digests that were followed."""
        self.older: list[Head] = []
        """Noted heads of before the base, with which nothing can be compared any more."""
        self._noted: dict[int, Head] = {}
        for head in noted:
            if self._noted.setdefault(head.seq, head) != head:
                raise ChainBroken(f"two different heads were noted for entry {head.seq}")
        for seq in [seq for seq in self._noted if seq < base.seq]:
            self.older.append(self._noted.pop(seq))
        self._compare_with_noted()

    def follow(self, entry: object) -> None:
        """Go on to an entry, which has its own `hash` in hexadecimal."""
        if not isinstance(entry, Mapping):
            raise ChainBroken(f"what stands where entry {self.at.seq + 1} is to be is none")
        seq = entry.get("seq")
        if seq != self.at.seq + 1:
            raise ChainBroken(f"entry {seq} stands where entry {self.at.seq + 1} is to be")
        try:
            digest = digest_of(entry)
        except KeyError as missing:
            raise ChainBroken(f"entry {seq} has no {missing.args[0]!r}") from None
        self.follow_digest(digest)
        if entry.get("hash") != self.at.hash.hex():
            raise ChainBroken(f"entry {seq} has been changed, or one before it: its hash does not follow from them")

    def follow_digest(self, digest: bytes) -> None:
        """Go on over an entry of which only the digest is known."""
        self.at = self.at.follow(digest)
        self.entries += 1
        self._compare_with_noted()

    def end(self, head: Head) -> None:
        """Compare the end of the chain with its head, and with what was noted."""
        if self.at != head:
            raise ChainBroken(
                f"the last entry is {self.at.seq}, and the head says {head.seq}: entries are missing at the end"
                if self.at.seq != head.seq
                else f"the head is not the hash of entry {head.seq}, the last one"
            )
        if self._noted:
            raise ChainBroken(
                f"the log ends with entry {self.at.seq}, and a head of entry {max(self._noted)} had been noted: its end"
                " was removed, or an earlier backup restored"
            )

    def _compare_with_noted(self) -> None:
        noted = self._noted.pop(self.at.seq, None)
        if noted is not None and noted != self.at:
            raise ChainBroken(
                f"entry {noted.seq} has another hash than the one that had been noted: the log was made anew"
            )
