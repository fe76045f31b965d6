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
from collections.abc import Callable, Iterator, Sequence

from gateway.delivery.history_pages import HistoryPage, Slice, SliceSize, fill_history, search_history
from gateway.delivery.push_texts import shown_text
from gateway.pages import to_json
from gateway.store.audience.device_sets import SEGMENT_BITS
from gateway.store.database import Database
from gateway.store.deliveries.event_log import TYPES, Event, events_of_device
from gateway.store.set_functions import IN_SET
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

        def find(connection: sqlite3.Connection, before: int, _: int, entries: int) -> Slice[tuple[int, str]]:
            return find_entries(connection, app_no, device_no, before, entries, types)

        size = SliceSize(FIRST_ENTRIES, MOST_ENTRIES, time.monotonic)
        found = await search_history(self._database, app_no, cursor, limit, size, find)

        def read(connection: sqlite3.Connection) -> HistoryPage:
            described = _described(connection, device_no, found.hits)
            return fill_history(found, [no for no, _ in found.hits], described, lambda no: _time_of(connection, no))

        return await self._database.read(read, app_no)


def find_entries(
    connection: sqlite3.Connection, app_no: int, device_no: int, before: int, entries: int, types: Sequence[str]
) -> Slice[tuple[int, str]]:
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
        return Slice([], before, True)
    hits = sorted(map(tuple, json.loads(found)), reverse=True)
    return Slice([(int(no), str(event)) for no, event in hits], last, count < entries, last_at)


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


def _described(
    connection: sqlite3.Connection, device_no: int, entries: Sequence[tuple[int, str]]
) -> Iterator[tuple[int, bytes]]:
    """Read the events of these entries that are about a device, as JSON: empty for an entry that only seemed to be."""
    for no, event in entries:
        events = events_of_device(connection, no, event, device_no)
        for found in events:
            yield no, _with_push(connection, device_no, no, found)
        if not events:
            yield no, b""


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


def _time_of(connection: sqlite3.Connection, entry_no: int) -> int | None:
    row = connection.execute("SELECT at FROM event WHERE no = ?", (entry_no,)).fetchone()
    return None if row is None else int(row[0])
