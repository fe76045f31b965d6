"""A register of a million devices that differ, put into the ledger of a stopped server without a request for each.

Their values are arithmetic over their numbers, so that each run has the same devices: a thousand stores, eight models,
36 versions, six floors, five languages, four time zones, last seen within a month. The first ones are enrolled over
HTTP before, because they connect: they are all of the model that the benchmark's pushes are for, and want them.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from pyroaring import BitMap

from gateway.delivery_states import DeliveryState
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets, pack, segments_of, topic_set
from gateway.store.set_functions import add_set_functions
from tests.benchmarks.tools import CannotRun

APP_NO = 1
"""Of the app `default`, the first."""
MONTH_MS = 30 * 86_400_000
PUSH_ID = "earlier-push"
MODEL = "K3"
"""Of the devices that are connected, and of a tenth of the others."""


def _mixed(multiplier: int, most: int) -> str:
    """SQL of a number below `most` that depends on the device's number and on nothing else (Knuth's multiplication)."""
    return f"(((no * {multiplier} & 4294967295) >> 9) % {most})"


_ATTRIBUTES = f"""json_object(
  'model', CASE WHEN no <= :online OR {_mixed(2654435761, 10)} = 0 THEN '{MODEL}'
           ELSE 'K' || substr('12456788', 1 + {_mixed(2246822519, 8)}, 1) END,
  'version', (1 + {_mixed(3266489917, 3)}) || '.' || {_mixed(668265263, 12)},
  'floor', {_mixed(374761393, 6)},
  'store', {_mixed(2870177450, 1000)}
)"""
_VALUES = {
    "attributes": _ATTRIBUTES,
    "locale": f"CASE {_mixed(3266489909, 5)} WHEN 0 THEN 'it' WHEN 1 THEN 'es' WHEN 2 THEN 'fr' WHEN 3 THEN 'en'"
    " ELSE 'de' END",
    "timezone": f"CASE {_mixed(2246822507, 10)} WHEN 0 THEN 'UTC' WHEN 1 THEN 'Europe/Madrid' WHEN 2 THEN 'Europe/Rome'"
    " ELSE 'Europe/Berlin' END",
    "last_seen": f":now_ms - {_mixed(2654435769, MONTH_MS // 1000)} * 1000",
    "consent": f"CASE WHEN no <= :online OR {_mixed(2028178513, 100)} >= 10 THEN 'granted'"
    f" WHEN {_mixed(2028178513, 100)} < 2 THEN 'denied' ELSE 'unknown' END",
}
_TAGS = (f"'store-' || {_mixed(2870177450, 1000)}", f"CASE WHEN {_mixed(3432918353, 3)} THEN 'kiosk' ELSE 'till' END")
_TOPICS = {"news": f"{_mixed(461845907, 2)} = 0", "offers": f"{_mixed(1597334677, 10)} = 0"}
_IS_TARGET = f"{_mixed(3812015801, 10)} = 0"
"""The devices that had the earlier push: a tenth."""
_IS_OPENED = f"{_mixed(958689577, 5)} = 0"
"""Those among them that have opened it."""


def register(ledger: Path, devices: int, online: int) -> None:
    """Fill the ledger of a stopped server up to so many devices, and give all of them their values.

    The first `online` of them are there, and nothing else is.
    """
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        add_set_functions(connection)
        there, now_ms = connection.execute(
            "SELECT count(*), max(created_at) FROM device WHERE no <= ?", (online,)
        ).fetchone()
        if there != online:
            raise CannotRun(f"{there} of the {online} devices that were enrolled have the first numbers.")
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):  # nobody else has the file
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        _insert_devices(connection, devices, online, now_ms)
        _insert_members(connection, now_ms)
        _insert_push(connection, now_ms)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _insert_devices(connection: sqlite3.Connection, devices: int, online: int, now_ms: int) -> None:
    given = {"devices": devices, "online": online, "now_ms": now_ms}
    values = ", ".join(f"{column} = {value}" for column, value in _VALUES.items())
    connection.execute(f"UPDATE device SET {values} WHERE no <= :online", given)
    connection.execute(
        "WITH RECURSIVE n(no) AS (SELECT :online + 1 UNION ALL SELECT no + 1 FROM n WHERE no < :devices)"
        f" INSERT INTO device (no, app_no, id, name, token_hash, created_at, updated_at, {', '.join(_VALUES)})"
        f" SELECT no, {APP_NO}, 'shelf-' || no, 'Shelf ' || no, randomblob(32), :now_ms - {MONTH_MS}, :now_ms,"
        f" {', '.join(_VALUES.values())} FROM n",
        given,
    )
    add_to_sets(connection, APP_NO, {ALL_TAG: range(online + 1, devices + 1)})


def _insert_members(connection: sqlite3.Connection, now_ms: int) -> None:
    for tag in _TAGS:
        connection.execute(
            f"INSERT INTO device_tag (app_no, tag, device_no) SELECT {APP_NO}, {tag} AS tag, no FROM device"
            " ORDER BY tag, no"
        )
    for topic, condition in _TOPICS.items():
        connection.execute(
            "INSERT INTO device_topic (app_no, topic, device_no, joined_at)"
            f" SELECT {APP_NO}, ?, no, ? FROM device WHERE {condition}",
            (topic, now_ms),
        )
    for prefix, table, column in (("", "device_tag", "tag"), (topic_set(""), "device_topic", "topic")):
        for name, numbers in connection.execute(
            f"SELECT {column}, json_group_array(device_no) FROM {table} GROUP BY {column}"
        ).fetchall():
            add_to_sets(connection, APP_NO, {prefix + name: json.loads(numbers)})


def _insert_push(connection: sqlite3.Connection, now_ms: int) -> None:
    """Insert a push that a tenth of the devices had: acknowledged together, and opened by a fifth of them."""
    columns = (
        "id, app_no, kind, priority, qos, ttl, target, content, size, accepted_at, expires_at, closed_at, suppressed"
    )
    chosen = f"FROM device WHERE {_IS_TARGET}"
    (push_no,) = connection.execute(
        f"INSERT INTO push ({columns}, targeted, in_sets)"
        f" SELECT ?1, {APP_NO}, 'alert', 2, 1, 60, '{{\"all\":true}}', '{{}}', 2, ?2, ?2 + 60000, ?2 + 60000, 0,"
        f" count(*), 1 {chosen} RETURNING no",
        (PUSH_ID, now_ms - MONTH_MS // 10),
    ).fetchone()
    connection.execute(
        "INSERT INTO delivery (push_no, device_no, priority, size, state, delivered_at, opened_at, counted)"
        f" SELECT ?1, no, 2, 2, {DeliveryState.OPENED:d}, ?2, ?2, 1 {chosen} AND {_IS_OPENED}",
        (push_no, now_ms),
    )
    others = connection.execute(f"SELECT no {chosen} AND NOT ({_IS_OPENED})").fetchall()
    for segment, here in segments_of(BitMap([no for (no,) in others])):
        connection.execute(
            "INSERT INTO outcome_set (push_no, segment, state, qos, at, count, devices) VALUES (?, ?, ?, 1, ?, ?, ?)",
            (push_no, segment, int(DeliveryState.DELIVERED), now_ms, len(here), pack(here)),
        )
    (opened,) = connection.execute("SELECT count(*) FROM delivery WHERE push_no = ?", (push_no,)).fetchone()
    connection.executemany(
        "INSERT INTO delivery_count (push_no, state, count) VALUES (?, ?, ?)",
        [(push_no, int(DeliveryState.OPENED), opened), (push_no, int(DeliveryState.DELIVERED), len(others))],
    )
