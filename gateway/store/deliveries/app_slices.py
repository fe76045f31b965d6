"""Slices of the deliveries of an app's unfinished pushes, for work that visits all of those that are rows.

A slice is bounded by the deliveries that it looks at, whatever their state, and by the pushes: an app may have a push
to a million devices as well as a million pushes that have ended. Runs on the writer thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gateway.store.deliveries.delivery_sets import device_of_row
from gateway.store.transaction import Transaction

SLICE_DELIVERIES = 2_000
"""Deliveries of one slice: to put all of them under new rules takes about 15 ms."""
SLICE_PUSHES = 500
"""Pushes that one slice looks at, ended ones included, about 1 ms."""
EVERY_DEVICE = 2**32 - 1


class SlicePosition(NamedTuple):
    """A position: everything up to this delivery has been visited."""

    push_no: int
    device_no: int


BEGIN = SlicePosition(0, 0)


@dataclass(slots=True, frozen=True)
class PushPart:
    """The deliveries of a push to the devices with the numbers `after` < number <= `last`."""

    push_no: int
    kind: str
    channel: str | None
    priority: int
    after: int
    last: int

    @property
    def range(self) -> tuple[int, int, int]:
        return self.push_no, self.after, self.last


def next_slice(
    transaction: Transaction, app_no: int, after: SlicePosition
) -> tuple[list[PushPart], SlicePosition | None]:
    """Read the slice behind a position, and where to go on; None if there is no more. Writer thread."""
    rows = transaction.execute(
        "SELECT no, kind, channel, priority, targeted, in_sets, closed_at IS NULL FROM push INDEXED BY push_of_app"
        " WHERE app_no = ? AND no >= ? ORDER BY no LIMIT ?",
        (app_no, after.push_no, SLICE_PUSHES + 1),
    ).fetchall()
    parts: list[PushPart] = []
    left = SLICE_DELIVERIES
    for position, (no, kind, channel, priority, targeted, in_sets, unfinished) in enumerate(rows):
        if position == SLICE_PUSHES or left <= 0:
            return parts, SlicePosition(no, 0)
        if not unfinished:
            continue
        first = after.device_no if no == after.push_no else 0
        if in_sets:  # the rows that it has nevertheless
            (targeted,) = transaction.execute(
                "SELECT count(*) FROM (SELECT 1 FROM delivery WHERE push_no = ? LIMIT ?)", (no, left + 1)
            ).fetchone()
        if targeted <= left and not first:
            parts.append(PushPart(no, kind, channel, priority, 0, EVERY_DEVICE))
            left -= max(targeted, 1)
            continue
        edge = device_of_row(transaction, no, first, left)
        parts.append(PushPart(no, kind, channel, priority, first, EVERY_DEVICE if edge is None else edge))
        if edge is not None:
            return parts, SlicePosition(no, edge)
        left = 0
    return parts, None


def cut(parts: Iterable[PushPart], end: SlicePosition) -> list[PushPart]:
    """The part of a slice up to a position."""
    here = [part for part in parts if (part.push_no, part.after) < end]
    return [replace(part, last=end.device_no) if part.push_no == end.push_no else part for part in here]


def ranges_json(parts: Sequence[PushPart]) -> str:
    """Ranges for `json_each`: push number, device number before the first, last device number."""
    return json.dumps([part.range for part in parts])
