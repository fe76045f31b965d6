"""Wrong credentials, counted by address, and the delay of refusals to an address that guesses.

A fleet sits behind one address, and an attacker may sit there too: a guest in a shop's Wi-Fi must not shut out its
devices. So all credentials are checked, and right ones are let in at once, whatever came from their address before.
Only wrong ones are slowed down: over the limit the refusal is `REFUSAL_DELAY_SECONDS` late. An authenticator for which
checking is work, or whose secrets can be guessed, is told that an address is a suspect (`Credentials.suspect`) and
bounds that itself.

Laws
1. Only failures count: wrong credentials, never a refusal for want of room, and never a success.
2. The same wrong credentials count once: one device with an old token, trying again and again, is no suspect.
3. Bounded: `MAX_ADDRESSES` are remembered, about 60 bytes for each of their guesses, of which there are no more than
   the limit; of more, the one that failed first is forgotten. `DELAYED_REFUSALS_PER_ADDRESS` refusals wait for an
   address, `MAX_DELAYED_REFUSALS` in all; more are sent at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from broker.addresses import address_of
from broker.protocol.packets import ReasonCode

FAILURE_WINDOW_SECONDS: Final = 60.0
"""Time from the first failure until an address starts again at none."""
MAX_ADDRESSES: Final = 1_000
"""6 MB with the default limit."""
REFUSAL_DELAY_SECONDS: Final = 1.0
"""Long beside a right answer, short beside a client's own timeout."""
DELAYED_REFUSALS_PER_ADDRESS: Final = 20
MAX_DELAYED_REFUSALS: Final = 1_000
"""A twentieth of the handshakes that there may be."""
FAILURES: Final = frozenset((ReasonCode.BAD_USER_NAME_OR_PASSWORD, ReasonCode.NOT_AUTHORIZED))
"""Refusals that mean wrong credentials."""


class FailedAuthentications:
    """Wrong credentials of each address, and the refusals that wait because of them. Runs on the *loop*."""

    __slots__ = ("_by_address", "_delayed", "_delayed_in_all", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_address: dict[str, tuple[float, set[int]]] = {}
        """Time of the first failure, and hashes of the credentials; the address that failed first comes first."""
        self._delayed: dict[str, int] = {}
        """Refusals that wait, by address."""
        self._delayed_in_all = 0

    def record(self, peer: str, guess: Hashable, reason_code: int, now: float) -> None:
        """Count a refusal of `guess`, which came from `peer` (HOST:PORT)."""
        if reason_code not in FAILURES:
            return
        address = address_of(peer)
        since, tried = self._by_address.get(address, (now, set[int]()))
        if now - since >= FAILURE_WINDOW_SECONDS:
            self._by_address.pop(address, None)  # starts again, and is then the last of all
            since, tried = now, set()
        if len(tried) < self._limit:
            tried.add(hash(guess))
        self._by_address[address] = (since, tried)
        if len(self._by_address) > MAX_ADDRESSES:
            del self._by_address[next(iter(self._by_address))]

    def is_suspect(self, peer: str, now: float) -> bool:
        """Whether the address of `peer` is a suspect."""
        if not self._by_address:
            return False
        since, tried = self._by_address.get(address_of(peer), (0.0, ()))
        return len(tried) >= self._limit and now - since < FAILURE_WINDOW_SECONDS

    def delay_refusal(self, peer: str, reason_code: int, now: float) -> bool:
        """Whether this refusal waits for `REFUSAL_DELAY_SECONDS`; if so, call `refusal_sent` when it has waited."""
        if reason_code not in FAILURES or not self.is_suspect(peer, now):
            return False
        if self._delayed_in_all >= MAX_DELAYED_REFUSALS:
            return False
        address = address_of(peer)
        waiting = self._delayed.get(address, 0)
        if waiting >= DELAYED_REFUSALS_PER_ADDRESS:
            return False
        self._delayed[address] = waiting + 1
        self._delayed_in_all += 1
        return True

    def refusal_sent(self, peer: str) -> None:
        """Count a delayed refusal as sent. Call once for each `delay_refusal` that returned True."""
        address = address_of(peer)
        self._delayed_in_all -= 1
        waiting = self._delayed.pop(address) - 1
        if waiting:
            self._delayed[address] = waiting


class DelayedRefusal:
    """A refusal that waits in the timing wheel."""

    __slots__ = ("_failed", "_peer", "_send", "slot")

    def __init__(self, failed: FailedAuthentications, peer: str, send: Callable[[], None]) -> None:
        """Make it when `delay_refusal` has returned True; `send` is called when the delay is over."""
        self._failed = failed
        self._peer = peer
        self._send = send
        self.slot = -1

    def due(self, now: float) -> float | None:
        self._failed.refusal_sent(self._peer)
        self._send()
        return None
