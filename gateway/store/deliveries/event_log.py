"""The event log: events in the order of the disk, for webhooks and `GET /v1/events`.

Laws
1. An entry is stored by the operation that stores what happened: there is no event without its fact, and no fact
   without its event.
2. An entry is about one push and a set of devices, not about one delivery: a fan-out to ten thousand devices costs an
   entry for each group of acknowledgements, a few bytes for each device. It is unfolded when somebody reads.
   Devices that are an outcome set already (`delivery_sets`) are not written again: the entry names the set.
3. An event is a first time. So what logs is called before the statement that moves the rows, and chooses those that it
   will move (or, where the cost of that look counts, after it, with those that it has moved): an acknowledgement that
   comes twice is logged once.

An event's id is `<number of the entry>.<place in it>`, and the same for ever, so that who reads on after an id misses
nothing and sees nothing twice. Within an app numbers rise with the order of the commits.

Entries leave by age (`retention`) and by size (`event_log_quota`); what an app may have lost by that is remembered as
the last number that left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gateway.delivery_handles import DEVICE_MASK, by_push
from gateway.delivery_states import ENDS_A_RECEIPT_REVIVES, RECEIPT_STATES, DeliveryState
from gateway.pages import to_json
from gateway.store.deliveries.conditions import IS_WAITING, is_one_of
from gateway.store.numbers import last_number
from gateway.store.set_functions import DEVICES_JSON
from gateway.store.transaction import Rows, Transaction
from gateway.timestamps import rfc3339

ENDS = tuple(state for state in DeliveryState if state >= DeliveryState.EXPIRED)
DELIVERY_TYPES = ("delivery.sent", *(f"delivery.{name}" for name in (*RECEIPT_STATES, *(end.label for end in ENDS))))
CONNECTION_TYPES = ("device.connected", "device.disconnected")
DEVICE_TYPES = (
    *CONNECTION_TYPES, "device.settings", "device.uplink", "device.gap", "device.enrolled", "device.token_requested"
)  # fmt: skip
DUTY_TYPES = ("duty.escalated", "duty.acted", "duty.exhausted")
HEARTBEAT_TYPES = ("heartbeat.silent", "heartbeat.slow", "heartbeat.back", "sender.silent", "sender.back")
CAMPAIGN_TYPES = tuple(
    f"campaign.{name}"
    for name in (
        *("approval_needed", "approved", "started", "group_sent"),
        *("paused", "resumed", "completed", "aborted"),
    )
)
PLAN_TYPES = ("schedule.run",)
TYPES = (
    *DELIVERY_TYPES,
    *DEVICE_TYPES,
    *DUTY_TYPES,
    *HEARTBEAT_TYPES,
    *CAMPAIGN_TYPES,
    *PLAN_TYPES,
    "policy.critical",
    "channel.caps_adapted",
    "webhook.disabled",
)
"""Every type there is; `events.lost` stands in a reader's stream for what has left."""
PAGE_ENTRIES = 2_000
"""Entries that one read looks at."""
PAGE_BYTES = 1024 * 1024
"""Bytes of device messages in a page, about, beyond its first event: it has fewer events when they are large."""
ENTRY_DEVICES = 5_000
"""Devices of an entry at most: it is read as one."""
ENTRY_BYTES = 64
"""Size of an entry besides its text, with its place in the index, about."""
MEASURED_ENTRIES = 1_000
"""Entries that one look measures, about 1 ms of a reader unless they are large."""
END_OF_ENTRY = 2**53
"""A place after every other one."""


class Event(NamedTuple):
    """An event as it is sent: encoded once, on a reader, whoever it goes to."""

    id: str
    type: str
    timestamp: str
    json: bytes
    """`{"id", "type", "timestamp", "data"}`, as `docs/events.md` describes them."""


class Position(NamedTuple):
    """A position in the log: everything up to here has been read."""

    entry: int
    place: int = END_OF_ENTRY

    def __str__(self) -> str:
        return f"{self.entry}.{self.place}"


class EventPage(NamedTuple):
    """Events that one read found."""

    events: list[tuple[Position, Event]]
    position: Position
    """Position to read on from; later than the last event when what came after it is not wanted."""
    more: bool


