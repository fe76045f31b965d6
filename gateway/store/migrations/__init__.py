"""Schema versions: run at start, under a lock, in one transaction; a schema from the future is refused.

`versions/` holds one Alembic revision per change, `env.py` is what Alembic runs. The whole upgrade is one SQLite
transaction, so a crash in the middle leaves the old schema, and two servers that start at once migrate once. A schema
in PostgreSQL goes through the same revisions, from a later one on (`store/postgresql/upgrade`). Before it
the file is kept as it was (`kept_ledger`): the way back from a version that starts, and is wrong.

Alembic is loaded when there is something to migrate: with the templates and the other databases that it knows, it is a
tenth of what a start takes.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine

from broker.sqlite_file import fault_of
from gateway import kept_ledger

HEAD = "0034"
"""The newest revision in `versions/`; a test compares."""
OLDEST_PROGRAM = "0034"
"""The oldest revision whose program may run on a schema of HEAD in PostgreSQL, beside this one; a test compares it with
`oldest_program` of the revisions. A file has one program at a time."""
FOLDER = Path(__file__).parent


class SchemaTooNew(Exception):
    """The file was written by a newer version of the program; this one would damage it."""


class SchemaUnsuitable(Exception):
    """A schema in PostgreSQL is of another version of the program, or another program's."""


class NoSchema(Exception):
    """The file is no ledger: it is empty where there should be one, or another program's."""


class MigrationFailed(Exception):
    """A revision could not be carried out; the ledger is as it was. The message says how to go on."""


def migrate(engine: Engine, path: Path, *, fresh: bool = True, keep_old: bool = True) -> None:
    """Bring the schema up to this program's version. Raises SchemaTooNew, NoSchema, NoRoomToKeep, MigrationFailed.

    `fresh`: the file may be new, and is filled then. `keep_old`: an older file is kept before it is migrated.
    """
    with _locked(path.with_name(path.name + ".migrate.lock")), engine.connect() as connection:
        current = _revision(connection)
        if current is None:
            if connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is not None:
                raise NoSchema("it holds the tables of another program")
            if not fresh:
                raise NoSchema("it is empty")
        if current != HEAD:
            _upgrade(connection, path, current, keep_old=keep_old and current is not None)


def _revision(connection: Connection) -> str | None:
    """The revision of a database file; None for a new one."""
    if connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first() is None:
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _upgrade(connection: Connection, path: Path, current: str | None, *, keep_old: bool) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))  # it is interpolated
    script = ScriptDirectory.from_config(config)
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise SchemaTooNew(f"the data was written by a newer version (schema {current}; this one knows {HEAD})")
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection), "the pysqlite driver"
    if keep_old and current is not None:
        kept_ledger.keep(raw, path, current)
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.exec_driver_sql("COMMIT")
    except Exception as error:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        if keep_old and current is not None:
            kept_ledger.forget(path, current)
        if current is None or fault_of(error) is not None:  # the file's or its disk's, which has a remedy of its own
            raise
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise MigrationFailed(
            f"the upgrade from schema {current} to {HEAD} failed ({type(error).__name__}: {reason}), and the ledger is "
            "as it was: start the earlier version again, and report this line"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
