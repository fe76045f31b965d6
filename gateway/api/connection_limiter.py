"""Limits of HTTP connections, in all and for each address; the longest idle one makes room.

A connection costs a descriptor and up to 32 KiB before anybody has said who they are, and devices need descriptors on
the same process. So their number is bounded. At a bound nobody who works is cut off and nobody who comes is refused as
long as somebody is idle: a connection without a request under way makes room, that of the same address, or of the
address which has most of them; first those on which nobody has shown a valid key yet, so that strangers do not end the
pools of senders. Only when all are at work the newcomer is told to come again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 2_048
"""HTTP connections at a time, if the descriptors suffice: 1,000 calls that wait and 200 streams of events have room,
and 2,048 strangers with half a head and a read of 16 KiB each stay below 64 MiB."""
ADDRESS_DIVISOR: Final = 4
"""An address has a fourth of them: 512 requests of one sender under way at once, and four addresses to take all."""
LAST_WORDS: Final = 32
"""Connections at a time that are refused with an answer, beyond the limits; further ones are closed without."""
LOG_SECONDS: Final = 10.0
"""Time between two log lines about the same limit; the second says how often it acted."""


class EvictableConnection(Protocol):
    """A connection that the limiter can end."""

    def evict(self) -> None:
        """End at once: another one needs the descriptor."""


class PendingHandshakes(Protocol):
    """Connections on their way in (`broker.network.acceptor.Acceptor`)."""

    @property
    def arriving(self) -> int: ...

    def evict(self, address: str) -> bool: ...


class _Address:
    __slots__ = ("count", "idle", "known", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.idle: dict[EvictableConnection, None] = {}
        """Connections without a request under way, the longest first."""
        self.known: dict[EvictableConnection, None] = {}
        """Connections without one after a request with a valid key, the longest first."""

    def longest_idle(self) -> EvictableConnection | None:
        return next(iter(self.idle), None) or next(iter(self.known), None)


class ConnectionPlace:
    """One connection's place in the books. Made by `ConnectionLimiter.enter`."""

    __slots__ = ("_address", "_connection", "_limiter")

    def __init__(self, limiter: ConnectionLimiter, address: _Address, connection: EvictableConnection) -> None:
        self._limiter: ConnectionLimiter | None = limiter
        self._address = address
        self._connection = connection

    @property
    def share(self) -> str:
        """The address, or the network, that it counts for."""
        return self._address.name

    def busy(self) -> None:  # Hot path.
        """A request is under way: nobody takes the place."""
        self._address.idle.pop(self._connection, None)
        self._address.known.pop(self._connection, None)

    def idle(self, *, is_known: bool = False) -> None:  # Hot path.
        """Offer the place to newcomers: no request is under way. `is_known`: somebody has shown a valid key."""
        (self._address.known if is_known else self._address.idle)[self._connection] = None

    def release(self) -> None:
        """Harmless when called again."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            self.busy()
            limiter.place_freed(self._address)


class ConnectionLimiter:
    """Gives HTTP connections their places, in all and for each address. Runs on the *loop*."""

    def __init__(
        self,
        *,
        connections: int,
        clock: Callable[[], float],
        share_of: Callable[[str], str],
        is_proxy: Callable[[str], bool],
    ) -> None:
        """`connections` in all; `clock` gives seconds; `share_of` an address says whose share it counts for; one that
        `is_proxy` speaks for many, and is bounded by the number in all alone."""
        self.limit = connections
        self.limit_of_address = max(1, connections // ADDRESS_DIVISOR)
        self.open = 0
        self._explaining = 0
        self.counts: dict[str, int] = {}
        """Number of times that each limit of the HTTP port has acted, for metrics."""
        self._share_of = share_of
        self._is_proxy = is_proxy
        self._clock = clock
        self._addresses: dict[str, _Address] = {}
        self._logged: dict[str, tuple[float, int]] = {}
        """Limit -> (when it was logged, how often it had acted then)."""

    def enter(self, connection: EvictableConnection, host: str) -> ConnectionPlace | None:
        """Give a new connection its place, if need be that of an idle one. None: there is no room, and all the others
        are at work."""
        name = self._share_of(host)
        address = self._addresses.get(name)
        if address is None:
            address = _Address(name)
        if address.count >= self.limit_of_address and not self._is_proxy(host):
            if not self._evict(address, "evicted_by_own_address"):
                self.acted("too_many_of_address", f"{name} has {address.count} HTTP connections, all at work")
                return None
        elif self.open >= self.limit and not self._make_room():
            self.acted("too_many", f"all {self.limit} HTTP connections are at work; {name} has {address.count} of them")
            return None
        self.open += 1
        address.count += 1
        self._addresses[name] = address
        place = ConnectionPlace(self, address, connection)
        place.idle()
        return place

    def room_for(self, handshakes: PendingHandshakes, address: str) -> bool:
        """Tell whether a newcomer may begin a TLS handshake. An idle connection or another handshake makes room if need
        be. Some may come in even where there is no place: they end an idle connection, or are told why they cannot
        stay."""
        places = max(self.limit - self.open, min(self.limit, LAST_WORDS))
        return handshakes.arriving < places or handshakes.evict(address)

    def may_explain_refusal(self) -> bool:
        """Whether a connection that was refused may stay for an answer; `refusal_explained` when it has gone."""
        if self._explaining >= LAST_WORDS:
            return False
        self._explaining += 1
        return True

    def refusal_explained(self) -> None:
        self._explaining -= 1

    def acted(self, limit: str, text: str) -> None:
        """Count it, and log it unless that was done a moment ago."""
        count = self.counts[limit] = self.counts.get(limit, 0) + 1
        at, before = self._logged.get(limit, (-LOG_SECONDS, count - 1))
        now = self._clock()
        if now - at >= LOG_SECONDS:
            self._logged[limit] = now, count
            again = f" ({count - before} times since the last line)" if count - before > 1 else ""
            log.warning("%s: %s%s", limit, text, again)

    def place_freed(self, address: _Address) -> None:
        """A place of the address is free."""
        self.open -= 1
        address.count -= 1
        if not address.count:
            self._addresses.pop(address.name, None)

    def _make_room(self) -> bool:
        """An idle connection of whoever has most makes room."""
        most = max(
            (one for one in self._addresses.values() if one.idle or one.known), key=lambda one: one.count, default=None
        )
        return most is not None and self._evict(most, "evicted")

    def _evict(self, address: _Address, limit: str) -> bool:
        longest = address.longest_idle()
        if longest is None:
            return False
        self.acted(limit, f"an idle HTTP connection of {address.name}, which has {address.count}, made room")
        longest.evict()
        return True
