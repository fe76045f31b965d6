"""Reports about pushes: counts, lists, one mailbox. Reads only; nothing here changes a state.

`sent` exists in memory (see the ledger), so every answer is disk plus that overlay, in one snapshot: the set of
hand-overs is copied first, then read against the database, where a device that is no longer waiting counts as what
the disk says. Each delivery is therefore counted exactly once and the counts sum to `targeted`, whatever happens
between.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from gateway.delivery.delivery_description import describe_delivery
from gateway.delivery.escalation_rows import (
    EscalationState,
    describe_escalations,
    escalation_members,
    escalation_numbers,
    sent_steps,
    step_numbers,
)
from gateway.delivery.ledger import Ledger
from gateway.delivery.push_texts import described_text, has_texts, page_of_texts, template_of, text_of_device
from gateway.delivery_states import PRIORITIES, DeliveryState
from gateway.errors import Problem, problem
from gateway.pages import ListPage, fill_page
from gateway.store.analytics.forecasts import KeptForecast, read_forecasts
from gateway.store.database import Database
from gateway.store.deliveries.campaign_parts import campaign_members
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.delivery_reasons import count_in_flight, count_reasons
from gateway.store.deliveries.delivery_sets import pushes_waiting_for, state_counts
from gateway.store.deliveries.plan_parts import plan_members
from gateway.store.deliveries.pushes import push_number
from gateway.store.deliveries.whole_deliveries import WholeDelivery, whole_deliveries, whole_delivery
from gateway.timestamps import rfc3339, rfc3339_or_none

# Made once: the enumeration takes longer to say a name than the database to count a push.
_LABELS = {int(state): state.label for state in DeliveryState}
_REACHED = {
    least.label: [state.label for state in DeliveryState if least <= state <= DeliveryState.ACTED]
    for least in (DeliveryState.DELIVERED, DeliveryState.DISPLAYED, DeliveryState.OPENED, DeliveryState.ACTED)
}
"""States by the furthest that they have at least reached."""
_PUSH = (
    "no, id, kind, priority, qos, ttl, collapse_key, channel, target, content, accepted_at, expires_at,"
    " recalled_at, targeted, suppressed, final_counts, key_id"
)
_ENTRY = "p.priority, p.no, p.id, p.kind, p.collapse_key, p.accepted_at, p.expires_at"
FIRST_IDS, MORE_IDS = 100, 1_000
"""Deliveries whose device ids are read together: a page has 100 unless more are asked for."""
COUNTED_DELIVERIES = 500_000
"""Deliveries that are counted for a page of pushes, about 50 ms of a reader: pushes to whole fleets make it shorter."""


class SingleDelivery(NamedTuple):
    """The delivery of a push to a single device."""

    state: DeliveryState
    """On disk, where what is in flight waits."""
    description: dict[str, Any]
    """As the API shows it, once it is further than in flight."""


class Reports:
    """Answers the questions of senders about their pushes. Loop."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    async def push(self, app_no: int, push_id: str) -> dict[str, Any]:
        """A push with `counts` and `reached`. Raises Problem 404, or 410 when its counts are no longer kept."""

        def find(connection: sqlite3.Connection) -> list[int]:
            push_no = push_number(connection, app_no, push_id)
            return [] if push_no is None else [push_no, *step_numbers(connection, push_no)]

        numbers = await self._database.read(find, app_no)
        if not numbers:
            raise _unknown_push(push_id)
        push_no = numbers[0]
        sent = {number: self._ledger.sent_of(number) for number in numbers}

        def read(connection: sqlite3.Connection) -> dict[str, Any] | None:
            described = next((push for _, push in _read_pushes(connection, {push_no: sent[push_no]})), None)
            if described is not None and "escalation" in described:
                described["escalation"]["steps"] = [
                    step | {"counts": read_counts(connection, number, sent.get(number, ()))}
                    for number, step in sent_steps(connection, push_no)
                ]
            return described

        described = await self._database.read(read, app_no)
        if described is None:
            raise problem("gone", "this push ended long ago and its counts are no longer kept")
        return described

    async def _number(self, app_no: int, push_id: str) -> int:
        """The number of a push. Raises Problem 404."""
        push_no = await self._database.read(lambda connection: push_number(connection, app_no, push_id), app_no)
        if push_no is None:
            raise _unknown_push(push_id)
        return push_no

    async def pushes(self, app_no: int, limit: int, cursor: str | None) -> ListPage:
        """A page of pushes, the newest first, each with its counts.

        It has fewer than asked for where that is much to count.
        """
        before = cursor_number(cursor)

        def choose(connection: sqlite3.Connection) -> tuple[list[int], bool]:
            rows = connection.execute(
                "SELECT no, iif(final_counts IS NULL AND NOT in_sets, targeted, 0) FROM push"
                " WHERE app_no = ? AND gone_at IS NULL AND no < ? ORDER BY no DESC LIMIT ?",
                (app_no, before if before is not None else 2**62, limit + 1),
            )
            numbers: list[int] = []
            to_count = COUNTED_DELIVERIES
            for no, targeted in rows:
                to_count -= targeted
                if len(numbers) == limit or (numbers and to_count < 0):
                    rows.close()
                    return numbers, True
                numbers.append(no)
            return numbers, False

        numbers, more = await self._database.read(choose, app_no)
        in_flight = {no: self._ledger.sent_of(no) for no in numbers}

        def read(connection: sqlite3.Connection) -> ListPage:
            page = fill_page(_read_pushes(connection, in_flight), limit, itemgetter(1), itemgetter(0))
            return page._replace(next_cursor=str(numbers[-1])) if more and page.next_cursor is None else page

        return await self._database.read(read, app_no)

    async def escalations(
        self, app_no: int, limit: int, cursor: str | None, state: EscalationState | None = None
    ) -> ListPage:
        """A page of pushes to duties and how far they have come, the newest first; of all states, or one."""
        before = cursor_number(cursor)

        def read(connection: sqlite3.Connection) -> ListPage:
            states = EscalationState if state is None else (state,)
            numbers = escalation_numbers(connection, app_no, states, 2**62 if before is None else before, limit + 1)
            return fill_page(describe_escalations(connection, numbers), limit, itemgetter(1), itemgetter(0))

        return await self._database.read(read, app_no)

    async def deliveries(
        self,
        app_no: int,
        push_id: str,
        limit: int,
        cursor: str | None,
        state: DeliveryState | None = None,
        *,
        device_no: int | None = None,
        reason: str | None = None,
    ) -> ListPage:
        """A page of a push's deliveries, in order of enrolment: state, reason, effective QoS, time stamps.

        All states, devices and reasons, or one; an empty reason is none. Raises Problem 404, 410.
        """
        after = cursor_number(cursor)
        push_no = await self._number(app_no, push_id)
        in_flight = set(self._ledger.sent_of(push_no))
        # What is in flight waits on disk.
        stored = None if state is DeliveryState.SENT else state

        def read(connection: sqlite3.Connection) -> ListPage:
            _targeted(connection, push_no)
            found = whole_deliveries(connection, push_no, after or 0, stored, device_no, reason)
            rows = _with_ids(connection, push_no, found)
            if state is DeliveryState.WAITING:
                rows = (row for row in rows if row.delivery.device_no not in in_flight)
            elif state is DeliveryState.SENT:
                rows = (
                    row
                    for row in rows
                    if row.delivery.state == DeliveryState.SENT
                    or (row.delivery.state == DeliveryState.WAITING and row.delivery.device_no in in_flight)
                )
            return fill_page(
                rows,
                limit,
                lambda row: _describe_delivery(row, row.delivery.device_no in in_flight),
                lambda row: row.delivery.device_no,
            )

        return await self._database.read(read, app_no)

    async def reasons(self, app_no: int, push_id: str) -> dict[str, Any]:
        """A push's deliveries by state and reason, as the API shows them. Raises Problem 404, 410."""
        push_no = await self._number(app_no, push_id)
        sent = self._ledger.sent_of(push_no)

        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            targeted = _targeted(connection, push_no)
            counts = count_reasons(connection, push_no, sent)
            items = [{"state": one.state.label, "reason": one.reason, "count": one.deliveries} for one in counts]
            return {"push_id": push_id, "targeted": targeted, "items": items}

        return await self._database.read(read, app_no)

    async def texts(
        self, app_no: int, push_id: str, limit: int, cursor: str | None, *, device_no: int | None = None
    ) -> ListPage:
        """A page of the texts that a push's devices got, or the one of a device. Raises Problem 404, 410."""
        after = cursor_number(cursor) or 0
        push_no = await self._number(app_no, push_id)

        def read(connection: sqlite3.Connection) -> ListPage:
            content, size, targeted, is_removed = connection.execute(
                "SELECT content, size, targeted, swept_at IS NOT NULL FROM push WHERE no = ?", (push_no,)
            ).fetchone() or ("", 0, 0, True)
            if is_removed:
                raise problem("gone", "the texts of this push were removed with its deliveries")
            if not has_texts(content):
                is_target = device_no is None or whole_delivery(connection, push_no, device_no) is not None
                only = [described_text(1, content, size, targeted)] if is_target and not after else []
                return fill_page(only, limit, lambda text: text, lambda text: text["text"])
            text_no = None if device_no is None else text_of_device(connection, push_no, device_no) or 0
            return page_of_texts(connection, push_no, limit, after, text_no)

        return await self._database.read(read, app_no)

    async def single_delivery(self, push_no: int) -> SingleDelivery | None:
        """The delivery of a push to a single device; None if retention has removed it."""

        def read(connection: sqlite3.Connection) -> SingleDelivery | None:
            row = next(_with_ids(connection, push_no, whole_deliveries(connection, push_no)), None)
            if row is None:
                return None
            return SingleDelivery(DeliveryState(row.delivery.state), _describe_delivery(row, False))

        return await self._database.read_soon(read)

    async def mailbox(
        self, device_no: int, limit: int, cursor: str | None, app_no: int | None = None
    ) -> dict[str, Any]:
        """A page of the pushes that wait for a device, in mailbox order; one in flight is listed as `sent`.

        Read on the writer thread, where a row and its overlay cannot disagree; a page is small.
        """
        priority, after = _pair(cursor)

        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            rows = connection.execute(
                f"SELECT {_ENTRY}, d.size, d.not_before, coalesce(a.count, 0)"
                " FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
                " LEFT JOIN failed_attempt AS a ON a.push_no = d.push_no AND a.device_no = d.device_no"
                f" WHERE d.device_no = ? AND d.state {IS_WAITING} AND (d.priority, d.push_no) > (?, ?)"
                " ORDER BY d.priority, d.push_no LIMIT ?",
                (device_no, priority, after, limit + 1),
            ).fetchall()
            rows += connection.execute(
                f"SELECT {_ENTRY}, p.size, NULL, 0 FROM json_each(?1) AS w CROSS JOIN push AS p ON p.no = w.value"
                " WHERE (p.priority, p.no) > (?2, ?3) ORDER BY p.priority, p.no LIMIT ?4",
                (json.dumps(pushes_waiting_for(connection, device_no)), priority, after, limit + 1),
            ).fetchall()
            rows.sort(key=itemgetter(0, 1))
            items = [
                {
                    "push_id": row[2],
                    "state": "sent" if self._ledger.is_sent(row[1], device_no) else "waiting",
                    "priority": PRIORITIES[row[0]],
                    "kind": row[3],
                    "collapse_key": row[4],
                    "sent_at": rfc3339(row[5]),
                    "expires_at": rfc3339(row[6]),
                    "size": row[7],
                    "not_before": rfc3339_or_none(row[8] or None),
                    "attempts": row[9],
                }
                for row in rows[:limit]
            ]
            last = rows[limit - 1] if len(rows) > limit else None
            return {"items": items, "next_cursor": f"{last[0]}.{last[1]}" if last is not None else None}

        return await self._database.write(read, app_no)