def position_of(event_id: str) -> Position | None:
    """The position of an event that was read; `0` is before the first one. None for what is no id."""
    entry, dot, place = event_id.partition(".")
    if not (entry.isascii() and entry.isdigit() and len(entry) < 19):
        return None
    if not dot:
        return Position(int(entry))
    if not (place.isascii() and place.isdigit() and len(place) < 19):
        return None
    return Position(int(entry), min(int(place), END_OF_ENTRY))


# -- writing: inside the operation that stores what happened ----------------------------------------------------------

_HANDED_OVER_LATE = (*(set(ENDS_A_RECEIPT_REVIVES) - {DeliveryState.REFUSED}), DeliveryState.WAITING)
HANDED_OVER = is_one_of(*sorted(_HANDED_OVER_LATE))
"""The states out of which a delivery of QoS 0 becomes `sent`: it waited, or it was ended while it was handed over. What
was refused was not handed over: it was too large."""
_MOVED = {
    "delivery.sent": f"+d.state {HANDED_OVER}",
    **{f"delivery.{name}": f"d.{name}_at IS NULL AND +d.state < {DeliveryState.REVOKED:d}" for name in RECEIPT_STATES},
}
"""Deliveries that an event moves; `_WAITS` for every other one."""
_WAITS = f"+d.state {IS_WAITING}"
_ONE_BY_ONE = (
    "/* LATERAL (SELECT * FROM */ delivery /* AS o WHERE o.push_no = p.no AND o.device_no = x.value OFFSET 0) */"
)
"""Deliveries by their key. PostgreSQL takes a list for long before it has seen it, and would look at all deliveries of
the push instead, a thousand times if there are a thousand pushes."""
_INSERT = "INSERT INTO event (app_no, at, type, reason, push_no, devices, size)"


def log_deliveries(
    transaction: Transaction,
    event: str,
    at: int,
    deliveries: Iterable[tuple[int, list[int]]],
    reason: str | None = None,
) -> None:
    """Log an event of deliveries that will be moved now: (push number, device numbers) each. Writer thread."""
    event = f"delivery.{event}"
    transaction.execute(
        "WITH moved AS MATERIALIZED (SELECT p.app_no, p.no, (SELECT json_group_array(d.device_no)"
        f"  FROM json_each(w.value, '$[1]') AS x CROSS JOIN {_ONE_BY_ONE} AS d"
        "   ON d.push_no = p.no AND d.device_no = x.value"
        f"  WHERE {_MOVED.get(event, _WAITS)}) AS devices"
        "  FROM json_each(?4) AS w CROSS JOIN push AS p ON p.no = w.value ->> 0)"
        f" {_INSERT} SELECT app_no, ?1, ?2, ?3, no, devices, json_array_length(devices) FROM moved"
        " WHERE devices <> '[]'",
        (at, event, reason, json.dumps(list(deliveries))),
    )


def log_moved(
    transaction: Transaction, event: str, at: int, deliveries: Sequence[tuple[int, list[int]]]
) -> None:  # Hot path.
    """Log an event of deliveries that the statement before has moved; nothing is looked up again. Writer thread."""
    transaction.execute(
        f"{_INSERT} SELECT p.app_no, ?, ?, NULL, p.no, w.value -> 1, json_array_length(w.value, '$[1]')"
        " FROM json_each(?) AS w CROSS JOIN push AS p ON p.no = w.value ->> 0",
        (at, f"delivery.{event}", json.dumps(deliveries)),
    )


def log_outcome(
    transaction: Transaction,
    app_no: int,
    event: str,
    at: int,
    push_no: int,
    outcome_no: int,
    size: int,
    reason: str | None,
) -> None:  # Hot path.
    """Log an event of the devices of an outcome set, which have been moved by it. Writer thread."""
    transaction.execute(
        "INSERT INTO event (app_no, at, type, reason, push_no, outcome_no, size) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (app_no, at, f"delivery.{event}", reason, push_no, outcome_no, size),
    )


def log_handles(
    transaction: Transaction, event: str, at: int, handles: Iterable[int], reason: str | None = None
) -> None:
    """Log an event of deliveries that will be moved now, by their handles. Writer thread."""
    log_deliveries(transaction, event, at, by_push(handles).items(), reason)


