"""Leases of nodes, as rows: who is there, since which epoch, and whether it has renewed its lease.

A node is a data directory. Each start of it has an epoch of its own, one more than the last; an epoch has ended when
the row shows a later one, or `ended_at`. Everything that writes under an epoch asks for the row first or last, so
nothing is stored under one that has ended (docs/adr/0010-nodes.md). PostgreSQL only.

Times are server time in milliseconds, but for `renewed_at` and `ended_at`, which the database's own clock gives: they
are compared with nothing but that clock, or for people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from gateway.store.transaction import Transaction

T = TypeVar("T")

KEPT_MS = 30 * 86_400_000
"""Time that the row of a node stays after its end, by the database's clock. Who has no row has ended."""
_OF_THE_LINE = 0x666C_6565_7474_696D
"""The advisory lock of who chooses its server time ("fleettim"), beside the schema's own number."""


class LeaseConnection(Protocol):
    """A connection for leases alone, which is made again when it was lost. One thread at a time, but for `abort`."""

    def run(self, operation: Callable[[Transaction], T]) -> T:
        """Run statements, each of which commits by itself. Raises StorageError."""

    def abort(self) -> None:
        """Have the statement that is under way fail at once; any thread."""

    def close(self) -> None:
        """End the connection."""


@dataclass(slots=True, frozen=True, kw_only=True)
class NodeEpoch:
    """A node's epoch, as the writer of its groups needs it."""

    no: int
    epoch: int
    on_ended: Callable[[str], None]
    """Called on any thread, with the reason, by who finds that the epoch has ended."""


class NodeRow(NamedTuple):
    """A node that has not ended, as a renewal has found it."""

    no: int
    epoch: int
    url: str
    secret: str
    renewals: int
    at: int
    """The server time that it has stored last, in this epoch; 0: it has none yet."""
    age_ms: int
    """Milliseconds since its last renewal, by the database's clock."""
    database_ms: int
    """What that clock shows."""


class RegisteredNode(NamedTuple):
    """Number and epoch of a node that was registered."""

    no: int
    epoch: int


def register(
    transaction: Transaction, known: tuple[int, str] | None, identity: str, url: str, secret: str
) -> RegisteredNode:
    """Begin an epoch. `known`: the number and identity that this data directory has had.

    The epoch before, if there was one, has ended with it. A directory that is new, or was at another database, gets a
    number and takes `identity`. Nodes that ended long ago leave: each directory that is thrown away would leave a row.
    """
    transaction.execute("DELETE FROM node WHERE ended_at < database_ms() - ?", (KEPT_MS,))
    if known is not None:
        keep_last_time(transaction)
        row = transaction.execute(
            "UPDATE node SET epoch = epoch + 1, url = ?, secret = ?, renewals = 0, groups = 0, at = 0,"
            " renewed_at = database_ms(), ended_at = NULL WHERE no = ? AND identity = ? RETURNING no, epoch",
            (url, secret, *known),
        ).fetchone()
        if row is not None:
            return RegisteredNode(*row)
    row = transaction.execute(
        "INSERT INTO node (identity, epoch, url, secret, renewals, groups, at, renewed_at)"
        " VALUES (?, 1, ?, ?, 0, 0, 0, database_ms()) RETURNING no, epoch",
        (identity, url, secret),
    ).fetchone()
    return RegisteredNode(*row)


def renew(transaction: Transaction, no: int, epoch: int, at: int) -> list[NodeRow] | None:
    """Renew a lease, and read all nodes that have not ended; None: this epoch has. `at`: server time, 0 before it is
    known."""
    rows = transaction.execute(
        "WITH renewed AS (UPDATE node SET renewals = renewals + 1, at = greatest(at, ?), renewed_at = database_ms()"
        " WHERE no = ? AND epoch = ? AND ended_at IS NULL RETURNING no)"
        " SELECT n.no, n.epoch, n.url, n.secret, n.renewals, n.at, database_ms() - n.renewed_at, database_ms(),"
        " r.no"
        " FROM node AS n LEFT JOIN renewed AS r ON true WHERE n.ended_at IS NULL ORDER BY n.no",
        (at, no, epoch),
    ).fetchall()
    if not rows or rows[0][-1] is None:
        return None
    return [NodeRow(*row[:-1]) for row in rows]


def declare_ended(transaction: Transaction, no: int, epoch: int, renewals: int) -> bool:
    """End the epoch of a node that has not renewed its lease; False if it has meanwhile, or writes just now.

    It does not wait for a group of the other node that is under way: whoever declares has a lease of its own to renew.
    """
    done = transaction.execute(
        "UPDATE node SET epoch = epoch + 1, ended_at = database_ms() WHERE no ="
        " (SELECT no FROM node WHERE no = ? AND epoch = ? AND renewals = ? FOR UPDATE SKIP LOCKED)",
        (no, epoch, renewals),
    )
    return done.rowcount == 1


def end(transaction: Transaction, no: int, epoch: int) -> None:
    """End an epoch of one's own, at a clean stop."""
    transaction.execute(
        "UPDATE node SET epoch = epoch + 1, ended_at = database_ms() WHERE no = ? AND epoch = ?", (no, epoch)
    )


def end_all(transaction: Transaction) -> None:
    """End every epoch: a server is to have the schema alone. The caller has the lock that keeps nodes out."""
    transaction.execute("UPDATE node SET epoch = epoch + 1, ended_at = database_ms() WHERE ended_at IS NULL")


def record_group(transaction: Transaction, no: int, epoch: int, at: int) -> int | None:
    """Count a group of writes, as its last statement: how many there were in this epoch. None: it has ended, and the
    group must be rolled back.

    The row stays locked until the group has ended, and who declares the epoch ended comes before it, or after.
    """
    row = transaction.execute(
        "UPDATE node SET groups = groups + 1, at = greatest(at, ?) WHERE no = ? AND epoch = ? AND ended_at IS NULL"
        " RETURNING groups",
        (at, no, epoch),
    ).fetchone()
    return None if row is None else int(row[0])


def recorded_groups(transaction: Transaction, no: int, epoch: int) -> int | None:
    """Count the groups that are stored in an epoch, once none is under way; None: it has ended."""
    row = transaction.execute(
        "SELECT groups FROM node WHERE no = ? AND epoch = ? AND ended_at IS NULL FOR UPDATE", (no, epoch)
    ).fetchone()
    return None if row is None else int(row[0])


def keep_last_time(transaction: Transaction) -> None:
    """Put the latest time that any node has stored into the row from which a start goes on."""
    transaction.execute(
        "INSERT INTO clock (no, at) SELECT 1, n.at FROM node AS n WHERE n.at > 0 ORDER BY n.at DESC LIMIT 1"
        " ON CONFLICT (no) DO UPDATE SET at = greatest(clock.at, excluded.at)"
    )


def lock_line(transaction: Transaction) -> bool:
    """Be the one node that chooses its server time; False: another one does just now. The connection has it until
    `unlock_line`, or its end.

    Whoever has chosen stores its time before it unlocks the line, so that nobody chooses another one beside it.
    """
    (is_locked,) = transaction.execute(
        "SELECT pg_try_advisory_lock(? # hashtext(current_schema))", (_OF_THE_LINE,)
    ).fetchone()
    return bool(is_locked)


def unlock_line(transaction: Transaction) -> None:
    """Let other nodes choose their server time, however often this connection has locked the line."""
    transaction.execute("SELECT pg_advisory_unlock_all()")
