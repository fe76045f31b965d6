"""Reads of mailboxes: what is next for many devices, to be handed over. Writer thread."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pyroaring import BitMap

from gateway.delivery_states import PRIORITIES
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.delivery_sets import mailbox_entries
from gateway.store.transaction import Transaction

ALL_PRIORITIES = len(PRIORITIES)
READ_BYTES = 16 * 1024 * 1024
"""Wire payload of the pushes that one read finds."""


@dataclass(slots=True, frozen=True)
class MailboxRead:
    """Pushes that one read found for one device, in mailbox order."""

    push_nos: list[int]
    is_last: bool
    """Whether there is no more of the priority that was asked for."""
    next_priority: int
    """The most urgent priority below it that something waits with; ALL_PRIORITIES: nothing waits."""

    def with_checked(self, push_nos: list[int]) -> MailboxRead:
        """Add pushes that the alert limiter has let through in their place, up to the end of this page."""
        if not push_nos:
            return self
        end = None if self.is_last else self.push_nos[-1] if self.push_nos else 0
        here = [no for no in push_nos if end is None or no < end]
        return MailboxRead(sorted([*self.push_nos, *here]), self.is_last, self.next_priority)


def read_mailboxes(
    transaction: Transaction,
    devices: list[int],
    apps: Collection[int],
    priority: int,
    limit: int,
    is_sent: Callable[[int, int], bool],
    now_ms: int,
    limited: bool = False,
) -> list[MailboxRead]:
    """Read for each device number, of these apps, the oldest `limit` waiting pushes of this priority. Writer thread.

    Left out are those in flight, and limited ones, where there may be any (that costs a look at each row). Fewer pages
    than asked for if they would be more than READ_BYTES. One row comes back, whatever is found: each row is a pass of
    the interpreter lock. SQLite cannot limit the rows of each device, so it looks for the first one too many.
    """
    here = " AND d.not_before IS NULL" if limited else ""
    (text,) = transaction.execute(
        "WITH edge AS MATERIALIZED (SELECT wanted.value AS device_no,"
        " (SELECT d.push_no FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
        f"   WHERE d.device_no = wanted.value AND d.state {IS_WAITING} AND d.priority = ?2 AND p.expires_at > ?3{here}"
        "   ORDER BY d.push_no LIMIT 1 OFFSET ?4) AS stop,"
        " (SELECT d.priority FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
        f"   WHERE d.device_no = wanted.value AND d.state {IS_WAITING} AND d.priority > ?2 AND p.expires_at > ?3{here}"
        "   ORDER BY d.priority LIMIT 1) AS below"
        " FROM json_each(?1) AS wanted ORDER BY wanted.key)"
        "SELECT json_group_array(json_array(stop IS NULL, coalesce(below, ?5), (SELECT json_group_array("
        "   json_array(d.push_no, d.size)) FROM delivery AS d INDEXED BY delivery_mailbox"
        "   JOIN push AS p ON p.no = d.push_no"
        f"   WHERE d.device_no = edge.device_no AND d.state {IS_WAITING} AND d.priority = ?2"
        f"   AND d.push_no < coalesce(stop, 1 << 62) AND p.expires_at > ?3{here}))) FROM edge",
        (json.dumps(devices), priority, now_ms, limit, ALL_PRIORITIES),
    ).fetchone()
    in_sets, below = _sets_of(transaction, devices, apps, priority, limit, now_ms)
    pages: list[MailboxRead] = []
    budget = READ_BYTES
    for device_no, (is_last, next_priority, rows) in zip(devices, json.loads(text), strict=True):
        push_nos: list[int] = []
        rows = sorted(map(tuple, rows))
        next_priority = min(next_priority, below.get(device_no, ALL_PRIORITIES))
        if device_no in in_sets:
            # Rows behind the last one may have not been read.
            rows = sorted(rows + [row for row in in_sets[device_no] if is_last or row < rows[-1]])
            if len(rows) > limit:
                rows, is_last = rows[:limit], False
        for push_no, size in rows:
            if is_sent(push_no, device_no):
                continue
            if budget <= 0:
                is_last = False
                break
            push_nos.append(push_no)
            budget -= size
        pages.append(MailboxRead(push_nos, bool(is_last), next_priority))
        if budget <= 0:
            break
    return pages


def _sets_of(
    transaction: Transaction, devices: list[int], apps: Collection[int], priority: int, limit: int, now_ms: int
) -> tuple[dict[int, list[tuple[int, int]]], dict[int, int]]:
    """Read what waits in sets for these devices: the oldest pushes of this priority, one more than `limit` at most, as
    (push number, bytes); and the most urgent priority below it that there is."""
    found: dict[int, list[tuple[int, int]]] = {}
    below: dict[int, int] = {}
    wanted = BitMap(devices)
    unknown = BitMap(devices)  # those for which something more urgent than what is known may be found
    for entry in mailbox_entries(transaction, apps, wanted, now_ms=now_ms, least_priority=priority):
        if entry.priority == priority:
            for device_no in entry.devices & wanted:
                pushes = found.setdefault(device_no, [])
                pushes.append((entry.push_no, entry.size))
                if len(pushes) > limit:
                    wanted.discard(device_no)
        else:
            for device_no in entry.devices & unknown:
                if entry.priority < below.get(device_no, ALL_PRIORITIES):
                    below[device_no] = entry.priority
                    if entry.priority == priority + 1:
                        unknown.discard(device_no)
    return found, below
