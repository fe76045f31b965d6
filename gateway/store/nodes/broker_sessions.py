"""MQTT sessions of all nodes, as rows: what a group of a broker's changes does to them, and the way back into memory.

Laws
1. A session is in the memory of the node that its row names, as long as that epoch lives. Any other node may load it
   when the row names none, or an epoch that has ended; then the row names that node, in the same transaction.
2. A group is stored under the epoch of its node (`require_epoch`, its last statement), or not at all.
3. A group may be written twice: it has the last state of each row.

Rows go to PostgreSQL as one JSON array for each statement, so that the work is done there and not under the interpreter
lock. Server times are whole microseconds. PostgreSQL only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from broker.group_commit import Group, SessionChanges
from broker.message import Message
from broker.packet_ids import LAST_PACKET_ID
from broker.settings import NEVER_EXPIRES
from broker.store import PublishedWill, StoredOutbound, StoredSession, StoredState, StoredSubscription, StoredWill
from broker.stored_values import message_columns, message_of, optional_microseconds, optional_seconds
from gateway.store.transaction import Transaction

T = TypeVar("T")

SESSION_NUMBERS: Final = 1 << 20
"""Numbers that a node draws together. There are 2^27 such draws before a number has more than 47 bits."""
SLICE_SESSIONS: Final = 2_000
"""Sessions that one statement takes over from a node that has ended."""
SLICE_WILLS: Final = 100
"""Wills that one statement takes over; each may have a payload."""


@dataclass(slots=True, frozen=True)
class LoadedSessions:
    """Sessions that this node has in memory from now on."""

    state: StoredState
    interrupted: frozenset[str]
    """Clients whose node has ended with the session in its memory: what was in flight with QoS 1 is not in `state`."""
    elsewhere: frozenset[str]
    """Clients whose session a live node has in its memory, and which are not in `state`."""


class SharedSessionStore(Protocol):
    """The store of a node's broker, as far as loading goes. Called on the *loop*."""

    def run(self, operation: Callable[[Transaction], T], on_done: Callable[[T], None]) -> None:
        """Run an operation behind all changes so far, and call back when it is committed."""

    def load(self, client_ids: Iterable[str], on_loaded: Callable[[LoadedSessions], None]) -> None:
        """Load sessions for `Broker.adopt`."""


# -- writing -----------------------------------------------------------------------------------------------------------


def require_epoch(transaction: Transaction, no: int, epoch: int) -> bool:
    """Keep the epoch of a node from being ended before this transaction; False if it has ended.

    Groups of the ledger, which count in the same row, do not wait for this, nor this for them.
    """
    found = transaction.execute(
        "SELECT 1 FROM node WHERE no = ? AND epoch = ? AND ended_at IS NULL FOR KEY SHARE", (no, epoch)
    )
    return found.fetchone() is not None


def apply_group(transaction: Transaction, group: Group, no: int, epoch: int) -> None:
    """Write a group of changes of the node, deletions first."""
    sessions = group.sessions
    wiped = sorted(client_id for client_id, changes in sessions.items() if changes.wiped)
    if wiped:
        # Not what another node has in memory: it hears of a removed device itself, or has the next one of its name.
        transaction.execute(
            "DELETE FROM mqtt_session AS s WHERE s.client_id = ANY(?::text[]) AND (s.node_no IS NULL"
            " OR (s.node_no = ? AND s.node_epoch = ?) OR NOT is_live(s.node_no, s.node_epoch))",
            (wiped, no, epoch),
        )
        for table in ("mqtt_subscription", "mqtt_outbound", "mqtt_received"):
            transaction.execute(
                f"DELETE FROM {table} AS t WHERE t.client_id = ANY(?::text[])"
                " AND NOT EXISTS (SELECT 1 FROM mqtt_session AS s WHERE s.client_id = t.client_id)",
                (wiped,),
            )
    _apply_facts(transaction, sessions, no, epoch)
    _apply_subscriptions(transaction, sessions)
    _apply_outbound(transaction, sessions, group.messages)
    _apply_received(transaction, sessions)
    _apply_wills(transaction, group.wills, no, epoch)
    if group.released:
        transaction.execute(
            "UPDATE mqtt_session SET node_no = NULL, node_epoch = NULL WHERE client_id = ANY(?::text[])"
            " AND node_no = ? AND node_epoch = ?",
            (sorted(group.released), no, epoch),
        )


