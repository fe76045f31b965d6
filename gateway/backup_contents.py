"""The contents of a data directory in numbers that a person knows: devices, pushes, deliveries by state, sessions.

They are counted in the copies when a backup is made, and again in what a proof has restored. Sums of files prove that
bytes came back; these prove that a fleet did, and say so in a line that one can compare with what one expects.

Every schema that there has been can be counted: a table that a version had not yet is not mentioned.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from broker.sqlite_file import connect
from gateway.data_directory import ATTACHMENTS_DIR, BROKER, LEDGER
from gateway.delivery_states import DeliveryState

DELIVERIES = "deliveries_"
"""Prefix of the counts of deliveries, before the state's name."""
LEDGER_COUNTS = {
    "apps": ("application", ""),
    "devices": ("device", " WHERE removed_at IS NULL"),
    "pushes": ("push", ""),
    "waiting_sets": ("waiting_set", ""),
    "events": ("event", ""),
    "uplink_messages": ("uplink_message", ""),
    "audit_entries": ("audit_entry", ""),
}
BROKER_COUNTS = {
    "sessions": ("session", ""),
    "subscriptions": ("subscription", ""),
    "queued_messages": ("outbound", ""),
}
"""Name of a count -> its table, and the condition of a row. A queued message is in a session: ordinary or in flight."""


def count_contents(folder: Path) -> dict[str, int]:
    """Count what the databases and attachments in a folder hold. Raises sqlite3.Error."""
    found: dict[str, int] = {}
    for name, wanted in ((LEDGER, LEDGER_COUNTS), (BROKER, BROKER_COUNTS)):
        if not (folder / name).exists():
            continue
        with closing(connect(folder / name, must_exist=True)) as database:
            tables = {table for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for count, (table, condition) in wanted.items():
                if table in tables:
                    found[count] = database.execute(f"SELECT count(*) FROM {table}{condition}").fetchone()[0]
            if "delivery" in tables:
                found |= _count_deliveries(database, in_sets="delivery_count" in tables)
    attachments = folder / ATTACHMENTS_DIR
    if attachments.is_dir():
        found["attachments"] = sum(1 for _ in attachments.iterdir())
    return found


def _count_deliveries(database: sqlite3.Connection, *, in_sets: bool) -> dict[str, int]:
    """Count deliveries by state, as the server does; those in sets are counted with their pushes."""
    rows: Iterable[tuple[int, int]] = (
        database.execute(
            "SELECT state, sum(count) FROM ("
            " SELECT state, count(*) AS count FROM delivery WHERE counted IS NULL GROUP BY state"
            " UNION ALL SELECT state, sum(count) FROM delivery_count GROUP BY state) GROUP BY state"
        )
        if in_sets
        else database.execute("SELECT state, count(*) FROM delivery GROUP BY state")
    )
    return {f"{DELIVERIES}{DeliveryState(state).label}": count for state, count in rows if count}


def describe_contents(contents: Mapping[str, int]) -> str:
    """Format counts as a person reads them: `40 devices, 12 pushes, 90 deliveries (80 delivered, 10 waiting), …`."""
    parts = []
    states = {name: count for name, count in contents.items() if name.startswith(DELIVERIES)}
    for name, count in contents.items():
        if name not in states:
            parts.append(f"{count:,} {name.replace('_', ' ')}")
        if name == "pushes":
            each = ", ".join(f"{states[state]:,} {state.removeprefix(DELIVERIES)}" for state in sorted(states))
            parts.append(f"{sum(states.values()):,} deliveries" + (f" ({each})" if each else ""))
    return ", ".join(parts) or "nothing that can be counted"


def first_difference(wanted: Mapping[str, int], found: Mapping[str, int]) -> str | None:
    """Return the first count that differs, in words; None if all agree."""
    for name in {**wanted, **found}:
        if wanted.get(name, 0) != found.get(name, 0):
            return f"{found.get(name, 0):,} {name.replace('_', ' ')} instead of {wanted.get(name, 0):,}"
    return None
