"""Hot backup of a data directory and its restoration, both proven.

Laws
1. A backup is taken from a running server by another process, without stopping or slowing its writer: SQLite's backup
   API copies one WAL snapshot of each database.
2. The broker's database is copied before the gateway's. A session may then lack what the ledger already knows, which
   the resume at reconnect decides; the other way round it could hold on to deliveries the ledger never heard of.
3. Nothing unproven is kept: every copy passes `PRAGMA integrity_check` before it goes into the archive, and the archive
   carries sizes, SHA-256 sums, schema and row counts, which `restore` checks again before it touches the directory.
4. The ids of events are never used twice: a restored ledger goes on with higher ones than the server can have given
   since the backup, so that whoever follows events comes back with the last id it had, and misses none of the new.
5. A restored server knows no session: devices have gone on since the backup, and hold packet identifiers of messages
   that it has never heard of. It answers them without session present, so that both sides begin anew.
6. A backup holds the admin key, the fleet CA's key and every device's facts: mode 0600 from its first byte.

The archive is a plain tar (gzip if the name ends in `.gz` or `.tgz`): `manifest.json`, the databases, `admin.key`, what
pushes refer to (`attachments`, by the rows of the copied database), and the fleet CA with the server's certificate:
without that CA a restored server would be a stranger to its own devices. What devices show is not in it; they have it.
It needs free space for one more copy of the databases beside it while it is made. Whoever made an archive, reading it
takes no more disk and memory than its manifest says, and writes nowhere else.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Self

from broker.sqlite_file import connect
from broker.sqlite_store import void_sessions
from broker.sqlite_tables import SCHEMA_VERSION
from gateway import replacement
from gateway.data_directory import (
    ATTACHMENTS_DIR,
    BROKER,
    CA_CERTIFICATE,
    CA_KEY,
    KEY_FILE,
    LEDGER,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    STAGING,
    TLS_DIR,
    DirectoryInUse,
    locked,
    sync_directory,
)
from gateway.delivery_states import COUNTED_TRIGGER
from gateway.program import PROGRAM

FORMAT_VERSION = 1
DATABASES = (BROKER, LEDGER)
"""Names of the databases, in the order of law 2."""
ATTACHMENT = re.compile(rf"{ATTACHMENTS_DIR}/[0-9a-f]{{64}}")
PLAIN_FILES = (KEY_FILE, *(f"{TLS_DIR}/{name}" for name in (CA_CERTIFICATE, CA_KEY, SERVER_CERTIFICATE, SERVER_KEY)))
"""Other files by their names in the data directory, and in the archive."""
MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 << 20
"""20,000 attachments (`delivery.attachments`) take 5 MB of it, and it is read into memory."""
GZIP = b"\x1f\x8b"
BLOCK_BYTES = 1 << 20
BUSY_SECONDS = 30.0
"""Time that a backup waits for another program that keeps a database locked, a migration for example."""


class BackupError(Exception):
    """The message says what is wrong and what to do."""


class RestoreUnfinished(BackupError):
    """The backup counts already, and is not in its place yet."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a backup: its size in bytes, its SHA-256, and of a database its schema and row counts."""

    name: str
    size: int
    sha256: str
    schema: str | None = None
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The table of contents of a backup."""

    created_at: str
    fleetpush: str
    files: list[StoredFile]
    format: int = FORMAT_VERSION

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        document = json.loads(text)
        if document["format"] != FORMAT_VERSION:
            raise BackupError(f"the backup has format {document['format']}; this version reads {FORMAT_VERSION}")
        files = [StoredFile(**file) for file in document["files"]]
        names = [file.name for file in files]
        if len(set(names)) < len(names) or not all(
            name in (*DATABASES, *PLAIN_FILES) or ATTACHMENT.fullmatch(name) for name in names
        ):
            raise BackupError("the manifest lists files that no backup has")
        if not all(type(file["size"]) is int and file["size"] >= 0 for file in document["files"]):
            raise BackupError("the manifest lists a size that no file has")
        return cls(str(document["created_at"]), str(document["fleetpush"]), files)


def create(data_dir: Path, archive: Path, *, overwrite: bool = False) -> Manifest:
    """Write `archive` from the data directory of a server that may be running. Raises BackupError, and leaves then
    nothing under that name that was not there before."""
    if not (data_dir / LEDGER).exists():
        raise BackupError(f"{data_dir} holds no {LEDGER}: give the server's data directory with --data-dir")
    if replacement.unfinished(data_dir):
        raise BackupError(f"{data_dir}: a restore was interrupted; `{PROGRAM} serve` finishes it")
    if archive.exists() and not overwrite:
        raise BackupError(f"{archive} exists; give another name, or --force to replace it")
    with explained():
        return write_backup(data_dir, archive)


def write_backup(data_dir: Path, archive: Path) -> Manifest:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fleetpush-backup-", dir=archive.parent) as folder:
        copies = Path(folder)
        files = [copy_database(data_dir / name, copies / name) for name in DATABASES if (data_dir / name).exists()]
        (copies / TLS_DIR).mkdir()
        for name in (name for name in PLAIN_FILES if (data_dir / name).exists()):
            shutil.copyfile(data_dir / name, copies / name)
            files.append(describe(copies, name))
        files += copy_attachments(data_dir, copies)
        manifest = Manifest(datetime.now(UTC).isoformat(timespec="seconds"), installed_version(), files)
        partial = copies / "archive"
        write_archive(partial, manifest, copies, compress=archive.suffix in (".gz", ".tgz"))
        os.replace(partial, archive)
    sync_directory(archive.parent)
    return manifest


def copy_database(source: Path, copy: Path) -> StoredFile:
    with (
        closing(connect(source, timeout=BUSY_SECONDS, must_exist=True)) as original,
        closing(connect(copy, isolation_level=None)) as database,
    ):
        copy.chmod(0o600)
        # One step: the whole copy is one read transaction, hence one moment.
        original.backup(database, pages=-1)
        # The copy stands alone, without a -wal file; the server switches back when it opens it.
        database.execute("PRAGMA journal_mode=DELETE")
        schema, rows = prove(database, source.name)
    return describe(copy.parent, copy.name, schema, rows)


def copy_attachments(data_dir: Path, copies: Path) -> list[StoredFile]:
    """Copy the attachments that the copied database names and that are still there. A file never changes: a link is a
    copy."""
    with closing(connect(copies / LEDGER)) as database:
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'attachment'").fetchone()
        rows = database.execute("SELECT DISTINCT id FROM attachment ORDER BY id").fetchall() if tables[0] else []
    if rows:
        (copies / ATTACHMENTS_DIR).mkdir()
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
            files.append(describe(copies, name))
    return files


def prove(database: sqlite3.Connection, name: str) -> tuple[str | None, dict[str, int]]:
    """Schema revision and rows by table of a sound database. Raises BackupError for any other."""
    try:
        (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise BackupError(f"{name} is damaged: {verdict}")
        tables = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        )
        names = sorted(table for (table,) in tables)
        rows = {table: database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in names}
        if "alembic_version" in names:
            (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        else:
            (schema,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{name} is damaged: {error}") from error
    return str(schema), rows


def describe(folder: Path, name: str, schema: str | None = None, rows: dict[str, int] | None = None) -> StoredFile:
    path = folder / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(name, path.stat().st_size, digest, schema, rows or {})


def write_archive(path: Path, manifest: Manifest, folder: Path, *, compress: bool) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz" if compress else "w", format=tarfile.GNU_FORMAT) as tar:
            text = json.dumps(manifest.as_dict(), indent=1).encode()
            tar.addfile(member(MANIFEST, len(text)), io.BytesIO(text))
            for stored in manifest.files:
                with (folder / stored.name).open("rb") as content:
                    tar.addfile(member(stored.name, stored.size), content)
        file.flush()
        os.fsync(file.fileno())


def member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    info.mtime = int(datetime.now(UTC).timestamp())
    return info


def restore(archive: Path, data_dir: Path, *, replace: bool = False) -> Manifest:
    """Fill `data_dir` from a backup whose proof holds. What was there is moved aside, never deleted.

    One rename decides (`replacement`): killed before it, the old state holds; after it the next `serve` or `restore`
    carries out what is left. Raises BackupError.
    """
    try:
        with locked(data_dir), explained(f"{data_dir}: "):
            replacement.finish(data_dir)
            replacement.remove_leftovers(data_dir)
            return fill(archive, data_dir, replace=replace)
    except DirectoryInUse as holder:
        raise BackupError(f"{data_dir} is in use by {holder}: stop that server, or give another --data-dir") from None


def fill(archive: Path, data_dir: Path, *, replace: bool) -> Manifest:
    if replacement.present(data_dir) and not replace:
        raise BackupError(
            f"{data_dir}: not empty; restore into another --data-dir, or with --force, which moves what is "
            "there into a folder of its own"
        )
    with unpacked(archive, data_dir) as (manifest, staging):
        names = {stored.name for stored in manifest.files}
        if LEDGER not in names:
            raise BackupError(f"{archive} holds no {LEDGER}: it is no whole backup")
        number_events_anew(staging / LEDGER)
        void_sessions_of(staging / BROKER)
        for name in names & set(DATABASES):
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
    return manifest


def void_sessions_of(broker: Path) -> None:
    """See law 5."""
    if broker.exists():
        void_sessions(broker)


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


def check(archive: Path) -> Manifest:
    """Everything `restore` checks, without restoring."""
    with (
        tempfile.TemporaryDirectory(prefix="fleetpush-check-") as folder,
        unpacked(archive, Path(folder)) as (found, _),
    ):
        return found


class Header(tarfile.TarInfo):
    """A member of an archive that `create` may have made: a plain file. Others can make tarfile read into memory what
    they like (long names, extended headers, sparse maps), or write elsewhere (links)."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise BackupError(f"it holds something else than files: {found.name!r}")
        return found


