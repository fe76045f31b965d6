"""The sweep of a database that several nodes write: one of them ends what has outlived its ttl, whoever accepted it.

What the others have accepted is not known in memory. So what is due is found on a reader, which asks for the lock of no
app, and swept for those apps alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.delivery.ledger import Ledger
from gateway.store.database import Database
from gateway.store.deliveries.ledger_statements import apps_with_expired


class FleetSweep:
    """Finds the apps of which something is due, and has them swept. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    def __init__(self, *, database: Database, ledger: Ledger, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._ledger = ledger
        self._clock_ms = clock_ms

    async def follow_others(self) -> None:
        """Sweep what is due. Called a few times a second by the node that does so."""
        now_ms = self._clock_ms()
        self._ledger.forget_ended()
        apps = await self._database.read(
            partial(
                apps_with_expired,
                now_ms=now_ms,
                offered_before=now_ms - self._ledger.offer_ms,
                expired_in_flight=self._ledger.expired_in_flight(),
            )
        )
        if apps:
            self._ledger.sweep_apps(frozenset(apps))
