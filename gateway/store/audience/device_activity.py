"""Activity of devices in their rows: connected, last seen, last error; and sessions that no device is left of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gateway.device_topics import DEFAULT_APP
from gateway.store.transaction import Transaction


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
        " iif(instr(session.value, '/'), substr(session.value, 1, instr(session.value, '/') - 1), ?2))",
        (json.dumps(principals), DEFAULT_APP),
    )
    return [principal for (principal,) in rows]
