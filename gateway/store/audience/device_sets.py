"""Sets of device numbers: all live devices of an app, and those of each tag and topic, as compressed bitmaps.

A push to everybody has its targets from a few rows, not from one for each device: 1,000,000 devices that were enrolled
one after the other are 16 rows of a few bytes. The sets repeat what `device`, `device_tag` and `device_topic` say, so
whatever changes those changes the sets in the same operation of the writer.

What a tag, a topic or `all` selects is a set, for acceptance and forecast alike, so that the forecast cannot promise
what acceptance would not do.

A set is stored in segments of 65,536 numbers, the containers of a roaring bitmap: none is larger than 8 KiB, whatever
it holds, and a change writes the segments that it concerns.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from pyroaring import BitMap

from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

SEGMENT_BITS = 16
"""A segment has the device numbers that are equal but for so many bits."""
ALL_TAG = ""
"""Stands for a tag in the set of all live devices. No tag is empty."""
TOPIC_PREFIX = "/"
"""No tag has this letter, so a topic's set has a name of its own."""
BEHIND_TOPICS = chr(ord(TOPIC_PREFIX) + 1)
"""Behind the names of all sets of topics; tags lie before and behind these."""
BEFORE_LETTERS = "\x01"
"""Before every letter of a name, so a name with it is the bound of those behind: PostgreSQL has no text with a NUL."""
LOCK_NUMBERS = 16_384
"""Numbers that are written as JSON while the interpreter's lock is held, 1.5 ms; a million would take 90 ms."""
_NOBODY = BitMap()
_REPLACING = "(app_no, tag, segment) DO UPDATE SET devices = excluded.devices"


class Selection(Protocol):
    """The part of a target that selects instead of naming devices."""

    @property
    def tag(self) -> str | None: ...

    @property
    def topic(self) -> str | None: ...

    @property
    def all(self) -> bool | None: ...


def pack(devices: BitMap) -> bytes:
    """Serialize a set for its row."""
    devices.run_optimize()
    packed: bytes = devices.serialize()
    return packed


def unpack(blob: bytes) -> BitMap:
    return BitMap.deserialize(blob)


def topic_set(topic: str) -> str:
    """The name of the set of a topic's devices, in the place of a tag."""
    return TOPIC_PREFIX + topic


def whole_segment(segment: int) -> BitMap:
    """All numbers of a segment."""
    return BitMap(range(segment << SEGMENT_BITS, (segment + 1) << SEGMENT_BITS))


def segments_of(devices: BitMap) -> Iterator[tuple[int, BitMap]]:
    """Divide a set by segments: (segment, its devices) each."""
    while devices:
        segment = devices.min() >> SEGMENT_BITS
        if devices.max() >> SEGMENT_BITS == segment:
            yield segment, devices
            return
        here = devices & whole_segment(segment)
        yield segment, here
        devices = devices - here


def selected_devices(transaction: Transaction, app_no: int, target: Selection) -> BitMap:
    """The live devices that a tag, a topic or `all` addresses."""
    if target.topic is not None:
        return devices_of_set(transaction, app_no, topic_set(target.topic))
    assert target.tag or target.all, "other targets are listed, or searched for before"
    return devices_of_set(transaction, app_no, target.tag or ALL_TAG)


def live_devices(transaction: Transaction, app_no: int) -> BitMap:
    """All live devices of an app."""
    return devices_of_set(transaction, app_no, ALL_TAG)


def devices_of_set(transaction: Transaction, app_no: int, name: str) -> BitMap:
    """The devices of a tag, of a topic (`topic_set`), or all (`ALL_TAG`)."""
    return stored_devices(transaction, "SELECT devices FROM device_set WHERE app_no = ? AND tag = ?", (app_no, name))


def stored_devices(transaction: Transaction, select: str, parameters: Sequence[Any]) -> BitMap:
    """The devices in the sets, one column, that a SELECT yields: in the segments of one set, as a rule."""
    found = BitMap()
    for (devices,) in transaction.execute(select, parameters):
        found |= unpack(devices)
    return found


def queried_devices(transaction: Transaction, select: str, parameters: Sequence[Any]) -> BitMap:
    """The devices that a SELECT of one column `no` yields, in any order."""
    found = BitMap()
    # A row for each segment: each row is a pass of the interpreter lock, which an array of all would hold for too long.
    for (numbers,) in transaction.execute(
        f"SELECT json_group_array(no) FROM ({select}) GROUP BY no >> {SEGMENT_BITS}", parameters
    ):
        found |= BitMap(json.loads(numbers))
    return found


