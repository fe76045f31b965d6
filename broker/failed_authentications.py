"""Who has failed to authenticate too often: a count per address, of failures only.

A fleet sits behind one address, so how often an address connects says nothing; how often it fails does. Over the limit
its CONNECTs are refused without asking the authenticator (what a guess costs, a password hash, is the point), until the
minute in which it failed is over. Whoever is connected stays.

Laws
1. Only failures count: wrong credentials, never a refusal for want of room, and never a success.
2. Bounded: `MAX_ADDRESSES` are remembered, about 150 bytes each; of more, the one that failed first is forgotten.
"""

from __future__ import annotations

from typing import Final

from broker.protocol.packets import ReasonCode

WINDOW: Final = 60.0
"""Seconds from the first failure until an address begins anew."""
MAX_ADDRESSES: Final = 10_000
"""A million failures a minute with the default limit: more than any attack this process could answer anyhow."""
FAILURES: Final = frozenset(
    (ReasonCode.BAD_USER_NAME_OR_PASSWORD, ReasonCode.NOT_AUTHORIZED, ReasonCode.BAD_AUTHENTICATION_METHOD)
)
"""Refusals that mean wrong credentials."""


class FailedAuthentications:
    __slots__ = ("_by_address", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_address: dict[str, tuple[int, float]] = {}
        """How often, and since when; the address that began first comes first."""

    def note(self, peer: str, reason_code: int, now: float) -> None:
        """A CONNECT from `peer` (HOST:PORT) was refused."""
        if reason_code not in FAILURES:
            return
        address = _address(peer)
        count, since = self._by_address.get(address, (0, now))
        if now - since >= WINDOW:
            self._by_address.pop(address, None)  # begins anew, and is then the last of all
            count, since = 0, now
        self._by_address[address] = (count + 1, since)
        if len(self._by_address) > MAX_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]

    def too_many(self, peer: str, now: float) -> bool:
        if not self._by_address:
            return False
        count, since = self._by_address.get(_address(peer), (0, now))
        return count >= self._limit and now - since < WINDOW


def _address(peer: str) -> str:
    return peer.rpartition(":")[0]
