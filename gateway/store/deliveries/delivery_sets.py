"""Deliveries as sets of devices: what a push to many is stored as, until something is true of one device alone.

A delivery of such a push (`Push.in_sets`) is in exactly one of three places:

    waiting_set   the devices of a segment for which the push waits, those in flight included
    outcome_set   devices that left it together: acknowledged in one group, or ended for one reason; appended, and
                  never changed
    delivery      its row; it wins over an outcome

`to_rows` moves deliveries from their set to rows in the state that they are in; what is done to one device is done to
its row (`ledger_statements`). `move_set` moves devices from the waiting set to an outcome, with its event. Both keep
the numbers by state (`delivery_count`), together with the trigger of the table `delivery`.

A blob holds the whole device numbers of a *segment*, 65,536 consecutive ones: 8 KiB at most, some 20 bytes if they are
consecutive. Whoever asks about one device reads the blobs of its segment alone.

Beside `ledger_statements` this is the only SQL that writes the state of a delivery. What moves something runs on the
writer thread, inside an operation; the rest wherever there is a snapshot.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import NamedTuple

from pyroaring import BitMap

from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK, by_push, handle_of
from gateway.delivery_states import DeliveryState
from gateway.store.audience.device_sets import SEGMENT_BITS, pack, segments_of, stored_devices, unpack
from gateway.store.deliveries.conditions import IS_WAITING
from gateway.store.deliveries.event_log import ENTRY_DEVICES, log_outcome
from gateway.store.transaction import Transaction

SET_DEVICES = 24
"""Devices of a segment that are worth a set: fewer are written, acknowledged and counted as rows at less cost."""
GROUP_DEVICES = 4
"""Devices of a segment that leave a waiting set together as an outcome; fewer get rows, so that what trickles in for a
day does not leave thousands of tiny sets to look through."""
LOOKED_UP_OUTCOMES = 362
"""Devices that are worth an outcome however many there are: with k of them in a segment, the next one has k devices or
more, so there are never more than this. Each receipt looks through them."""
WAITING_SETS = 100
"""Pushes of an app that wait as sets: each read of mailboxes looks at all of them, 3 to 10 µs each. With twice as many,
a device that returns to a full window took 11 ms of the writer."""
SHARE_OF_MAILBOX = 4
"""Sets fill this part of a mailbox's limits at most, as its divisor."""
DEEP_DELIVERIES = 100
"""Rows of a *deep* mailbox, which is counted when a set may bring it above its limit. Below it none can be: sets and
these are less than the limits, or there are no sets."""
DEEP_BYTES = 256 * 1024


def are_worth_sets(devices: BitMap) -> bool:
    """Whether so many devices, so close together, are stored at less cost as sets than as rows."""
    return len(devices) >= SET_DEVICES * sum(1 for _ in segments_of(devices))


def listed(devices: BitMap) -> str:
    """The JSON array of a set's devices."""
    return str(devices.to_array().tolist())


# -- moving: writer thread ---------------------------------------------------------------------------------------------


def insert_set(transaction: Transaction, push_no: int, app_no: int, priority: int, devices: BitMap) -> None:
    """Store the deliveries of a new push to these devices: it waits for all of them."""
    transaction.executemany(
        "INSERT INTO waiting_set (push_no, segment, app_no, priority, count, devices) VALUES (?, ?, ?, ?, ?, ?)",
        [(push_no, segment, app_no, priority, len(here), pack(here)) for segment, here in segments_of(devices)],
    )
    _count(transaction, push_no, {DeliveryState.WAITING: len(devices)})


def _count(transaction: Transaction, push_no: int, moved: dict[DeliveryState, int]) -> None:
    values = ", ".join(f"({push_no:d}, {state:d}, {count:d})" for state, count in moved.items())
    transaction.execute(
        f"INSERT INTO delivery_count (push_no, state, count) VALUES {values}"
        " ON CONFLICT DO UPDATE SET count = count + excluded.count"
    )


