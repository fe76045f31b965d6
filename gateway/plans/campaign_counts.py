"""Counts of what was sent of a campaign, read on readers, a part at a time.

The counts of a push to many devices are kept and cost a few rows (`delivery_count`); those of a push whose deliveries
are rows are counted row by row, and so are results with an error. So a large part is a read of its own, a long look at
results is several, and who asks again and again rests in between for longer than it took (`campaigns`).

Nothing here asks what is being handed over: it waits on disk, and has no outcome either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from gateway.delivery.reports import read_counts
from gateway.plans.conditions import FAILED, Sample
from gateway.store.database import Database
from gateway.store.plans.campaigns import Part, count_failed_behind, parts_of
from gateway.store.transaction import Transaction

READ_PARTS = 50
"""Parts that one read counts, about 2 ms."""
READ_ROWS = 50_000
"""Deliveries that one read counts one by one, about 5 ms; those of a single part whatever they are."""
RESULT_ROWS = 20_000
"""Deliveries whose results one read looks at, about 10 ms."""


class CountedPart(NamedTuple):
    """A part with the counts of its push, by present state and with `failed`."""

    part: Part
    targeted: int
    counts: Mapping[str, int]


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


def _counts_of(transaction: Transaction, parts: list[Part]) -> list[tuple[Part, dict[str, int]]]:
    """Count as many of these parts as is good in one read, at least one. Reader thread."""
    found: list[tuple[Part, dict[str, int]]] = []
    size = 0
    for part in parts[:READ_PARTS]:
        size += part.rows
        if found and size > READ_ROWS:
            break
        found.append((part, read_counts(transaction, part.push_no, ())))
    return found


async def count_failed(database: Database, app_no: int, push_no: int) -> int:
    """Count the results of a push that are errors. Loop."""
    total = 0
    after: int | None = 0
    while after is not None:
        count, after = await database.read(
            partial(count_failed_behind, push_no=push_no, after=after, limit=RESULT_ROWS), app_no
        )
        total += count
    return total


def sample_of(parts: Iterable[CountedPart]) -> Sample:
    """Add up parts to what conditions are judged by."""
    total: Counter[str] = Counter()
    targeted = 0
    for part in parts:
        total.update(part.counts)
        targeted += part.targeted
    return Sample(total, targeted - total["suppressed"])
