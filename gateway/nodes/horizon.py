"""The horizon: how far who walks over all apps may read, though other nodes are storing at the moment.

Numbers rise in the order of commits within an app only. So a walk over all of them goes up to numbers that were read
while nobody wrote: one operation that has the fleet's lock to itself, once in HORIZON_SECONDS at most, and none while
there is nothing new.
"""

from __future__ import annotations

import asyncio

from gateway.store.app_locks import EVERY_APP
from gateway.store.database import Database
from gateway.store.nodes.horizon import Horizon, newest_numbers

HORIZON_SECONDS = 1.0
"""Time for which a horizon is good: everybody waits for the moment in which another one is read."""


class HorizonReader:
    """Reads the horizon for all that walk. Loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found = Horizon(0, 0, 0)
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def read(self) -> Horizon:
        """The horizon, as of HORIZON_SECONDS ago at most. Raises StorageError."""
        async with self._lock:
            seconds = asyncio.get_running_loop().time()
            if seconds - self._read_at >= HORIZON_SECONDS:
                if await self._database.read(newest_numbers) != self._found:
                    self._found = await self._database.write(newest_numbers, apps=EVERY_APP)
                self._read_at = seconds
            return self._found