def _targeted(connection: sqlite3.Connection, push_no: int) -> int:
    """The number of a push's deliveries. Raises Problem 410 if they are no longer kept."""
    row = connection.execute("SELECT targeted FROM push WHERE no = ? AND final_counts IS NULL", (push_no,)).fetchone()
    if row is None:
        raise problem("gone", "the deliveries of this push were removed by retention; its counts remain a while")
    return int(row[0])


class _ListedDelivery(NamedTuple):
    """A delivery with what other tables say of it."""

    delivery: WholeDelivery
    device_id: str | None
    replaced_by: str | None
    """Id of the push that it was digested into."""
    attempts: int


def _with_ids(
    connection: sqlite3.Connection, push_no: int, deliveries: Iterable[WholeDelivery]
) -> Iterator[_ListedDelivery]:
    """Add what other tables say of deliveries."""
    remaining = iter(deliveries)
    count = FIRST_IDS
    while some := list(islice(remaining, count)):
        found = connection.execute(
            "SELECT v.id, r.id, coalesce(a.count, 0) FROM json_each(?) AS w"
            " LEFT JOIN device AS v ON v.no = w.value ->> 0 LEFT JOIN push AS r ON r.no = w.value ->> 1"
            " LEFT JOIN failed_attempt AS a ON a.push_no = ? AND a.device_no = w.value ->> 0"
            " ORDER BY w.key",
            (json.dumps([(one.device_no, one.replaced_by) for one in some]), push_no),
        ).fetchall()
        yield from (_ListedDelivery(one, *others) for one, others in zip(some, found, strict=True))
        count = MORE_IDS


