"""The timeline of one device, the newest event first: what the event log says of it.

The log has entries of a push or a moment with many devices, and of an app; none is found by its device
(`history_pages`). So the newest entries of the app are looked through: whether an entry is about the device is decided
in the statement, by the text of its list of devices, which is not parsed for it, or by the outcome set of its segment.
Those found are read as any reader of events gets them (`event_log`), with a word on the push.

A device is in an entry once at most, so the number of the entry is a place in the timeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from gateway.delivery.history_pages import HistoryPage, SliceSize, fill_history, search_history
from gateway.delivery.push_texts import shown_text
from gateway.pages import to_json
from gateway.store.database import Database
from gateway.store.deliveries.device_history import Slice, entry_time, find_entries, push_of_entry
from gateway.store.deliveries.event_log import TYPES, Event, events_of_device
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339

FIRST_ENTRIES, MOST_ENTRIES = 250, 20_000
"""Entries of the log that a slice looks through."""


class DeviceTimeline:
    """Lists the events of a device. Loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, app_no: int, device_no: int, limit: int, cursor: str | None, wanted: Callable[[str], bool]
    ) -> HistoryPage:
        """A page of a device's events of the types that are wanted. Raises Problem 422 for a cursor that is none."""
        types = [event for event in TYPES if wanted(event)]

        def find(transaction: Transaction, before: int, _: int, entries: int) -> Slice[tuple[int, str]]:
            return find_entries(transaction, app_no, device_no, before, entries, types)

        size = SliceSize(FIRST_ENTRIES, MOST_ENTRIES, time.monotonic)
        found = await search_history(self._database, app_no, cursor, limit, size, find)

        def read(transaction: Transaction) -> HistoryPage:
            described = _described(transaction, device_no, found.hits)
            return fill_history(found, [no for no, _ in found.hits], described, lambda no: entry_time(transaction, no))

        return await self._database.read(read, app_no)


def _described(
    transaction: Transaction, device_no: int, entries: Sequence[tuple[int, str]]
) -> Iterator[tuple[int, bytes]]:
    """Read the events of these entries that are about a device, as JSON: empty for an entry that only seemed to be."""
    for no, event in entries:
        events = events_of_device(transaction, no, event, device_no)
        for found in events:
            yield no, _with_push(transaction, device_no, no, found)
        if not events:
            yield no, b""


def _with_push(transaction: Transaction, device_no: int, entry_no: int, event: Event) -> bytes:
    """Add to an event of a delivery what its push says."""
    if not event.type.startswith("delivery."):
        return event.json
    found = push_of_entry(transaction, entry_no)
    shown = shown_text(transaction, found.no, found.content, device_no)
    push = {"kind": found.kind, **shown, "sent_at": rfc3339(found.accepted_at)}
    return b'%b,"push":%b}' % (event.json[:-1], to_json(push))