def _shrink(transaction: Transaction, push_no: int, segment: int, left: BitMap) -> None:
    if left:
        transaction.execute(
            "UPDATE waiting_set SET count = ?, devices = ? WHERE push_no = ? AND segment = ?",
            (len(left), pack(left), push_no, segment),
        )
    else:
        transaction.execute("DELETE FROM waiting_set WHERE push_no = ? AND segment = ?", (push_no, segment))


def move_set(
    transaction: Transaction,
    push_no: int,
    devices: BitMap | None,
    state: DeliveryState,
    now_ms: int,
    *,
    reason: str | None = None,
    qos: int | None = None,
    but_not: BitMap | None = None,
) -> BitMap:  # Hot path.
    """Move the devices for which the push waits in its sets to an outcome, and log it; which.

    Only these devices, where enough of a segment are together; None: all, `but_not` these.
    """
    moved = BitMap()
    for segment, app_no, waiting in _waiting_sets(transaction, push_no, devices):
        here = waiting & devices if devices is not None else waiting
        if but_not is not None:
            here = here - but_not
        if not here or (devices is not None and not _is_worth_outcome(transaction, push_no, segment, len(here))):
            continue
        _shrink(transaction, push_no, segment, waiting - here)
        for part in _parts(here):
            outcome_no = transaction.execute(
                "INSERT INTO outcome_set (push_no, segment, state, reason, qos, at, count, devices)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (push_no, segment, int(state), reason, qos, now_ms, len(part), pack(part)),
            ).lastrowid
            assert outcome_no is not None, "of an INSERT"
            log_outcome(transaction, app_no, state.label, now_ms, push_no, outcome_no, len(part), reason)
        moved |= here
    if moved:
        _count(transaction, push_no, {DeliveryState.WAITING: -len(moved), state: len(moved)})
    return moved


def _is_worth_outcome(transaction: Transaction, push_no: int, segment: int, count: int) -> bool:
    """Whether so many devices of a segment are worth one outcome more."""
    if not GROUP_DEVICES <= count < LOOKED_UP_OUTCOMES:
        return count >= GROUP_DEVICES
    (outcomes,) = transaction.execute(
        "SELECT count(*) FROM outcome_set WHERE push_no = ? AND segment = ?", (push_no, segment)
    ).fetchone()
    return bool(count >= outcomes)


def _parts(devices: BitMap) -> Iterator[BitMap]:
    """Divide a set into what one entry of the event log may have."""
    if len(devices) <= ENTRY_DEVICES:
        yield devices
        return
    for start in range(0, len(devices), ENTRY_DEVICES):
        yield devices[start : start + ENTRY_DEVICES]


def _waiting_sets(
    transaction: Transaction, push_no: int, devices: BitMap | None = None
) -> list[tuple[int, int, BitMap]]:
    """(segment, app number, devices) of the waiting sets of a push; only of the segments of these devices."""
    if devices is None:
        rows = transaction.execute("SELECT segment, app_no, devices FROM waiting_set WHERE push_no = ?", (push_no,))
    elif not devices:
        return []
    else:
        first, last = devices.min() >> SEGMENT_BITS, devices.max() >> SEGMENT_BITS
        rows = transaction.execute(
            "SELECT segment, app_no, devices FROM waiting_set WHERE push_no = ? AND segment BETWEEN ? AND ?",
            (push_no, first, last),
        )
    return [(segment, app_no, unpack(blob)) for segment, app_no, blob in rows.fetchall()]


def stored_in_sets(transaction: Transaction, push_nos: Collection[int]) -> list[int]:
    """Find the pushes among these whose deliveries were stored as sets."""
    (text,) = transaction.execute(
        "SELECT json_group_array(no) FROM push WHERE no IN (SELECT value FROM json_each(?)) AND in_sets",
        (json.dumps(list(push_nos)),),
    ).fetchone()
    found: list[int] = json.loads(text)
    return found


