"""Counts of a push's deliveries by state, and by state and reason, without a look at each of them.

Rows are counted by the database. What is in sets is known by state (`delivery_count`, rows included), and a set says
the reason of all its members, of which some may have rows by now that say otherwise. So of a state of which all sets
have the same reason, what is not in rows has that one. Only where sets of one state have several reasons are the rows
taken out of them, segment by segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyroaring import BitMap

from gateway.delivery_states import DeliveryState
from gateway.store.audience.device_sets import numbers_json, segments_of
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.delivery_sets import outcomes_of, rows_by_state, state_counts, waiting_of
from gateway.store.transaction import Transaction


class ReasonCount(NamedTuple):
    """Deliveries that are in a state for a reason."""

    state: DeliveryState
    reason: str | None
    deliveries: int


def count_reasons(transaction: Transaction, push_no: int, sent: Sequence[int]) -> list[ReasonCount]:
    """Count the deliveries of a push by state and reason, in the order of states, the most frequent reason first.

    `sent` are the devices handed over to when the snapshot was taken. Reader thread.
    """
    counts: Counter[tuple[int, str | None]] = Counter()
    of_rows: Counter[int] = Counter()
    for state, reason, count in transaction.execute(
        "SELECT state, reason, count(*) FROM delivery WHERE push_no = ? GROUP BY state, reason", (push_no,)
    ):
        counts[state, reason] += count
        of_rows[state] += count
    kept = state_counts(transaction, push_no)
    if kept:
        _add_sets(transaction, push_no, {state: count - of_rows[state] for state, count in kept.items()}, counts)
    if in_flight := count_in_flight(transaction, push_no, sent, kept):
        counts[DeliveryState.WAITING, None] -= in_flight
        counts[DeliveryState.SENT, None] += in_flight
    found = [ReasonCount(DeliveryState(state), reason, count) for (state, reason), count in counts.items() if count]
    return sorted(found, key=lambda one: (one.state, -one.deliveries, one.reason or ""))


def states_of_push(transaction: Transaction, push_no: int, sent: Sequence[int]) -> dict[int, int]:
    """Count the deliveries of a push by state; `sent` are the devices handed over to when the snapshot was taken."""
    kept = state_counts(transaction, push_no)
    counts = Counter(kept)
    if not kept:
        counts.update(
            dict(
                transaction.execute(
                    "SELECT state, count(*) FROM delivery WHERE push_no = ? GROUP BY state", (push_no,)
                ).fetchall()
            )
        )
    if in_flight := count_in_flight(transaction, push_no, sent, kept):
        counts[DeliveryState.WAITING] -= in_flight
        counts[DeliveryState.SENT] += in_flight
    return counts


def count_in_flight(transaction: Transaction, push_no: int, sent: Sequence[int], kept: Mapping[int, int]) -> int:
    """Count the deliveries to these devices, handed over to when the snapshot was taken, that wait on the disk.

    `kept`: the kept counts of the push by state, if it was stored as sets. They say whether there is anything to look
    at: what waits in rows is looked up device by device, and of a push in sets that is nothing as a rule.
    """
    if not sent or (kept and not kept.get(DeliveryState.WAITING)):
        return 0
    handed_over = BitMap(sent)
    in_flight = 0
    if kept:
        in_flight = len(waiting_of(transaction, push_no, handed_over))
        (in_sets,) = transaction.execute(
            "SELECT coalesce(sum(count), 0) FROM waiting_set WHERE push_no = ?", (push_no,)
        ).fetchone()
        if in_sets == kept[DeliveryState.WAITING]:
            return in_flight
    (in_rows,) = transaction.execute(
        "SELECT count(*) FROM delivery WHERE push_no = ? AND device_no IN (SELECT value FROM json_each(?))"
        f" AND +state {IS_WAITING}",
        (push_no, numbers_json(handed_over)),
    ).fetchone()
    return in_flight + int(in_rows)


def _add_sets(
    transaction: Transaction, push_no: int, in_sets: dict[int, int], counts: Counter[tuple[int, str | None]]
) -> None:
    """Add what is in sets; `in_sets`: how many of each state."""
    reasons: dict[int, list[str | None]] = {DeliveryState.WAITING: [None]}
    for state, reason in transaction.execute(
        "SELECT DISTINCT state, reason FROM outcome_set WHERE push_no = ?", (push_no,)
    ):
        reasons.setdefault(state, []).append(reason)
    several: set[int] = set()
    for state, count in in_sets.items():
        found = reasons.get(state, [None])
        if len(found) == 1:
            counts[state, found[0]] += count
        elif count:
            several.add(state)
    if not several:
        return
    for outcome in outcomes_of(transaction, push_no):
        if outcome.state in several:
            counts[outcome.state, outcome.reason] += sum(
                len(here - _rows_of(transaction, push_no, here)) for _, here in segments_of(outcome.devices)
            )


def _rows_of(transaction: Transaction, push_no: int, devices: BitMap) -> BitMap:
    """The devices of a push that have rows, between the first and the last of these."""
    return BitMap.union(BitMap(), *rows_by_state(transaction, push_no, devices.min(), devices.max()).values())
