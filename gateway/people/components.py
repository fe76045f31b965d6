"""Everything that signing people in consists of, wired with each other: a part of the composition root."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.auth import KeyCache, Principal
from gateway.enrolment.guesses import GuessLimiter
from gateway.errors import Problem
from gateway.people.sessions import ConsoleSessions
from gateway.store.database import Database

log = logging.getLogger(__name__)


class PeopleComponents:
    """Sessions of people, and what limits guesses at keys where they sign in. Runs on the *loop*."""

    def __init__(
        self,
        *,
        database: Database,
        keys: KeyCache,
        clock_ms: Callable[[], int],
        clock: Callable[[], float],
        share_of: Callable[[str], str],
        idle_ms: int,
        lifetime_ms: int,
    ) -> None:
        """`clock_ms` gives server time in milliseconds, `clock` gives seconds that only grow; `share_of` gives the
        address that a host counts for. `idle_ms` and `lifetime_ms` as in `ConsoleSessions`."""
        self._keys = keys
        self.sessions = ConsoleSessions(database=database, clock_ms=clock_ms, idle_ms=idle_ms, lifetime_ms=lifetime_ms)
        self.guesses = GuessLimiter(clock, share_of)

    async def holder_of_key(self, key: str, host: str) -> Principal:
        """Return the holder of a key with which a person of this host wants to sign in. A wrong one is answered late.
        Raises Problem 401, 429."""
        try:
            return await self._keys.authenticate(f"Bearer {key}")
        except Problem as refusal:
            if refusal.code == "unauthorized":
                log.info("%s: a wrong key at the console's sign-in", host, extra={"peer": host})
                await self.guesses.delay(host)
            raise
