"""A way back from an upgrade: the ledger that was kept before it (`kept_ledger`), in the newer one's place.

It is a restore whose source is that file and what stands beside it in its data directory: keys, certificates,
attachments. So what was there is moved aside and never deleted, the ids of events go on, and devices are told that
their sessions begin anew. The broker's file goes along without them, or, if the newer version has changed its schema,
not at all. What was accepted since the upgrade is in neither.
"""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from broker.sqlite_file import connect
from broker.sqlite_tables import SCHEMA_VERSION
from gateway.backup import (
    copy_attachments,
    copy_database,
    copy_plain_files,
    filling,
    make_startable,
    put_in_place,
)
from gateway.backup_archive import BackupError, Manifest, explained, require_known_schema, require_plain_schema
from gateway.backup_contents import count_contents
from gateway.data_directory import BROKER, LEDGER, STAGING
from gateway.program import installed_version

MAGIC = b"SQLite format 3\0"
SPARE_BYTES = 16 << 20
"""Bytes that are to be free besides the copy: for the first steps of the server on it."""


def is_ledger(file: Path) -> bool:
    """Is it a database rather than an archive? Raises OSError."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(MAGIC)) == MAGIC


def schema_of_broker(path: Path) -> int:
    with closing(connect(path, must_exist=True)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def restore_kept(kept: Path, data_dir: Path, *, replace: bool = False) -> Manifest:
    """Fill `data_dir` from a kept ledger and what stands beside it. Raises BackupError."""
    beside = kept.absolute().parent
    with (
        filling(data_dir, replace=replace),
        TemporaryDirectory(prefix=STAGING, dir=data_dir, ignore_cleanup_errors=True) as name,
    ):
        staging = Path(name)
        with explained(f"{kept}: "):
            size, disk = kept.stat().st_size, os.statvfs(data_dir)
            if disk.f_bavail * disk.f_frsize < size + SPARE_BYTES:
                raise BackupError(f"the disk of {data_dir} has no room for a copy of its {size:,} bytes: free some")
            with closing(connect(kept, must_exist=True)) as database:
                require_plain_schema(database, LEDGER)
            ledger = copy_database(kept, staging / LEDGER)
            require_known_schema(LEDGER, ledger.schema)
            files = [ledger, *copy_plain_files(beside, staging), *copy_attachments(beside, staging)]
            if (beside / BROKER).exists() and schema_of_broker(beside / BROKER) <= SCHEMA_VERSION:
                files.append(copy_database(beside / BROKER, staging / BROKER))
        made = datetime.fromtimestamp(kept.stat().st_mtime, UTC).isoformat(timespec="seconds")
        manifest = Manifest(made, installed_version(), files, contents=count_contents(staging))
        make_startable(staging)
        put_in_place(data_dir, staging)
        return manifest
