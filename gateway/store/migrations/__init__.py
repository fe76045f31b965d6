"""Schema versions: run at start, under a lock, in one transaction; a schema from the future is refused.

`versions/` holds one Alembic revision per change, `env.py` is what Alembic runs. The whole upgrade is one SQLite
transaction, so a crash in the middle leaves the old schema, and two servers that start at once migrate once.

Alembic is loaded when there is something to migrate: with the templates and the other databases that it knows, it is a
tenth of what a start takes.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine

HEAD = "0018"
"""The newest revision in `versions/`; a test compares."""


class SchemaTooNew(Exception):
    """The file was written by a newer version of the program; this one would damage it."""


class NoSchema(Exception):
    """The file is no ledger: it is empty where there should be one, or another program's."""


def migrate(engine: Engine, lock_path: Path, *, fresh: bool = True) -> None:
    """Bring the schema up to this program's version. Raises SchemaTooNew, NoSchema.

    `fresh`: the file may be new, and is filled then.
    """
    with _locked(lock_path), engine.connect() as connection:
        current = _revision(connection)
        if current is None:
            if connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is not None:
                raise NoSchema("it holds the tables of another program")
            if not fresh:
                raise NoSchema("it is empty")
        if current != HEAD:
            _upgrade(connection, current)


def _revision(connection: Connection) -> str | None:
    """The revision of a database file; None for a new one."""
    if connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first() is None:
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _upgrade(connection: Connection, current: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))  # it is interpolated
    script = ScriptDirectory.from_config(config)
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise SchemaTooNew(
            f"the data was written by a newer version (schema {current}): start that version, "
            "or restore a backup made before the upgrade"
        )
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.exec_driver_sql("COMMIT")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
