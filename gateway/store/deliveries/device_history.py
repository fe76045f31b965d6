"""The history of one device: which of an app's newest pushes and log entries are about it.

Neither is indexed by device (`delivery/history_pages`), so the newest ones are looked through, a slice at a time, and
whether one is about the device is decided in the statement. In the event log that is by the text of an entry's list of
devices, which is not parsed for it, or by the outcome set of its segment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from gateway.store.audience.device_sets import SEGMENT_BITS
from gateway.store.set_functions import IN_SET
from gateway.store.transaction import Transaction

Hit = TypeVar("Hit")


class Slice(NamedTuple, Generic[Hit]):
    """Hits of one slice, the newest first."""

    hits: list[Hit]
    reached: int
    """Number of the last row that was looked at."""
    is_end: bool
    """Whether no older one is worth a look."""
    reached_at: int | None = None
    """Its time in milliseconds of server time, if the slice has seen it."""


def find_entries(
    transaction: Transaction, app_no: int, device_no: int, before: int, entries: int, types: Sequence[str]
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
    found, last, last_at, count = transaction.execute(FOUND, parameters).fetchone()
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


class EntryPush(NamedTuple):
    """The push that an entry of the event log is about."""

    no: int
    kind: str
    accepted_at: int
    """Milliseconds of server time."""
    content: str
    """As it is stored: JSON, or what stands for several texts."""


def push_of_entry(transaction: Transaction, entry_no: int) -> EntryPush:
    """The push of an entry that has one."""
    row = transaction.execute(
        "SELECT p.no, p.kind, p.accepted_at, p.content FROM event AS e JOIN push AS p ON p.no = e.push_no"
        " WHERE e.no = ?",
        (entry_no,),
    ).fetchone()
    return EntryPush._make(row)


def entry_time(transaction: Transaction, entry_no: int) -> int | None:
    """The time of an entry, in milliseconds of server time; None if it has left the log."""
    row = transaction.execute("SELECT at FROM event WHERE no = ?", (entry_no,)).fetchone()
    return None if row is None else int(row[0])
