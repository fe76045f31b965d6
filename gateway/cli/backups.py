"""`fleetpush backup` and `restore`: the data directory as a whole, on the server's own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.options import AsJson, DataDir, found_data_dir
from gateway.cli.terminal import PROGRAM, fail, note, print_json, print_table


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .gz or .tgz at its end compresses")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Back up everything, also while the server runs, and prove that the copy is sound."""
    from gateway import backup as archive

    try:
        manifest = archive.create(found_data_dir(data_dir), file, overwrite=force)
    except (archive.BackupError, OSError) as error:
        fail(f"no backup was made: {explained(error)}")
    print_manifest(manifest.as_dict(), as_json)
    note(f"{file} holds {manifest.size:,} bytes, and every key: keep it where only you can read it.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup")],
    force: Annotated[bool, typer.Option("--force", help="Move what is in the data directory aside")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the backup's proof")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fill a data directory from a backup, after checking its proof."""
    from gateway import backup as archive

    try:
        if check:
            print_manifest(archive.check(file).as_dict(), as_json)
            return
        into = found_data_dir(data_dir)
        manifest = archive.restore(file, into, replace=force)
    except archive.RestoreUnfinished as error:
        fail(str(error))
    except (archive.BackupError, OSError) as error:
        fail(f"nothing was restored: {explained(error)}")
    print_manifest(manifest.as_dict(), as_json)
    note(f"Restored into {into}. Start it: {PROGRAM} serve --data-dir {into}")


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