def handles_to_rows(transaction: Transaction, handles: Collection[int]) -> None:
    """Move these deliveries to rows, as far as they are in sets."""
    grouped = by_push(handles)
    for push_no in stored_in_sets(transaction, grouped):
        to_rows(transaction, push_no, BitMap(grouped[push_no]))


def to_rows(transaction: Transaction, push_no: int, devices: BitMap) -> BitMap:
    """Make rows of the deliveries of a push to these devices that are in sets; which of them waited there.

    Each keeps its state.
    """
    waited = BitMap()
    for segment, _, waiting in _waiting_sets(transaction, push_no, devices):
        here = waiting & devices
        if here:
            _shrink(transaction, push_no, segment, waiting - here)
            waited |= here
    if waited:
        transaction.execute(
            "INSERT INTO delivery (push_no, device_no, priority, size, state, collapse_key, counted)"
            f" SELECT p.no, x.value, p.priority, p.size, {DeliveryState.WAITING:d}, p.collapse_key, 1"
            " FROM push AS p CROSS JOIN json_each(?) AS x WHERE p.no = ?",
            (listed(waited), push_no),
        )
    rest = devices - waited
    if rest:
        rest -= with_rows(transaction, push_no, rest)
    if rest:
        for outcome in outcomes_of(transaction, push_no, rest):
            here = outcome.devices & rest
            if not here:
                continue
            arrived = outcome.state is DeliveryState.DELIVERED
            ended = outcome.state >= DeliveryState.EXPIRED
            transaction.execute(
                "INSERT INTO delivery (push_no, device_no, priority, size, state, reason, qos, delivered_at, ended_at,"
                " counted) SELECT p.no, x.value, p.priority, p.size, ?, ?, ?, ?, ?, 1"
                " FROM push AS p CROSS JOIN json_each(?) AS x WHERE p.no = ?",
                (
                    int(outcome.state),
                    outcome.reason,
                    outcome.qos,
                    outcome.at if arrived else None,
                    outcome.at if ended else None,
                    listed(here),
                    push_no,
                ),
            )
            rest -= here
            if not rest:
                break
    return waited


def with_rows(transaction: Transaction, push_no: int, devices: BitMap) -> BitMap:
    """Find the devices among these for which a push has rows."""
    (text,) = transaction.execute(
        "SELECT json_group_array(d.device_no) FROM json_each(?) AS x CROSS JOIN delivery AS d"
        " ON d.push_no = ? AND d.device_no = x.value",
        (listed(devices), push_no),
    ).fetchone()
    return BitMap(json.loads(text))


def remove_sets(transaction: Transaction, push_no: int, count: int) -> int:
    """Remove up to `count` sets of a push whose rows have been removed; how many. With the last the counters go."""
    removed: int = transaction.execute(
        "DELETE FROM outcome_set WHERE no IN (SELECT no FROM outcome_set WHERE push_no = ? LIMIT ?)", (push_no, count)
    ).rowcount
    if removed < count:
        for table in ("waiting_set", "delivery_count"):
            transaction.execute(f"DELETE FROM {table} WHERE push_no = ?", (push_no,))
    return removed


# -- reading -----------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """An outcome set."""

    devices: BitMap
    state: DeliveryState
    reason: str | None
    qos: int | None
    at: int


def outcomes_of(
    transaction: Transaction, push_no: int, devices: BitMap | None = None, segment: int | None = None
) -> Iterator[Outcome]:
    """The outcome sets of a push: all, of the segments of these devices, or of one segment."""
    first, last = 0, 1 << DEVICE_BITS
    if segment is not None:
        first = last = segment
    elif devices is not None:
        if not devices:
            return
        first, last = devices.min() >> SEGMENT_BITS, devices.max() >> SEGMENT_BITS
    for state, reason, qos, at, blob in transaction.execute(
        "SELECT state, reason, qos, at, devices FROM outcome_set WHERE push_no = ? AND segment BETWEEN ? AND ?",
        (push_no, first, last),
    ):
        yield Outcome(unpack(blob), DeliveryState(state), reason, qos, at)


