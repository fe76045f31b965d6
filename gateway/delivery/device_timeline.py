"""The timeline of one device, the newest event first: what the event log says of it.

The log has entries of a push or a moment with many devices, and of an app; none is found by its device
(`history_pages`). So the newest entries of the app are looked through: whether an entry is about the device is decided
in the statement, by the text of its list of devices, which is not parsed for it, or by the outcome set of its segment.
Those found are read as any reader of events gets them (`event_log`), with a word on the push.

A device is in an entry once at most, so the number of the entry is a place in the timeline.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.audience.device_sets import SEGMENT_BITS
from gateway.delivery.event_log import TYPES, Event, events_of_device
from gateway.delivery.history_pages import MAX_SLICES, HistoryPage, SliceSize
from gateway.delivery.push_texts import shown_text
from gateway.delivery.reports import cursor_number
from gateway.pages import PAGE_BYTES, to_json
from gateway.store.database import Database
from gateway.store.set_functions import IN_SET
from gateway.timestamps import rfc3339

FIRST_ENTRIES, MOST_ENTRIES = 250, 20_000
"""Entries of the log that a slice looks through."""
_NEWEST = 2**62


class FoundEntries(NamedTuple):
    """Entries of the log that a slice found."""

    entries: list[tuple[int, str]]
    """(number, type) each, the newest first."""
    reached: int
    """Number of the last entry that was looked at."""
    reached_at: int
    """Its time."""
    is_end: bool
    """Whether there is no older one."""


class DeviceTimeline:
    """Lists the events of a device. Loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, app_no: int, device_no: int, limit: int, cursor: str | None, wanted: Callable[[str], bool]
    ) -> HistoryPage:
        """A page of a device's events of the types that are wanted. Raises Problem 422 for a cursor that is none."""
        before = cursor_number(cursor)
        reached, reached_at = _NEWEST if before is None else before, 0
        types = [event for event in TYPES if wanted(event)]
        entries: list[tuple[int, str]] = []
        size = SliceSize(FIRST_ENTRIES, MOST_ENTRIES, time.monotonic)
        is_end = False
        for _ in range(MAX_SLICES):

            def find(connection: sqlite3.Connection, before: int = reached) -> FoundEntries:
                end = size.begin()
                found = find_entries(connection, app_no, device_no, before, size.rows, types)
                end()
                return found

            found = await self._database.read(find, app_no)
            entries += found.entries
            reached, reached_at, is_end = found.reached, found.reached_at, found.is_end
            if is_end or len(entries) > limit:
                break
        chosen = entries[:limit]

        def read(connection: sqlite3.Connection) -> HistoryPage:
            items, complete = _page_of(connection, device_no, chosen)
            if complete and len(chosen) == len(entries):
                if is_end:
                    return HistoryPage(items, None, None)
                return HistoryPage(items, str(reached), rfc3339(reached_at))
            last = chosen[len(items) - 1][0] if not complete else chosen[-1][0]
            return HistoryPage(items, str(last), _time_of(connection, last))

        return await self._database.read(read, app_no)


def find_entries(
    connection: sqlite3.Connection, app_no: int, device_no: int, before: int, entries: int, types: Sequence[str]
) -> FoundEntries:
    """Find the entries about a device among so many of its app that come before one. Reader thread."""
    parameters = {
        "app_no": app_no,
        "before": before,
        "entries": entries,
        "types": json.dumps(types),
        "device_no": device_no,
        "digits": str(device_no),
        "first": f"[{device_no},",
        "within": f",{device_no},",
        "last": f",{device_no}]",
        "only": f"[{device_no}]",
        "segment": device_no >> SEGMENT_BITS,
    }
    found, last, last_at, count = connection.execute(FOUND, parameters).fetchone()
    if not count:
        return FoundEntries([], before, 0, True)
    hits = sorted(map(tuple, json.loads(found)), reverse=True)
    return FoundEntries([(int(no), str(event)) for no, event in hits], last, last_at, count < entries)


_LISTED = (
    "instr(e.devices, :digits) AND (instr(e.devices, :first) OR instr(e.devices, :within) OR instr(e.devices, :last)"
    " OR e.devices = :only)"
)
"""Lists are `[1,2,3]`, and of connections `[[1, when, {..}], [2, ..]]`. What only seems to be the device is left out
when the entry is read. The digits alone are looked for first: most entries lack them, and are passed over once."""
_IS_ABOUT = (
    "CASE WHEN e.device_no IS NOT NULL THEN e.device_no = :device_no"
    " WHEN e.outcome_no IS NOT NULL THEN EXISTS (SELECT 1 FROM outcome_set AS o WHERE o.no = e.outcome_no"
    f"  AND o.segment = :segment AND {IN_SET}(o.devices, :device_no))"
    f" ELSE e.devices IS NOT NULL AND {_LISTED} END"
)
FOUND = (
    "SELECT json_group_array(json_array(no, type)) FILTER (WHERE is_about), min(no), min(at), count(*) FROM ("
    "SELECT e.no, e.at, e.type, CASE WHEN e.type IN (SELECT value FROM json_each(:types))"
    f" THEN {_IS_ABOUT} ELSE 0 END AS is_about FROM event AS e INDEXED BY event_of_app"
    " WHERE e.app_no = :app_no AND e.no < :before ORDER BY e.no DESC LIMIT :entries)"
)


def _page_of(
    connection: sqlite3.Connection, device_no: int, entries: Sequence[tuple[int, str]]
) -> tuple[list[bytes], bool]:
    """Read the events of these entries that are about a device, as JSON; and whether all of them fit into a page."""
    items: list[bytes] = []
    room = PAGE_BYTES
    for no, event in entries:
        for found in events_of_device(connection, no, event, device_no):
            item = _with_push(connection, device_no, no, found)
            if items and len(item) > room:
                return items, False
            items.append(item)
            room -= len(item)
    return items, True


def _with_push(connection: sqlite3.Connection, device_no: int, entry_no: int, event: Event) -> bytes:
    """Add to an event of a delivery what its push says."""
    if not event.type.startswith("delivery."):
        return event.json
    push_no, kind, accepted_at, content = connection.execute(
        "SELECT p.no, p.kind, p.accepted_at, p.content FROM event AS e JOIN push AS p ON p.no = e.push_no"
        " WHERE e.no = ?",
        (entry_no,),
    ).fetchone()
    shown = shown_text(connection, push_no, content, device_no)
    push = {"kind": kind, **shown, "sent_at": rfc3339(accepted_at)}
    return b'%b,"push":%b}' % (event.json[:-1], to_json(push))


def _time_of(connection: sqlite3.Connection, entry_no: int) -> str | None:
    row = connection.execute("SELECT at FROM event WHERE no = ?", (entry_no,)).fetchone()
    return None if row is None else rfc3339(row[0])
