"""The data directory: one server at a time, readable by its owner only.

The lock is the kernel's (`flock` on a file that stays), so a server that was killed leaves none behind. `server.json`
tells commands on the same machine where the server listens; it holds no secret, and is there while a server runs (or
was killed). `admin.key` is written before its hash is stored: a crash in between leaves a key that opens nothing and a
next start that makes another, never a server that nobody has a key for.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LOCK_FILE = "lock"
SERVER_FILE = "server.json"
KEY_FILE = "admin.key"
LEDGER = "fleetpush.db"
POSTGRESQL_FILE = "postgresql"
"""Names, in a line, the database that keeps the ledger instead of that file; without a password."""
NODE_FILE = "node"
"""Number and identity of the node that the directory is, among those that share a database."""
ATTACHMENTS_DIR = "attachments"
"""Files named by their SHA-256 (`delivery.attachments`)."""
BROKER = "broker.db"
TLS_DIR = "tls"
"""The folder of certificates: the fleet's CA, what the server shows, and a folder of what devices show
(`certificates`)."""
CA_CERTIFICATE = "ca.pem"
CA_KEY = "ca.key"
SERVER_CERTIFICATE = "server.pem"
SERVER_KEY = "server.key"
DEVICES_DIR = "devices"
STAGING = ".restore-staging-"
ASIDE = "before-restore-"
"""The prefix of the folder that a restore fills, and of those that keep old states (`replacement`)."""
TRACES = (KEY_FILE, SERVER_FILE, BROKER, ATTACHMENTS_DIR, f"{LEDGER}-wal", f"{STAGING}*", f"{ASIDE}*")
"""Names of what a server leaves in its directory, or a restore that was interrupted: beside them a ledger is missing,
without them it is not there yet."""


class DirectoryInUse(Exception):
    """Another process holds it; the text names it."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the directory if need be and hold it. Raises DirectoryInUse, OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise DirectoryInUse(f"process {holder}" if holder.isdigit() else "another process") from None
        with suppress(OSError):  # a full disk: who holds it is good to know, and no more
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def traces(path: Path) -> list[str]:
    """Names of what an earlier server has left besides the ledger; empty files say nothing, nor does an empty store."""
    found = [trace for pattern in TRACES for trace in path.glob(pattern)]
    return sorted(
        trace.name
        for trace in found
        if (trace.name != ATTACHMENTS_DIR or any(trace.iterdir()) if trace.is_dir() else trace.stat().st_size)
    )


def ledger_in_postgresql(path: Path) -> str | None:
    """Name the PostgreSQL that keeps the ledger of a directory; None: it is a file here, or there is none yet."""
    try:
        return (path / POSTGRESQL_FILE).read_text(errors="replace").strip()
    except OSError:
        return None


def without_ledger_file(path: Path, instead: str) -> str:
    """Explain to a command that works on the ledger's file why there is none. `instead`: what to do in PostgreSQL."""
    place = ledger_in_postgresql(path)
    if place is None:
        return f"{path} holds no {LEDGER}: give the server's data directory with --data-dir"
    return f"the ledger of {path} is no file but in PostgreSQL ({place}): {instead}"


def write_private(path: Path, text: str) -> None:
    """Replace a file at once and durably; its owner alone may read it, from the first byte on."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make durable which names it holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def announced(path: Path, facts: dict[str, Any]) -> Iterator[None]:
    """Write `server.json` for as long as the server runs. On a full disk it is left out: the server matters more than
    being found."""
    try:
        write_private(path / SERVER_FILE, json.dumps(facts) + "\n")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.warning("the disk is full: commands on this machine do not find the server (no %s)", SERVER_FILE)
        for leftover in (SERVER_FILE, f".{SERVER_FILE}.partial"):
            (path / leftover).unlink(missing_ok=True)
    yield
    (path / SERVER_FILE).unlink(missing_ok=True)
