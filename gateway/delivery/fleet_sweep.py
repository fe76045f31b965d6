"""The sweep of a database that several nodes write: one of them ends what has outlived its ttl, whoever accepted it.

What the others have accepted, and what is in flight from them, is not known in memory. So what is due is found on a
reader, which asks for the lock of no app; the others are asked what of that is in flight; and the rest is swept, in
the apps that it is of. What is in flight from others is left alone then for RECHECK_MS: so many of those pushes as fill
a slice would otherwise keep everything behind them from being swept.
"""

from __future__ import annotations

from functools import partial

from gateway.delivery.ledger import Ledger
from gateway.delivery.recalls import SentElsewhere
from gateway.store.database import Database
from gateway.store.deliveries.ledger_statements import expired_pushes

RECHECK_MS = 1_000
"""Time until a push that is over, and in flight from another node, is asked for again."""


class FleetSweep:
    """Finds what is due, and has it swept. Loop.

    `sent_elsewhere` asks the other nodes what is in flight from them.
    """

    def __init__(self, *, database: Database, ledger: Ledger, sent_elsewhere: SentElsewhere) -> None:
        self._database = database
        self._ledger = ledger
        self._sent_elsewhere = sent_elsewhere
        self._in_flight: dict[int, int] = {}
        """Pushes in flight from others, and until when they are left alone (server time in ms)."""

    async def follow_others(self) -> None:
        """Sweep what is due. Called a few times a second by the node that does so."""
        more = True
        while more:
            now_ms, offered_before, left_alone = self._ledger.expired()
            self._in_flight = {push_no: until for push_no, until in self._in_flight.items() if until > now_ms}
            left_alone += self._in_flight
            due = await self._database.read_soon(
                partial(expired_pushes, now_ms=now_ms, offered_before=offered_before, expired_in_flight=left_alone)
            )
            if not due:
                return
            elsewhere = await self._sent_elsewhere([push_no for push_no, _ in due], None)
            more = await self._ledger.sweep_apps(frozenset(app_no for _, app_no in due), elsewhere, self._in_flight)
            self._in_flight.update((push_no, now_ms + RECHECK_MS) for push_no, devices in elsewhere.items() if devices)
