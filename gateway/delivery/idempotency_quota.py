"""Quota of the answers that are kept with idempotency keys: a share of each app.

An answer names the devices that were unknown, ten thousand of them at most, and is kept for a day: an app that sends
such pushes as fast as it may would fill any disk. So what is stored is counted, and when an app has more than
BYTES_OF_APP, its oldest answers are forgotten before their day is over: those of requests that are hardly repeated.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

from gateway.store.access.apps import every_app
from gateway.store.database import Database
from gateway.store.deliveries.idempotency import MINUTE_MS, RECORD_BYTES, forget_answers, measure_records

log = logging.getLogger(__name__)

BYTES_OF_APP = 256 * 1024 * 1024
"""Bytes of one app's answers: two million for pushes to known devices, 20 a second all day."""
KEPT_SHARE = 0.9
"""Share of the bound that is kept when it was passed."""


SHARED_MEASURE_SECONDS = 600.0
"""Time between two measurements of all apps where other nodes store answers as well: as much passes the bound."""


class IdempotencyQuota:
    """Keeps every app's remembered answers within BYTES_OF_APP. Loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sizes: Counter[int] = Counter()
        """Bytes by app, without what has left since it was measured."""
        self._loaded = False
        self.is_shared = False
        """Whether other nodes store answers, too, which only a new measurement finds."""
        self._measured_at = 0.0
        """When all apps were measured, in seconds of a monotonic clock."""
        self.removed = 0
        """Answers that were forgotten before their time, for metrics."""

    def added(self, app_no: int, size: int) -> None:
        """Count a record with a key and an answer of so many bytes."""
        self._sizes[app_no] += size + RECORD_BYTES

    async def run(self) -> None:
        """Measure and forget until the bound is kept. Called a few times a second; not again before it ends."""
        if not self._loaded or (self.is_shared and time.monotonic() - self._measured_at >= SHARED_MEASURE_SECONDS):
            self._measured_at = time.monotonic()
            for app_no in await self._database.read(every_app):
                self._sizes[app_no] = sum((await self._measure(app_no)).values())
            self._loaded = True
        for app_no in [app_no for app_no, size in self._sizes.items() if size > BYTES_OF_APP]:
            await self._shrink(app_no)

    async def _measure(self, app_no: int) -> Counter[int]:
        sizes: Counter[int] = Counter()
        after: str | None = ""
        while after is not None:
            seen = after
            found = await self._database.read(
                lambda transaction: measure_records(transaction, app_no, seen)  # noqa: B023  awaited here
            )
            sizes.update(found.sizes)
            after = found.last
        return sizes

    async def _shrink(self, app_no: int) -> None:
        """Measure an app anew, since records leave by age as well; forget the oldest of what is still too much."""
        before = self._sizes[app_no]
        by_minute = await self._measure(app_no)
        # What was stored meanwhile counts on.
        self._sizes[app_no] += by_minute.total() - before
        too_much = self._sizes[app_no] - int(BYTES_OF_APP * KEPT_SHARE)
        if by_minute.total() <= BYTES_OF_APP:
            return
        end = 0
        for minute in sorted(by_minute):
            if too_much <= 0:
                break
            too_much -= by_minute[minute]
            self._sizes[app_no] -= by_minute[minute]
            end = (minute + 1) * MINUTE_MS
        log.warning(
            "app number %d has %d MiB of answers to idempotency keys: the oldest are forgotten", app_no, before >> 20
        )
        after: str | None = ""
        while after is not None:
            seen = after
            count, after = await self._database.write(
                lambda transaction: forget_answers(transaction, app_no, seen, end),  # noqa: B023  awaited here
                apps=frozenset((app_no,)),
            )
            self.removed += count
