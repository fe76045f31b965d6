"""`fleetpush backup`, `verify-backup`, `backup-key` and `restore`: the data directory as a whole."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, found_data_dir, seconds_of
from gateway.cli.terminal import PROGRAM, fail, note, print_json, print_line, print_table

if TYPE_CHECKING:
    from pyrage.x25519 import Identity, Recipient

LOW_PRIORITY = 10
"""Niceness of backups and proofs: what is left of the processor after the server."""
IdentityFile = Annotated[
    Path | None, typer.Option("--identity", metavar="FILE", help="The secret key of an encrypted backup")
]
ScratchDir = Annotated[
    Path | None,
    typer.Option("--scratch", metavar="DIR", help="Folder for copies in the clear. Default: beside the backup, or the"
    " data directory if it is encrypted"),
]  # fmt: skip


def backup(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A .gz or .tgz at its end compresses")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists")] = False,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Back up again and again, every 6h for example, until stopped")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the backups of --every")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Number of backups of --every that are kept")] = 14,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Encrypt to this public key (age1…), or the first in a file of this name"),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Prove each by restoring it into a scratch folder")] = False,
    scratch: ScratchDir = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Back up everything, also while the server runs, and prove that the copy is sound: once, or on a schedule."""
    if (file is None) == (every is None) or (every is None) != (to is None):
        fail("name a FILE for one backup, or --every and --to for a schedule", 2)
    recipients = recipients_of(key)
    lower_priority()
    end_by_exception(is_service=file is None)
    if file is None:
        assert every is not None, "checked above"
        assert to is not None, "checked above"
        run_schedule(found_data_dir(data_dir), every, to, keep, verify, recipients, scratch)
        return
    from gateway import backup as archive
    from gateway import backup_proof
    from gateway.backup_archive import BackupError

    source = found_data_dir(data_dir)
    proof = None
    try:
        if verify:
            proof = backup_proof.create_proven(source, file, overwrite=force, recipients=recipients, scratch=scratch)
            manifest = proof.manifest
        else:
            manifest = archive.create(source, file, overwrite=force, recipients=recipients, scratch=scratch)
    except (BackupError, OSError) as error:
        fail(f"no backup was made: {explained(error)}")
    record(source, file, manifest, proof)
    print_manifest(manifest.as_dict(), as_json)
    if proof is not None:
        note(f"{file}: {proof.describe()}")
    secrecy = (
        "and only the secret key opens it: keep that elsewhere, twice."
        if recipients
        else "and every key: keep it where only you can read it."
    )
    note(f"{file} holds {manifest.size:,} bytes, {secrecy}")


def verify_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup")],
    identity: IdentityFile = None,
    scratch: ScratchDir = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Prove a backup: restore it into a scratch folder, open its databases, compare what it holds, remove it again."""
    from gateway import backup_proof
    from gateway.backup_archive import BackupError

    identities = identities_of(identity)
    lower_priority()
    end_by_exception()
    source = found_data_dir(data_dir)
    place = scratch or (file.absolute().parent if not identities else temporary_place(source))
    try:
        proof = backup_proof.prove(file, place, identities)
    except (BackupError, OSError) as error:
        fail(f"nothing was proven: {explained(error)}")
    recorded = record(source, file, None, proof)
    if as_json:
        facts = {"file": str(file), "created_at": proof.manifest.created_at, "schema": proof.manifest.schema}
        print_json({**facts, "contents": proof.manifest.contents, "seconds": proof.seconds, "recorded": recorded})
    else:
        print_line(f"{file}: {proof.describe()}")
    if not recorded and source.is_dir():
        note(f"Not recorded: it is no backup of {source}.")


def backup_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file of the secret key")],
) -> None:
    """Make a key for encrypted backups: the secret key in a new file, its public key on standard output."""
    from gateway.age_encryption import write_identity

    try:
        public = write_identity(file)
    except OSError as error:
        fail(f"no key was made: {explained(error)}")
    print_line(public)
    note(f"{file} opens the backups that are encrypted to it. Keep it off the server, and twice; nothing replaces it.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup, or a ledger kept by an upgrade")],
    force: Annotated[bool, typer.Option("--force", help="Move what is in the data directory aside")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the backup's proof")] = False,
    identity: IdentityFile = None,
    keep_sessions: Annotated[
        bool,
        typer.Option("--keep-sessions", help="Keep MQTT sessions: only if the server has not run since the backup"),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fill a data directory from a backup, after checking its proof."""
    from gateway import backup as archive
    from gateway import downgrade
    from gateway.backup_archive import BackupError, RestoreUnfinished

    identities = identities_of(identity)
    end_by_exception()
    try:
        if check:
            print_manifest(archive.check(file, identities).as_dict(), as_json)
            return
        into = found_data_dir(data_dir)
        if downgrade.is_ledger(file):
            manifest = downgrade.restore_kept(file, into, replace=force)
        else:
            manifest = archive.restore(file, into, replace=force, identities=identities, keep_sessions=keep_sessions)
    except RestoreUnfinished as error:
        fail(str(error))
    except (BackupError, OSError) as error:
        fail(f"nothing was restored: {explained(error)}")
    print_manifest(manifest.as_dict(), as_json)
    note(f"Restored into {into}. Start it: {PROGRAM} serve --data-dir {into}")


