"""The tables of a stored broker: the statements of one group commit, and the way back to sessions at start.

Three things stay apart: `Group`, the changes since the last commit, collected on the *loop* without any SQL; `apply`,
the same as statements, on the *writer thread*; `restore`, the way back at start.

Laws
1. A group has the last state of each row that changed, not the way there: a transaction shows no state between, and
   a message that was queued and acknowledged within one group never touches the disk.
2. Statements work on sets. A table's rows go to SQLite as one JSON array, and their payloads as one blob, so that the
   work is done in C with the interpreter lock released. A tuple bound per row would fight for that lock per row.
3. Server times are whole microseconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from broker.group_commit import Group, SessionChanges
from broker.packet_ids import LAST_PACKET_ID
from broker.store import PublishedWill, StoredOutbound, StoredSession, StoredState, StoredSubscription, StoredWill
from broker.stored_values import (
    body_columns,
    message_columns,
    message_of,
    microseconds,
    optional_microseconds,
    optional_seconds,
)

SCHEMA_VERSION = 4
ROWS_PER_STATEMENT = 500
"""Building the JSON array holds the interpreter lock: about 0.3 ms for this many rows."""
BYTES_PER_STATEMENT = 8 * 1024 * 1024
"""Payload bytes copied into one blob; far below SQLite's limit of 1 GB."""

SCHEMA = """
CREATE TABLE session (
    client_id TEXT PRIMARY KEY, principal TEXT NOT NULL, expiry_interval INTEGER NOT NULL, expires_at INTEGER,
    will_topic TEXT, will_payload BLOB, will_qos INTEGER, will_retain INTEGER, will_properties TEXT,
    will_expires_at INTEGER, will_due_at INTEGER, will_delay INTEGER, number INTEGER NOT NULL DEFAULT 0,
    will_number INTEGER
) WITHOUT ROWID;
CREATE TABLE subscription (
    client_id TEXT, topic_filter TEXT, qos INTEGER NOT NULL, no_local INTEGER NOT NULL,
    retain_as_published INTEGER NOT NULL, retain_handling INTEGER NOT NULL, subscription_identifier INTEGER,
    PRIMARY KEY (client_id, topic_filter)
) WITHOUT ROWID;
CREATE TABLE outbound (
    client_id TEXT, sequence INTEGER, message_key INTEGER, handle INTEGER, qos INTEGER NOT NULL,
    packet_id INTEGER NOT NULL, released INTEGER NOT NULL, retain INTEGER NOT NULL, subscription_identifiers TEXT,
    PRIMARY KEY (client_id, sequence)
) WITHOUT ROWID;
CREATE TABLE received (
    client_id TEXT, packet_id INTEGER, stored INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (client_id, packet_id)
) WITHOUT ROWID;
CREATE TABLE message (
    message_key INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL,
    retain INTEGER NOT NULL, properties TEXT, expires_at INTEGER
);
CREATE TABLE retained (
    topic TEXT PRIMARY KEY, payload BLOB NOT NULL, qos INTEGER NOT NULL, properties TEXT, expires_at INTEGER
);
CREATE TABLE published_will (
    number INTEGER PRIMARY KEY, client_id TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL,
    qos INTEGER NOT NULL, retain INTEGER NOT NULL, properties TEXT, expires_at INTEGER
);
CREATE TABLE server (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1), time INTEGER NOT NULL, next_packet_id INTEGER NOT NULL DEFAULT 1
);
"""
UPGRADES = {
    # Every run of that version started with 1: far from identifiers that clients may acknowledge, also if it is a copy
    # of an earlier time (`void_sessions`).
    1: f"""
ALTER TABLE server ADD COLUMN next_packet_id INTEGER NOT NULL DEFAULT 1;
INSERT INTO server (only_row, time, next_packet_id) VALUES (1, 0, {LAST_PACKET_ID // 4})
    ON CONFLICT DO UPDATE SET next_packet_id = excluded.next_packet_id;
""",
    2: """
ALTER TABLE session ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN will_number INTEGER;
UPDATE session SET number = numbered.number
    FROM (SELECT client_id, row_number() OVER () AS number FROM session) AS numbered
    WHERE session.client_id = numbered.client_id;
CREATE TABLE published_will (
    number INTEGER PRIMARY KEY, client_id TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL,
    qos INTEGER NOT NULL, retain INTEGER NOT NULL, properties TEXT, expires_at INTEGER
);
""",
    # The version that stored these did not tell the embedder the identifier: asked again, it would store them again.
    3: "ALTER TABLE received ADD COLUMN stored INTEGER NOT NULL DEFAULT 0; UPDATE received SET stored = 1;",
}
"""Statements that make the next schema version, by the version of the file."""


