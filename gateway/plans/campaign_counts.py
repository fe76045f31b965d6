"""Counts of what was sent of a campaign, read on readers, a part at a time.

The counts of a push to many devices are kept and cost a few rows (`delivery_count`); those of a push whose deliveries
are rows are counted row by row, and so are results with an error. So a large part is a read of its own, a long look at
results is several, and who asks again and again rests in between for longer than it took (`campaigns`).

Nothing here asks what is being handed over: it waits on disk, and has no outcome either way.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from gateway.delivery.reports import read_counts
from gateway.delivery_states import DeliveryState
from gateway.plans.conditions import FAILED, Sample
from gateway.store.database import Database

READ_PARTS = 50
"""Parts that one read counts, about 2 ms."""
READ_ROWS = 50_000
"""Deliveries that one read counts one by one, about 5 ms; those of a single part whatever they are."""
RESULT_ROWS = 20_000
"""Deliveries whose results one read looks at, about 10 ms."""


class Part(NamedTuple):
    """A part that was sent."""

    group_no: int
    variant_no: int
    push_no: int
    push_id: str
    sent_at: int
    recalled: int
    failed: int | None
    """Results with an error when the campaign had ended."""
    is_final: int
    """Whether its deliveries have left, and only counts remain."""
    rows: int
    """Deliveries that have to be counted one by one."""


class CountedPart(NamedTuple):
    """A part with the counts of its push, by present state and with `failed`."""

    part: Part
    targeted: int
    counts: Mapping[str, int]


def parts_of(connection: sqlite3.Connection, campaign_no: int) -> list[Part]:
    """The parts of a campaign that were sent, in order; those whose push is no longer known are left out."""
    rows = connection.execute(
        "SELECT p.group_no, p.variant_no, p.push_no, t.id, t.accepted_at, p.recalled, p.failed,"
        " t.final_counts IS NOT NULL, iif(t.in_sets OR t.final_counts IS NOT NULL, 0, t.targeted)"
        " FROM campaign_part AS p"
        " JOIN push AS t ON t.no = p.push_no AND t.gone_at IS NULL WHERE p.campaign_no = ?"
        " ORDER BY p.group_no, p.variant_no",
        (campaign_no,),
    )
    return [Part._make(row) for row in rows.fetchall()]


async def count_parts(
    database: Database, app_no: int, campaign_no: int, *, failures: bool, group_no: int | None = None
) -> list[CountedPart]:
    """Count the parts of a campaign, or of one of its groups. Loop.

    `failures`: results with an error are counted as well.
    """
    parts = await database.read(partial(parts_of, campaign_no=campaign_no), app_no)
    if group_no is not None:
        parts = [part for part in parts if part.group_no == group_no]
    found: list[CountedPart] = []
    while len(found) < len(parts):
        for part, counts in await database.read(partial(_counts_of, parts=parts[len(found) :]), app_no):
            targeted = counts.pop("targeted")
            failed = 0
            if failures and counts["acted"]:
                failed = (part.failed or 0) if part.is_final else await count_failed(database, app_no, part.push_no)
            found.append(CountedPart(part, targeted, {**counts, FAILED: failed}))
    return found


def _counts_of(connection: sqlite3.Connection, parts: list[Part]) -> list[tuple[Part, dict[str, int]]]:
    """Count as many of these parts as is good in one read, at least one. Reader thread."""
    found: list[tuple[Part, dict[str, int]]] = []
    size = 0
    for part in parts[:READ_PARTS]:
        size += part.rows
        if found and size > READ_ROWS:
            break
        found.append((part, read_counts(connection, part.push_no, ())))
    return found


async def count_failed(database: Database, app_no: int, push_no: int) -> int:
    """Count the results of a push that are errors. Loop."""
    total = 0
    after: int | None = 0
    while after is not None:
        count, after = await database.read(partial(_failed_behind, push_no=push_no, after=after), app_no)
        total += count
    return total


def _failed_behind(connection: sqlite3.Connection, push_no: int, after: int) -> tuple[int, int | None]:
    """Count errors among the next RESULT_ROWS deliveries behind a device; the last of those, if there may be more."""
    # LIKE first: it is quicker than to read what is no object, or has no error.
    count, rows, last = connection.execute(
        f"SELECT count(*) FILTER (WHERE state = {DeliveryState.ACTED:d} AND result LIKE '%\"error\"%'"
        " AND result ->> '$.error' IS NOT NULL), count(*), max(device_no) FROM (SELECT device_no, state, result"
        " FROM delivery WHERE push_no = ? AND device_no > ? ORDER BY device_no LIMIT ?)",
        (push_no, after, RESULT_ROWS),
    ).fetchone()
    return count, last if rows == RESULT_ROWS else None


def sample_of(parts: Iterable[CountedPart]) -> Sample:
    """Add up parts to what conditions are judged by."""
    total: Counter[str] = Counter()
    targeted = 0
    for part in parts:
        total.update(part.counts)
        targeted += part.targeted
    return Sample(total, targeted - total["suppressed"])