def _apply_facts(transaction: Transaction, sessions: dict[str, SessionChanges], no: int, epoch: int) -> None:
    rows = []
    for client_id, changes in sessions.items():
        session = changes.session
        if session is None:
            continue
        row: dict[str, Any] = {
            "client_id": client_id,
            "principal": session.principal,
            "expiry_interval": session.expiry_interval,
            "expires_at": optional_microseconds(session.expires_at),
            "number": session.number,
        }
        will = session.will
        if will is not None:
            row |= _message_row(will.message, "will_")
            row |= {"will_due_at": optional_microseconds(will.due_at), "will_delay": will.delay}
            row["will_number"] = will.number
        rows.append(row)
    _upsert(transaction, "mqtt_session", _SESSION_COLUMNS, ("client_id",), rows, {"node_no": no, "node_epoch": epoch})


def _apply_subscriptions(transaction: Transaction, sessions: dict[str, SessionChanges]) -> None:
    rows, gone = [], []
    for client_id, changes in sessions.items():
        for topic_filter, subscription in changes.subscriptions.items():
            if subscription is None:
                gone.append({"client_id": client_id, "topic_filter": topic_filter})
                continue
            rows.append(subscription_row(client_id, subscription))
    _delete(transaction, "mqtt_subscription", {"client_id": "text", "topic_filter": "text"}, gone)
    _upsert(transaction, "mqtt_subscription", SUBSCRIPTION_COLUMNS, ("client_id", "topic_filter"), rows)


def _apply_outbound(
    transaction: Transaction, sessions: dict[str, SessionChanges], messages: dict[int, Message | None]
) -> None:
    rows, gone = [], []
    for client_id, changes in sessions.items():
        for sequence, outbound in changes.outbound.items():
            key: dict[str, Any] = {"client_id": client_id, "sequence": sequence}
            if outbound is None:
                gone.append(key)
                continue
            identifiers = outbound.subscription_identifiers
            row = key | {
                "handle": outbound.handle,
                "qos": outbound.qos,
                "packet_id": outbound.packet_id,
                "released": int(outbound.released),
                "retain": int(outbound.retain),
                "subscription_identifiers": json.dumps(identifiers) if identifiers else None,
            }
            if outbound.message_key is not None:
                message = messages[outbound.message_key]
                assert message is not None, "the group has the message of each row"
                columns = _message_row(message, "")
                row |= columns | {"message_qos": columns["qos"], "message_retain": columns["retain"]}
                row |= {"qos": outbound.qos, "retain": int(outbound.retain)}
            rows.append(row)
    _delete(transaction, "mqtt_outbound", {"client_id": "text", "sequence": "bigint"}, gone)
    _upsert(transaction, "mqtt_outbound", _OUTBOUND_COLUMNS, ("client_id", "sequence"), rows)


def _apply_received(transaction: Transaction, sessions: dict[str, SessionChanges]) -> None:
    rows: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    for client_id, changes in sessions.items():
        for packet_id, is_present in changes.received.items():
            (rows if is_present else gone).append({"client_id": client_id, "packet_id": packet_id})
    key = {"client_id": "text", "packet_id": "integer"}
    _delete(transaction, "mqtt_received", key, gone)
    _upsert(transaction, "mqtt_received", key, tuple(key), rows)


def _apply_wills(transaction: Transaction, wills: dict[int, PublishedWill | None], no: int, epoch: int) -> None:
    gone = [number for number, will in wills.items() if will is None]
    if gone:
        transaction.execute("DELETE FROM mqtt_published_will WHERE number = ANY(?::bigint[])", (gone,))
    rows = [
        {"number": number, "client_id": will.client_id} | _message_row(will.message, "")
        for number, will in wills.items()
        if will is not None
    ]
    _upsert(transaction, "mqtt_published_will", _WILL_COLUMNS, ("number",), rows, {"node_no": no, "node_epoch": epoch})


