"""Recovery from the end of a node: what was in flight from it, and is not worth sending any more, ends.

A recall, or a newer push with the same collapse key, leaves alone what is in flight, and ends it when it is lost. With
its node that knowledge is lost, and the delivery would wait for good. So whenever an epoch has ended, one of the others
does for all apps what the start of the only server does. Its devices may be connected elsewhere by then: what tells
them apart is that their deliveries are in flight from nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.delivery.ledger import Ledger
from gateway.delivery.recalls import SentElsewhere
from gateway.delivery_handles import handle_of
from gateway.store.app_locks import EVERY_APP
from gateway.store.database import Database
from gateway.store.deliveries.ledger_statements import revoke_removed_rows
from gateway.store.deliveries.stale_deliveries import pushes_to_recover, recover_rows

log = logging.getLogger(__name__)

ASKED_PUSHES = 1_000
"""Pushes that the other nodes are asked about at a time."""


class FleetRecovery:
    """Ends what the nodes that have ended left behind. Loop.

    `sent_elsewhere` asks the other nodes what is in flight from them; `clock_ms` gives server time in milliseconds.
    """

    def __init__(
        self, *, database: Database, ledger: Ledger, sent_elsewhere: SentElsewhere, clock_ms: Callable[[], int]
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._sent_elsewhere = sent_elsewhere
        self._clock_ms = clock_ms
        self._has_ended = False

    def node_ended(self) -> None:
        """Note that an epoch has ended."""
        self._has_ended = True

    async def load(self) -> None:
        """Recover from all that have ended until now."""
        await self._recover()

    async def follow_others(self) -> None:
        """Recover, if an epoch has ended since. Called a few times a second by the node that does so."""
        if self._has_ended:
            await self._recover()

    async def _recover(self) -> None:
        self._has_ended = False
        try:
            held = await self._in_flight(await self._database.read(pushes_to_recover))
            now_ms = self._clock_ms()
            ended = await self._database.write(
                lambda transaction: recover_rows(transaction, held, now_ms), apps=EVERY_APP
            )
            while await self._database.write(
                lambda transaction: revoke_removed_rows(transaction, now_ms), apps=EVERY_APP
            ):
                pass
        except BaseException:
            self._has_ended = True
            raise
        if ended:
            log.info("%d deliveries were in flight from a node that ended, and had been recalled or superseded", ended)

    async def _in_flight(self, push_nos: list[int]) -> list[int]:
        """List the handles of these pushes that are in flight, from whatever node."""
        held = [handle_of(push_no, device_no) for push_no in push_nos for device_no in self._ledger.sent_of(push_no)]
        for start in range(0, len(push_nos), ASKED_PUSHES):
            found = await self._sent_elsewhere(push_nos[start : start + ASKED_PUSHES], None)
            held += [handle_of(push_no, device_no) for push_no, devices in found.items() for device_no in devices]
        return held
