"""Starts of a server that has its schema alone: which one has it, and how many groups it has stored.

Both are in one row. A start counts itself, so that a server which was cut off knows whether another one has written
meanwhile; a group of writes counts itself, so that after a lost connection the row says whether its commit happened.
"""

from __future__ import annotations

from gateway.store.transaction import Transaction


def add_start(transaction: Transaction) -> int:
    """Count a start; its number."""
    (no,) = transaction.execute("UPDATE server_start SET no = no + 1, groups = 0 RETURNING no").fetchone()
    return int(no)


def record_group(transaction: Transaction, start_no: int, at: int) -> int | None:
    """Count a group of writes, and store server time (milliseconds), as its last statement.

    Returns how many groups there were since this start; None: another one has come, and the group must be rolled back.
    """
    (groups,) = transaction.execute(
        "WITH counted AS (UPDATE server_start SET groups = groups + 1 WHERE no = ? RETURNING groups)"
        " INSERT INTO clock (no, at) VALUES (1, ?) ON CONFLICT (no) DO UPDATE SET at = greatest(clock.at, excluded.at)"
        " RETURNING (SELECT c.groups FROM counted AS c)",
        (start_no, at),
    ).fetchone()
    return None if groups is None else int(groups)


def recorded_groups(transaction: Transaction, start_no: int) -> int | None:
    """Count the groups that are stored since a start, once none is under way; None: another start has come."""
    row = transaction.execute("SELECT groups FROM server_start WHERE no = ? FOR UPDATE", (start_no,)).fetchone()
    return None if row is None else int(row[0])