_SESSION_COLUMNS = {
    "client_id": "text", "principal": "text", "expiry_interval": "bigint", "expires_at": "bigint", "number": "bigint",
    "will_topic": "text", "will_qos": "smallint", "will_retain": "smallint", "will_properties": "text",
    "will_expires_at": "bigint", "will_payload": "bytea", "will_due_at": "bigint", "will_delay": "bigint",
    "will_number": "bigint",
}  # fmt: skip
SUBSCRIPTION_COLUMNS = {
    "client_id": "text", "topic_filter": "text", "qos": "smallint", "no_local": "smallint",
    "retain_as_published": "smallint", "retain_handling": "smallint", "subscription_identifier": "bigint",
}  # fmt: skip
_OUTBOUND_COLUMNS = {
    "client_id": "text", "sequence": "bigint", "handle": "bigint", "qos": "smallint", "packet_id": "integer",
    "released": "smallint", "retain": "smallint", "subscription_identifiers": "text", "topic": "text",
    "message_qos": "smallint", "message_retain": "smallint", "properties": "text", "expires_at": "bigint",
    "payload": "bytea",
}  # fmt: skip
_WILL_COLUMNS = {
    "number": "bigint", "client_id": "text", "topic": "text", "qos": "smallint", "retain": "smallint",
    "properties": "text", "expires_at": "bigint", "payload": "bytea",
}  # fmt: skip


def subscription_row(client_id: str, subscription: StoredSubscription) -> dict[str, Any]:
    """Return a subscription as a row of SUBSCRIPTION_COLUMNS."""
    return {
        "client_id": client_id,
        "topic_filter": subscription.topic_filter,
        "qos": subscription.qos,
        "no_local": int(subscription.no_local),
        "retain_as_published": int(subscription.retain_as_published),
        "retain_handling": subscription.retain_handling,
        "subscription_identifier": subscription.subscription_identifier,
    }


def _message_row(message: Message, prefix: str) -> dict[str, Any]:
    topic, qos, retain, properties, expires_at = message_columns(message)
    columns = {"topic": topic, "qos": qos, "retain": retain, "properties": properties, "expires_at": expires_at}
    return {f"{prefix}{name}": value for name, value in columns.items()} | {
        f"{prefix}payload": message.body.payload.hex()
    }


def rows_of_json(columns: dict[str, str]) -> str:
    """The rows `r` of a JSON array that is a value of the statement, for its FROM; bytes are hexadecimal texts."""
    types = ", ".join(f"{name} {'text' if kind == 'bytea' else kind}" for name, kind in columns.items())
    return f"json_to_recordset(?::json) AS r({types})"


def _upsert(
    transaction: Transaction, table: str, columns: dict[str, str], key: Sequence[str], rows: list[dict[str, Any]],
    for_each: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """Insert or replace rows, in the order of their key. `for_each`: columns that have one value in all of them."""
    if not rows:
        return
    same = for_each or {}
    names = [*columns, *same]
    values = [f"decode(r.{name}, 'hex')" if kind == "bytea" else f"r.{name}" for name, kind in columns.items()]
    values += ["?::bigint"] * len(same)
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    transaction.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {rows_of_json(columns)}"
        f" ORDER BY {', '.join(f'r.{name}' for name in key)}"
        f" ON CONFLICT ({', '.join(key)}) DO {f'UPDATE SET {changed}' if changed else 'NOTHING'}",
        (*same.values(), json.dumps(rows)),
    )


def _delete(transaction: Transaction, table: str, key: dict[str, str], gone: list[dict[str, Any]]) -> None:
    if gone:
        same = " AND ".join(f"{table}.{name} = r.{name}" for name in key)
        transaction.execute(f"DELETE FROM {table} USING {rows_of_json(key)} WHERE {same}", (json.dumps(gone),))


# -- reading -----------------------------------------------------------------------------------------------------------


