"""Folders for copies that a backup or its proof needs for some minutes, and that hold every secret of a fleet.

One is made for its owner only (0700), and is removed however its work ends. Who is killed with SIGKILL leaves one
behind: the kernel gives up the lock on it, and whoever makes the next one beside it removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".fleetpush-backup-"
UNLOCKED_SECONDS = 60.0
"""Age from which a folder that nobody has locked is abandoned: a new one is locked a moment after it is made."""


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a folder inside `parent` for as long as the block runs. Raises OSError."""
    remove_abandoned(parent)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(descriptor)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders inside `parent` whose makers were killed."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(descriptor).st_mtime > UNLOCKED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # somebody is at work in it, or the file system knows no locks
            continue
        finally:
            os.close(descriptor)
