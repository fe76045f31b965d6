"""The proof of a backup: it is restored into a scratch folder, opened as a server would, counted, and removed.

Laws
1. What is proven is the file: read to its end, decrypted and decompressed, every sum compared, both databases opened
   and checked by SQLite, migrated if they are of an earlier schema, and the counts that were written when it was made
   (devices, deliveries by state, sessions ..) compared with what came back. The audit log is verified as well; that it
   was altered is told, and makes no backup worse.
2. A proof takes as much disk as the backup's manifest says, no more, and gives it back however it ends.
3. It costs the running server little: another process, of low priority, that opens none of the server's files and, of
   a backup of this schema, syncs nothing. On a shared disk the server's commits wait for the syncs of others; what is
   removed before the kernel writes it costs the disk nothing. Only the result goes to the data directory
   (`backup_record`).

A backup that is encrypted to a public key can be proven where it is made, by a server that cannot read it: it is
encrypted to a second key as well, which is made for it, never leaves the memory, and is forgotten after the proof.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from broker.sqlite_file import connect
from broker.sqlite_tables import SCHEMA_VERSION
from gateway import backup
from gateway.backup import make_startable
from gateway.backup_archive import BackupError, Manifest, explained, unpacked
from gateway.backup_contents import count_contents, describe_contents, first_difference
from gateway.data_directory import BROKER, LEDGER
from gateway.scratch_folder import scratch_folder
from gateway.store.audit_entries import verify_all
from gateway.store.errors import StorageError
from gateway.store.ledger_file import prepare
from gateway.store.migrations import HEAD, MigrationFailed

if TYPE_CHECKING:
    from pyrage.x25519 import Identity, Recipient

UNCHANGED_BY_MIGRATION = ("apps", "devices", "pushes")


@dataclass(slots=True, frozen=True)
class BackupProof:
    """The result of a proof: what came back, when (Unix seconds), and how long it took."""

    manifest: Manifest
    proven_at: int
    seconds: float
    altered: Sequence[str] = ()
    """What is wrong with audit logs in it, a line for each app."""

    def describe(self) -> str:
        """Format it as one line."""
        moment = f"{datetime.fromtimestamp(self.manifest.moment, UTC):%Y-%m-%d %H:%M:%S} UTC"
        counts = (
            describe_contents(self.manifest.contents)
            if self.manifest.contents
            else "sums and rows agree (an earlier version made it, without counts)"
        )
        altered = "".join(f"; the audit log was altered: {line}" for line in self.altered)
        return f"proven in {self.seconds:.1f} s: {moment}, schema {self.manifest.schema}: {counts}{altered}"


def prove(archive: Path, scratch: Path, identities: Sequence[Identity] = ()) -> BackupProof:
    """Prove a backup in a folder inside `scratch`. Raises BackupError."""
    began = time.monotonic()
    with (
        explained(f"{archive}: "),
        scratch_folder(scratch) as folder,
        unpacked(archive, folder, identities, durable=False) as (manifest, restored),
    ):
        if LEDGER not in {stored.name for stored in manifest.files}:
            raise BackupError(f"it holds no {LEDGER}: it is no whole backup")
        difference = first_difference(manifest.contents, count_contents(restored)) if manifest.contents else None
        if difference is not None:
            raise BackupError(f"it does not hold what was backed up: {difference}")
        if not is_current(manifest):
            migrate_as_server(restored, manifest)
        with closing(connect(restored / LEDGER, must_exist=True)) as database:
            altered = verify_all(database)
    return BackupProof(manifest, int(time.time()), time.monotonic() - began, altered)


def is_current(manifest: Manifest) -> bool:
    """Are both databases of this version's schemas?"""
    schemas = {stored.name: stored.schema for stored in manifest.files}
    return schemas[LEDGER] == HEAD and schemas.get(BROKER, str(SCHEMA_VERSION)) == str(SCHEMA_VERSION)


def migrate_as_server(folder: Path, manifest: Manifest) -> None:
    """Do to restored databases of an earlier schema what a restore and a start do. Raises BackupError."""
    make_startable(folder)
    try:
        prepare(folder / LEDGER, fresh=False, keep_old=False)
    except (StorageError, MigrationFailed) as error:
        raise BackupError(f"this version cannot start on it: {error}") from error
    wanted = {name: manifest.contents[name] for name in UNCHANGED_BY_MIGRATION if name in manifest.contents}
    found = count_contents(folder)
    difference = first_difference(wanted, {name: found[name] for name in wanted})
    if difference is not None:
        raise BackupError(f"after its migration it holds {difference}")


def create_proven(
    data_dir: Path,
    archive: Path,
    *,
    overwrite: bool = False,
    recipients: Sequence[Recipient] = (),
    scratch: Path | None = None,
) -> BackupProof:
    """Make a backup that gets its name only once it is proven. Raises BackupError."""
    identities: Sequence[Identity] = ()
    if recipients:
        from pyrage.x25519 import Identity

        own = Identity.generate()
        recipients, identities = (*recipients, own.to_public()), (own,)
    proofs: list[BackupProof] = []

    def check(unnamed: Path) -> None:
        proofs.append(prove(unnamed, scratch or (data_dir if recipients else archive.parent), identities))

    backup.create(data_dir, archive, overwrite=overwrite, recipients=recipients, scratch=scratch, check=check)
    return proofs[0]
