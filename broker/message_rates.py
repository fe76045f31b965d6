"""Rates of each user: packets and bytes a second, over all its connections together.

A user is ahead by the time that its latest packets take at its rate (a leaky bucket; GCRA in ATM's words). Up to
`BURST_SECONDS` nothing happens: a device that was away has much to tell. Beyond it the user's sockets are not read
until it is within them again: nothing is lost, TCP makes the sender wait.

Laws
1. The larger share counts: a packet a part of the packets, a byte a part of the bytes.
2. Acknowledgements of our messages are free: we set their pace.
3. Leaving and coming back does not help: a user that is ahead is remembered until it is not.
4. Bounded: one number for each user that has sent something within `BURST_SECONDS`, and as many again until a sweep.
"""

from __future__ import annotations

from typing import Final

BURST_SECONDS: Final = 10.0
"""Burst that is allowed at once, in seconds of the rate."""
_SWEEP_AT: Final = 1_000
"""Users; fewer are not worth a sweep."""


class MessageRates:
    """The rates of all users of one broker. Runs on the *loop*."""

    __slots__ = ("_ahead_until", "_byte_seconds", "_limited", "_packet_seconds", "_sweep_at")

    def __init__(self, packets_per_second: float, bytes_per_second: float) -> None:
        self._packet_seconds = 1 / packets_per_second
        self._byte_seconds = 1 / bytes_per_second
        self._ahead_until: dict[str, float] = {}
        """Server time until which each user is ahead."""
        self._sweep_at = _SWEEP_AT
        self._limited: set[str] = set()
        """Users that have been over their rate, and have not been swept since."""

    def charge(self, user: str, packets: int, size: int, now: float) -> float:
        """Count packets and bytes; return the seconds until the user may go on, 0 or less: at once."""
        ahead_until = self._ahead_until.get(user, now)
        if ahead_until < now:
            ahead_until = now
        ahead_until += max(packets * self._packet_seconds, size * self._byte_seconds)
        self._ahead_until[user] = ahead_until
        if len(self._ahead_until) > self._sweep_at:
            self._sweep(now)
        return ahead_until - now - BURST_SECONDS

    def seconds_over(self, user: str, now: float) -> float:
        """Return the seconds until the user may go on, 0 or less: at once."""
        return self._ahead_until.get(user, now) - now - BURST_SECONDS

    def newly_limited(self, user: str) -> bool:
        """Whether a user that is over its rate was not so before: worth a line in the log."""
        if user in self._limited:
            return False
        self._limited.add(user)
        return True

    def _sweep(self, now: float) -> None:
        self._ahead_until = {user: until for user, until in self._ahead_until.items() if until > now}
        self._limited &= self._ahead_until.keys()
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._ahead_until))
