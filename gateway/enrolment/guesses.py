"""Wrong enrolment codes: they cost the one who sends them time, and nobody else anything.

Laws
1. A code is always looked up, whoever has guessed before at the same address: a shop's two hundred kiosks are behind
   one address, and one that guesses there must not keep the others out. `codes` says why that is safe.
2. What is wrong is answered late, and the later the more of it comes from an address. Such answers wait in a bounded
   number; more are answered at once, 429, and are wrong all the same.
3. Addresses are remembered in a bounded number, the one that was heard of least lately is forgotten first: it gets off
   lightly, and nobody is kept out for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable

from gateway.errors import RetryableProblem

FIRST_DELAY_SECONDS = 0.25
"""Delay of the answer to an address's first wrong code; twice as long for each further one, up to:"""
MAX_DELAY_SECONDS = 2.0
"""Longest delay: the end of the server does not wait longer for it."""
FORGIVEN_SECONDS = 30.0
"""Time in which one wrong code of an address is forgotten."""
REMEMBERED_ADDRESSES = 1_024
LATE_ANSWERS = 64
"""Answers that are late at a time: each has one of the HTTP connections."""
LATE_ANSWERS_OF_ADDRESS = 4
MAX_WRONG_CODES = 8
"""Wrong codes of an address that are counted: after twice as long as that it starts anew."""


class GuessLimiter:
    """Delays the answers to wrong codes. `clock` gives seconds that only grow; `share_of` gives the address that a host
    counts for. Runs on the *loop*."""

    def __init__(self, clock: Callable[[], float], share_of: Callable[[str], str]) -> None:
        self._clock = clock
        self._share_of = share_of
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> (wrong codes that are not forgotten, when that was so)."""
        self._late: Counter[str] = Counter()
        """Answers that are late, by address."""
        self.sent_away = 0
        """Wrong codes that were answered at once because too many answers were late, for metrics."""

    async def delay(self, host: str) -> None:
        """Return when a wrong code of this host may be answered. Raises Problem 429 instead, if too many wait."""
        address = self._share_of(host)
        seconds = self._count(address)
        if self._late[address] >= LATE_ANSWERS_OF_ADDRESS or self._late.total() >= LATE_ANSWERS:
            self.sent_away += 1
            raise RetryableProblem("too_many_attempts", "too many wrong codes or keys come from this address", seconds)
        self._late[address] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._late[address] -= 1
            if not self._late[address]:
                del self._late[address]

    def _count(self, address: str) -> float:
        """Count a wrong code; the seconds that it costs."""
        now = self._clock()
        count, since = self._wrong.pop(address, (0.0, now))
        count = min(max(count - (now - since) / FORGIVEN_SECONDS, 0.0) + 1, MAX_WRONG_CODES)
        self._wrong[address] = count, now
        if len(self._wrong) > REMEMBERED_ADDRESSES:
            self._wrong.popitem(last=False)
        return float(min(FIRST_DELAY_SECONDS * 2 ** (count - 1), MAX_DELAY_SECONDS))
