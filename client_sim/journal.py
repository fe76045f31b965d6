"""What a device must not forget when its process dies: which pushes it has begun to handle, and receipts not yet sent.

The once-only rule lives in two steps. `begin` commits the push id *before* the effect, `finish` after it, and only
then may the PUBACK leave. A push that was begun and never finished died inside its effect: whether that took place
nobody can know, so it is not begun a second time (a device that reboots on command would reboot for ever) but reported
as interrupted. Everything that died later is found finished and merely acknowledged.

SQLite with `synchronous=FULL`: two commits per push, on a device that sees a few an hour. Thread-safe by one lock.
"""

from __future__ import annotations

import sqlite3
import threading
from enum import Enum
from pathlib import Path

REMEMBERED = 20_000
"""Push ids kept, the oldest forgotten first; twenty times the default mailbox, so none can still be waiting."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS handled (
    no INTEGER PRIMARY KEY AUTOINCREMENT, push_id TEXT NOT NULL UNIQUE, finished INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS outbox (no INTEGER PRIMARY KEY AUTOINCREMENT, receipt TEXT NOT NULL);
"""


class Known(Enum):
    """What the journal says of a push id."""

    NEW = "new"
    INTERRUPTED = "interrupted"  #: begun by an earlier process that died before it finished
    FINISHED = "finished"


class Journal:
    def __init__(self, path: Path | None) -> None:
        """None: in memory, for a device that may forget (its pushes are then once-only per process)."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(SCHEMA)

    def begin(self, push_id: str) -> Known:
        """Commit that handling starts, unless it had started before."""
        with self._lock:
            row = self._database.execute("SELECT finished FROM handled WHERE push_id = ?", (push_id,)).fetchone()
            if row is not None:
                return Known.FINISHED if row[0] else Known.INTERRUPTED
            self._database.execute("BEGIN IMMEDIATE")
            cursor = self._database.execute("INSERT INTO handled (push_id) VALUES (?)", (push_id,))
            self._database.execute("DELETE FROM handled WHERE no <= ?", ((cursor.lastrowid or 0) - REMEMBERED,))
            self._database.execute("COMMIT")
            return Known.NEW

    def finish(self, push_id: str) -> None:
        with self._lock:
            self._database.execute("UPDATE handled SET finished = 1 WHERE push_id = ?", (push_id,))

    def add_receipt(self, receipt: str) -> None:
        with self._lock:
            self._database.execute("INSERT INTO outbox (receipt) VALUES (?)", (receipt,))

    def receipts(self, limit: int) -> list[tuple[int, str]]:
        """The oldest receipts that nobody has acknowledged, in order."""
        with self._lock:
            return self._database.execute("SELECT no, receipt FROM outbox ORDER BY no LIMIT ?", (limit,)).fetchall()

    def remove_receipts(self, last_no: int) -> None:
        """Those up to and including `last_no` have arrived."""
        with self._lock:
            self._database.execute("DELETE FROM outbox WHERE no <= ?", (last_no,))

    def close(self) -> None:
        with self._lock:
            self._database.close()
