"""The quota of an app's part of the event log: entries leave by size as well as by age (`retention`).

A device may say a mebibyte at a time, as often as it likes; for as long as events are kept that would fill any disk. So
the log is followed, from its beginning at the start of the server and then a few times a second, and what has been read
of an app is remembered in *chunks*: up to which entry, how many, how large. When they are more than QUOTA_BYTES, the
oldest chunks leave. Who had not read them is told so (`events.lost`), as of what left by age.

The writer pays nothing for it until something has to leave: entries are measured on a reader, after their commit. What
comes in between two looks is above QUOTA_BYTES for a moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.store.database import Database
from gateway.store.deliveries.event_log import MeasuredEntries, measure_entries, remove_events_to

log = logging.getLogger(__name__)

QUOTA_BYTES = 256 * 1024 * 1024
"""Bytes of an app's events: a week of three million acknowledged pushes to one device each, or the last 250 of the
largest messages that devices can send; and four apps with as much fit into a gibibyte."""
CHUNK_BYTES = 4 * 1024 * 1024
CHUNK_ENTRIES = 2_000
"""Entries that leave in one operation: about 10 ms of the writer."""
CHUNKS_TOGETHER = 16
"""Chunks that leave together."""


class _Part:
    """Measured chunks of one app's events."""

    __slots__ = ("chunks", "full", "size")

    def __init__(self) -> None:
        self.chunks: deque[MeasuredEntries] = deque()
        self.size = 0
        self.full = False
        """Whether the log says already that it is full."""

    def grow(self, added: MeasuredEntries) -> None:
        self.size += added.size
        last = self.chunks[-1] if self.chunks else None
        if last is None or last.entries + added.entries > CHUNK_ENTRIES or last.size + added.size > CHUNK_BYTES:
            self.chunks.append(added)
        else:
            last.to, last.entries, last.size = added.to, last.entries + added.entries, last.size + added.size

    def shrink(self, to: int) -> None:
        """Forget the chunks up to this entry, which has left."""
        while self.chunks and self.chunks[0].to <= to:
            self.size -= self.chunks.popleft().size

    def too_much(self) -> list[MeasuredEntries]:
        """The oldest chunks, without which there is room; at most CHUNKS_TOGETHER."""
        size = self.size
        found: list[MeasuredEntries] = []
        for chunk in self.chunks:
            if size <= QUOTA_BYTES or len(found) == CHUNKS_TOGETHER:
                break
            size -= chunk.size
            found.append(chunk)
        return found


class EventLogQuota:
    """Keeps every app's events within QUOTA_BYTES. Loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parts: dict[int, _Part] = {}
        self._seen = 0
        self.horizon: Callable[[], Awaitable[int]] | None = None
        """How far the log can be measured, where several nodes write it; None: to its end."""
        self._measured_operations = -1
        """`Database.operations` when everything had been seen."""
        self.removed = 0
        """Entries that left for want of room, for metrics."""

    @property
    def size(self) -> int:
        """Bytes of all apps, for metrics."""
        return sum(part.size for part in self._parts.values())

    async def run(self) -> None:
        """Measure what has been added, and make room. Called a few times a second; not again before it has ended."""
        operations = self._database.operations
        if self._measured_operations == operations and self.horizon is None:
            return
        horizon = None if self.horizon is None else await self.horizon()
        more = horizon is None or horizon > self._seen
        while more:
            measurement = await self._database.read(
                lambda transaction: measure_entries(transaction, self._seen, CHUNK_BYTES, horizon)
            )
            self._seen, more = measurement.seen, measurement.more
            for app_no, chunk in measurement.grown.items():
                self._parts.setdefault(app_no, _Part()).grow(chunk)
            for app_no, to in measurement.removed:
                if app_no in self._parts:
                    self._parts[app_no].shrink(to)
        for app_no, part in self._parts.items():
            await self._make_room(app_no, part)
        self._measured_operations = operations

    async def _make_room(self, app_no: int, part: _Part) -> None:
        if part.size <= QUOTA_BYTES // 2:
            part.full = False
        while chunks := part.too_much():
            if not part.full:
                part.full = True
                log.warning("app %d has more than %d MiB of events: the oldest are removed", app_no, QUOTA_BYTES >> 20)
            # Submitted together: while much is stored, each group of the writer that one waits for adds to it.
            for count in await asyncio.gather(*(self._remove(app_no, chunk.to) for chunk in chunks)):
                self.removed += count
            part.shrink(chunks[-1].to)

    async def _remove(self, app_no: int, to: int) -> int:
        return await self._database.write(
            lambda transaction: remove_events_to(transaction, to, app_no), apps=frozenset((app_no,))
        )
