"""The archive of a backup: how it is written, and how it is read without trusting it.

A plain tar: `manifest.json`, the databases, `admin.key`, what pushes refer to (`attachments`), and the fleet CA with
the server's certificate: without that CA a restored server would be a stranger to its own devices. What devices show is
not in it; they have it. Compressed by gzip, and then encrypted in the age format, if that was asked for; who reads it
sees by the first bytes.

Laws
1. The manifest carries sizes, SHA-256 sums, schemas and row counts of the files, and the counts of what they hold
   (`backup_contents`). Nothing is believed that it does not say, and of what it says everything is checked.
2. Whoever made an archive, reading it takes no more disk and memory than its manifest says, and writes nowhere else.
3. It is read to its end: only there do compression and encryption say that nothing is missing.
4. What is wrong with it is a `BackupError` of one line, whichever layer found it.
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
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from broker.sqlite_file import connect
from broker.sqlite_tables import SCHEMA_VERSION
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
)
from gateway.store.attribute_index import ATTRIBUTE_TRIGGERS
from gateway.store.deliveries.conditions import COUNTED_TRIGGER

if TYPE_CHECKING:
    from pyrage.x25519 import Identity, Recipient

FORMAT_VERSION = 1
DATABASES = (BROKER, LEDGER)
"""Names of the databases. The broker's is copied first: see `backup`, law 2."""
ATTACHMENT = re.compile(rf"{ATTACHMENTS_DIR}/[0-9a-f]{{64}}")
PLAIN_FILES = (KEY_FILE, *(f"{TLS_DIR}/{name}" for name in (CA_CERTIFICATE, CA_KEY, SERVER_CERTIFICATE, SERVER_KEY)))
"""Other files by their names in the data directory, and in the archive."""
MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 << 20
"""20,000 attachments (`delivery.attachments`) take 5 MB of it, and it is read into memory."""
GZIP = b"\x1f\x8b"
GZIP_LEVEL = 4
"""Level 9 takes six times as long for a twentieth less."""
BLOCK_BYTES = 1 << 20
REST_BYTES = 1 << 16
"""A tar ends with zeros up to its block of 10 KiB. Whatever has more behind its last file is none of ours."""


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
    origin: str = ""
    """The random name of its data directory (`backup_record`); empty in those of earlier versions."""
    contents: dict[str, int] = field(default_factory=dict)
    """Counts of what it holds (`backup_contents`); none in those of earlier versions."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def moment(self) -> int:
        """Unix time in seconds of what it holds."""
        return int(datetime.fromisoformat(self.created_at).timestamp())

    @property
    def schema(self) -> str | None:
        """The schema revision of the ledger."""
        return next((file.schema for file in self.files if file.name == LEDGER), None)

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
        contents = {str(name): int(count) for name, count in document.get("contents", {}).items()}
        origin = str(document.get("origin", ""))
        return cls(str(document["created_at"]), str(document["fleetpush"]), files, origin=origin, contents=contents)


def prove_database(database: sqlite3.Connection, name: str) -> tuple[str | None, dict[str, int]]:
    """Schema revision and rows by table of a sound database. Raises BackupError for any other."""
    try:
        (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise BackupError(f"{name} is damaged: {verdict.splitlines()[-1]}")
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


def describe_file(folder: Path, name: str, schema: str | None = None, rows: dict[str, int] | None = None) -> StoredFile:
    path = folder / name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(name, path.stat().st_size, digest, schema, rows or {})


# -- writing -----------------------------------------------------------------------------------------------------------


def write_archive(
    path: Path, manifest: Manifest, folder: Path, *, compress: bool, recipients: Sequence[Recipient] = ()
) -> None:
    """Write the files that `manifest` lists from `folder` into a new archive, complete and synced. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        with ExitStack() as layers:
            stream: Any = file
            if recipients:
                from gateway.age_encryption import encrypting

                stream = layers.enter_context(encrypting(file, recipients))
            if compress:
                stream = layers.enter_context(gzip.GzipFile("", "wb", GZIP_LEVEL, stream))
            tar = layers.enter_context(tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT))
            text = json.dumps(manifest.as_dict(), indent=1).encode()
            tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
            for stored in manifest.files:
                with (folder / stored.name).open("rb") as content:
                    tar.addfile(_member(stored.name, stored.size), content)
        file.flush()
        os.fsync(file.fileno())


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    info.mtime = int(datetime.now(UTC).timestamp())
    return info


