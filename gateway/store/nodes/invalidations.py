"""Invalidations in the database: what nodes know in memory and is no longer so, and how far each of them has read.

They are written by triggers, with the change itself (`store/postgresql/invalidations.sql`): no change can be stored
without. While nobody reads them there are none.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gateway.store.transaction import Transaction

INVALIDATIONS_LOCK = 0x666C_6565_7470_7576
"""The advisory lock of who writes invalidations, or begins to read them ("fleetpuv"), beside the schema's."""
READ_INVALIDATIONS = 1_000
"""Invalidations that one read answers."""
REMOVED_INVALIDATIONS = 1_000
"""Invalidations that one operation removes."""


class InvalidationKind(StrEnum):
    """Kinds of what is no longer as it was, as the triggers say them."""

    KEY = "key"  #: an API key was revoked: its id
    CREDENTIAL = "credential"  #: a device has another token, and the one before is void: `APP/ID`
    DEVICE = "device"  #: a device was removed: `APP/ID`
    SESSION = "session"  #: a session of a person has begun, was used or has ended: its id
    RULES = "rules"  #: policy or channels of an app, or whom they guard
    RECALL = "recall"  #: a push was recalled: its number
    WEBHOOK = "webhook"  #: a webhook was made, changed or removed: its id
    ATTACHMENT = "attachment"  #: an attachment was stored, kept for longer or removed: its id
    TOKEN_REQUEST = "token_request"  #: a device's request for a token has changed: the hash of its secret
    WATCH = "watch"  #: a watch was made, changed or removed: its name


class Invalidation(NamedTuple):
    """A row that says what nodes must not go on believing."""

    no: int
    kind: str
    app_no: int
    key: str


def begin_reading(transaction: Transaction, node_no: int, node_epoch: int) -> int:
    """Have invalidations written for a node from now on; the number of the last one before. Writer thread."""
    transaction.execute("SELECT lock_invalidations()").fetchone()
    (last,) = transaction.execute(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM invalidation_no_seq"
    ).fetchone()
    transaction.execute(
        "INSERT INTO invalidation_reader (node_no, node_epoch, seen) VALUES (?, ?, ?)"
        " ON CONFLICT (node_no) DO UPDATE SET node_epoch = excluded.node_epoch, seen = excluded.seen",
        (node_no, node_epoch, last),
    )
    return int(last)


def read_invalidations(transaction: Transaction, after: int) -> list[Invalidation]:
    """Read what is behind this number, READ_INVALIDATIONS at most, in order. A single statement."""
    rows = transaction.execute(
        "SELECT no, kind, app_no, key FROM invalidation WHERE no > ? ORDER BY no LIMIT ?", (after, READ_INVALIDATIONS)
    )
    return [Invalidation._make(row) for row in rows.fetchall()]


def note_seen(transaction: Transaction, node_no: int, node_epoch: int, seen: int) -> None:
    """Note how far a node has read, and knows. Writer thread."""
    transaction.execute(
        "UPDATE invalidation_reader SET seen = ? WHERE node_no = ? AND node_epoch = ?", (seen, node_no, node_epoch)
    )


def last_invalidation(transaction: Transaction) -> int:
    """The number of the last one that is stored; 0 if there is none. A single statement."""
    (last,) = transaction.execute("SELECT coalesce(max(no), 0) FROM invalidation").fetchone()
    return int(last)


def least_seen(transaction: Transaction) -> int | None:
    """The number that every live node has read up to; None if there is no node. A single statement."""
    (seen,) = transaction.execute(
        "SELECT min(r.seen) FROM invalidation_reader AS r JOIN node AS n ON n.no = r.node_no"
        " WHERE n.epoch = r.node_epoch AND n.ended_at IS NULL"
    ).fetchone()
    return None if seen is None else int(seen)


def remove_seen(transaction: Transaction) -> int:
    """Remove what all live nodes have read, and who reads no more; how many invalidations. Writer thread."""
    transaction.execute(
        "DELETE FROM invalidation_reader AS r WHERE NOT EXISTS (SELECT 1 FROM node AS n WHERE n.no = r.node_no"
        " AND n.epoch = r.node_epoch AND n.ended_at IS NULL)"
    )
    seen = least_seen(transaction)
    return transaction.execute(
        "DELETE FROM invalidation WHERE no IN (SELECT no FROM invalidation WHERE no <= coalesce(?, no)"
        " ORDER BY no LIMIT ?)",
        (seen, REMOVED_INVALIDATIONS),
    ).rowcount