@contextmanager
def opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """Read from its beginning to its end, and never farther than is asked for."""
    if not archive.is_file():
        raise BackupError("there is no such file" if not archive.exists() else "it is no file")
    with archive.open("rb") as file:
        is_compressed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if is_compressed else file
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as tar:
            yield tar


@contextmanager
def unpacked(archive: Path, folder: Path) -> Iterator[tuple[Manifest, Path]]:
    """The archive's files in a directory inside `folder`, every claim of the manifest checked. Raises BackupError."""
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=folder, ignore_cleanup_errors=True) as name:
        staging = Path(name)
        with explained(f"{archive}: "):
            manifest = unpack_all(archive, staging)
        yield manifest, staging


def unpack_all(archive: Path, staging: Path) -> Manifest:
    try:
        with opened(archive) as tar:
            first = tar.next()
            content = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
            if first is None or content is None:
                raise BackupError(f"it is no Fleetpush backup: it does not begin with {MANIFEST}")
            if first.size > MANIFEST_BYTES:
                raise BackupError(f"its manifest has {first.size:,} bytes; no backup has more than {MANIFEST_BYTES:,}")
            manifest = Manifest.parse(content.read())
            free = shutil.disk_usage(staging).free
            if manifest.size > free:
                raise BackupError(f"it needs {manifest.size:,} bytes, and {staging.parent} has {free:,} left")
            for stored in manifest.files:
                # In the manifest's order, as they were written; and of the sizes that were checked above.
                found = tar.next()
                if found is None or found.name != stored.name or found.size != stored.size:
                    raise BackupError(f"it does not hold {stored.name} as its manifest says")
                content = tar.extractfile(found)
                assert content is not None, "a plain file"
                unpack(content, staging, stored)
    except (
        tarfile.TarError,
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        why = str(error).partition("\n")[0]
        raise BackupError(f"it is damaged or no Fleetpush backup: {why}") from error
    return manifest


def unpack(content: IO[bytes], staging: Path, stored: StoredFile) -> None:
    target = staging / stored.name
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file, BLOCK_BYTES)
        file.flush()
        os.fsync(file.fileno())
    schema: str | None = None
    rows: dict[str, int] = {}
    if stored.name in DATABASES:
        with closing(connect(target)) as database:
            database.execute("PRAGMA query_only = 1")
            require_plain_schema(database, stored.name)
            schema, rows = prove(database, stored.name)
            require_known_schema(stored.name, schema)
    if (found := describe(staging, stored.name, schema, rows)) != stored:
        raise BackupError(f"{stored.name} is not what the manifest says: {found} instead of {stored}")


