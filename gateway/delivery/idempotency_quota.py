"""Quota of the answers that are kept with idempotency keys: a share of each app.

An answer names the devices that were unknown, ten thousand of them at most, and is kept for a day: an app that sends
such pushes as fast as it may would fill any disk. So what is stored is counted, and when an app has more than
BYTES_OF_APP, its oldest answers are forgotten before their day is over: those of requests that are hardly repeated.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from typing import NamedTuple

from gateway.store.database import Database

log = logging.getLogger(__name__)

BYTES_OF_APP = 256 * 1024 * 1024
"""Bytes of one app's answers: two million for pushes to known devices, 20 a second all day."""
KEPT_SHARE = 0.9
"""Share of the bound that is kept when it was passed."""
RECORD_BYTES = 80
"""Size of a record besides its key and answer, with its place in the index, about."""
RECORDS_TOGETHER = 2_000
"""Records that one operation looks at, about 2 ms."""
MINUTE_MS = 60_000


class _Measured(NamedTuple):
    sizes: dict[int, int]
    """Bytes by the minute in which they were stored."""
    last: str | None
    """Key to go on behind; None: that was all."""


class IdempotencyQuota:
    """Keeps every app's remembered answers within BYTES_OF_APP. Loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sizes: Counter[int] = Counter()
        """Bytes by app, without what has left since it was measured."""
        self._loaded = False
        self.removed = 0
        """Answers that were forgotten before their time, for metrics."""

    def added(self, app_no: int, size: int) -> None:
        """Count a record with a key and an answer of so many bytes."""
        self._sizes[app_no] += size + RECORD_BYTES

    async def run(self) -> None:
        """Measure and forget until the bound is kept. Called a few times a second; not again before it ends."""
        if not self._loaded:
            apps = await self._database.read(
                lambda connection: connection.execute("SELECT no FROM application").fetchall()
            )
            for (app_no,) in apps:
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
                lambda connection: measure(connection, app_no, seen)  # noqa: B023  awaited here
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
                lambda connection: forget(connection, app_no, seen, end)  # noqa: B023  awaited here
            )
            self.removed += count


def measure(connection: sqlite3.Connection, app_no: int, after: str) -> _Measured:
    """Measure some of an app's records, those with keys behind this one. Reader thread."""
    rows = connection.execute(
        "SELECT key, created_at, length(CAST(key AS BLOB)) + length(CAST(response AS BLOB)) FROM idempotency_record"
        " WHERE app_no = ? AND key > ? ORDER BY key LIMIT ?",
        (app_no, after, RECORDS_TOGETHER),
    ).fetchall()
    sizes: Counter[int] = Counter()
    for _, created_at, size in rows:
        sizes[created_at // MINUTE_MS] += size + RECORD_BYTES
    return _Measured(sizes, rows[-1][0] if len(rows) == RECORDS_TOGETHER else None)


def forget(connection: sqlite3.Connection, app_no: int, after: str, before: int) -> tuple[int, str | None]:
    """Forget some of an app's records that were stored before a time, those with keys behind this one. Writer thread.

    Answers how many, and the key to go on behind.
    """
    keys = connection.execute(
        "SELECT key FROM idempotency_record WHERE app_no = ? AND key > ? ORDER BY key LIMIT ?",
        (app_no, after, RECORDS_TOGETHER),
    ).fetchall()
    if not keys:
        return 0, None
    last = keys[-1][0]
    count = connection.execute(
        "DELETE FROM idempotency_record WHERE app_no = ? AND key > ? AND key <= ? AND created_at < ?",
        (app_no, after, last, before),
    ).rowcount
    return count, last if len(keys) == RECORDS_TOGETHER else None