def waiting_of(transaction: Transaction, push_no: int, devices: BitMap | None = None) -> BitMap:
    """The devices for which a push waits in its sets, those in flight included; only of these."""
    found = BitMap()
    for _, _, waiting in _waiting_sets(transaction, push_no, devices):
        found |= waiting
    return found if devices is None else found & devices


def waiting_handles_among(transaction: Transaction, handles: Collection[int]) -> list[int]:
    """Find the handles among these that wait in sets."""
    grouped = by_push(handles)
    return [
        handle_of(push_no, device_no)
        for push_no in stored_in_sets(transaction, grouped)
        for device_no in waiting_of(transaction, push_no, BitMap(grouped[push_no]))
    ]


def target_set(transaction: Transaction, push_no: int, among: BitMap) -> BitMap:
    """The devices among these that a push was stored for, the suppressed ones left out, whatever became of it."""
    found = waiting_of(transaction, push_no, among)
    for outcome in outcomes_of(transaction, push_no, among):
        if outcome.state is not DeliveryState.SUPPRESSED:
            found |= outcome.devices
    suppressed = BitMap()
    for state, rows in rows_by_state(transaction, push_no, among.min(), among.max()).items():
        if state is DeliveryState.SUPPRESSED:
            suppressed |= rows
        else:
            found |= rows
    return (found - suppressed) & among


def rows_by_state(
    transaction: Transaction, push_no: int, first: int = 0, last: int = DEVICE_MASK
) -> dict[DeliveryState, BitMap]:
    """The devices of a push that have rows, by state, with numbers from `first` to `last`."""
    rows = transaction.execute(
        "SELECT state, json_group_array(device_no) FROM delivery WHERE push_no = ? AND device_no BETWEEN ? AND ?"
        " GROUP BY state",
        (push_no, first, last),
    )
    return {DeliveryState(state): BitMap(json.loads(text)) for state, text in rows.fetchall()}


def device_of_row(transaction: Transaction, push_no: int, after: int, count: int) -> int | None:
    """The device of the row that is `count` rows behind a device number, of a push; None if there are fewer rows."""
    row = transaction.execute(
        "SELECT device_no FROM delivery WHERE push_no = ? AND device_no > ? ORDER BY device_no LIMIT 1 OFFSET ?",
        (push_no, after, count - 1),
    ).fetchone()
    return None if row is None else int(row[0])


def delivered_times(transaction: Transaction, push_no: int, devices: BitMap) -> dict[int, int]:
    """Read when devices got a push, by the number of the device; only of those that did."""
    found: dict[int, int] = {}
    for outcome in outcomes_of(transaction, push_no, devices):
        if outcome.state is DeliveryState.DELIVERED:
            found.update(dict.fromkeys(outcome.devices & devices, outcome.at))
    found.update(
        transaction.execute(
            "SELECT d.device_no, d.delivered_at FROM json_each(?) AS x CROSS JOIN delivery AS d"
            " ON d.push_no = ? AND d.device_no = x.value WHERE d.delivered_at IS NOT NULL",
            (listed(devices), push_no),
        ).fetchall()
    )
    return found


def segments_of_push(transaction: Transaction, push_no: int, first: int = 0) -> list[int]:
    """The segments, from `first` on, in which a push has deliveries that were stored as sets."""
    rows = transaction.execute(
        "SELECT segment FROM waiting_set WHERE push_no = ?1 AND segment >= ?2"
        " UNION SELECT segment FROM outcome_set WHERE push_no = ?1 AND segment >= ?2 ORDER BY 1",
        (push_no, first),
    )
    return [segment for (segment,) in rows.fetchall()]