# -- reading -----------------------------------------------------------------------------------------------------------


class Header(tarfile.TarInfo):
    """A member of an archive that `write_archive` may have made: a plain file. Others can make tarfile read into memory
    what they like (long names, extended headers, sparse maps), or write elsewhere (links)."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise BackupError(f"it holds something else than files: {found.name!r}")
        return found


@contextmanager
def opened(archive: Path, identities: Sequence[Identity] = ()) -> Iterator[tarfile.TarFile]:
    """Read from its beginning to its end, and never farther than is asked for; behind its last file comes nothing."""
    if not archive.is_file():
        raise BackupError("there is no such file" if not archive.exists() else "it is no file")
    from gateway.age_encryption import MAGIC, KeyProblem, decrypting, is_encrypted

    with archive.open("rb") as file, ExitStack() as layers:
        stream: Any = file
        if is_encrypted(file.peek(len(MAGIC))):
            if not identities:
                raise BackupError("it is encrypted: name the file of the secret key that opens it with --identity")
            layers.enter_context(_one_line_of(KeyProblem))
            stream = layers.enter_context(decrypting(file, identities))
        if stream.peek(len(GZIP))[: len(GZIP)] == GZIP:
            stream = gzip.GzipFile(fileobj=stream)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as tar:
            yield tar
            if tar.next() is not None:
                raise BackupError("it holds more files than its manifest says")
        if len(stream.read(REST_BYTES)) == REST_BYTES:
            raise BackupError("it holds more than its manifest says")


@contextmanager
def _one_line_of(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        raise BackupError(str(error)) from error


@contextmanager
def unpacked(
    archive: Path, folder: Path, identities: Sequence[Identity] = (), *, durable: bool = True
) -> Iterator[tuple[Manifest, Path]]:
    """The archive's files in a directory inside `folder`, every claim of the manifest checked. Raises BackupError.

    `durable`: they are synced. Without it they may never reach the disk, and no commit of a server waits for them.
    """
    with tempfile.TemporaryDirectory(prefix=STAGING, dir=folder, ignore_cleanup_errors=True) as name:
        staging = Path(name)
        with explained(f"{archive}: "):
            manifest = unpack_all(archive, staging, identities, durable=durable)
        yield manifest, staging


def unpack_all(archive: Path, staging: Path, identities: Sequence[Identity], *, durable: bool) -> Manifest:
    try:
        with opened(archive, identities) as tar:
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
                    raise BackupError(f"it does not hold {stored.name} as its manifest says: it is damaged")
                content = tar.extractfile(found)
                assert content is not None, "a plain file"
                unpack(content, staging, stored, durable=durable)
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


def unpack(content: IO[bytes], staging: Path, stored: StoredFile, *, durable: bool) -> None:
    target = staging / stored.name
    target.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file, BLOCK_BYTES)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    found = describe_file(staging, stored.name)
    if (found.size, found.sha256) != (stored.size, stored.sha256):
        raise BackupError(f"{stored.name} is damaged: its SHA-256 is not the one that the manifest says")
    if stored.name in DATABASES:
        with closing(connect(target)) as database:
            database.execute("PRAGMA query_only = 1")
            require_plain_schema(database, stored.name)
            schema, rows = prove_database(database, stored.name)
            require_known_schema(stored.name, schema)
        if (schema, rows) != (stored.schema, stored.rows):
            raise BackupError(f"{stored.name} has another schema, or other rows, than the manifest says")


def require_known_schema(name: str, schema: str | None) -> None:
    """Refuse a schema that only a later version can read. It would be refused when what was there is already aside.
    Raises BackupError."""
    from gateway.store.migrations import HEAD  # with it comes SQLAlchemy, which takes as long as all else here

    known = HEAD if name == LEDGER else str(SCHEMA_VERSION)
    if schema is not None and schema.isdecimal() and int(schema) > int(known):
        raise BackupError(f"{name} was written by a later version (schema {schema}): restore it with that one")


def require_plain_schema(database: sqlite3.Connection, name: str) -> None:
    """Refuse triggers, views and virtual tables: they would run in the server, and ours are known. Raises
    BackupError."""
    known = (COUNTED_TRIGGER, *ATTRIBUTE_TRIGGERS) if name == LEDGER else ()
    try:
        found = database.execute(
            "SELECT type, name FROM sqlite_master WHERE (type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%')"
            " AND sql NOT IN (SELECT value FROM json_each(?))",
            (json.dumps(known),),
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
