"""Mailboxes, over their rows and the sets that they are in: how much waits for a device, and in which order.

Runs on the writer thread, inside an operation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from pyroaring import BitMap

from gateway.store.deliveries import delivery_sets
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.transaction import Transaction


class Mailbox(NamedTuple):
    """The size of what waits for a device, in all and in rows."""

    device_no: int
    deliveries: int
    size: int
    rows: int
    row_bytes: int

    @property
    def is_deep(self) -> bool:
        """Whether sets may bring it above a limit."""
        return self.rows >= delivery_sets.DEEP_DELIVERIES or self.row_bytes >= delivery_sets.DEEP_BYTES


def count_mailboxes(transaction: Transaction, app_no: int, devices: Sequence[int], sets_of_all: bool) -> list[Mailbox]:
    """Count what waits for each of these devices of an app; those with nothing are left out. Writer thread.

    Unless `sets_of_all`, sets are counted for deep mailboxes only: the others have room for those and for the rows that
    they may still get until they are deep. A thousand devices are in two hundred thousand sets.
    """
    (text,) = transaction.execute(
        "SELECT json_group_array(json_array(device_no, count, total)) FROM ("
        " SELECT device_no, count(*) AS count, sum(size) AS total FROM delivery INDEXED BY delivery_mailbox"
        f" WHERE state {IS_WAITING} AND device_no IN (SELECT value FROM json_each(?)) GROUP BY device_no)",
        (json.dumps(list(devices)),),
    ).fetchone()
    found = {device_no: Mailbox(device_no, count, total, count, total) for device_no, count, total in json.loads(text)}
    in_sets = BitMap(devices if sets_of_all else [each.device_no for each in found.values() if each.is_deep])
    for entry in delivery_sets.mailbox_entries(transaction, [app_no], in_sets):
        for device_no in entry.devices:
            before = found.get(device_no) or Mailbox(device_no, 0, 0, 0, 0)
            found[device_no] = before._replace(deliveries=before.deliveries + 1, size=before.size + entry.size)
    return list(found.values())


def rows_of_priority(transaction: Transaction, device_no: int, priority: int) -> Iterator[tuple[int, int]]:
    """Yield (push number, bytes) of the rows that wait for a device with a priority, the oldest first. Writer thread.

    No more is read than is taken.
    """
    rows = transaction.execute(
        "SELECT push_no, size FROM delivery INDEXED BY delivery_mailbox"
        f" WHERE device_no = ? AND state {IS_WAITING} AND priority = ? ORDER BY push_no",
        (device_no, priority),
    )
    try:
        yield from rows
    finally:
        rows.close()


class MailboxItem(NamedTuple):
    """A push that waits for a device; times in milliseconds of server time."""

    priority: int
    push_no: int
    push_id: str
    kind: str
    collapse_key: str | None
    accepted_at: int
    expires_at: int
    size: int
    not_before: int | None
    """When it is looked at again; 0: as soon as may be; None: it is not limited."""
    attempts: int
    """Attempts that have failed."""


_ITEM = "p.priority, p.no, p.id, p.kind, p.collapse_key, p.accepted_at, p.expires_at"


def mailbox_page(transaction: Transaction, device_no: int, priority: int, after: int, count: int) -> list[MailboxItem]:
    """The pushes that wait for a device behind a priority and a push number, in mailbox order.

    At most twice `count`, of which the first `count` are the next ones.
    """
    rows = transaction.execute(
        f"SELECT {_ITEM}, d.size, d.not_before, coalesce(a.count, 0)"
        " FROM delivery AS d INDEXED BY delivery_mailbox JOIN push AS p ON p.no = d.push_no"
        " LEFT JOIN failed_attempt AS a ON a.push_no = d.push_no AND a.device_no = d.device_no"
        f" WHERE d.device_no = ? AND d.state {IS_WAITING} AND (d.priority, d.push_no) > (?, ?)"
        " ORDER BY d.priority, d.push_no LIMIT ?",
        (device_no, priority, after, count),
    ).fetchall()
    rows += transaction.execute(
        f"SELECT {_ITEM}, p.size, NULL, 0 FROM json_each(?1) AS w CROSS JOIN push AS p ON p.no = w.value"
        " WHERE (p.priority, p.no) > (?2, ?3) ORDER BY p.priority, p.no LIMIT ?4",
        (json.dumps(delivery_sets.pushes_waiting_for(transaction, device_no)), priority, after, count),
    ).fetchall()
    return sorted(map(MailboxItem._make, rows), key=itemgetter(0, 1))