def segments_with_rows(transaction: Transaction, push_no: int, first: int = 0) -> list[int]:
    """The segments, from `first` on, in which a push that was stored as sets has deliveries, its rows included."""
    found = set(segments_of_push(transaction, push_no, first))
    segment = first
    while True:
        row = transaction.execute(
            "SELECT min(device_no) FROM delivery WHERE push_no = ? AND device_no >= ?",
            (push_no, segment << SEGMENT_BITS),
        ).fetchone()
        if row[0] is None:
            return sorted(found)
        found.add(row[0] >> SEGMENT_BITS)
        segment = (row[0] >> SEGMENT_BITS) + 1


class MailboxEntry(NamedTuple):
    """A push that waits for some devices, in a set."""

    push_no: int
    priority: int
    size: int
    devices: BitMap


def mailbox_entries(
    transaction: Transaction,
    apps: Collection[int],
    devices: BitMap,
    *,
    now_ms: int = 0,
    least_priority: int = 0,
) -> Iterator[MailboxEntry]:
    """Yield what waits in sets for any of these devices of some apps, the oldest first, expired pushes left out.

    Only what is as urgent as `least_priority` or less.
    """
    for segment, here in segments_of(devices):
        rows = transaction.execute(
            "SELECT w.push_no, w.priority, p.size, w.devices FROM json_each(?) AS app"
            " CROSS JOIN waiting_set AS w INDEXED BY waiting_set_mailbox ON w.segment = ? AND w.app_no = app.value"
            "  AND w.priority >= ? CROSS JOIN push AS p ON p.no = w.push_no WHERE p.expires_at > ?",
            (json.dumps(list(apps)), segment, least_priority, now_ms),
        ).fetchall()
        rows.sort()  # here: SQLite would copy the sets about
        for push_no, priority, size, blob in rows:
            found = unpack(blob) & here
            if found:
                yield MailboxEntry(push_no, priority, size, found)


def app_of(transaction: Transaction, device_no: int) -> int:
    (app_no,) = transaction.execute("SELECT app_no FROM device WHERE no = ?", (device_no,)).fetchone()
    return int(app_no)


def pushes_waiting_for(transaction: Transaction, device_no: int) -> list[int]:
    """Numbers of the pushes that wait for a device in sets, the oldest first."""
    entries = mailbox_entries(transaction, [app_of(transaction, device_no)], BitMap([device_no]))
    return [entry.push_no for entry in entries]


def device_to_rows(transaction: Transaction, device_no: int, among: str) -> None:
    """Make rows of what waits for a device in sets, of the pushes that fit a condition. Writer thread."""
    waiting = pushes_waiting_for(transaction, device_no)
    if waiting:
        for (push_no,) in transaction.execute(
            f"SELECT no FROM push WHERE no IN (SELECT value FROM json_each(?)) AND {among}", (json.dumps(waiting),)
        ).fetchall():
            to_rows(transaction, push_no, BitMap([device_no]))


def devices_with_waiting(transaction: Transaction, app_no: int) -> BitMap:
    """The devices of an app for which something waits in sets."""
    return stored_devices(transaction, "SELECT devices FROM waiting_set WHERE app_no = ?", (app_no,))


def state_counts(transaction: Transaction, push_no: int) -> dict[int, int]:
    """Count the deliveries of a push that was stored as sets, by state; those in flight wait."""
    return dict(transaction.execute("SELECT state, count FROM delivery_count WHERE push_no = ?", (push_no,)).fetchall())


# -- keeping sets few: writer thread -----------------------------------------------------------------------------------


def sets_of_app(transaction: Transaction, app_no: int) -> tuple[int, int]:
    """Count the pushes of an app that wait in sets, and their bytes."""
    count, size = transaction.execute(
        "SELECT count(*), coalesce(sum(p.size), 0) FROM (SELECT DISTINCT push_no FROM waiting_set"
        " INDEXED BY waiting_set_of_app WHERE app_no = ?) AS w JOIN push AS p ON p.no = w.push_no",
        (app_no,),
    ).fetchone()
    return int(count), int(size)