def load_sessions(transaction: Transaction, client_ids: Iterable[str], no: int, epoch: int) -> LoadedSessions:
    """Load the sessions of these clients into the memory of the node, as far as no other live node has them."""
    wanted = sorted(set(client_ids))
    found = transaction.execute(
        "WITH found AS (SELECT s.* FROM mqtt_session AS s WHERE s.client_id = ANY(?::text[])"
        " AND (s.node_no IS NULL OR (s.node_no = ? AND s.node_epoch = ?) OR NOT is_live(s.node_no, s.node_epoch))"
        " ORDER BY s.client_id FOR UPDATE OF s)"
        " UPDATE mqtt_session AS m SET node_no = ?, node_epoch = ? FROM found AS f WHERE m.client_id = f.client_id"
        " RETURNING f.client_id, f.principal, f.expiry_interval, f.expires_at, f.number,"
        " f.node_no IS NOT NULL AND (f.node_no <> ? OR f.node_epoch <> ?), f.will_topic,"
        " f.will_payload, f.will_qos, f.will_retain, f.will_properties, f.will_expires_at, f.will_due_at, f.will_delay,"
        " f.will_number",
        (wanted, no, epoch, no, epoch, no, epoch),
    ).fetchall()
    sessions: dict[str, StoredSession] = {}
    interrupted = set()
    for client_id, principal, expiry_interval, expires_at, number, was_ended, topic, *columns in found:
        will = None
        if topic is not None:
            *of_message, due_at, delay, will_number = columns
            will = StoredWill(message_of(topic, *of_message), optional_seconds(due_at), delay, will_number)
        sessions[client_id] = StoredSession(
            client_id, principal, expiry_interval, optional_seconds(expires_at), will=will, number=number
        )
        if was_ended:
            interrupted.add(client_id)
    left = [client_id for client_id in wanted if client_id not in sessions]
    elsewhere = transaction.execute(
        "SELECT client_id FROM mqtt_session WHERE client_id = ANY(?::text[])", (left,)
    ).fetchall() if left else []  # fmt: skip
    messages = _load_lists(transaction, sessions)
    state = StoredState(list(sessions.values()), messages)
    return LoadedSessions(state, frozenset(interrupted), frozenset(name for (name,) in elsewhere))


def _load_lists(transaction: Transaction, sessions: dict[str, StoredSession]) -> dict[int, Message]:
    """Load what belongs to sessions; the messages by the keys that their rows are given."""
    messages: dict[int, Message] = {}
    if not sessions:
        return messages
    names = list(sessions)
    for client_id, topic_filter, *options, handling, identifier in transaction.execute(
        "SELECT client_id, topic_filter, qos, no_local, retain_as_published, retain_handling, subscription_identifier"
        " FROM mqtt_subscription WHERE client_id = ANY(?::text[])",
        (names,),
    ):
        qos, no_local, as_published = options
        sessions[client_id].subscriptions.append(
            StoredSubscription(topic_filter, qos, bool(no_local), bool(as_published), handling, identifier)
        )
    for (
        client_id,
        sequence,
        handle,
        qos,
        packet_id,
        released,
        retain,
        identifiers,
        topic,
        *columns,
    ) in transaction.execute(
        "SELECT client_id, sequence, handle, qos, packet_id, released, retain, subscription_identifiers, topic,"
        " payload, message_qos, message_retain, properties, expires_at FROM mqtt_outbound"
        " WHERE client_id = ANY(?::text[]) ORDER BY client_id, sequence",
        (names,),
    ):
        key = None
        if topic is not None:
            key = len(messages) + 1
            messages[key] = message_of(topic, *columns)
        matched = () if identifiers is None else tuple(json.loads(identifiers))
        sessions[client_id].outbound.append(
            StoredOutbound(sequence, key, handle, qos, packet_id, bool(released), bool(retain), matched)
        )
    for client_id, packet_id in transaction.execute(
        "SELECT client_id, packet_id FROM mqtt_received WHERE client_id = ANY(?::text[])", (names,)
    ):
        sessions[client_id].received.append(packet_id)
    return messages


# -- numbers -----------------------------------------------------------------------------------------------------------


def draw_numbers(transaction: Transaction) -> int:
    """Draw SESSION_NUMBERS numbers that no node has; the first of them."""
    (first,) = transaction.execute("SELECT nextval('mqtt_number')").fetchone()
    return int(first)


def claim_packet_ids(transaction: Transaction, size: int) -> int:
    """Reserve `size` packet identifiers behind those of all nodes that have started before; the first of them."""
    (following,) = transaction.execute(
        "INSERT INTO mqtt_packet_id AS p (only_row, next) VALUES (1, 1 + ?) ON CONFLICT (only_row) DO UPDATE"
        " SET next = CASE WHEN p.next + ? - 1 <= ? THEN p.next + ? ELSE 1 + ? END RETURNING p.next",
        (size, size, LAST_PACKET_ID, size, size),
    ).fetchone()
    return int(following) - size


