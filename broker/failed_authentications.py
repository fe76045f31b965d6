"""Who guesses: how many different wrong credentials an address has tried of late.

A fleet sits behind one address, so how often an address connects says nothing. Nor does how often it fails: one device
with an old token, trying again and again, must not shut out its neighbours. Every guess is another one, though. Over
the limit the address's CONNECTs are refused without asking the authenticator (what a guess costs, a password hash, is
the point), until the minute in which it failed is over. Whoever is connected stays.

Laws
1. Only failures count: wrong credentials, never a refusal for want of room, and never a success.
2. The same wrong credentials count once.
3. Bounded: `MAX_ADDRESSES` are remembered, about 60 bytes for each of their guesses; of more, the one that failed first
   is forgotten.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from broker.protocol.packets import ReasonCode

WINDOW: Final = 60.0
"""Seconds from the first failure until an address begins anew."""
MAX_ADDRESSES: Final = 1_000
"""6 MB with the default limit."""
FAILURES: Final = frozenset((ReasonCode.BAD_USER_NAME_OR_PASSWORD, ReasonCode.NOT_AUTHORIZED))
"""Refusals that mean wrong credentials."""


class FailedAuthentications:
    __slots__ = ("_by_address", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_address: dict[str, tuple[float, set[int]]] = {}
        """Since when, and hashes of what was tried; the address that began first comes first."""

    def note(self, peer: str, guess: Hashable, reason_code: int, now: float) -> None:
        """What `peer` (HOST:PORT) has tried was refused."""
        if reason_code not in FAILURES:
            return
        address = _address(peer)
        since, tried = self._by_address.get(address, (now, set[int]()))
        if now - since >= WINDOW:
            self._by_address.pop(address, None)  # begins anew, and is then the last of all
            since, tried = now, set()
        tried.add(hash(guess))
        self._by_address[address] = (since, tried)
        if len(self._by_address) > MAX_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]

    def too_many(self, peer: str, now: float) -> bool:
        if not self._by_address:
            return False
        since, tried = self._by_address.get(_address(peer), (0.0, ()))
        return len(tried) >= self._limit and now - since < WINDOW


def _address(peer: str) -> str:
    return peer.rpartition(":")[0]
