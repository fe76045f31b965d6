"""The device's memory across restarts: pushes begun and finished, messages to send, the person's choices.

The once-only rule lives in two steps. `begin` commits the push id *before* the effect, `finish` after it, and only
then may the PUBACK leave. A push that was begun and never finished died inside its effect: whether that took place
nobody can know, so it is not begun a second time (a device that reboots on command would reboot for ever) but reported
as interrupted. Everything that died later is found finished and merely acknowledged.

SQLite with `synchronous=FULL`: two commits per push, on a device that sees a few an hour. Thread-safe by one lock.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import Any

from client_sim.errors import JournalTooNew

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
REMEMBERED_PUSHES = 20_000
"""Push ids kept, the oldest forgotten first; twenty times the default mailbox, so none can still be waiting."""
OUTBOX_MESSAGES = 10_000
"""Messages kept for a server that does not answer, the oldest given up first: a receipt every minute for a week."""

REMEMBERED_STATEMENTS = 10_000
"""Signed pushes kept of each key, those that end first forgotten first: 2.4 MB, and a command every ten minutes for two
months. Of the 32 keys of a key set, all of them stolen, 75 MB."""
FORGETFUL_KEYS = 1_000
"""Keys whose `forgotten_until` is kept, as many as a device remembers as revoked: 100 KiB. Beyond that the one that
lies furthest back becomes that of every key."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS handled (
    no INTEGER PRIMARY KEY AUTOINCREMENT, push_id TEXT NOT NULL UNIQUE, finished INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS outbox (
    no INTEGER PRIMARY KEY AUTOINCREMENT, leaf TEXT NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS settings (seq INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS used_statement (
    key_id TEXT NOT NULL, id TEXT NOT NULL, expires_at INTEGER NOT NULL, push_id TEXT NOT NULL, PRIMARY KEY (key_id, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used_statement_end ON used_statement (key_id, expires_at);
CREATE TABLE IF NOT EXISTS forgetful_key (key_id TEXT PRIMARY KEY, forgotten_until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trust (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

OutgoingMessage = tuple[str, str | bytes]
"""The topic below the device's own, and the payload."""


class Known(Enum):
    """The state of a push id in the journal."""

    NEW = "new"
    INTERRUPTED = "interrupted"  #: begun by an earlier process that died before it finished
    FINISHED = "finished"


class Use(Enum):
    """The use of a signed push, as the journal knows it."""

    FIRST = "first"
    AGAIN = "again"  #: by the same push, which has either been interrupted or was forgotten
    REPLAYED = "replayed"  #: by another push
    FORGOTTEN = "forgotten"  #: it ends before one of its key that was forgotten, so nobody can tell


class Journal:
    """A device's SQLite file, or its memory. Thread-safe."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, or make it. `path` None: in memory, for a device that may forget (its pushes are then
        once-only per process). Raises sqlite3.Error for a file that cannot be used, and JournalTooNew."""
        self._lock = threading.Lock()
        # Absolute: `file:x` and `:memory:` are names of files too, and SQLite takes them for something else.
        place = ":memory:" if path is None else path.absolute()
        if path is not None:
            # What a person decided and does is nobody else's: SQLite would leave the mode to the umask. Its side files
            # take the mode of the file.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            path.chmod(0o600)
        self._database = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            self._database.close()
            raise JournalTooNew(
                f"{path} is a journal of version {version}, this program knows {SCHEMA_VERSION}: update it"
            )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        with self._database:  # one transaction, or the next start does it again
            self._database.execute("BEGIN IMMEDIATE")
            if version == 0:
                self._keep_old_receipts()
            for statement in SCHEMA.split(";"):
                self._database.execute(statement)
            if version < 2:
                self._carry_statements_on()
            self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _keep_old_receipts(self) -> None:
        """Move the outbox of a file from before version 1, which had receipts only."""
        columns = [row[1] for row in self._database.execute("PRAGMA table_info(outbox)")]
        if "receipt" in columns:
            self._database.execute("ALTER TABLE outbox RENAME COLUMN receipt TO payload")
            self._database.execute("ALTER TABLE outbox ADD COLUMN leaf TEXT NOT NULL DEFAULT 'receipts'")

    def _carry_statements_on(self) -> None:
        """Move what was used in a file from before version 2, which named the key in the statement's id (`KEY.JTI`).

        What that file had forgotten (`forgotten_until`, of whichever key) stays refused of every key.
        """
        if not self._database.execute("PRAGMA table_info(statement)").fetchall():
            return
        self._database.execute(
            "INSERT INTO used_statement SELECT substr(id, 1, instr(id, '.') - 1), substr(id, instr(id, '.') + 1),"
            " expires_at, push_id FROM statement"
        )
        self._database.execute("DROP TABLE statement")

    # Pushes

    def begin(self, push_id: str) -> Known:
        """Commit that handling starts, unless it had started before."""
        with self._lock, self._database:
            row = self._database.execute("SELECT finished FROM handled WHERE push_id = ?", (push_id,)).fetchone()
            if row is not None:
                return Known.FINISHED if row[0] else Known.INTERRUPTED
            self._database.execute("BEGIN IMMEDIATE")
            cursor = self._database.execute("INSERT INTO handled (push_id) VALUES (?)", (push_id,))
            self._database.execute("DELETE FROM handled WHERE no <= ?", ((cursor.lastrowid or 0) - REMEMBERED_PUSHES,))
            return Known.NEW

    def finish(self, push_id: str, message: OutgoingMessage | None = None) -> None:
        """Commit that it is done, together with what is to be said of it."""
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("UPDATE handled SET finished = 1 WHERE push_id = ?", (push_id,))
            if message is not None:
                self._enqueue(*message)

    # What is to be said

    def enqueue(self, leaf: str, payload: str | bytes) -> None:
        """Commit a message to send; `leaf` is the topic below the device's own."""
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._enqueue(leaf, payload)

    def _enqueue(self, leaf: str, payload: str | bytes) -> None:
        cursor = self._database.execute("INSERT INTO outbox (leaf, payload) VALUES (?, ?)", (leaf, payload))
        given_up = self._database.execute(
            "DELETE FROM outbox WHERE no <= ?", ((cursor.lastrowid or 0) - OUTBOX_MESSAGES,)
        )
        if given_up.rowcount:
            log.warning("more than %d messages wait for the server: the oldest is given up", OUTBOX_MESSAGES)

    def queued(self, limit: int) -> list[tuple[int, str, str | bytes]]:
        """(number, leaf, payload) of the oldest that nobody has acknowledged, in order."""
        with self._lock:
            return self._database.execute(
                "SELECT no, leaf, payload FROM outbox ORDER BY no LIMIT ?", (limit,)
            ).fetchall()

    def remove_acknowledged(self, last_no: int) -> None:
        """Remove the messages up to and including `last_no`, which the server has acknowledged."""
        with self._lock:
            self._database.execute("DELETE FROM outbox WHERE no <= ?", (last_no,))

    # What the person decided

    def settings(self) -> dict[str, Any]:
        """The current settings: `{"consent"?: str, "channels"?: {str: bool}, "topics"?: {str: bool}}`."""
        with self._lock:
            return self._settings()[1]

    def _settings(self) -> tuple[int, dict[str, Any]]:
        row = self._database.execute("SELECT seq, content FROM settings").fetchone()
        return (row[0], json.loads(row[1])) if row is not None else (0, {})

    def change_settings(self, change: dict[str, Any], about: dict[str, Any]) -> None:
        """Merge a change into the settings and queue it, with `about` and a `seq` above every earlier one.

        It is above the last, and, should this file ever be lost, above the lost one's (milliseconds).
        """
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            last, content = self._settings()
            seq = max(time.time_ns() // 1_000_000, last + 1)
            merged = content | change
            for name in ("channels", "topics"):
                if name in change:
                    merged[name] = content.get(name, {}) | change[name]
            self._database.execute("DELETE FROM settings")
            self._database.execute("INSERT INTO settings (seq, content) VALUES (?, ?)", (seq, json.dumps(merged)))
            self._enqueue("settings", json.dumps(change | {"seq": seq} | about))

    # What was signed (`trust`)

    def use_statement(self, key_id: str, statement_id: str, expires_at: int, push_id: str) -> Use:
        """Commit that a push uses a statement that a key has signed, which no other push may then use again.

        No clock is asked: a statement is forgotten only for want of room, and then, with it, everything of its key is
        refused that ends (`expires_at`) no later. So nobody who sets a device's clock can have a statement used twice,
        and nobody who has one key can have the statements of another one refused.
        """
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            row = self._database.execute(
                "SELECT push_id FROM used_statement WHERE key_id = ? AND id = ?", (key_id, statement_id)
            ).fetchone()
            if row is not None:
                return Use.AGAIN if row[0] == push_id else Use.REPLAYED
            if expires_at <= self._forgotten_until(key_id):
                return Use.FORGOTTEN
            self._database.execute(
                "INSERT INTO used_statement VALUES (?, ?, ?, ?)", (key_id, statement_id, expires_at, push_id)
            )
            self._forget(key_id, REMEMBERED_STATEMENTS)
            return Use.FIRST

    def _forgotten_until(self, key_id: str) -> int:
        """The latest end of what was forgotten of a key; -1 if nothing was."""
        row = self._database.execute("SELECT forgotten_until FROM forgetful_key WHERE key_id = ?", (key_id,)).fetchone()
        return max(-1 if row is None else int(row[0]), int(self._trusted("forgotten_until") or -1))

    def _forget(self, key_id: str, kept: int) -> None:
        """Forget the statements of a key that end first, but for so many."""
        latest = self._database.execute(
            "SELECT expires_at FROM used_statement WHERE key_id = ? ORDER BY expires_at DESC LIMIT 1 OFFSET ?",
            (key_id, kept),
        ).fetchone()
        if latest is None:
            return
        self._database.execute("DELETE FROM used_statement WHERE key_id = ? AND expires_at <= ?", (key_id, *latest))
        self._database.execute(
            "REPLACE INTO forgetful_key VALUES (?, ?)", (key_id, max(latest[0], self._forgotten_until(key_id)))
        )
        furthest_back = self._database.execute(
            "SELECT key_id, forgotten_until FROM forgetful_key ORDER BY forgotten_until DESC LIMIT -1 OFFSET ?",
            (FORGETFUL_KEYS,),
        ).fetchone()
        if furthest_back is not None:
            key_id, until = furthest_back
            until = max(until, int(self._trusted("forgotten_until") or -1))
            self._database.execute("DELETE FROM forgetful_key WHERE key_id = ?", (key_id,))
            self._database.execute("REPLACE INTO trust VALUES ('forgotten_until', ?)", (str(until),))

    def trusted(self, name: str) -> str | None:
        """A fact that `trust` keeps here; None before."""
        with self._lock:
            return self._trusted(name)

    def _trusted(self, name: str) -> str | None:
        row = self._database.execute("SELECT value FROM trust WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def keep_trusted(self, facts: dict[str, str], signers: Collection[str]) -> None:
        """Commit facts that `trust` keeps here, all of them or none.

        Forget what was used of keys that are none of these signers, so that a root which names ever new ones does not
        fill the disk: should one of them come back, what ends no later than the last that was used of it is refused.
        """
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("REPLACE INTO trust VALUES (?, ?)", list(facts.items()))
            for (key_id,) in self._database.execute("SELECT DISTINCT key_id FROM used_statement").fetchall():
                if key_id not in signers:
                    self._forget(key_id, 0)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