def numbers_json(devices: BitMap) -> str:
    """A set as a JSON array. Reader thread: others have the interpreter's lock in between."""
    numbers = devices.to_array()
    parts: list[str] = []
    for start in range(0, len(numbers), LOCK_NUMBERS):
        if start:
            time.sleep(0)
        parts.append(str(numbers[start : start + LOCK_NUMBERS].tolist())[1:-1])
    return f"[{','.join(parts)}]"


WALKED_SETS = 2_000_000
"""Sets of an app that are walked for its largest tags, without their contents, half a second; those behind, by name,
are left out."""
READ_SETS = 100_000
"""Of these, those that are in the segment and read, 0.2 s. A device may have 64 tags that nobody else has, a segment
four million of such."""


def largest_tags(transaction: Transaction, app_no: int, segment: int, among: BitMap, most: int) -> dict[str, BitMap]:
    """The tags that most of some devices of a segment have, the `most` of them, each with those devices."""
    rows = transaction.execute(
        "SELECT w.tag, s.devices FROM (SELECT rowid AS row, tag, segment FROM device_set"
        " WHERE app_no = ? AND tag > ? AND substr(tag, 1, 1) <> ? ORDER BY tag LIMIT ?) AS w"
        " CROSS JOIN device_set AS s ON s.rowid = w.row WHERE w.segment = ? LIMIT ?",
        (app_no, ALL_TAG, TOPIC_PREFIX, WALKED_SETS, segment, READ_SETS),
    )
    found = ((tag, here) for tag, devices in rows if (here := unpack(devices) & among))
    return dict(heapq.nsmallest(most, found, key=lambda one: (-len(one[1]), one[0])))


def count_sets(transaction: Transaction, app_no: int, begin: str, end: str, limit: int) -> list[tuple[str, int]]:
    """The sets of an app by name, from one name to before another, with how many devices each has. Reader thread."""
    rows = transaction.execute(
        "SELECT tag, devices FROM device_set WHERE app_no = ? AND tag >= ? AND tag < ? ORDER BY tag, segment",
        (app_no, begin, end),
    )
    found: dict[str, int] = {}
    for name, devices in rows:
        if name not in found and len(found) >= limit:
            break
        found[name] = found.get(name, 0) + len(unpack(devices))
    rows.close()
    return list(found.items())


def add_to_sets(transaction: Transaction, app_no: int, numbers: Mapping[str, Iterable[int]]) -> None:
    """Add devices to sets: numbers by tag, by topic (`topic_set`), or those of all (`ALL_TAG`). Writer thread."""
    _change(transaction, app_no, numbers, BitMap.__or__)


def remove_from_sets(transaction: Transaction, app_no: int, numbers: Mapping[str, Iterable[int]]) -> None:
    """Remove devices from sets, as `add_to_sets` has them. Writer thread."""
    _change(transaction, app_no, numbers, BitMap.__sub__)


def _change(
    transaction: Transaction,
    app_no: int,
    numbers: Mapping[str, Iterable[int]],
    operation: Callable[[BitMap, BitMap], BitMap],
) -> None:
    changes = {(tag, segment): devices for tag in numbers for segment, devices in segments_of(BitMap(numbers[tag]))}
    if not changes:
        return
    stored = _stored_segments(transaction, app_no, changes)
    changed, emptied = [], []
    for key, devices in changes.items():
        devices = operation(stored.get(key, _NOBODY), devices)
        if devices:
            changed.append((app_no, *key, pack(devices)))
        else:
            emptied.append(key)
    insert_rows(transaction, "device_set", "app_no, tag, segment, devices", changed, _REPLACING)
    if emptied:
        transaction.execute(
            # The app by itself: with all three in a row, SQLite walks all sets of the app.
            "DELETE FROM device_set WHERE app_no = ? AND (tag, segment) IN"
            " (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
            (app_no, json.dumps(emptied)),
        )


def _stored_segments(
    transaction: Transaction, app_no: int, wanted: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], BitMap]:
    """The stored segments of sets, by tag and number."""
    return {
        (tag, segment): unpack(devices)
        for tag, segment, devices in transaction.execute(
            # CROSS: in this order. Left alone, SQLite may walk all sets of the app.
            "SELECT s.tag, s.segment, s.devices FROM json_each(?) AS wanted CROSS JOIN device_set AS s"
            " ON s.app_no = ? AND s.tag = wanted.value ->> 0 AND s.segment = wanted.value ->> 1",
            (json.dumps(list(wanted)), app_no),
        )
    }