# -- writing -----------------------------------------------------------------------------------------------------------


def apply(connection: sqlite3.Connection, group: Group) -> None:
    """Write a group, deletions first: a session that was deleted and made again within it starts empty.

    Runs on the *writer thread*.
    """
    _apply_sessions(connection, group.sessions)
    messages = group.messages.items()
    gone = [[key] for key, message in messages if message is None]
    _run(connection, "DELETE FROM message WHERE message_key IN (SELECT {0} FROM json_each(?1))", gone)
    _run_with_payloads(
        connection,
        "INSERT OR REPLACE INTO message (message_key, topic, qos, retain, properties, expires_at, payload)"
        " SELECT {0}, {1}, {2}, {3}, {4}, {5}, {payload} FROM json_each(?1)",
        [
            ([key, message.topic, message.qos, int(message.retain), *body_columns(message.body)], message.body.payload)
            for key, message in messages
            if message is not None
        ],
    )
    retained = group.retained.items()
    gone_topics = [[topic] for topic, message in retained if message is None]
    _run(connection, "DELETE FROM retained WHERE topic IN (SELECT {0} FROM json_each(?1))", gone_topics)
    _run_with_payloads(
        connection,
        "INSERT OR REPLACE INTO retained (topic, qos, properties, expires_at, payload)"
        " SELECT {0}, {1}, {2}, {3}, {payload} FROM json_each(?1)",
        [
            ([topic, message.qos, *body_columns(message.body)], message.body.payload)
            for topic, message in retained
            if message is not None
        ],
    )
    reported = [[number] for number, will in group.wills.items() if will is None]
    _run(connection, "DELETE FROM published_will WHERE number IN (SELECT {0} FROM json_each(?1))", reported)
    _run_with_payloads(
        connection,
        "INSERT OR REPLACE INTO published_will (number, client_id, topic, qos, retain, properties, expires_at, payload)"
        " SELECT {0}, {1}, {2}, {3}, {4}, {5}, {6}, {payload} FROM json_each(?1)",
        [
            ((number, will.client_id, *message_columns(will.message)), will.message.body.payload)
            for number, will in group.wills.items()
            if will is not None
        ],
    )
    if group.time is not None:
        connection.execute(
            "INSERT INTO server (only_row, time) VALUES (1, ?) ON CONFLICT DO UPDATE SET time = excluded.time",
            (microseconds(group.time),),
        )
    if group.next_packet_id is not None:
        set_next_packet_id(connection, group.next_packet_id)


def set_next_packet_id(connection: sqlite3.Connection, packet_id: int) -> None:
    connection.execute(
        "INSERT INTO server (only_row, time, next_packet_id) VALUES (1, 0, ?)"
        " ON CONFLICT DO UPDATE SET next_packet_id = excluded.next_packet_id",
        (packet_id,),
    )


def next_packet_id(connection: sqlite3.Connection) -> int:
    """Return the first packet identifier of the next run."""
    row = connection.execute("SELECT next_packet_id FROM server").fetchone()
    return 1 if row is None else int(row[0])


