"""Disk space: whether there is enough to accept more, and what is put by for a start on a full disk.

What has been accepted still has to write: outcomes, events, sessions. That goes through the logs of the two databases,
which grow up to a bound, and then into their files, which have pages free inside when retention has removed something.
So new pushes are refused as long as

- the logs could not grow to their bounds, or
- less than the reserve would be left for the files, the pages that are free inside the ledger included.

A start needs some space of its own (SQLite's shared memory beside each database, the first page of each log), and other
programs fill disks as well. `RESERVE_FILE` is there to be removed then: at a start that finds the disk full, or when
the ledger does.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from broker.sqlite_file import PAGE_BYTES, log_pages
from gateway.data_directory import BROKER, LEDGER

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.1
"""Time between two checks of the free space, as long as there is much of it."""
FILL_BYTES_PER_SECOND = 512 << 20
"""Bytes that pushes may take in a second: three times what a batch of large ones took, log and file together. The space
is checked again before what is left could be gone, so that a small disk is not passed by its last bytes."""
RESERVE_SHARE = 8
"""The reserve is no more than this part of a small disk: an eighth."""
LOG_GROWTH_FACTOR = 2
"""The multiple of its pages between checkpoints that a log may take: it is copied back after the transaction that
passes them, and that can be as large (a push to 10,000 devices writes 5 MiB)."""
RESERVE_FILE = "reserve"
RESERVE_FILE_BYTES = 1 << 20
"""A start takes about 100 KiB, a recorded outcome some hundred bytes."""
START_BYTES = 128 << 10
RESERVE_FILE_SHARE = 16
"""The part of a small disk that the reserve file has at most: a sixteenth."""


class DiskSpace:
    """Looked at a few times a second, not per push: the call lets go of the interpreter lock and waits for it."""

    def __init__(self, *, path: Path, reserve: int, clock: Callable[[], float], free_inside: Callable[[], int]) -> None:
        """`reserve`: bytes. `free_inside`: bytes of the pages that are free inside the ledger."""
        self._path = path
        self._reserve = reserve
        self._clock = clock
        self._free_inside = free_inside
        self._logs = [path / f"{name}-wal" for name in (LEDGER, BROKER)]
        self._next_check = 0.0
        self._has_room = True

    def has_room(self) -> bool:
        """Is there room to accept more?"""
        now = self._clock()
        if now >= self._next_check:
            beside_logs, beside_reserve = self._measure()
            has_room = beside_logs >= 0 and beside_reserve > 0
            may_take = min(beside_logs, beside_reserve) / FILL_BYTES_PER_SECOND if has_room else CHECK_SECONDS
            self._next_check = now + min(may_take, CHECK_SECONDS)
            if has_room is not self._has_room:
                log.warning("new pushes are %s", "accepted again" if has_room else "refused: the disk is nearly full")
            self._has_room = has_room
        return self._has_room

    def left(self) -> int:
        """Bytes that can be written until new pushes are refused, measured now; 0: they are."""
        return max(min(self._measure()), 0)

    def _measure(self) -> tuple[int, int]:
        """Bytes that would be free if the logs grew to their bounds; those that the files could take besides."""
        disk = os.statvfs(self._path)
        reserve = min(self._reserve, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)
        bound = LOG_GROWTH_FACTOR * log_pages(disk) * PAGE_BYTES if reserve else 0
        beside_logs = disk.f_bavail * disk.f_frsize - sum(max(bound - _size(path), 0) for path in self._logs)
        return beside_logs, beside_logs + self._free_inside() - reserve


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def make_reserve(data_dir: Path) -> None:
    """Make the reserve file, while the server runs, if there is room for more than it."""
    disk = os.statvfs(data_dir)
    size = min(RESERVE_FILE_BYTES, disk.f_blocks * disk.f_frsize // RESERVE_FILE_SHARE)
    if not (data_dir / RESERVE_FILE).exists() and disk.f_bavail * disk.f_frsize >= 4 * size:
        _reserve(data_dir, size)


def make_reserve_at_end(data_dir: Path) -> None:
    """Keep, of the space that the closed databases' logs have left, what the next start needs."""
    if (data_dir / RESERVE_FILE).exists():
        return
    disk = os.statvfs(data_dir)
    size = min(RESERVE_FILE_BYTES, disk.f_bavail * disk.f_frsize)
    if size >= START_BYTES:
        _reserve(data_dir, size)


def _reserve(data_dir: Path, size: int) -> None:
    path = data_dir / RESERVE_FILE
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            log.warning("nothing is put by for a full disk: %s", error)
    finally:
        os.close(descriptor)


def release(data_dir: Path) -> bool:
    """Remove the reserve file; was there one? On any thread."""
    try:
        (data_dir / RESERVE_FILE).unlink()
    except OSError:
        return False
    log.warning("the disk is full: %s is given up, so that what was accepted can be recorded", RESERVE_FILE)
    return True


def release_for_start(data_dir: Path) -> None:
    """Remove the reserve file on a full disk, at a start and before anything is written."""
    with suppress(OSError):
        disk = os.statvfs(data_dir)
        if disk.f_bavail * disk.f_frsize < RESERVE_FILE_BYTES:
            release(data_dir)
