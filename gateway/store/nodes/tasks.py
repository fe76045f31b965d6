"""Tasks in the database: what one node does for all, and which one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from gateway.store.transaction import Transaction


class FreeTask(NamedTuple):
    """A task that nobody owns: its name, and who owned it last, whose epoch has ended (0, 0: nobody did)."""

    name: str
    node_no: int
    node_epoch: int


def add_tasks(transaction: Transaction, names: Sequence[str]) -> None:
    """Make the rows of these tasks, unless they are there. Writer thread."""
    transaction.execute(
        "INSERT INTO task (name) SELECT value FROM json_each(?) ON CONFLICT DO NOTHING", (json.dumps(sorted(names)),)
    )


def free_tasks(transaction: Transaction, names: Sequence[str]) -> list[FreeTask]:
    """Find those of these tasks that no live node owns. A single statement."""
    rows = transaction.execute(
        "SELECT t.name, t.node_no, t.node_epoch FROM task AS t WHERE t.name IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM node AS n WHERE n.no = t.node_no AND n.epoch = t.node_epoch"
        " AND n.ended_at IS NULL)",
        (json.dumps(list(names)),),
    )
    return [FreeTask._make(row) for row in rows.fetchall()]


def claim_task(transaction: Transaction, free: FreeTask, node_no: int, node_epoch: int) -> bool:
    """Give a free task to a node; False if another one was quicker. Writer thread.

    An epoch that has ended never comes back, so whoever finds the last owner still there may have its place.
    """
    return (
        transaction.execute(
            "UPDATE task SET node_no = ?, node_epoch = ? WHERE name = ? AND node_no = ? AND node_epoch = ?",
            (node_no, node_epoch, *free),
        ).rowcount
        == 1
    )
