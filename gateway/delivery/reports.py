"""Reports about pushes: counts, lists, one mailbox. Reads only; nothing here changes a state.

`sent` exists in memory (see the ledger), so every answer is disk plus that overlay, in one snapshot: the set of
hand-overs is copied first, then read against the database, where a device that is no longer waiting counts as what
the disk says. Each delivery is therefore counted exactly once and the counts sum to `targeted`, whatever happens
between.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from gateway.delivery.delivery_description import describe_delivery
from gateway.delivery.escalation_progress import describe_escalations, escalation_members, sent_steps
from gateway.delivery.in_flight import InFlight
from gateway.delivery.ledger import Ledger
from gateway.delivery.push_texts import described_template, described_text, page_of_texts
from gateway.delivery_states import PRIORITIES, DeliveryState
from gateway.errors import Problem, problem
from gateway.pages import ListPage, fill_page
from gateway.store.analytics.forecasts import KeptForecast, read_forecasts
from gateway.store.database import Database
from gateway.store.deliveries.campaign_parts import campaign_members
from gateway.store.deliveries.delivery_reasons import count_reasons, states_of_push
from gateway.store.deliveries.escalations import EscalationState, escalation_numbers, step_numbers
from gateway.store.deliveries.mailboxes import mailbox_page
from gateway.store.deliveries.plan_parts import plan_members
from gateway.store.deliveries.push_texts import has_texts, text_of_device
from gateway.store.deliveries.pushes import (
    newest_pushes,
    push_number,
    stored_content,
    stored_push,
    targeted_and_final,
    targeted_of,
)
from gateway.store.deliveries.whole_deliveries import WholeDelivery, ids_of_deliveries, whole_deliveries, whole_delivery
from gateway.store.transaction import Transaction
from gateway.timestamps import rfc3339, rfc3339_or_none

# Made once: the enumeration takes longer to say a name than the database to count a push.
_LABELS = {int(state): state.label for state in DeliveryState}
_REACHED = {
    least.label: [state.label for state in DeliveryState if least <= state <= DeliveryState.ACTED]
    for least in (DeliveryState.DELIVERED, DeliveryState.DISPLAYED, DeliveryState.OPENED, DeliveryState.ACTED)
}
"""States by the furthest that they have at least reached."""
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

    def __init__(self, database: Database, ledger: Ledger, in_flight: InFlight) -> None:
        self._database = database
        self._ledger = ledger
        self._in_flight = in_flight

    async def push(self, app_no: int, push_id: str) -> dict[str, Any]:
        """A push with `counts` and `reached`. Raises Problem 404, or 410 when its counts are no longer kept."""

        def find(transaction: Transaction) -> list[int]:
            push_no = push_number(transaction, app_no, push_id)
            return [] if push_no is None else [push_no, *step_numbers(transaction, push_no)]

        numbers = await self._database.read(find, app_no)
        if not numbers:
            raise _unknown_push(push_id)
        push_no = numbers[0]
        sent = await self._in_flight.devices_of(numbers)

        def read(transaction: Transaction) -> dict[str, Any] | None:
            described = next((push for _, push in _read_pushes(transaction, {push_no: sent[push_no]})), None)
            if described is not None and "escalation" in described:
                described["escalation"]["steps"] = [
                    step | {"counts": read_counts(transaction, number, sent.get(number, ()))}
                    for number, step in sent_steps(transaction, push_no)
                ]
            return described

        described = await self._database.read(read, app_no)
        if described is None:
            raise problem("gone", "this push ended long ago and its counts are no longer kept")
        return described

    async def _number(self, app_no: int, push_id: str) -> int:
        """The number of a push. Raises Problem 404."""
        push_no = await self._database.read(lambda transaction: push_number(transaction, app_no, push_id), app_no)
        if push_no is None:
            raise _unknown_push(push_id)
        return push_no

    async def pushes(self, app_no: int, limit: int, cursor: str | None) -> ListPage:
        """A page of pushes, the newest first, each with its counts.

        It has fewer than asked for where that is much to count.
        """
        before = cursor_number(cursor)

        def choose(transaction: Transaction) -> tuple[list[int], bool]:
            rows = newest_pushes(transaction, app_no, before, limit + 1)
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
        in_flight = await self._in_flight.devices_of(numbers)

        def read(transaction: Transaction) -> ListPage:
            page = fill_page(_read_pushes(transaction, in_flight), limit, itemgetter(1), itemgetter(0))
            return page._replace(next_cursor=str(numbers[-1])) if more and page.next_cursor is None else page

        return await self._database.read(read, app_no)

    async def escalations(
        self, app_no: int, limit: int, cursor: str | None, state: EscalationState | None = None
    ) -> ListPage:
        """A page of pushes to duties and how far they have come, the newest first; of all states, or one."""
        before = cursor_number(cursor)

        def read(transaction: Transaction) -> ListPage:
            states = EscalationState if state is None else (state,)
            numbers = escalation_numbers(transaction, app_no, states, 2**62 if before is None else before, limit + 1)
            return fill_page(describe_escalations(transaction, numbers), limit, itemgetter(1), itemgetter(0))

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
        in_flight = set((await self._in_flight.devices_of([push_no]))[push_no])
        # What is in flight waits on disk.
        stored = None if state is DeliveryState.SENT else state

        def read(transaction: Transaction) -> ListPage:
            _targeted(transaction, push_no)
            found = whole_deliveries(transaction, push_no, after or 0, stored, device_no, reason)
            rows = _with_ids(transaction, push_no, found)
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
        sent = (await self._in_flight.devices_of([push_no]))[push_no]

        def read(transaction: Transaction) -> dict[str, Any]:
            targeted = _targeted(transaction, push_no)
            counts = count_reasons(transaction, push_no, sent)
            items = [{"state": one.state.label, "reason": one.reason, "count": one.deliveries} for one in counts]
            return {"push_id": push_id, "targeted": targeted, "items": items}

        return await self._database.read(read, app_no)

    async def texts(
        self, app_no: int, push_id: str, limit: int, cursor: str | None, *, device_no: int | None = None
    ) -> ListPage:
        """A page of the texts that a push's devices got, or the one of a device. Raises Problem 404, 410."""
        after = cursor_number(cursor) or 0
        push_no = await self._number(app_no, push_id)

        def read(transaction: Transaction) -> ListPage:
            stored = stored_content(transaction, push_no)
            if stored is None:
                raise problem("gone", "the texts of this push were removed with its deliveries")
            content, size, targeted = stored
            if not has_texts(content):
                is_target = device_no is None or whole_delivery(transaction, push_no, device_no) is not None
                only = [described_text(1, content, size, targeted)] if is_target and not after else []
                return fill_page(only, limit, lambda text: text, lambda text: text["text"])
            text_no = None if device_no is None else text_of_device(transaction, push_no, device_no) or 0
            return page_of_texts(transaction, push_no, limit, after, text_no)

        return await self._database.read(read, app_no)

    async def single_delivery(self, push_no: int) -> SingleDelivery | None:
        """The delivery of a push to a single device; None if retention has removed it."""

        def read(transaction: Transaction) -> SingleDelivery | None:
            row = next(_with_ids(transaction, push_no, whole_deliveries(transaction, push_no)), None)
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
        is_sent = self._ledger.is_sent
        sent: set[int] = set()
        if self._in_flight.is_shared:
            numbers = await self._database.read_soon(
                lambda rows: [one.push_no for one in mailbox_page(rows, device_no, priority, after, limit)]
            )
            sent = await self._in_flight.pushes_to(device_no, numbers)

        def read(transaction: Transaction) -> dict[str, Any]:
            entries = mailbox_page(transaction, device_no, priority, after, limit + 1)
            items = [
                {
                    "push_id": entry.push_id,
                    "state": "sent" if is_sent(entry.push_no, device_no) or entry.push_no in sent else "waiting",
                    "priority": PRIORITIES[entry.priority],
                    "kind": entry.kind,
                    "collapse_key": entry.collapse_key,
                    "sent_at": rfc3339(entry.accepted_at),
                    "expires_at": rfc3339(entry.expires_at),
                    "size": entry.size,
                    "not_before": rfc3339_or_none(entry.not_before or None),
                    "attempts": entry.attempts,
                }
                for entry in entries[:limit]
            ]
            last = entries[limit - 1] if len(entries) > limit else None
            return {"items": items, "next_cursor": f"{last.priority}.{last.push_no}" if last is not None else None}

        return await self._database.write(read, app_no)