def smallest_set(transaction: Transaction, app_no: int) -> int | None:
    """The push of an app that waits in sets for the fewest devices."""
    row = transaction.execute(
        "SELECT push_no FROM waiting_set INDEXED BY waiting_set_of_app WHERE app_no = ?"
        " GROUP BY push_no ORDER BY sum(count), push_no LIMIT 1",
        (app_no,),
    ).fetchone()
    return None if row is None else int(row[0])


def remnants(transaction: Transaction, push_nos: Collection[int]) -> set[int]:
    """Find the pushes among these that wait in sets for fewer than SET_DEVICES devices."""
    rows = transaction.execute(
        "SELECT push_no FROM waiting_set WHERE push_no IN (SELECT value FROM json_each(?))"
        " GROUP BY push_no HAVING sum(count) < ?",
        (json.dumps(list(push_nos)), SET_DEVICES),
    )
    return {push_no for (push_no,) in rows.fetchall()}


def some_to_rows(transaction: Transaction, push_no: int, count: int) -> tuple[list[int], int]:
    """Make rows of up to `count` of the devices for which a push waits in sets; which, and the push's bytes."""
    (size,) = transaction.execute("SELECT size FROM push WHERE no = ?", (push_no,)).fetchone()
    found: list[int] = []
    for _, _, waiting in _waiting_sets(transaction, push_no):
        some = waiting[: count - len(found)]
        to_rows(transaction, push_no, some)
        found += some
        if len(found) >= count:
            break
    return found, int(size)


def deep_mailboxes(transaction: Transaction, app_no: int) -> BitMap:
    """The devices of an app whose mailboxes are deep."""
    found = BitMap()
    for (blob,) in transaction.execute("SELECT devices FROM deep_mailbox WHERE app_no = ?", (app_no,)).fetchall():
        found |= unpack(blob)
    return found


def note_rows_made(transaction: Transaction, devices: BitMap) -> None:
    """Note which of these mailboxes are deep, now that rows were made of what waits and nobody has counted them."""
    for app_no, of_app in devices_by_app(transaction, devices):
        unknown = of_app - deep_mailboxes(transaction, app_no)
        (text,) = transaction.execute(
            "SELECT json_group_array(device_no) FROM (SELECT device_no FROM delivery INDEXED BY delivery_mailbox"
            f" WHERE state {IS_WAITING} AND device_no IN (SELECT value FROM json_each(?)) GROUP BY device_no"
            " HAVING count(*) >= ? OR sum(size) >= ?)",
            (listed(unknown), DEEP_DELIVERIES, DEEP_BYTES),
        ).fetchone()
        if deep := BitMap(json.loads(text)):
            note_deep_mailboxes(transaction, app_no, deep, BitMap())


def devices_by_app(transaction: Transaction, devices: BitMap) -> list[tuple[int, BitMap]]:
    """Divide devices by the app that they are of."""
    rows = transaction.execute(
        "SELECT app_no, json_group_array(no) FROM device WHERE no IN (SELECT value FROM json_each(?)) GROUP BY app_no",
        (listed(devices),),
    )
    return [(app_no, BitMap(json.loads(text))) for app_no, text in rows.fetchall()]


def note_deep_mailboxes(transaction: Transaction, app_no: int, deep: BitMap, shallow: BitMap) -> None:
    """Note mailboxes of an app that were counted as deep, and as not any more."""
    for segment, changed in segments_of(deep | shallow):
        key = app_no, segment
        row = transaction.execute("SELECT devices FROM deep_mailbox WHERE app_no = ? AND segment = ?", key).fetchone()
        before = BitMap() if row is None else unpack(row[0])
        after = (before | (deep & changed)) - shallow
        if after == before:
            continue
        if after:
            transaction.execute("INSERT OR REPLACE INTO deep_mailbox VALUES (?, ?, ?)", (*key, pack(after)))
        else:
            transaction.execute("DELETE FROM deep_mailbox WHERE app_no = ? AND segment = ?", key)