def void_sessions(connection: sqlite3.Connection) -> None:
    """Delete every session, and move the packet identifiers away from those of the runs since the backup."""
    connection.execute("BEGIN IMMEDIATE")
    for table in ("session", "subscription", "outbound", "received", "message"):
        connection.execute(f"DELETE FROM {table}")
    set_next_packet_id(connection, (next_packet_id(connection) + LAST_PACKET_ID // 2) % LAST_PACKET_ID + 1)
    connection.execute("COMMIT")


def _apply_sessions(connection: sqlite3.Connection, sessions: dict[str, SessionChanges]) -> None:
    wiped = [[client_id] for client_id, changes in sessions.items() if changes.wiped]
    for table in ("session", "subscription", "outbound", "received"):
        _run(connection, f"DELETE FROM {table} WHERE client_id IN (SELECT {{0}} FROM json_each(?1))", wiped)

    gone: list[Sequence[object]] = []
    rows: list[Sequence[object]] = []
    for client_id, changes in sessions.items():
        for topic_filter, subscription in changes.subscriptions.items():
            if subscription is not None:
                options = (subscription.no_local, subscription.retain_as_published, subscription.retain_handling)
                identifier = subscription.subscription_identifier
                rows.append((client_id, topic_filter, subscription.qos, *map(int, options), identifier))
            elif not changes.wiped:
                gone.append((client_id, topic_filter))
    _run(connection, _DELETE_PAIRS.format("subscription", "topic_filter", "TEXT"), gone)
    _run(
        connection,
        "INSERT OR REPLACE INTO subscription SELECT {0}, {1}, {2}, {3}, {4}, {5}, {6} FROM json_each(?1)",
        rows,
    )

    gone, rows = [], []
    for client_id, changes in sessions.items():
        for sequence, row in changes.outbound.items():
            if row is not None:
                identifiers = json.dumps(row.subscription_identifiers) if row.subscription_identifiers else None
                flags = (row.qos, row.packet_id, int(row.released), int(row.retain))
                rows.append((client_id, sequence, row.message_key, row.handle, *flags, identifiers))
            elif not changes.wiped:
                gone.append((client_id, sequence))
    _run(connection, _DELETE_PAIRS.format("outbound", "sequence", "INTEGER"), gone)
    _run(
        connection,
        "INSERT OR REPLACE INTO outbound SELECT {0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8} FROM json_each(?1)",
        rows,
    )

    gone, rows = [], []
    for client_id, changes in sessions.items():
        for packet_id, present in changes.received.items():
            if present:
                rows.append((client_id, packet_id))
            elif not changes.wiped:
                gone.append((client_id, packet_id))
    _run(connection, _DELETE_PAIRS.format("received", "packet_id", "INTEGER"), gone)
    _run(connection, "INSERT OR REPLACE INTO received (client_id, packet_id) SELECT {0}, {1} FROM json_each(?1)", rows)

    rows = []
    saved: list[tuple[Sequence[object], bytes]] = []
    for client_id, changes in sessions.items():
        if changes.session is None:
            continue
        session, will = changes.session, changes.session.will
        expires_at = optional_microseconds(session.expires_at)
        own = (client_id, session.principal, session.expiry_interval, expires_at, session.number)
        if will is None:
            rows.append(own)
        else:
            times = (optional_microseconds(will.due_at), will.delay, will.number)
            saved.append(((*own, *message_columns(will.message), *times), will.message.body.payload))
    # Without a will, as most: the other columns become null.
    _run(
        connection,
        "INSERT OR REPLACE INTO session (client_id, principal, expiry_interval, expires_at, number)"
        " SELECT {0}, {1}, {2}, {3}, {4} FROM json_each(?1)",
        rows,
    )
    _run_with_payloads(
        connection,
        "INSERT OR REPLACE INTO session (client_id, principal, expiry_interval, expires_at, number, will_topic,"
        " will_qos, will_retain, will_properties, will_expires_at, will_due_at, will_delay, will_number, will_payload)"
        " SELECT {0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {payload} FROM json_each(?1)",
        saved,
    )


_DELETE_PAIRS = (
    # Without the casts SQLite does not know the types and would search by the first column alone.
    "DELETE FROM {0} WHERE (client_id, {1}) IN (SELECT CAST({{0}} AS TEXT), CAST({{1}} AS {2}) FROM json_each(?1))"
)
_COLUMNS = [f"json_extract(value, '$[{column}]')" for column in range(16)]
"""`{3}` in a statement: the fourth element of a row in the JSON array `?1`."""


def _run(connection: sqlite3.Connection, statement: str, rows: list[Sequence[object]] | list[list[Any]]) -> None:
    if rows:
        sql = statement.format(*_COLUMNS)
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            connection.execute(sql, (json.dumps(rows[start : start + ROWS_PER_STATEMENT]),))


def _run_with_payloads(
    connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Sequence[object], bytes]]
) -> None:
    """Run a statement for rows with payloads.

    `{payload}` in it is the row's slice of the blob `?2`, whose place and length are the row's last two elements.
    """
    if not rows:
        return
    width = len(rows[0][0])
    payload = f"coalesce(substr(?2, {_COLUMNS[width]}, {_COLUMNS[width + 1]}), x'')"
    sql = statement.format(*_COLUMNS, payload=payload)
    for batch in _batches(rows):
        array, place = [], 1
        for row, content in batch:
            array.append((*row, place, len(content)))
            place += len(content)
        connection.execute(sql, (json.dumps(array), b"".join(content for _, content in batch)))


