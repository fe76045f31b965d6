"""Who guesses: how many different wrong credentials an address has tried of late, and who is made to wait for it.

A fleet sits behind one address, and so may who guesses: a guest in a shop's Wi-Fi must not shut out its devices. So
all credentials are judged, and right ones are let in at once, whatever came from their address before. Only who is
wrong is slowed down: over the limit the answer to wrong credentials is `LATE_SECONDS` late. An authenticator for which
judging is work, or whose secrets can be guessed, is told that an address is a suspect (`Credentials.suspect`) and
bounds that itself.

Laws
1. Only failures count: wrong credentials, never a refusal for want of room, and never a success.
2. The same wrong credentials count once: one device with an old token, trying again and again, is no suspect.
3. Bounded: `MAX_ADDRESSES` are remembered, about 60 bytes for each of their guesses, of which there are no more than
   the limit; of more, the one that failed first is forgotten. `LATE_PER_ADDRESS` answers wait for an address,
   `MAX_LATE` in all; more are given at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from broker.addresses import address_of
from broker.protocol.packets import ReasonCode

WINDOW: Final = 60.0
"""Seconds from the first failure until an address begins anew."""
MAX_ADDRESSES: Final = 1_000
"""6 MB with the default limit."""
LATE_SECONDS: Final = 1.0
"""Longer than a device takes to be told right, shorter than its patience."""
LATE_PER_ADDRESS: Final = 20
MAX_LATE: Final = 1_000
"""A twentieth of the handshakes that there may be."""
FAILURES: Final = frozenset((ReasonCode.BAD_USER_NAME_OR_PASSWORD, ReasonCode.NOT_AUTHORIZED))
"""Refusals that mean wrong credentials."""


class FailedAuthentications:
    __slots__ = ("_by_address", "_late", "_late_in_all", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_address: dict[str, tuple[float, set[int]]] = {}
        """Since when, and hashes of what was tried; the address that began first comes first."""
        self._late: dict[str, int] = {}
        """Answers that wait, by address."""
        self._late_in_all = 0

    def note(self, peer: str, guess: Hashable, reason_code: int, now: float) -> None:
        """What `peer` (HOST:PORT) has tried was refused."""
        if reason_code not in FAILURES:
            return
        address = address_of(peer)
        since, tried = self._by_address.get(address, (now, set[int]()))
        if now - since >= WINDOW:
            self._by_address.pop(address, None)  # begins anew, and is then the last of all
            since, tried = now, set()
        if len(tried) < self._limit:
            tried.add(hash(guess))
        self._by_address[address] = (since, tried)
        if len(self._by_address) > MAX_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]

    def too_many(self, peer: str, now: float) -> bool:
        """Whether the address of `peer` is a suspect."""
        if not self._by_address:
            return False
        since, tried = self._by_address.get(address_of(peer), (0.0, ()))
        return len(tried) >= self._limit and now - since < WINDOW

    def begin_late(self, peer: str, reason_code: int, now: float) -> bool:
        """Whether this refusal is to wait for `LATE_SECONDS`; call `end_late` when it does not any more."""
        if reason_code not in FAILURES or not self.too_many(peer, now) or self._late_in_all >= MAX_LATE:
            return False
        address = address_of(peer)
        waiting = self._late.get(address, 0)
        if waiting >= LATE_PER_ADDRESS:
            return False
        self._late[address] = waiting + 1
        self._late_in_all += 1
        return True

    def end_late(self, peer: str) -> None:
        address = address_of(peer)
        self._late_in_all -= 1
        waiting = self._late.pop(address) - 1
        if waiting:
            self._late[address] = waiting


class LateAnswer:
    """A refusal that waits in the timing wheel."""

    __slots__ = ("_failed", "_give", "_peer", "slot")

    def __init__(self, failed: FailedAuthentications, peer: str, give: Callable[[], None]) -> None:
        """After `begin_late`."""
        self._failed = failed
        self._peer = peer
        self._give = give
        self.slot = -1

    def due(self, now: float) -> float | None:
        self._failed.end_late(self._peer)
        self._give()
        return None