def _targeted(transaction: Transaction, push_no: int) -> int:
    """The number of a push's deliveries. Raises Problem 410 if they are no longer kept."""
    targeted = targeted_of(transaction, push_no)
    if targeted is None:
        raise problem("gone", "the deliveries of this push were removed by retention; its counts remain a while")
    return targeted


class _ListedDelivery(NamedTuple):
    """A delivery with what other tables say of it."""

    delivery: WholeDelivery
    device_id: str | None
    replaced_by: str | None
    """Id of the push that it was digested into."""
    attempts: int


def _with_ids(transaction: Transaction, push_no: int, deliveries: Iterable[WholeDelivery]) -> Iterator[_ListedDelivery]:
    """Add what other tables say of deliveries."""
    remaining = iter(deliveries)
    count = FIRST_IDS
    while some := list(islice(remaining, count)):
        found = ids_of_deliveries(transaction, push_no, some)
        yield from (_ListedDelivery(one, *others) for one, others in zip(some, found, strict=True))
        count = MORE_IDS


def count_states(transaction: Transaction, push_no: int, sent: Sequence[int]) -> dict[str, int]:
    """Count deliveries by state, exclusive; `sent` are the devices handed over to when the snapshot was taken."""
    counts = dict.fromkeys(_LABELS.values(), 0)
    for state, count in states_of_push(transaction, push_no, sent).items():
        counts[_LABELS[state]] = count
    return counts