def return_packet_ids(transaction: Transaction, first: int, size: int) -> None:
    """Return identifiers that were used for nothing, unless another node has started meanwhile."""
    transaction.execute("UPDATE mqtt_packet_id SET next = ? WHERE next = ?", (first, first + size))


# -- sessions without a node -------------------------------------------------------------------------------------------


def begin_expiry(transaction: Transaction, now_us: int) -> int:
    """Begin the expiry, and the delay of the wills, of sessions that ended nodes had connected; how many, one slice.

    `now_us`: server time in microseconds.
    """
    waits = "(s.expires_at IS NULL AND s.expiry_interval <> ?) OR (s.will_topic IS NOT NULL AND s.will_due_at IS NULL)"
    done = transaction.execute(
        "WITH ended AS (SELECT s.client_id FROM mqtt_session AS s WHERE s.node_no IS NOT NULL"
        f" AND NOT is_live(s.node_no, s.node_epoch) AND ({waits}) ORDER BY s.client_id LIMIT ? FOR UPDATE OF s)"
        " UPDATE mqtt_session AS s SET expires_at = CASE WHEN s.expires_at IS NULL AND s.expiry_interval <> ?"
        "  THEN ? + s.expiry_interval * 1000000 ELSE s.expires_at END,"
        " will_due_at = CASE WHEN s.will_topic IS NOT NULL AND s.will_due_at IS NULL"
        "  THEN ? + least(s.will_delay, s.expiry_interval) * 1000000 ELSE s.will_due_at END"
        " FROM ended AS e WHERE s.client_id = e.client_id",
        (NEVER_EXPIRES, SLICE_SESSIONS, NEVER_EXPIRES, now_us, now_us),
    )
    return done.rowcount


def due_sessions(transaction: Transaction, now_us: int, most: int) -> list[str]:
    """Find clients whose session no node has in memory, and that has expired or has a will that is due."""
    return [
        str(client_id)
        for (client_id,) in transaction.execute(
            "SELECT s.client_id FROM mqtt_session AS s WHERE least(s.expires_at, s.will_due_at) <= ?"
            " AND (s.node_no IS NULL OR NOT is_live(s.node_no, s.node_epoch))"
            " ORDER BY least(s.expires_at, s.will_due_at) LIMIT ?",
            (now_us, most),
        )
    ]


def adopt_wills(transaction: Transaction, no: int, epoch: int) -> list[PublishedWill]:
    """Take over wills that a node has published and may have ended with, a slice of them."""
    rows = transaction.execute(
        "WITH ended AS (SELECT w.number FROM mqtt_published_will AS w WHERE NOT is_live(w.node_no, w.node_epoch)"
        " ORDER BY w.number LIMIT ? FOR UPDATE OF w)"
        " UPDATE mqtt_published_will AS w SET node_no = ?, node_epoch = ? FROM ended AS e WHERE w.number = e.number"
        " RETURNING w.number, w.client_id, w.topic, w.payload, w.qos, w.retain, w.properties, w.expires_at",
        (SLICE_WILLS, no, epoch),
    )
    return [PublishedWill(number, client_id, message_of(*columns)) for number, client_id, *columns in rows]


def forget_messages_of_nobody(transaction: Transaction, packet_id_bits: int) -> int:
    """Forget QoS 2 messages of devices whose session or will is no more; how many.

    A session is stored before its client is answered, so a message of one that is there is not among them.
    """
    done = transaction.execute(
        "DELETE FROM received_message AS r"
        " WHERE NOT EXISTS (SELECT 1 FROM mqtt_session AS s WHERE s.number = r.identifier >> ?::int)"
        " AND NOT EXISTS (SELECT 1 FROM mqtt_session AS s WHERE s.will_number = r.identifier >> ?::int)"
        " AND NOT EXISTS (SELECT 1 FROM mqtt_published_will AS w WHERE w.number = r.identifier >> ?::int)",
        (packet_id_bits,) * 3,
    )
    return done.rowcount
