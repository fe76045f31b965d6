"""The record of backups: when the last one was made and proven, in a small file of the data directory.

Whoever makes a backup or proves one writes it; `doctor` and the server's metrics read it, so that somebody is told when
the last backup that is known to restore grows old. A proof counts here only if the backup is of this data directory:
`origin` is a random name that the first backup gives it, and that every archive carries.

Writers are short, and take turns by a lock on the directory itself; a reader sees the old file or the new. It holds no
secret. A file that cannot be read counts as none: a lost record costs a warning, never a start.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gateway.data_directory import write_private

RECORD_FILE = "backups.json"
RECORD_BYTES = 65_536
"""The file has some hundred bytes; reading stops there."""
REASON_CHARACTERS = 500


@dataclass(slots=True, frozen=True)
class BackupRecord:
    """Facts about the backups of a data directory. Times are Unix seconds; 0: never."""

    origin: str = ""
    """A random name of the data directory; empty before its first backup."""
    made_at: int = 0
    """The moment that the newest backup holds."""
    made_bytes: int = 0
    proven_at: int = 0
    """When a backup was last proven."""
    proven_of: int = 0
    """The moment that the newest proven backup holds."""
    proven_file: str = ""
    failed_at: int = 0
    """When an attempt failed last; 0 after one that did not."""
    failed_attempts: int = 0
    """Attempts that have failed since the last one that did not."""
    failure: str = ""
    interval_seconds: int = 0
    """Time between two backups of the schedule (`backup --every`); 0: there is none."""


def read_record(data_dir: Path) -> BackupRecord:
    """Read the record; an empty one if there is none that can be read."""
    try:
        with (data_dir / RECORD_FILE).open("rb") as file:
            found = json.loads(file.read(RECORD_BYTES))
        return BackupRecord(
            **{
                field.name: found[field.name]
                for field in fields(BackupRecord)
                if type(found.get(field.name)) is type(field.default)
            }
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return BackupRecord()


def change_record(data_dir: Path, **changes: Any) -> BackupRecord:
    """Write the record with some fields changed. Raises OSError."""
    with _turn(data_dir):
        record = replace(read_record(data_dir), **changes)
        _write(data_dir, record)
        return record


def origin_of(data_dir: Path) -> str:
    """Return the random name of a data directory, and give it one if it has none; empty if it cannot be given one.

    A full disk is a reason to back up to another one, and no reason not to.
    """
    try:
        with _turn(data_dir):
            record = read_record(data_dir)
            if not record.origin:
                record = replace(record, origin=secrets.token_hex(8))
                _write(data_dir, record)
            return record.origin
    except OSError:
        return read_record(data_dir).origin


def record_made(data_dir: Path, made_at: int, made_bytes: int, interval_seconds: int = 0) -> None:
    """Record a complete backup of the moment `made_at`. Raises OSError."""
    with _turn(data_dir):
        record = read_record(data_dir)
        if made_at >= record.made_at:
            record = replace(record, made_at=made_at, made_bytes=made_bytes)
        record = replace(record, failed_at=0, failed_attempts=0, failure="")
        _write(data_dir, replace(record, interval_seconds=interval_seconds or record.interval_seconds))


def record_proof(data_dir: Path, *, origin: str, proven_of: int, proven_at: int, file: str) -> bool:
    """Record a proof, unless it is of another data directory; is it of this one? Raises OSError."""
    with _turn(data_dir):
        record = read_record(data_dir)
        if not origin or origin != record.origin:
            return False
        if proven_of >= record.proven_of:
            record = replace(record, proven_of=proven_of, proven_file=file)
        _write(data_dir, replace(record, proven_at=proven_at))
        return True


def record_failure(data_dir: Path, failed_at: int, reason: str, interval_seconds: int) -> None:
    """Record an attempt of the schedule that failed. Raises OSError."""
    with _turn(data_dir):
        record = read_record(data_dir)
        failed = replace(record, failed_at=failed_at, failed_attempts=record.failed_attempts + 1)
        _write(data_dir, replace(failed, failure=reason[:REASON_CHARACTERS], interval_seconds=interval_seconds))


@contextmanager
def _turn(data_dir: Path) -> Iterator[None]:
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(data_dir: Path, record: BackupRecord) -> None:
    write_private(data_dir / RECORD_FILE, json.dumps(asdict(record)) + "\n")
    if os.geteuid() == 0:  # whoever runs the server reads it
        owner = data_dir.stat()
        os.chown(data_dir / RECORD_FILE, owner.st_uid, owner.st_gid)
