"""The ledger as it was before its last migration, kept beside the new one: `fleetpush.db.before-rNNNN`.

A migration itself needs no copy: it is one transaction, and one that fails leaves the file as it was. The copy is the
way back from a version that turns out to be wrong after it has started: `restore` puts it in the new ledger's place
(`downgrade`).

Laws
1. One is kept, that of the last migration; the one before it is removed when the new one is complete, or earlier if it
   takes the room. The log names the loser.
2. It is kept `KEPT_DAYS` days: what was accepted since is not in it, so with every day it is worth less. A disk that is
   nearly full has it sooner: before pushes are refused.
3. It costs as much disk as the ledger, or nothing where the file system shares blocks (XFS, btrfs), and is made before
   anything is changed. Without room for it the server does not start, and says what to do.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from broker.sqlite_file import connect
from gateway.data_directory import LEDGER, sync_directory

log = logging.getLogger(__name__)

KEPT = re.compile(rf"{re.escape(LEDGER)}\.before-r(\d+)")
PARTIAL = ".partial"
KEPT_DAYS = 14
DAY_SECONDS = 86_400
SPARE_BYTES = 64 << 20
"""Bytes that the copy leaves free, or an eighth of a small disk: the migration's own log goes there."""
SPARE_SHARE = 8
FICLONE = 0x4004_9409
"""ioctl of Linux: let a file share another one's blocks (linux/fs.h)."""


class NoRoomToKeep(Exception):
    """The disk has no room for the copy; nothing was changed. The message names the remedy."""


def kept_ledgers(data_dir: Path) -> list[Path]:
    """List kept ledgers, that of the newest schema first."""
    return sorted((path for path in data_dir.glob(f"{LEDGER}.before-r*") if KEPT.fullmatch(path.name)), reverse=True)


def schema_of(kept: Path) -> str:
    """Return the schema revision in the name of a kept ledger."""
    match = KEPT.fullmatch(kept.name)
    assert match is not None, "one of `kept_ledgers`"
    return match[1]


def keep(ledger: sqlite3.Connection, path: Path, schema: str) -> None:
    """Keep the ledger that this connection has open, in `path`, before it is migrated. Raises NoRoomToKeep, OSError,
    sqlite3.Error."""
    wanted = path.with_name(f"{path.name}.before-r{schema}")
    partial = wanted.with_name(wanted.name + PARTIAL)
    partial.unlink(missing_ok=True)
    size = ledger.execute("PRAGMA page_count").fetchone()[0] * ledger.execute("PRAGMA page_size").fetchone()[0]
    others = [other for other in kept_ledgers(path.parent) if other != wanted]
    try:
        _, log_pages, copied_pages = ledger.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        # Without its log the file is whole only if all of that is in it: a reader may have kept it from being copied.
        if log_pages != copied_pages or not _share_blocks(path, partial):
            if not _has_room(path.parent, size):
                _remove(others, "for want of room")
                others = []
            if not _has_room(path.parent, size):
                raise NoRoomToKeep(
                    f"the upgrade from schema {schema} keeps the ledger as it was beside the new one, and for these "
                    f"{size:,} bytes the disk has too little room: free some, or move the data directory to a larger "
                    "disk, and start again; or start the earlier version, nothing was changed"
                )
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(connect(partial, isolation_level=None)) as copy:
                ledger.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
        _sync(partial)
        os.replace(partial, wanted)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    log.warning("the ledger as it was before the upgrade is kept for %d days: %s", KEPT_DAYS, wanted)
    _remove(others, "an upgrade later")


def forget(path: Path, schema: str) -> None:
    """Remove what was kept for a migration that failed: the ledger itself is as it was."""
    path.with_name(f"{path.name}.before-r{schema}").unlink(missing_ok=True)


def remove_expired(data_dir: Path, wall_seconds: float) -> None:
    """Remove what has been kept for `KEPT_DAYS`. `wall_seconds`: Unix time, as the file system has it."""
    for path in kept_ledgers(data_dir):
        with suppress(FileNotFoundError):
            if wall_seconds - path.stat().st_mtime > KEPT_DAYS * DAY_SECONDS:
                _remove([path], f"after {KEPT_DAYS} days")


def give_up(data_dir: Path) -> bool:
    """Remove what is kept because the disk is nearly full; was there anything?"""
    found = kept_ledgers(data_dir)
    _remove(found, "because the disk is nearly full")
    return bool(found)


def _remove(paths: list[Path], reason: str) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        log.warning("%s, kept by an earlier upgrade, is removed %s", path, reason)


def _share_blocks(source: Path, target: Path) -> bool:
    """Make a copy that shares its blocks, where the file system can."""
    with source.open("rb") as original:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.ioctl(descriptor, FICLONE, original.fileno())
        except OSError:
            target.unlink()
            return False
        finally:
            os.close(descriptor)
    return True


def _has_room(folder: Path, size: int) -> bool:
    disk = os.statvfs(folder)
    spare = min(SPARE_BYTES, disk.f_blocks * disk.f_frsize // SPARE_SHARE)
    return disk.f_bavail * disk.f_frsize >= size + spare


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
