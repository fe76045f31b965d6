"""The rows of devices: ids become numbers, and numbers ids; and what devices do.

Listed devices are looked up by id, so that the cost follows the devices addressed and not those registered, and unknown
ones can be named. The way back, from numbers to ids, is for a few devices that a person is shown.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pyroaring import BitMap

from gateway.device_topics import DEFAULT_APP
from gateway.store.audience.device_sets import queried_devices
from gateway.store.transaction import Transaction

EXAMPLE_DEVICES = 5
"""Devices that are named beside a count: enough to notice a mistake."""


class DeviceOfApp(NamedTuple):
    """The numbers of a device and of its app."""

    device_no: int
    app_no: int


def device_of_app(transaction: Transaction, app_id: str, device_id: str) -> DeviceOfApp | None:
    """Return the live device of this id in the app of that id; None if there is none."""
    row = transaction.execute(
        "SELECT d.no, a.no FROM application AS a CROSS JOIN device AS d"
        " ON d.app_no = a.no AND d.id = ? AND d.removed_at IS NULL WHERE a.id = ?",
        (device_id, app_id),
    ).fetchone()
    return None if row is None else DeviceOfApp(*row)


def last_device_of_id(transaction: Transaction, app_no: int, device_id: str) -> int | None:
    """Return the number of the device that has an id, or had it last; None if its row has gone too, or never was."""
    row = transaction.execute(
        "SELECT no FROM device WHERE app_no = ? AND id = ? ORDER BY no DESC LIMIT 1", (app_no, device_id)
    ).fetchone()
    return None if row is None else int(row[0])


def device_id_of(transaction: Transaction, device_no: int) -> str:
    """Return the id of a device, whose row must be there."""
    (device_id,) = transaction.execute("SELECT id FROM device WHERE no = ?", (device_no,)).fetchone()
    return str(device_id)


def count_devices(transaction: Transaction) -> dict[int, int]:
    """Count the live devices of each app that has any, all rows of the table."""
    return dict(
        transaction.execute("SELECT app_no, count(*) FROM device WHERE removed_at IS NULL GROUP BY app_no").fetchall()
    )


def device_rows(transaction: Transaction, app_no: int, device_ids: Sequence[str]) -> dict[str, int]:
    """Numbers of the live devices among the ids, in no particular order."""
    (text,) = transaction.execute(
        # One row, because each is a pass of the interpreter lock.
        # CROSS: in this order. Left alone, SQLite walks all devices of the app and the list for each of them.
        "SELECT json_group_object(d.id, d.no) FROM json_each(?) AS wanted CROSS JOIN device AS d"
        " ON d.app_no = ? AND d.id = wanted.value AND d.removed_at IS NULL",
        (json.dumps(device_ids), app_no),
    ).fetchone()
    found: dict[str, int] = json.loads(text)
    return found


def device_ids(transaction: Transaction, devices: BitMap, count: int = EXAMPLE_DEVICES) -> list[str]:
    """The ids of the first devices among these."""
    (text,) = transaction.execute(
        "SELECT json_group_array(d.id) FROM json_each(?) AS w CROSS JOIN device AS d ON d.no = w.value",
        (str(devices[:count].to_array().tolist()),),
    ).fetchone()
    found: list[str] = json.loads(text)
    return found


def tags_among(transaction: Transaction, devices: Collection[int], tags: Iterable[str]) -> list[tuple[int, str]]:
    """Find which of these tags devices have: (device number, tag) each."""
    return transaction.execute(
        "SELECT t.device_no, t.tag FROM json_each(?) AS wanted CROSS JOIN device_tag AS t"
        " ON t.device_no = wanted.value WHERE t.tag IN (SELECT value FROM json_each(?))",
        (json.dumps(list(devices)), json.dumps(list(tags))),
    ).fetchall()


# -- what they do ------------------------------------------------------------------------------------------------------


def store_activity(
    transaction: Transaction,
    connected: Mapping[int, int],
    seen: Mapping[int, int],
    errors: Sequence[tuple[str, int, int]],
) -> None:
    """Store when devices connected and were seen, by number (ms), and (error, time, device number) each. Writer
    thread."""
    for column, facts in (("connected_at", connected), ("last_seen", seen)):
        if facts:
            transaction.execute(
                f"UPDATE device SET {column} = fact.value FROM json_each(?) AS fact WHERE device.no = fact.key + 0",
                (json.dumps(facts),),
            )
    if errors:
        transaction.executemany("UPDATE device SET last_error = ?, last_error_at = ? WHERE no = ?", errors)


def principals_without_device(transaction: Transaction, principals: Sequence[str]) -> list[str]:
    """Find the principals (`ID` in the default app, `APP/ID` in others) of which there is no live device."""
    rows = transaction.execute(
        "SELECT session.value FROM json_each(?1) AS session WHERE NOT EXISTS ("
        " SELECT 1 FROM device AS d JOIN application AS a ON a.no = d.app_no WHERE d.removed_at IS NULL"
        " AND d.id = substr(session.value, instr(session.value, '/') + 1) AND a.id ="
        " iif(instr(session.value, '/') > 0, substr(session.value, 1, instr(session.value, '/') - 1), ?2))",
        (json.dumps(principals), DEFAULT_APP),
    )
    return [principal for (principal,) in rows]


def live_device_ids(transaction: Transaction, numbers: Sequence[int]) -> list[tuple[int, str]]:
    """The live devices among these, in order: (number, id) each."""
    return transaction.execute(
        "SELECT v.no, v.id FROM json_each(?) AS x CROSS JOIN device AS v ON v.no = x.value AND v.removed_at IS NULL",
        (json.dumps(list(numbers)),),
    ).fetchall()


def removed_or_not(transaction: Transaction, numbers: Sequence[int]) -> Iterator[tuple[int, str, bool]]:
    """Read these devices, in order: (number, id, whether it was removed) each."""
    rows = transaction.execute(
        "SELECT d.no, d.id, d.removed_at IS NOT NULL FROM json_each(?) AS w"
        " CROSS JOIN device AS d ON d.no = w.value ORDER BY w.key",
        (json.dumps(list(numbers)),),
    )
    return ((number, device_id, bool(removed)) for number, device_id, removed in rows)


def ids_of_numbers(transaction: Transaction, numbers: Sequence[int]) -> tuple[list[int], list[str]]:
    """Read the ids of these devices, in no particular order: their numbers again, and an id for each."""
    found, ids = transaction.execute(  # two flat lists: thousands of small ones would wake the garbage collector
        "SELECT json_group_array(d.no), json_group_array(d.id) FROM json_each(?) AS w"
        " CROSS JOIN device AS d ON d.no = w.value",
        (json.dumps(list(numbers)),),
    ).fetchone()
    return json.loads(found), json.loads(ids)


_IN_ZONES = "INDEXED BY device_zone WHERE app_no = ?1 AND timezone IS NOT NULL AND removed_at IS NULL"


def reported_zones(transaction: Transaction, app_no: int) -> list[str]:
    """Names of time zones that devices of an app have reported: a look at the index for each, not for each device."""
    rows = transaction.execute(
        f"WITH RECURSIVE zone (name) AS (SELECT min(timezone) FROM device {_IN_ZONES} UNION ALL"
        f" SELECT (SELECT min(timezone) FROM device {_IN_ZONES} AND timezone > zone.name) FROM zone"
        " WHERE zone.name IS NOT NULL) SELECT name FROM zone WHERE name IS NOT NULL",
        (app_no,),
    )
    return [name for (name,) in rows.fetchall()]


def devices_in_zone(transaction: Transaction, app_no: int, zone: str) -> BitMap:
    """The live devices of an app that have reported a time zone."""
    return queried_devices(transaction, f"SELECT no FROM device {_IN_ZONES} AND timezone = ?2", (app_no, zone))