def run_schedule(
    source: Path,
    every: str,
    folder: Path,
    keep: int,
    verify: bool,
    recipients: Sequence[Recipient],
    scratch: Path | None,
) -> None:
    """Back up on a schedule until SIGTERM or SIGINT."""
    from gateway import backup_schedule as schedule
    from gateway.backup import BACKUP_IN_POSTGRESQL
    from gateway.backup_archive import BackupError
    from gateway.data_directory import ledger_in_postgresql, without_ledger_file

    if ledger_in_postgresql(source) is not None:
        fail(without_ledger_file(source, BACKUP_IN_POSTGRESQL), 2)  # no service manager need repeat it
    every_seconds = seconds_of(every, "--every")
    if every_seconds < schedule.LEAST_INTERVAL_SECONDS:
        fail(f"--every {every!r}: {schedule.LEAST_INTERVAL_SECONDS} seconds at least", 2)
    plan = schedule.SchedulePlan(source, folder, every_seconds, keep, verify, recipients, scratch)
    try:
        with schedule.scheduled_folder(folder):
            backups = schedule.BackupSchedule(plan, print_line)
            print_line(f"backing up {source} to {folder} every {every}, keeping {keep}")
            pause = threading.Event()
            while True:
                pause.wait(backups.run_due())
    except (BackupError, OSError) as error:
        fail(explained(error))


def end_by_exception(*, is_service: bool = False) -> None:
    """Let SIGTERM and SIGHUP end the process as Ctrl-C does, so that copies in the clear are removed. To be told to end
    is a service's good end, and leaves another command's work undone."""

    def end(number: int, _: object) -> None:
        sys.exit(0 if is_service and number == signal.SIGTERM else 128 + number)

    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, end)


def lower_priority() -> None:
    """Let the server have the processor first."""
    with suppress(PermissionError):  # a service manager has set it, and lets nobody change it
        os.nice(max(LOW_PRIORITY - os.nice(0), 0))


def temporary_place(data_dir: Path) -> Path:
    """Choose where an encrypted backup is unpacked: in the server's data directory, or this machine's own place."""
    return data_dir if data_dir.is_dir() else Path(tempfile.gettempdir())


def recipients_of(key: str | None) -> tuple[Recipient, ...]:
    if key is None:
        return ()
    from gateway.age_encryption import KeyProblem, load_recipient

    try:
        return (load_recipient(key),)
    except KeyProblem as error:
        fail(f"--key: {error}", 2)


def identities_of(file: Path | None) -> tuple[Identity, ...]:
    if file is None:
        return ()
    from gateway.age_encryption import KeyProblem, load_identity

    try:
        return (load_identity(file),)
    except KeyProblem as error:
        fail(f"--identity: {error}", 2)


def record(data_dir: Path, file: Path, manifest: Any, proof: Any) -> bool:
    """Record what was made and proven where `doctor` and the server find it; was the proof of this data directory?"""
    from gateway import backup_record
    from gateway.data_directory import LEDGER

    if not (data_dir / LEDGER).exists():
        return False
    try:
        if manifest is not None:
            backup_record.record_made(data_dir, manifest.moment, file.stat().st_size)
        if proof is None:
            return False
        return backup_record.record_proof(
            data_dir,
            origin=proof.manifest.origin,
            proven_of=proof.manifest.moment,
            proven_at=proof.proven_at,
            file=str(file.absolute()),
        )
    except OSError as error:
        note(f"it cannot be recorded in {data_dir}, where `{PROGRAM} doctor` would find it: {explained(error)}")
        return True


def explained(error: Exception) -> str:
    """Explain an error in words, without the system's number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def print_manifest(manifest: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(manifest)
        return
    rows = [
        (
            file["name"],
            file["size"],
            sum(file["rows"].values()) if file["rows"] else None,
            file["schema"],
            file["sha256"],
        )
        for file in manifest["files"]
    ]
    print_table(("file", "bytes", "rows", "schema", "sha256"), rows, "")