def require_known_schema(name: str, schema: str | None) -> None:
    """Refuse a schema that only a later version can read. It would be refused when what was there is already aside.
    Raises BackupError."""
    from gateway.store.migrations import HEAD  # with it comes SQLAlchemy, which takes as long as all else here

    known = HEAD if name == LEDGER else str(SCHEMA_VERSION)
    if schema is not None and schema.isdecimal() and int(schema) > int(known):
        raise BackupError(f"{name} was written by a later version (schema {schema}): restore it with that one")


def require_plain_schema(database: sqlite3.Connection, name: str) -> None:
    """Refuse triggers, views and virtual tables: they would run in the server, and we have one. Raises BackupError."""
    try:
        found = database.execute(
            "SELECT type, name FROM sqlite_master WHERE (type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%')"
            " AND sql IS NOT ?",
            (COUNTED_TRIGGER if name == LEDGER else None,),
        ).fetchone()
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{name} is damaged: {error}") from error
    if found is not None:
        raise BackupError(f"{name} holds the {found[0]} {found[1]!r}, which no Fleetpush made")


@contextmanager
def explained(prefix: str = "") -> Iterator[None]:
    """Make a BackupError of one line of what disk and databases refuse."""
    try:
        yield
    except BackupError as error:
        if not prefix or str(error).startswith(prefix) or isinstance(error, RestoreUnfinished):
            raise
        raise BackupError(f"{prefix}{error}") from error.__cause__
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else prefix
        raise BackupError(f"{place}{error.strerror or error}") from error
    except sqlite3.Error as error:
        raise BackupError(f"{prefix}{error}") from error


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def installed_version() -> str:
    try:
        return version("fleetpush")
    except PackageNotFoundError:
        return "unknown"