def log_push(
    transaction: Transaction,
    app_no: int,
    event: str,
    at: int,
    push_no: int,
    reason: str,
    among: str,
    parameters: Sequence[Any],
) -> bool:
    """Log the end of all that wait of a push and fit a condition on `device_no`; whether there are any. Writer
    thread."""
    rows = transaction.execute(
        f"{_INSERT} SELECT ?, ?, ?, ?, ?, json_group_array(device_no), count(*) FROM"
        " (SELECT device_no, (row_number() OVER (ORDER BY device_no) - 1) / ? AS slice FROM delivery"
        f"  WHERE push_no = ? AND +state {IS_WAITING} AND {among}) GROUP BY slice",
        (app_no, at, f"delivery.{event}", reason, push_no, ENTRY_DEVICES, push_no, *parameters),
    )
    return rows.rowcount > 0


def log_of_device(transaction: Transaction, event: str, at: int, device_no: int, content: dict[str, Any] | str) -> None:
    """Log an event of a device that is no change of a state. Writer thread.

    `content` is the event's `data`, but for the device.
    """
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    transaction.execute(
        "INSERT INTO event (app_no, at, type, device_no, content, size)"
        " SELECT app_no, ?, ?, no, ?, 1 FROM device WHERE no = ?",
        (at, event, text, device_no),
    )


def log_connections(transaction: Transaction, event: str, at: int, app_no: int, items: list[list[Any]]) -> None:
    """Log an event of many devices of an app. Writer thread.

    `items`: (device number, time, the event's `data` but for the device) each.
    """
    transaction.execute(
        "INSERT INTO event (app_no, at, type, devices, size) VALUES (?, ?, ?, ?, ?)",
        (app_no, at, event, json.dumps(items, ensure_ascii=False), len(items)),
    )


def log_of_app(transaction: Transaction, event: str, at: int, app_no: int, content: dict[str, Any]) -> None:
    """Log an event of an app. Writer thread."""

    transaction.execute(
        "INSERT INTO event (app_no, at, type, content, size) VALUES (?, ?, ?, ?, 1)",
        (app_no, at, event, json.dumps(content, ensure_ascii=False)),
    )