def _batches(
    rows: Sequence[tuple[Sequence[object], bytes]],
) -> Iterator[list[tuple[Sequence[object], bytes]]]:
    batch: list[tuple[Sequence[object], bytes]] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == ROWS_PER_STATEMENT or size + len(row[1]) > BYTES_PER_STATEMENT):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row[1])
    yield batch


# -- reading -----------------------------------------------------------------------------------------------------------


def restore(connection: sqlite3.Connection) -> StoredState:
    """Read everything stored."""
    sessions: dict[str, StoredSession] = {}
    for row in connection.execute(
        "SELECT client_id, principal, expiry_interval, expires_at, will_topic, will_payload, will_qos, will_retain,"
        " will_properties, will_expires_at, will_due_at, will_delay, will_number, number FROM session"
    ):
        client_id, principal, expiry_interval, expires_at = row[:4]
        will = None
        if row[4] is not None:
            topic, payload, qos, retain, properties, will_expires_at, due_at, delay, will_number = row[4:13]
            message = message_of(topic, payload, qos, retain, properties, will_expires_at)
            will = StoredWill(message, optional_seconds(due_at), delay, will_number or 0)
        sessions[client_id] = StoredSession(
            client_id, principal, expiry_interval, optional_seconds(expires_at), will=will, number=row[13]
        )
    for client_id, topic_filter, qos, no_local, as_published, handling, identifier in connection.execute(
        "SELECT * FROM subscription"
    ):
        if client_id in sessions:
            sessions[client_id].subscriptions.append(
                StoredSubscription(topic_filter, qos, bool(no_local), bool(as_published), handling, identifier)
            )
    for client_id, sequence, key, handle, qos, packet_id, released, retain, identifiers in connection.execute(
        "SELECT * FROM outbound ORDER BY client_id, sequence"
    ):
        if client_id in sessions:
            matched = () if identifiers is None else tuple(json.loads(identifiers))
            sessions[client_id].outbound.append(
                StoredOutbound(sequence, key, handle, qos, packet_id, bool(released), bool(retain), matched)
            )
    for client_id, packet_id, stored in connection.execute("SELECT client_id, packet_id, stored FROM received"):
        if client_id in sessions:
            sessions[client_id].received.append(packet_id)
            if stored:
                sessions[client_id].stored.add(packet_id)
    messages = {
        key: message_of(*columns)
        for key, *columns in connection.execute(
            "SELECT message_key, topic, payload, qos, retain, properties, expires_at FROM message"
        )
    }
    retained = [
        message_of(topic, payload, qos, 1, properties, expires_at)
        for topic, payload, qos, properties, expires_at in connection.execute("SELECT * FROM retained")
    ]
    wills = [
        PublishedWill(number, client_id, message_of(*columns))
        for number, client_id, *columns in connection.execute("SELECT * FROM published_will ORDER BY number")
    ]
    return StoredState(list(sessions.values()), messages, retained, wills)
