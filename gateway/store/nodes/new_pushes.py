"""Pushes behind positions of apps, whichever node has stored them, with the devices for which they wait.

Numbers rise within an app in the order of the commits (`numbers`), so what one snapshot has behind a position is all
that there is up to the last number that it has. Runs on a reader, in one snapshot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyroaring import BitMap

from gateway.store.audience.device_sets import unpack
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.pushes import last_push_nos
from gateway.store.transaction import Transaction

READ_PUSHES = 1_000
"""Pushes that one read finds, of all apps together: what a node accepts in a tenth of a second at its best."""
READ_ROWS = 20_000
"""Deliveries stored as rows that one read finds, about 10 ms; or those of one push, if it has more."""


class NewPush(NamedTuple):
    """A push, with the devices for which it waits: handed over or not, and on whichever node they are."""

    no: int
    app_no: int
    kind: str
    channel: str | None
    priority: int
    ttl: int
    """Seconds."""
    accepted_at: int
    """Milliseconds of server time."""
    size: int
    """Bytes on the wire at most."""
    devices: BitMap
    limited: BitMap
    """Devices for which it waits as limited (`Delivery.not_before`); none of `devices`."""


class NewPushesPage(NamedTuple):
    """Pushes that one read found."""

    pushes: list[NewPush]
    """By app, and then in the order of their numbers."""
    reached: dict[int, int]
    """App number -> the last push that was looked at, of those apps that had any."""
    more: bool
    """Whether there was more than one read finds."""


def read_new_pushes(transaction: Transaction, positions: Mapping[int, int]) -> NewPushesPage:
    """Read what was stored behind the positions of some apps (app number -> push number).

    Apps in this order, as long as there is room. When nothing is new this costs a look at an index for each app.
    """
    newest = last_push_nos(transaction, positions)
    pushes: list[NewPush] = []
    reached: dict[int, int] = {}
    room_pushes, room_rows = READ_PUSHES, READ_ROWS
    for app_no, position in positions.items():
        if newest[app_no] <= position:
            continue
        if room_pushes <= 0 or room_rows <= 0:
            return NewPushesPage(pushes, reached, True)
        found, rows, is_last = _pushes_of_app(transaction, app_no, position, room_pushes, room_rows)
        if found:
            pushes += found
            reached[app_no] = found[-1].no
            room_pushes, room_rows = room_pushes - len(found), room_rows - rows
        if not is_last:
            return NewPushesPage(pushes, reached, True)
    return NewPushesPage(pushes, reached, False)


def _pushes_of_app(
    transaction: Transaction, app_no: int, position: int, most_pushes: int, most_rows: int
) -> tuple[list[NewPush], int, bool]:
    """The next pushes of an app, how many rows their deliveries are, and whether that is all of them."""
    facts = transaction.execute(
        "SELECT no, kind, channel, priority, ttl, accepted_at, size, in_sets FROM push WHERE app_no = ? AND no > ?"
        " ORDER BY no LIMIT ?",
        (app_no, position, most_pushes),
    ).fetchall()
    is_last = len(facts) < most_pushes
    waiting, limited, rows = _rows_of(transaction, [row[0] for row in facts], most_rows)
    if rows >= most_rows:  # of the last push that has some there may be more
        cut = max([*waiting, *limited])
        whole = [row for row in facts if row[0] < cut]
        if not whole:
            waiting, limited, rows = _rows_of(transaction, [cut], None)
            whole = facts[:1]
        is_last = is_last and len(whole) == len(facts)
        facts = whole
    in_sets = _sets_of(transaction, [row[0] for row in facts if row[-1]])
    none = BitMap()
    found = [
        NewPush(
            no, app_no, kind, channel, priority, ttl, accepted_at, size,
            waiting.get(no, none) | in_sets.get(no, none), limited.get(no, none),
        )
        for no, kind, channel, priority, ttl, accepted_at, size, _ in facts
    ]  # fmt: skip
    return found, rows, is_last


def _rows_of(
    transaction: Transaction, push_nos: Sequence[int], most_rows: int | None
) -> tuple[dict[int, BitMap], dict[int, BitMap], int]:
    """The devices for which pushes wait as rows, by push number: unlimited, limited; and how many rows that are."""
    waiting: dict[int, BitMap] = {}
    limited: dict[int, BitMap] = {}
    count = 0
    for push_no, is_limited, text in transaction.execute(
        "SELECT push_no, is_limited, json_group_array(device_no) FROM"
        " (SELECT push_no, device_no, iif(not_before IS NULL, 0, 1) AS is_limited FROM delivery"
        f"  WHERE push_no IN (SELECT value FROM json_each(?)) AND +state {IS_WAITING}"
        "  ORDER BY push_no, device_no LIMIT ?) GROUP BY push_no, is_limited",
        (json.dumps(push_nos), 1 << 62 if most_rows is None else most_rows),
    ):
        devices = BitMap(json.loads(text))
        (limited if is_limited else waiting)[push_no] = devices
        count += len(devices)
    return waiting, limited, count


def _sets_of(transaction: Transaction, push_nos: Sequence[int]) -> dict[int, BitMap]:
    """The devices for which pushes wait in sets, by push number."""
    found: dict[int, BitMap] = {}
    if push_nos:
        for push_no, blob in transaction.execute(
            "SELECT push_no, devices FROM waiting_set WHERE push_no IN (SELECT value FROM json_each(?))",
            (json.dumps(push_nos),),
        ):
            found[push_no] = found.get(push_no, BitMap()) | unpack(blob)
    return found
