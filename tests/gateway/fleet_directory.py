"""A data directory with a bit of everything in it, as a server of this version leaves it; made without one."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.sqlite_store import void_sessions
from gateway.data_directory import ATTACHMENTS_DIR, BROKER, KEY_FILE, LEDGER
from gateway.store.audit_entries import EntryFacts, append
from gateway.store.ledger_file import prepare

ATTACHMENT = "a" * 64
CONTENTS = {
    "apps": 1,
    "devices": 3,
    "pushes": 2,
    "waiting_sets": 1,
    "events": 1,
    "uplink_messages": 0,
    "audit_entries": 1,
    "deliveries_waiting": 4,
    "deliveries_delivered": 2,
    "sessions": 2,
    "subscriptions": 1,
    "queued_messages": 1,
    "attachments": 1,
}


def make_fleet_directory(folder: Path) -> Path:
    """Three devices and a removed one; a push in rows and one in sets; two sessions, one with a message."""
    shutil.copytree(_template().name, folder)
    return folder


@cache
def _template() -> TemporaryDirectory[str]:
    """All migrations take longer than what is done with the result: one for all."""
    made = TemporaryDirectory()
    _fill(Path(made.name))
    return made


def _fill(folder: Path) -> None:
    prepare(folder / LEDGER)
    with closing(sqlite3.connect(folder / LEDGER)) as ledger:
        ledger.execute("INSERT INTO application (no, id, created_at) VALUES (1, 'default', 0)")
        append(ledger, 1, EntryFacts("key:k_1", "device.remove", "device:d4", "192.0.2.1", "done", {}), 5)
        ledger.executemany(
            "INSERT INTO device (no, app_no, id, removed_at, token_hash, created_at, updated_at)"
            " VALUES (?, 1, ?, ?, x'', 0, 0)",
            [(no, f"d{no}", 5 if no == 4 else None) for no in range(1, 5)],
        )
        ledger.executemany(
            "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, target, content, size, accepted_at,"
            " expires_at, targeted, suppressed) VALUES (?1, ?1, 1, 'silent', 2, 1, 60, '{}', '{}', 2, 0, 60000, 3, 0)",
            [(1,), (2,)],
        )
        ledger.executemany(
            "INSERT INTO delivery (push_no, device_no, priority, size, state) VALUES (1, ?, 2, 2, ?)",
            [(1, 0), (2, 10), (3, 10)],
        )
        ledger.execute(
            "INSERT INTO waiting_set (push_no, segment, app_no, priority, count, devices) VALUES (2, 0, 1, 2, 3, x'00')"
        )
        ledger.execute("INSERT INTO delivery_count (push_no, state, count) VALUES (2, 0, 3)")
        ledger.execute("INSERT INTO event (app_no, at, type, size) VALUES (1, 0, 'x', 1)")
        ledger.execute("INSERT INTO attachment VALUES (1, ?, 'text/plain', 2, 0, 1)", (ATTACHMENT,))
        ledger.commit()
    void_sessions(folder / BROKER)  # makes it
    with closing(sqlite3.connect(folder / BROKER)) as broker:
        broker.executemany(
            "INSERT INTO session (client_id, principal, expiry_interval) VALUES (?, ?, 0)", [("d1", "d1"), ("d2", "d2")]
        )
        broker.execute("INSERT INTO subscription VALUES ('d1', 'default/devices/d1/push', 1, 0, 0, 0, NULL)")
        broker.execute("INSERT INTO outbound VALUES ('d1', 1, NULL, 7, 1, 1, 0, 0, NULL)")
        broker.commit()
    (folder / ATTACHMENTS_DIR).mkdir()
    (folder / ATTACHMENTS_DIR / ATTACHMENT).write_text("hi")
    (folder / KEY_FILE).write_text("key_secret\n")
