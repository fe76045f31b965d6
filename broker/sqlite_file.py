"""SQLite files: opened by path and never by URL, and what their errors mean.

A path is passed on whole and absolute: relative, `file:x` and `:memory:` mean something else to SQLite, and in an URL
`?`, `#` and `%` do.
"""

from __future__ import annotations

import os
import sqlite3
from enum import Enum
from pathlib import Path
from typing import Any

PAGE_BYTES = 4_096
"""SQLite's usual page."""
LOG_PAGES = 4_000
"""16 MiB of write-ahead log between checkpoints: a checkpoint's own sync is shared by some hundred groups."""
LOG_DIVISOR = 32
"""The log is at most this part of a small disk."""


def log_pages(disk: os.statvfs_result) -> int:
    """Return the pages of a database's log after which it is copied back, and to which its file is cut."""
    return max(1, min(LOG_PAGES, disk.f_blocks * disk.f_frsize // LOG_DIVISOR // PAGE_BYTES))


class Fault(Enum):
    """Fault of a database file or its disk, as against a wrong statement."""

    FULL = "full"
    """The disk is full. The transaction under way is not stored."""
    UNSYNCED = "unsynced"
    """The disk did not confirm what it was given: it may be stored, or not, or be lost later."""
    FAILED = "failed"
    """The disk refused to read or write (a defect, a quota). The transaction under way is not stored."""
    DAMAGED = "damaged"
    """The file has content that SQLite never wrote."""
    LOCKED = "locked"
    """Another process has it."""
    FORBIDDEN = "forbidden"
    """The file may not be opened or written: its owner, its mode, a read-only disk."""


_BY_EXTENDED_CODE = {
    sqlite3.SQLITE_IOERR_FSYNC: Fault.UNSYNCED,
    sqlite3.SQLITE_IOERR_DIR_FSYNC: Fault.UNSYNCED,
    # The shared-memory file beside a database grows by writing; SQLite does not say why it could not.
    sqlite3.SQLITE_IOERR_SHMSIZE: Fault.FULL,
}
_BY_CODE = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_IOERR: Fault.FAILED,
    sqlite3.SQLITE_CORRUPT: Fault.DAMAGED,
    sqlite3.SQLITE_NOTADB: Fault.DAMAGED,
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_READONLY: Fault.FORBIDDEN,
    sqlite3.SQLITE_CANTOPEN: Fault.FORBIDDEN,
    sqlite3.SQLITE_PERM: Fault.FORBIDDEN,
}


def fault_of(error: BaseException | None) -> Fault | None:
    """Return the fault behind an error; None if it is none of the file's.

    Of the *first* failure in its context: what follows from it may hide it. After a full disk, for example, SQLite has
    rolled everything back, and whoever wants to return to a savepoint finds none.
    """
    fault: Fault | None = None
    while error is not None:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None:
            fault = _BY_EXTENDED_CODE.get(code) or _BY_CODE.get(code & 0xFF)
        elif isinstance(error, sqlite3.OperationalError) and "Could not decode to UTF-8" in str(error):
            fault = Fault.DAMAGED  # found by the driver, so without a code: only UTF-8 is ever stored as text
        error = error.__context__
    return fault


def connect(path: Path, *, timeout: float = 5.0, must_exist: bool = False, **options: Any) -> sqlite3.Connection:
    """Open the database in the file `path`, whatever characters that has. Raises sqlite3.Error, FileNotFoundError.

    `timeout`: seconds to wait for another process. `options` as for `sqlite3.connect`.
    """
    if must_exist:
        os.stat(path)
    connection: sqlite3.Connection = sqlite3.connect(path.absolute(), timeout=timeout, **options)
    return connection