def count_states(connection: sqlite3.Connection, push_no: int, sent: Sequence[int]) -> dict[str, int]:
    """Count deliveries by state, exclusive; `sent` are the devices handed over to when the snapshot was taken."""
    counts = dict.fromkeys(_LABELS.values(), 0)
    kept = state_counts(connection, push_no)
    found: Iterable[tuple[int, int]] = kept.items()
    if not kept:
        found = connection.execute("SELECT state, count(*) FROM delivery WHERE push_no = ? GROUP BY state", (push_no,))
    for state, count in found:
        counts[_LABELS[state]] = count
    in_flight = count_in_flight(connection, push_no, sent, kept)
    counts["waiting"] -= in_flight
    counts["sent"] += in_flight
    return counts


def _final_or_now(
    connection: sqlite3.Connection, push_no: int, final_counts: str | None, sent: Sequence[int]
) -> dict[str, int]:
    """The counts that retention has left of a push, or those of its deliveries."""
    counts: dict[str, int] = (
        json.loads(final_counts) if final_counts is not None else count_states(connection, push_no, sent)
    )
    return counts


def read_counts(connection: sqlite3.Connection, push_no: int, sent: Sequence[int]) -> dict[str, int]:
    """The counts of a push that is still kept, as the API shows them."""
    targeted, final = connection.execute("SELECT targeted, final_counts FROM push WHERE no = ?", (push_no,)).fetchone()
    return {"targeted": targeted, **_final_or_now(connection, push_no, final, sent)}


