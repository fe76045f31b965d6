"""The examination of nodes by `doctor`, from outside: who has a lease, what it serves, and what its database promises.

Everything is one look, and no clock is compared with another one but as a length of time. PostgreSQL only.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.store.transaction import Transaction


class ExaminedNode(NamedTuple):
    """A node that has not ended."""

    no: int
    url: str
    age_ms: int
    """Milliseconds since its last renewal, by the database's clock."""
    line_ms: int | None
    """How far its server time was ahead of the database's clock at that renewal; None: it has none yet."""
    sessions: int
    """MQTT sessions that it has in memory: its connected devices."""


class ExaminedNodes(NamedTuple):
    """The nodes over a ledger, and their database."""

    nodes: list[ExaminedNode]
    sessions_away: int
    """MQTT sessions that no node has in memory: of devices that are away."""
    database_ms: int
    """What the database's clock shows."""
    standbys: int
    """Servers that follow the database."""
    waits_for_standby: bool
    """Whether a commit is answered only when one of them has it."""


def examine_nodes(transaction: Transaction) -> ExaminedNodes:
    """Look at the nodes of a ledger."""
    rows = transaction.execute(
        "SELECT n.no, n.url, database_ms() - n.renewed_at, CASE WHEN n.at > 0 THEN n.at - n.renewed_at END,"
        " (SELECT count(*) FROM mqtt_session AS s WHERE s.node_no = n.no AND s.node_epoch = n.epoch)"
        " FROM node AS n WHERE n.ended_at IS NULL ORDER BY n.no"
    ).fetchall()
    away, database_ms, standbys, names, commit = transaction.execute(
        "SELECT (SELECT count(*) FROM mqtt_session AS s WHERE NOT coalesce(is_live(s.node_no, s.node_epoch), false)),"
        " database_ms(), (SELECT count(*) FROM pg_stat_replication), current_setting('synchronous_standby_names'),"
        " current_setting('synchronous_commit')"
    ).fetchone()
    waits = bool(names) and commit not in ("off", "local")
    return ExaminedNodes([ExaminedNode(*row) for row in rows], away, database_ms, standbys, waits)
