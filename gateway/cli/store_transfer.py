"""`fleetpush migrate-store`: from the ledger's file to PostgreSQL."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import AsJson, DataDir, found_data_dir
from gateway.cli.terminal import PROGRAM, fail, note, print_json, print_table


def migrate_store(
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="postgresql://USER@HOST/DATABASE, without a ledger of ours")
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger of a stopped server into PostgreSQL, in one transaction; the file stays as it is."""
    try:
        import psycopg

        from gateway.store.postgresql.address import BadAddress
        from gateway.store.postgresql.transfer import TransferRefused, transfer
    except ImportError as error:
        fail(f"{error}; install the extra: pip install 'fleetpush[postgresql]'")
    from gateway import data_directory
    from gateway.store.errors import DRIVER_ERRORS, StorageBusy
    from gateway.store.migrations import MigrationFailed, SchemaTooNew, SchemaUnsuitable

    source = found_data_dir(data_dir)
    ledger = source / data_directory.LEDGER
    if not ledger.exists():
        fail(f"{source} holds no {data_directory.LEDGER}: give the server's data directory with --data-dir")
    try:
        with data_directory.locked(source):
            copied = transfer(ledger, to)
    except data_directory.DirectoryInUse:
        fail(f"{source} is in use: stop its server first")
    except (TransferRefused, BadAddress, StorageBusy, OSError, *DRIVER_ERRORS) as error:
        fail(f"nothing was copied: {error}")
    except (SchemaTooNew, SchemaUnsuitable, MigrationFailed) as error:
        fail(f"nothing was copied: {error}")
    except psycopg.Error as error:
        fail(f"nothing was copied: PostgreSQL: {str(error).partition(chr(10))[0]}")
    if as_json:
        print_json({"tables": {table.name: table.rows for table in copied}})
    else:
        print_table(["table", "rows"], [[table.name, f"{table.rows:,}"] for table in copied], "The ledger has no rows.")
    note(
        f"{ledger} is as it was. Move it to another folder, with its -wal, and it is the way back; then start"
        f" `{PROGRAM} serve --database URL` over the same data directory, whose sessions and attachments it needs."
    )