def _final_or_now(
    transaction: Transaction, push_no: int, final_counts: str | None, sent: Sequence[int]
) -> dict[str, int]:
    """The counts that retention has left of a push, or those of its deliveries."""
    counts: dict[str, int] = (
        json.loads(final_counts) if final_counts is not None else count_states(transaction, push_no, sent)
    )
    return counts


def read_counts(transaction: Transaction, push_no: int, sent: Sequence[int]) -> dict[str, int]:
    """The counts of a push that is still kept, as the API shows them."""
    targeted, final = targeted_and_final(transaction, push_no)
    return {"targeted": targeted, **_final_or_now(transaction, push_no, final, sent)}


def reached(counts: dict[str, int]) -> dict[str, int]:
    """Cumulative counts: an opened one was displayed and delivered as well."""
    return {name: sum([counts[label] for label in labels]) for name, labels in _REACHED.items()}


def read_push(transaction: Transaction, push_no: int, sent: Sequence[int]) -> dict[str, Any] | None:
    """Read a push as the API shows it; None for none: a tombstone, or no longer even that."""
    push = stored_push(transaction, push_no)
    if push is None:
        return None
    counts = _final_or_now(transaction, push.no, push.final_counts, sent)
    template = described_template(transaction, push.no)
    optional = {"collapse_key": push.collapse_key, "channel": push.channel, "template": template}
    return {
        "push_id": push.push_id,
        "target": json.loads(push.target),
        "kind": push.kind,
        "priority": PRIORITIES[push.priority],
        "qos": push.qos,
        "ttl": push.ttl,
        **{name: value for name, value in optional.items() if value is not None},
        **json.loads(push.content),
        "sent_at": rfc3339(push.accepted_at),
        "expires_at": rfc3339(push.expires_at),
        "recalled_at": rfc3339_or_none(push.recalled_at),
        "sent_by": push.key_id,
        "targeted": push.targeted,
        "suppressed": push.suppressed,
        "counts": {"targeted": push.targeted, **counts},
        "reached": reached(counts),
    }


def _read_pushes(transaction: Transaction, sent: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Describe pushes whose counts are kept, with what they are parts of: (push number, description) each, in order.

    `sent`: the devices to which each of them is in flight, by its number.
    """
    numbers = list(sent)
    members = [find(transaction, numbers) for find in (escalation_members, plan_members, campaign_members)]
    forecasts = read_forecasts(transaction, numbers)
    for number in numbers:
        push = read_push(transaction, number, sent[number])
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
