"""Quota of uplink messages: a share of each app, and a bound for all of them together.

A device has its last hundred messages, which may be as many mebibytes; a fleet of them would fill any disk. So what is
stored is measured on a reader, after its commit, and when an app has more than BYTES_OF_APP, or all have more than
TOTAL_BYTES, the oldest messages of that app (of the one with most) leave, a slice at a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from gateway.store.database import Database
from gateway.store.deliveries.uplink_messages import measure_uplinks, measure_uplinks_of_app, remove_oldest_uplinks

log = logging.getLogger(__name__)

BYTES_OF_APP = 256 * 1024 * 1024
"""Bytes of one app, as many as of its events: a fleet of 2,500 devices with a hundred messages of a KiB each."""
TOTAL_BYTES = 1024 * 1024 * 1024
"""Bytes of all apps: four as large as can be."""
KEPT_SHARE = 0.9
"""Share of the bound that is kept when it was passed: so that not every message that comes makes another go."""
MEASURED_MESSAGES = 2_000
"""Messages that one read measures, about 2 ms: only their lengths are read."""
REMOVED_BYTES = 4 * 1024 * 1024
"""Bytes that one operation removes, about 5 ms of the writer: a thousand pages."""
REMOVED_MESSAGES = 1_000


class UplinkQuota:
    """Keeps stored uplink messages within their bounds. Loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sizes: Counter[int] = Counter()
        """Bytes by app, without what has left since it was measured anew."""
        self._seen = 0
        self.horizon: Callable[[], Awaitable[int]] | None = None
        """How far messages can be measured, where several nodes store some; None: to the last."""
        self._measured_operations = -1
        """`Database.operations` when everything had been measured."""
        self.removed = 0
        """Messages that left because there were too many bytes, for metrics."""

    @property
    def size(self) -> int:
        """Bytes of all apps at most, for metrics."""
        return self._sizes.total()

    async def run(self) -> None:
        """Measure new messages, and keep to the bounds. Called a few times a second; not again before it ends."""
        operations = self._database.operations
        if self._measured_operations == operations and self.horizon is None:
            return
        horizon = None if self.horizon is None else await self.horizon()
        more = horizon is None or horizon > self._seen
        while more:
            found = await self._database.read(
                partial(measure_uplinks, after=self._seen, count=MEASURED_MESSAGES, horizon=horizon)
            )
            self._sizes.update(found.sizes)
            self._seen, more = found.to, found.more
        for app_no in [app_no for app_no, size in self._sizes.items() if size > BYTES_OF_APP]:
            await self._shrink(app_no, self._sizes[app_no] - int(BYTES_OF_APP * KEPT_SHARE))
        if self._sizes.total() > TOTAL_BYTES:
            app_no, _ = self._sizes.most_common(1)[0]
            await self._shrink(app_no, self._sizes.total() - int(TOTAL_BYTES * KEPT_SHARE))
        self._measured_operations = operations

    async def _shrink(self, app_no: int, too_much: int) -> None:
        """Measure an app anew, since messages leave by number and age as well; remove what is still too much."""
        before = self._sizes[app_no]
        size = 0
        after: int | None = 0
        while after is not None:
            part, after = await self._database.read(
                partial(measure_uplinks_of_app, app_no=app_no, after=after, count=MEASURED_MESSAGES)
            )
            size += part
        self._sizes[app_no] = size
        too_much -= before - size
        if too_much <= 0:
            return
        log.warning("app %d has %d MiB of uplink messages: the oldest are removed", app_no, size >> 20)
        while too_much > 0:
            count, freed = await self._database.write(
                partial(remove_oldest_uplinks, app_no=app_no, count=REMOVED_MESSAGES, size=REMOVED_BYTES),
                apps=frozenset((app_no,)),
            )
            if not count:
                return
            self.removed += count
            self._sizes[app_no] -= freed
            too_much -= freed