def remove_events(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` of the oldest entries, if they are from before this time; how many. Writer thread."""
    (last,) = transaction.execute(
        "SELECT max(no) FROM (SELECT no, at FROM event ORDER BY no LIMIT ?) WHERE at <= ?", (count, before)
    ).fetchone()
    return 0 if last is None else remove_events_to(transaction, last)


def remove_events_of_app(transaction: Transaction, app_no: int, before: int, count: int) -> None:
    """Remove up to `count` of an app's oldest entries, if they are from before this time. Writer thread."""
    (last,) = transaction.execute(
        "SELECT max(no) FROM (SELECT no, at FROM event WHERE app_no = ? ORDER BY no LIMIT ?) WHERE at <= ?",
        (app_no, count, before),
    ).fetchone()
    if last is not None:
        remove_events_to(transaction, last, app_no)


def remove_events_to(transaction: Transaction, last: int, app_no: int | None = None) -> int:
    """Remove the entries up to this one, of an app or of all; how many. Writer thread."""
    among = "no <= ?1" if app_no is None else "no <= ?1 AND app_no = ?2"
    parameters = (last,) if app_no is None else (last, app_no)
    transaction.execute(
        "UPDATE application SET events_lost_to = lost.no, events_lost_place = lost.size - 1 FROM"
        " (SELECT app_no, no, size FROM event"
        f" WHERE no IN (SELECT max(no) FROM event WHERE {among} GROUP BY app_no)) AS lost"
        " WHERE application.no = lost.app_no",
        parameters,
    )
    return transaction.execute(f"DELETE FROM event WHERE {among}", parameters).rowcount


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class MeasuredEntries:
    """Consecutive entries of an app."""

    to: int
    """The number of the last one."""
    entries: int
    size: int
    """Bytes."""


class EventLogMeasurement(NamedTuple):
    """The size of what has been added to the log, and what has left it."""

    grown: dict[int, MeasuredEntries]
    """New entries by app."""
    seen: int
    """The number of the last entry that was measured."""
    more: bool
    removed: list[tuple[int, int]]
    """(app, up to which entry) of all apps that have lost some."""


def measure_entries(
    transaction: Transaction, after: int, size_bytes: int, horizon: int | None = None
) -> EventLogMeasurement:
    """Measure the entries behind this one, until they have so many bytes. Reader thread.

    `horizon`: the last that may be read, where several nodes write.
    """
    grown: dict[int, MeasuredEntries] = {}
    room, count = size_bytes, 0
    rows = transaction.execute(
        "SELECT no, app_no, ? + coalesce(length(CAST(content AS BLOB)), 0) + coalesce(length(devices), 0)"
        " FROM event WHERE no > ? AND no <= ? AND app_no > 0 ORDER BY no LIMIT ?",
        (ENTRY_BYTES, after, 2**62 if horizon is None else horizon, MEASURED_ENTRIES),
    )
    for no, app_no, size in rows:
        of_app = grown.setdefault(app_no, MeasuredEntries(no, 0, 0))
        of_app.to, of_app.entries, of_app.size = no, of_app.entries + 1, of_app.size + size
        after, room, count = no, room - size, count + 1
        if room <= 0:
            break
    rows.close()
    removed = transaction.execute("SELECT no, events_lost_to FROM application WHERE events_lost_to > 0").fetchall()
    return EventLogMeasurement(grown, after, count == MEASURED_ENTRIES or room <= 0, removed)


# -- reading -----------------------------------------------------------------------------------------------------------

_IN_ORDER = "/* ORDER BY 1, 2 */"
"""By entry and place. SQLite joins by loops, which have this order, and would sort for it all the same. PostgreSQL has
other ways to join, and is told (`postgresql/dialect`)."""
_DELIVERIES = (
    "SELECT e.no, x.key, e.type, e.at, p.id, v.id, p.channel, coalesce(e.reason, d.reason), d.action, d.result"
    " FROM json_each(?1) AS w CROSS JOIN event AS e ON e.no = w.value"
    f" CROSS JOIN json_each(coalesce(e.devices, (SELECT {DEVICES_JSON}(o.devices) FROM outcome_set AS o"
    "  WHERE o.no = e.outcome_no))) AS x CROSS JOIN push AS p ON p.no = e.push_no"
    " LEFT JOIN delivery AS d ON d.push_no = e.push_no AND d.device_no = x.value"
    " CROSS JOIN device AS v ON v.no = x.value"
    f" WHERE (e.no > ?2 OR x.key > ?3) AND x.value % ?4 = ?5 {_IN_ORDER} LIMIT ?6"
)
_CONNECTIONS = (
    "SELECT e.no, x.key, e.type, x.value ->> 1, v.id, x.value ->> 2"
    " FROM json_each(?1) AS w CROSS JOIN event AS e ON e.no = w.value"
    " CROSS JOIN json_each(e.devices) AS x CROSS JOIN device AS v ON v.no = x.value ->> 0"
    f" WHERE (e.no > ?2 OR x.key > ?3) AND v.no % ?4 = ?5 {_IN_ORDER} LIMIT ?6"
)
_OTHER = (
    "SELECT e.no, 0, e.type, e.at, v.id, e.content FROM json_each(?1) AS w CROSS JOIN event AS e ON e.no = w.value"
    " LEFT JOIN device AS v ON v.no = e.device_no"
    f" WHERE (e.no > ?2 OR 0 > ?3) AND coalesce(e.device_no, 0) % ?4 = ?5 {_IN_ORDER} LIMIT ?6"
)
_FORMS = dict.fromkeys(DELIVERY_TYPES, _DELIVERIES) | dict.fromkeys(CONNECTION_TYPES, _CONNECTIONS)
"""Statements that read the entries of a type."""


def read_events(
    transaction: Transaction,
    app_no: int,
    after: Position,
    limit: int,
    wanted: Callable[[str], bool],
    lane: int = 0,
    lanes: int = 1,
) -> EventPage:
    """Read the next events of an app, at most `limit`, and no more than memory has room for. Reader thread.

    `wanted` is asked for types. If there are several lanes, only the events of the devices of one.
    """
    entries = transaction.execute(
        "SELECT no, type, size FROM event WHERE app_no = ? AND no > ? ORDER BY no LIMIT ?",
        (app_no, after.entry - (after.place < END_OF_ENTRY), PAGE_ENTRIES),
    ).fetchall()
    forms: dict[str, list[int]] = {}
    room, last, more = limit * lanes, after.entry, False
    for no, event, size in entries:
        if room <= 0:
            more = True
            break
        last = no
        if wanted(event):
            forms.setdefault(_FORMS.get(event, _OTHER), []).append(no)
            room -= size
    more = more or len(entries) == PAGE_ENTRIES
    found: list[tuple[Position, Event]] = []
    end: Position | None = None
    for statement, numbers in forms.items():
        rows = transaction.execute(statement, (json.dumps(numbers), *after, lanes, lane, limit + 1))
        if statement is _OTHER:
            some, end = _with_room(rows)
            found += some
        else:
            found += map(_of_delivery if statement is _DELIVERIES else _other, rows.fetchall())
    found.sort(key=lambda event: event[0])
    whole = len(found)
    found = [event for event in found[:limit] if end is None or event[0] < end]
    if len(found) < whole or end is not None:
        return EventPage(found, found[-1][0], True)
    return EventPage(found, max(Position(last), after), more)


def events_of_device(transaction: Transaction, entry_no: int, event: str, device_no: int) -> list[Event]:
    """Read the events of an entry, which is of this type, that are about a device.

    One at most, but for what was logged twice. Reader thread.
    """
    statement = _FORMS.get(event, _OTHER)
    # Of as many lanes as there may be devices, a device has one.
    rows = transaction.execute(statement, (json.dumps([entry_no]), 0, -1, DEVICE_MASK + 1, device_no, 2)).fetchall()
    return [found for _, found in map(_of_delivery if statement is _DELIVERIES else _other, rows)]


def _with_room(rows: Rows) -> tuple[list[tuple[Position, Event]], Position | None]:
    """Read as many events as a page has room for, at least one, and the position of the next when there is one more."""
    found: list[tuple[Position, Event]] = []
    room = PAGE_BYTES
    for row in rows:
        size = len(row[-1])
        if found and size > room:
            rows.close()
            return found, Position(row[0], row[1])
        if found:
            room -= size
        found.append(_other(row))
    return found, None


def lost_before(transaction: Transaction, app_no: int, after: Position) -> Position | None:
    """The position to read on from, if events behind this one have left; None if none have.

    A position that has not been reached yet counts as lost too: the log is an older one than it was.
    """
    row = transaction.execute(
        "SELECT events_lost_to, events_lost_place FROM application WHERE no = ?", (app_no,)
    ).fetchone()
    lost = Position(*row) if row is not None else after
    if lost > after:
        return lost
    return last_position(transaction, app_no) if after > Position(last_number(transaction, "event")) else None


def last_position(transaction: Transaction, app_no: int) -> Position:
    """The position of an app's newest entry, also if it has left."""
    row = transaction.execute(
        "SELECT max(events_lost_to, coalesce((SELECT max(no) FROM event WHERE app_no = ?1), 0))"
        " FROM application WHERE no = ?1",
        (app_no,),
    ).fetchone()
    return Position(int(row[0]) if row is not None else 0)


def newest_entries(transaction: Transaction, apps: Collection[int]) -> dict[int, int]:
    """The number of the newest entry of each of these apps; 0 of one that has none. Reader thread."""
    rows = transaction.execute(
        "SELECT app.value, coalesce((SELECT max(no) FROM event WHERE app_no = app.value), 0) FROM json_each(?) AS app",
        (str(list(apps)),),
    )
    return dict(rows.fetchall())


def _of_delivery(row: Sequence[Any]) -> tuple[Position, Event]:
    no, place, event, at, push_id, device_id, channel, reason, action, result = row
    data = {"push_id": push_id, "device_id": device_id, "channel": channel, "reason": reason}
    if event == "delivery.acted":
        data |= {"action": action, "result": None if result is None else json.loads(result)}
    present = {name: value for name, value in data.items() if value is not None}
    position = Position(no, place)
    return position, make_event(position, event, at, to_json(present))


def _other(row: Sequence[Any]) -> tuple[Position, Event]:
    no, place, event, at, device_id, content = row
    data = content.encode(errors="replace")  # as it was stored: it may be a mebibyte, escaped
    if device_id is not None:
        data = to_json({"device_id": device_id})[:-1] + (b"}" if data == b"{}" else b"," + data[1:])
    position = Position(no, place)
    return position, make_event(position, event, at, data)


def make_event(position: Position, event: str, at: int, data: bytes) -> Event:
    """Encode an event; `data` is JSON."""
    timestamp = rfc3339(at)
    head = to_json({"id": str(position), "type": event, "timestamp": timestamp})[:-1]
    return Event(str(position), event, timestamp, b'%b,"data":%b}' % (head, data))
