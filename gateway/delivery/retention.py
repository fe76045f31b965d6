"""Retention: removal of what has been kept long enough, in slices small enough that nobody notices.

Deliveries are removed some time after their push has fully ended; its counts are kept as JSON on the push row for
longer, then the row becomes a tombstone that answers 410. After as long again it leaves as well, and the push is as
unknown as one that never was. Idempotency records, uplink messages, events, dead letters and uses of `critical` go by
age, the row of a removed device and its consents when no delivery can refer to it any more. The conservation law holds
over all of it: counts before and after a removal of deliveries are the same.

What has ended before its ttl was over is looked for on a reader: everything that is still open has to be looked at, and
a million waiting pushes must not keep the writer from its work.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.delivery.reports import count_states
from gateway.store.analytics.alert_days import remove_day_counts
from gateway.store.analytics.forecasts import remove_forecasts
from gateway.store.analytics.funnels import DAY_MS, HOUR_MS, finish_row, remove_funnels, remove_tallies
from gateway.store.analytics.presence_hours import remove_hours
from gateway.store.database import Database
from gateway.store.deliveries.alert_uses import remove_critical_uses
from gateway.store.deliveries.attempts import remove_attempts
from gateway.store.deliveries.delivery_sets import remove_sets
from gateway.store.deliveries.escalations import remove_escalations
from gateway.store.deliveries.event_log import remove_events
from gateway.store.deliveries.idempotency import remove_answers
from gateway.store.deliveries.plan_parts import remove_parts
from gateway.store.deliveries.push_texts import forget_templates, remove_texts
from gateway.store.deliveries.retention import (
    bury_pushes,
    close_pushes,
    closed_pushes,
    find_finished,
    forget_pushes,
    keep_counts,
    note_swept,
    remove_device_rows,
    remove_rows,
)
from gateway.store.deliveries.uplink_messages import remove_old_uplinks
from gateway.store.enrolment.invitations import remove_ended_invitations
from gateway.store.events.webhooks import remove_dead_letters
from gateway.store.transaction import Transaction

SLICE_ROWS = 2_000
"""Rows that one operation removes: about 10 ms of the writer."""
SLICE_SETS = 100
"""Sets of devices among those, of 8 KiB at most: about 5 ms."""
SLICE_PUSHES = 100
"""Pushes that one operation closes, sweeps or forgets: most pushes have one delivery, and by a push per commit nobody
would keep up with a fleet."""
MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS = 60.0, 1.0
"""Seconds between two runs: a minute late is early where things are kept for days."""


@dataclass(slots=True, frozen=True)
class RetentionPeriods:
    """Periods, in milliseconds, for which things are kept."""

    deliveries: int
    counts: int
    """Period of final counts; the tombstone stays as long again."""
    idempotency: int
    uplink: int
    events: int


class Retention:
    """Removes what is due, slice by slice. Loop."""

    def __init__(self, database: Database, keep: RetentionPeriods) -> None:
        self._database = database
        self._keep = keep
        shortest = min(keep.deliveries, keep.counts, keep.idempotency, keep.uplink, keep.events)
        self.pause = max(min(MAX_PAUSE_SECONDS, shortest / 1000), MIN_PAUSE_SECONDS)
        """Seconds until `run` is due again: what is kept for seconds is not kept for a minute."""

    async def run(self, now_ms: int) -> int:
        """Remove everything that is due, slice by slice; how many rows."""
        await self._close_finished(now_ms - self._keep.deliveries)
        removed = 0
        while True:
            count = await self._database.write(lambda transaction: remove_slice(transaction, self._keep, now_ms))
            removed += count
            if count == 0:
                return removed

    async def _close_finished(self, before: int) -> None:
        after: tuple[int, int] | None = (0, 0)
        while after is not None:
            looked_from = after
            finished, after = await self._database.read(
                lambda transaction: find_finished(transaction, before, looked_from)  # noqa: B023  awaited here
            )
            for start in range(0, len(finished), SLICE_PUSHES):
                slice_ = finished[start : start + SLICE_PUSHES]
                await self._database.write(
                    lambda transaction: close_pushes(transaction, slice_)  # noqa: B023  awaited here
                )


def remove_slice(transaction: Transaction, keep: RetentionPeriods, now_ms: int) -> int:
    """Remove one slice of everything that is due; rows removed or buried, 0 when nothing is due. Writer thread."""
    return (
        _remove_deliveries(transaction, now_ms - keep.deliveries)
        + _bury_pushes(transaction, now_ms, keep.counts)
        + forget_pushes(transaction, now_ms - keep.counts, SLICE_PUSHES)
        + remove_answers(transaction, now_ms - keep.idempotency, SLICE_ROWS)
        + remove_old_uplinks(transaction, now_ms - keep.uplink, SLICE_ROWS)
        + remove_tallies(transaction, SLICE_ROWS)
        + remove_funnels(transaction, (now_ms - keep.counts) // HOUR_MS, SLICE_ROWS)
        + remove_day_counts(transaction, (now_ms - keep.counts) // DAY_MS, SLICE_ROWS)
        + remove_critical_uses(transaction, now_ms - keep.counts, SLICE_ROWS)
        + remove_events(transaction, now_ms - keep.events, SLICE_ROWS)
        + remove_dead_letters(transaction, now_ms - keep.deliveries, SLICE_ROWS)
        + remove_ended_invitations(transaction, now_ms - keep.deliveries, SLICE_ROWS)
        + remove_hours(transaction, now_ms, SLICE_SETS)
        + remove_device_rows(transaction, SLICE_ROWS)
    )


def _remove_deliveries(transaction: Transaction, before: int) -> int:
    """Remove deliveries; how many, with their pushes.

    So one without deliveries is not taken for nothing to do.
    """
    pushes = closed_pushes(transaction, before, SLICE_PUSHES)
    removed, sets_left = 0, SLICE_SETS
    for push in pushes:
        push_no = push.push_no
        if push.final_counts is None:
            finish_row(transaction, push_no)
            keep_counts(transaction, push_no, count_states(transaction, push_no, ()))
        room = SLICE_ROWS - removed
        count = remove_rows(transaction, push_no, room)
        removed += count
        if count == room:  # there may be more of it
            break
        remove_attempts(transaction, push_no)
        count = remove_sets(transaction, push_no, sets_left)
        removed += count
        sets_left -= count
        if push.has_texts:
            count = remove_texts(transaction, push_no, sets_left)
            removed += count
            sets_left -= count
        if not sets_left:
            break
        note_swept(transaction, push_no)
        if removed >= SLICE_ROWS:
            break
    return removed + len(pushes)


def _bury_pushes(transaction: Transaction, now_ms: int, kept: int) -> int:
    numbers = bury_pushes(transaction, now_ms, now_ms - kept, SLICE_ROWS)
    if numbers:
        remove_escalations(transaction, numbers)
        forget_templates(transaction, numbers)
        remove_parts(transaction, numbers)
        remove_forecasts(transaction, numbers)
    return len(numbers)