def reached(counts: dict[str, int]) -> dict[str, int]:
    """Cumulative counts: an opened one was displayed and delivered as well."""
    return {name: sum([counts[label] for label in labels]) for name, labels in _REACHED.items()}


def read_push(connection: sqlite3.Connection, push_no: int, sent: Sequence[int]) -> dict[str, Any] | None:
    """Read a push as the API shows it; None for none: a tombstone, or no longer even that."""
    row = connection.execute(f"SELECT {_PUSH} FROM push WHERE no = ? AND gone_at IS NULL", (push_no,)).fetchone()
    if row is None:
        return None
    counts = _final_or_now(connection, row[0], row[15], sent)
    optional = {"collapse_key": row[6], "channel": row[7], "template": template_of(connection, row[0])}
    return {
        "push_id": row[1],
        "target": json.loads(row[8]),
        "kind": row[2],
        "priority": PRIORITIES[row[3]],
        "qos": row[4],
        "ttl": row[5],
        **{name: value for name, value in optional.items() if value is not None},
        **json.loads(row[9]),
        "sent_at": rfc3339(row[10]),
        "expires_at": rfc3339(row[11]),
        "recalled_at": rfc3339_or_none(row[12]),
        "sent_by": row[16],
        "targeted": row[13],
        "suppressed": row[14],
        "counts": {"targeted": row[13], **counts},
        "reached": reached(counts),
    }


def _read_pushes(
    connection: sqlite3.Connection, sent: Mapping[int, Sequence[int]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Describe pushes whose counts are kept, with what they are parts of: (push number, description) each, in order.

    `sent`: the devices to which each of them is in flight, by its number.
    """
    numbers = list(sent)
    members = [find(connection, numbers) for find in (escalation_members, plan_members, campaign_members)]
    forecasts = read_forecasts(connection, numbers)
    for number in numbers:
        push = read_push(connection, number, sent[number])
        if push is None:
            continue
        for of_kind in members:
            push |= of_kind.get(number, {})
        if number in forecasts:
            push["forecast"] = _described_forecast(forecasts[number], push)
        yield number, push


def _described_forecast(forecast: KeptForecast, push: Mapping[str, Any]) -> dict[str, Any]:
    """A forecast beside what has become of its push, both as the API shows them."""
    counts = push["counts"]
    # What was sent with QoS 0 stays so.
    is_open = counts["waiting"] > 0 or (counts["sent"] > 0 and push["qos"] > 0)
    reached = push["reached"]["delivered"]
    return {
        "likely": forecast.likely,
        "will_expire": forecast.will_expire,
        "unknown_presence": forecast.unknown_presence,
        "made_at": rfc3339(forecast.made_at),
        "reached": reached,
        "error": None if is_open else forecast.likely - reached,
    }


def _describe_delivery(row: _ListedDelivery, in_flight: bool) -> dict[str, Any]:
    described = describe_delivery(row.delivery, in_flight, replaced_by=row.replaced_by, attempts=row.attempts)
    return {"device_id": row.device_id, **described}


def _unknown_push(push_id: str) -> Problem:
    return problem("push_not_found", f"no push {push_id!r} in this app")


def cursor_number(cursor: str | None) -> int | None:
    """Parse a cursor that is a row's number. Raises Problem 422."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise problem("invalid_request", "cursor: pass on the next_cursor of the page before, unchanged")
    return int(cursor)


def _pair(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return -1, 0
    priority, _, number = cursor.partition(".")
    return cursor_number(priority) or 0, cursor_number(number) or 0
