"""The node that serves each device, as rows: claimed at CONNECT, and handed to another node that asks for it.

A row is of the node that it names as long as that epoch lives; only that node moves it. Statements take the rows in the
order of device numbers, so no two of them wait for each other in a circle. PostgreSQL only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.store.transaction import Transaction


class ServingNode(NamedTuple):
    """The node that serves a device, as its row says."""

    no: int
    epoch: int
    generation: int


def claim_devices(
    transaction: Transaction, device_nos: Iterable[int], no: int, epoch: int
) -> Mapping[int, ServingNode]:
    """Claim devices for a node: those that nobody serves, that it serves itself, or whose node has ended.

    Answers who serves the others. Committed before any of them is answered.
    """
    wanted = sorted(device_nos)
    claimed = {
        device_no
        for (device_no,) in transaction.execute(
            "INSERT INTO connection AS c (device_no, node_no, node_epoch, generation)"
            " SELECT d.no, ?::bigint, ?::bigint, 1 FROM unnest(?::bigint[]) AS d(no) ORDER BY d.no"
            " ON CONFLICT (device_no) DO UPDATE SET node_no = excluded.node_no, node_epoch = excluded.node_epoch,"
            " generation = c.generation + 1"
            " WHERE (c.node_no = excluded.node_no AND c.node_epoch = excluded.node_epoch)"
            " OR NOT is_live(c.node_no, c.node_epoch) RETURNING device_no",
            (no, epoch, wanted),
        )
    }
    others = [device_no for device_no in wanted if device_no not in claimed]
    if not others:
        return {}
    rows = transaction.execute(
        "SELECT device_no, node_no, node_epoch, generation FROM connection WHERE device_no = ANY(?::bigint[])",
        (others,),
    )
    return {device_no: ServingNode(*serving) for device_no, *serving in rows}


def hand_over_devices(
    transaction: Transaction, asked: Mapping[int, int], own: tuple[int, int], other: tuple[int, int]
) -> list[int]:
    """Hand devices to another node, and list those that are its own now.

    `asked` has the generation of each device; one of another generation stays, and so does one that is being claimed
    just now: nobody waits for that node while it has the locks of apps. `own` and `other`: number and epoch.
    """
    return [
        int(device_no)
        for (device_no,) in transaction.execute(
            "WITH asked AS (SELECT a.no, a.generation FROM unnest(?::bigint[], ?::bigint[]) AS a(no, generation)),"
            " held AS (SELECT c.device_no FROM connection AS c, asked AS a WHERE c.device_no = a.no"
            "  AND c.generation = a.generation AND c.node_no = ? AND c.node_epoch = ? AND is_live(?, ?)"
            "  ORDER BY c.device_no FOR UPDATE OF c SKIP LOCKED)"
            " UPDATE connection AS c SET node_no = ?, node_epoch = ?, generation = c.generation + 1"
            " FROM held AS h WHERE c.device_no = h.device_no RETURNING c.device_no",
            (list(asked), list(asked.values()), *own, *other, *other),
        )
    ]
