"""Schema versions: run at start, under a lock, in one transaction; a schema from the future is refused.

`versions/` holds one Alembic revision per change, `env.py` is what Alembic runs. The whole upgrade is one SQLite
transaction, so a crash in the middle leaves the old schema, and two servers that start at once migrate once.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine


class SchemaTooNew(Exception):
    """The file was written by a newer version of the program; this one would damage it."""


def migrate(engine: Engine, lock_path: Path) -> None:
    """Bring the schema up to this program's version. Raises SchemaTooNew."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with _locked(lock_path), engine.connect() as connection:
        script = ScriptDirectory.from_config(config)
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
            raise SchemaTooNew(
                f"the data was written by a newer version (schema {current}): start that version, "
                "or restore a backup made before the upgrade"
            )
        if current == script.get_current_head():
            return
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.exec_driver_sql("COMMIT")


def schema_version(connection: Connection) -> str | None:
    """The revision that a database file is at."""
    return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
