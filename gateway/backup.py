"""Hot backup of a data directory and its restoration, both proven.

Laws
1. A backup is taken from a running server by another process, without stopping or slowing its writer: SQLite's backup
   API copies one WAL snapshot of each database.
2. The broker's database is copied before the gateway's. A session may then lack what the ledger already knows, which
   the resume at reconnect decides; the other way round it could hold on to deliveries the ledger never heard of.
3. Nothing unproven is kept: every copy passes `PRAGMA integrity_check` before it goes into the archive
   (`backup_archive`), and `restore` checks everything again before it touches the directory.
4. The ids of events are never used twice: a restored ledger goes on with higher ones than the server can have given
   since the backup, so that whoever follows events comes back with the last id it had, and misses none of the new.
5. A restored server knows no session: devices have gone on since the backup, and hold packet identifiers of messages
   that it has never heard of. It answers them without session present, so that both sides begin anew. Only who knows
   that the server has not run since (`keep_sessions`: a move to another machine) may take the sessions along. People
   sign in at the console again in any case.
6. A backup holds the admin key, the fleet CA's key and every device's facts: mode 0600 from its first byte.
7. A name stands for a complete archive, always: it is written under another one, synced, and renamed.

It needs free space for one more copy of the databases while it is made: beside the archive, or in `scratch`. Whoever
encrypts has that on the server's own disk, so that the place for backups never sees anything in the clear; there a
backup leaves the server enough to go on accepting pushes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from broker.sqlite_file import connect
from broker.sqlite_store import void_sessions
from gateway import replacement
from gateway.backup_archive import (
    DATABASES,
    PLAIN_FILES,
    BackupError,
    Manifest,
    RestoreUnfinished,
    StoredFile,
    describe_file,
    explained,
    prove_database,
    unpacked,
    write_archive,
)
from gateway.backup_contents import count_contents
from gateway.backup_record import origin_of
from gateway.data_directory import (
    ATTACHMENTS_DIR,
    BROKER,
    LEDGER,
    TLS_DIR,
    DirectoryInUse,
    ledger_in_postgresql,
    locked,
    sync_directory,
    without_ledger_file,
)
from gateway.program import PROGRAM, installed_version
from gateway.scratch_folder import scratch_folder

if TYPE_CHECKING:
    from pyrage.x25519 import Identity, Recipient

BACKUP_IN_POSTGRESQL = (
    "back that up with pg_dump or PostgreSQL's base backups, and copy the data directory besides; restore it there"
)
"""What stands in for the commands of this module where the ledger is no file."""
BUSY_SECONDS = 30.0
"""Time that a backup waits for another program that keeps a database locked, a migration for example."""
SPARE_BYTES = 256 << 20
"""Bytes that a backup leaves free on the server's own disk, or an eighth of a small one: at 32 MiB (`disk_reserve`) the
server refuses pushes."""
SPARE_SHARE = 8


def create(
    data_dir: Path,
    archive: Path,
    *,
    overwrite: bool = False,
    recipients: Sequence[Recipient] = (),
    scratch: Path | None = None,
    check: Callable[[Path], None] | None = None,
) -> Manifest:
    """Write `archive` from the data directory of a server that may be running.

    It is compressed if its name says so (`.gz`, `.tgz`), and encrypted to `recipients`. `scratch`: a folder for the
    copies. `check` is given the complete archive before it has its name, and refuses it by a BackupError. Raises
    BackupError, and leaves then nothing under that name that was not there before.
    """
    if not (data_dir / LEDGER).exists():
        raise BackupError(without_ledger_file(data_dir, BACKUP_IN_POSTGRESQL))
    if replacement.unfinished(data_dir):
        raise BackupError(f"{data_dir}: a restore was interrupted; `{PROGRAM} serve` finishes it")
    if archive.exists() and not overwrite:
        raise BackupError(f"{archive} exists; give another name, or --force to replace it")
    with explained():
        archive.parent.mkdir(parents=True, exist_ok=True)
        copies_in = scratch or (data_dir if recipients else archive.parent)
        copies_in.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_room(data_dir, copies_in, archive.parent)
        with scratch_folder(copies_in) as copies, scratch_folder(archive.parent) as unnamed:
            manifest = copy_all(data_dir, copies)
            partial = unnamed / archive.name
            suffixes = archive.suffixes[-2:]
            compress = bool({".gz", ".tgz"} & set(suffixes))
            write_archive(partial, manifest, copies, compress=compress, recipients=recipients)
            remove_copies(copies)
            if check is not None:
                check(partial)
            os.replace(partial, archive)
        sync_directory(archive.parent)
        return manifest


def require_room(data_dir: Path, copies_in: Path, archive_in: Path) -> None:
    """Refuse to fill the disk of the server whose backup it is. Raises BackupError."""
    own = data_dir.stat().st_dev
    # At worst as much as there is, in the copies and again in the archive; a proof comes when the copies are gone.
    size = size_of(data_dir)
    needed = sum(size for folder in (copies_in, archive_in) if folder.stat().st_dev == own)
    disk = os.statvfs(data_dir)
    spare = min(SPARE_BYTES, disk.f_blocks * disk.f_frsize // SPARE_SHARE)
    free = disk.f_bavail * disk.f_frsize
    if needed and free < needed + spare:
        raise BackupError(
            f"the server's own disk would have too little left for pushes: {needed:,} bytes at most are for the backup "
            f"and {spare:,} for the server, and {free:,} are free; free some, or back up to another disk (and name a "
            "folder there with --scratch, if it is encrypted)"
        )


def size_of(data_dir: Path) -> int:
    """Return the bytes of what a backup copies, about."""
    attachments = data_dir / ATTACHMENTS_DIR
    files = [data_dir / name for name in DATABASES] + (list(attachments.iterdir()) if attachments.is_dir() else [])
    total = 0
    for path in files:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def copy_all(data_dir: Path, copies: Path) -> Manifest:
    """Copy everything that a backup holds into a folder, proven."""
    origin = origin_of(data_dir)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    files = [copy_database(data_dir / name, copies / name) for name in DATABASES if (data_dir / name).exists()]
    files += copy_plain_files(data_dir, copies)
    files += copy_attachments(data_dir, copies)
    return Manifest(began, installed_version(), files, origin=origin, contents=count_contents(copies))


def copy_database(source: Path, copy: Path) -> StoredFile:
    with (
        closing(connect(source, timeout=BUSY_SECONDS, must_exist=True)) as original,
        closing(connect(copy, isolation_level=None)) as database,
    ):
        copy.chmod(0o600)
        # Whoever keeps it syncs it; the server's commits would wait for that here.
        database.execute("PRAGMA synchronous=OFF")
        # One step: the whole copy is one read transaction, hence one moment.
        original.backup(database, pages=-1)
        # The copy stands alone, without a -wal file; the server switches back when it opens it.
        database.execute("PRAGMA journal_mode=DELETE")
        schema, rows = prove_database(database, source.name)
    return describe_file(copy.parent, copy.name, schema, rows)


def copy_plain_files(data_dir: Path, copies: Path) -> list[StoredFile]:
    (copies / TLS_DIR).mkdir(mode=0o700)
    names = [name for name in PLAIN_FILES if (data_dir / name).exists()]
    for name in names:
        shutil.copyfile(data_dir / name, copies / name)
        (copies / name).chmod(0o600)
    return [describe_file(copies, name) for name in names]


def copy_attachments(data_dir: Path, copies: Path) -> list[StoredFile]:
    """Copy the attachments that the copied database names and that are still there. A file never changes: a link is a
    copy."""
    with closing(connect(copies / LEDGER)) as database:
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'attachment'").fetchone()
        rows = database.execute("SELECT DISTINCT id FROM attachment ORDER BY id").fetchall() if tables[0] else []
    if rows:
        (copies / ATTACHMENTS_DIR).mkdir(mode=0o700)
    files: list[StoredFile] = []
    for (attachment_id,) in rows:
        name = f"{ATTACHMENTS_DIR}/{attachment_id}"
        with suppress(FileNotFoundError):  # it has expired since
            try:
                os.link(data_dir / name, copies / name)
            except FileNotFoundError:
                raise
            except OSError:  # another file system
                shutil.copyfile(data_dir / name, copies / name)
            files.append(describe_file(copies, name))
    return files


def remove_copies(copies: Path) -> None:
    """Make room for what follows: the archive has it all."""
    for path in copies.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# -- restoring ---------------------------------------------------------------------------------------------------------


def restore(
    archive: Path,
    data_dir: Path,
    *,
    replace: bool = False,
    identities: Sequence[Identity] = (),
    keep_sessions: bool = False,
) -> Manifest:
    """Fill `data_dir` from a backup whose proof holds. What was there is moved aside, never deleted.

    One rename decides (`replacement`): killed before it, the old state holds; after it the next `serve` or `restore`
    carries out what is left. `keep_sessions`: see law 5. Raises BackupError.
    """
    with filling(data_dir, replace=replace), unpacked(archive, data_dir, identities) as (manifest, staging):
        if LEDGER not in {stored.name for stored in manifest.files}:
            raise BackupError(f"{archive} holds no {LEDGER}: it is no whole backup")
        make_startable(staging, keep_sessions=keep_sessions)
        put_in_place(data_dir, staging)
        return manifest


@contextmanager
def filling(data_dir: Path, *, replace: bool) -> Iterator[None]:
    """Hold a data directory that is to be filled, once it is known that it may be. Raises BackupError."""
    if ledger_in_postgresql(data_dir) is not None:
        raise BackupError(without_ledger_file(data_dir, BACKUP_IN_POSTGRESQL))
    try:
        with locked(data_dir), explained(f"{data_dir}: "):
            replacement.finish(data_dir)
            replacement.remove_leftovers(data_dir)
            if replacement.present(data_dir) and not replace:
                raise BackupError(
                    f"{data_dir}: not empty; restore into another --data-dir, or with --force, which moves what is "
                    "there into a folder of its own"
                )
            yield
    except DirectoryInUse as holder:
        raise BackupError(f"{data_dir} is in use by {holder}: stop that server, or give another --data-dir") from None


def put_in_place(data_dir: Path, staging: Path) -> None:
    """Put complete new files in the place of all others. Raises RestoreUnfinished, OSError."""
    for name in DATABASES:
        if (staging / name).exists():
            sync_file(staging / name)
    try:
        replacement.replace(data_dir, staging)
    except OSError as error:
        if not replacement.unfinished(data_dir):
            raise
        raise RestoreUnfinished(
            f"the backup is unpacked, and counts, but cannot be put in its place: {error.filename}: "
            f"{error.strerror}; mend that, and `{PROGRAM} serve` finishes it"
        ) from error


def make_startable(folder: Path, *, keep_sessions: bool = False) -> None:
    """Let copied databases be those of a server that goes on from an earlier time: laws 4 and 5."""
    number_events_anew(folder / LEDGER)
    end_console_sessions(folder / LEDGER)
    if (folder / BROKER).exists() and not keep_sessions:
        void_sessions(folder / BROKER)


def end_console_sessions(ledger: Path) -> None:
    """Let nobody be signed in any more: who has signed out since, or whose key was revoked, would be."""
    if not ledger.exists():
        return
    with closing(connect(ledger, isolation_level=None)) as database:
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'console_session'").fetchone() is not None:
            database.execute("DELETE FROM console_session")


def number_events_anew(ledger: Path) -> None:
    """Let event numbers continue from the microseconds since the epoch: no server makes as many entries as that."""
    if not ledger.exists():
        return
    with closing(connect(ledger, isolation_level=None)) as database:
        if database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'event'").fetchone() is None:
            return  # of a version without
        database.execute("BEGIN IMMEDIATE")
        first = time.time_ns() // 1000
        if not database.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'event'", (first,)).rowcount:
            database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('event', ?)", (first,))
        database.execute("COMMIT")


def check(archive: Path, identities: Sequence[Identity] = ()) -> Manifest:
    """Everything `restore` checks, without restoring."""
    with (
        tempfile.TemporaryDirectory(prefix="fleetpush-check-") as folder,
        unpacked(archive, Path(folder), identities, durable=False) as (found, _),
    ):
        return found


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
