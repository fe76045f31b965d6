"""The upgrade of a schema in PostgreSQL: the revisions of `store/migrations`, by whoever starts first.

A revision says its steps once, in Alembic's operations, and both databases carry them out: the types are translated
here, as those of the models are. What only one of them has (a trigger, `postgresql_where` of an index) it says for that
one. Afterwards the functions, triggers and tables of PostgreSQL's own are made again from their files. What these
define in another way and PostgreSQL cannot replace (an operator, a type, a constraint trigger, a column), a revision
changes.

Laws
1. An upgrade is one transaction. Whoever begins it holds the lock of who makes a schema and looks again: of several
   servers that start at once, one migrates.
2. No program runs on a schema that it does not understand. Each revision names the oldest program that may run on its
   schema (`oldest_program`); the schema has it, and every server looks when it connects its writer. A server holds a
   lock of its own version for as long as it runs, and an upgrade waits for those that may not go on.
3. What is upgraded while older servers serve (a rolling upgrade) waits for no row while somebody waits for it: it holds
   the lock of all apps, and gives up after LOCK_MS.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from gateway.store import migrations
from gateway.store.errors import StorageBusy
from gateway.store.migrations import MigrationFailed
from gateway.store.postgresql.address import Address
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

BASE = "0034"
"""The oldest revision that a schema in PostgreSQL may have: no server of ours has made an earlier one for others."""
PREPARING_LOCK = 0x666C_6565_7470_7574
"""The advisory lock of who makes or upgrades a schema ("fleetput")."""
LOCK_MS = 5_000
"""Time that a step waits for a table: others serve meanwhile, and wait behind it."""
END_SECONDS = 5.0
"""Time that an upgrade waits for the end of servers that may not go on: PostgreSQL notices a moment later that one was
killed."""
_END_PAUSE_SECONDS = 0.1
_TYPES = (("INTEGER", "BIGINT"), ("SERIAL", "BIGSERIAL"), ("BIGBIGSERIAL", "BIGSERIAL"), ("BLOB", "BYTEA"))
_FOREIGN_KEY = re.compile(r",\s*FOREIGN KEY\([^)]*\) REFERENCES [^(]*\([^)]*\)")
_DEFINES = re.compile(r"\s*(?:CREATE|ALTER) TABLE\b")
_COMMENT = re.compile(r"^--.*$", re.MULTILINE)
_STATEMENT = re.compile(r"(?:[^;$]|\$(?!\$)|\$\$.*?\$\$)+;", re.DOTALL)
_REPLACED = re.compile(r"CREATE (?=FUNCTION|AGGREGATE|VIEW|TRIGGER)")
_KEPT = re.compile(r"CREATE ((?:UNLOGGED )?TABLE|(?:UNIQUE )?INDEX|SEQUENCE) ")
_MADE_ONCE = re.compile(r"CREATE (?:TYPE|CAST|OPERATOR|CONSTRAINT TRIGGER)\b")


class StoredVersion(NamedTuple):
    """The version of a schema."""

    revision: str
    oldest_program: str
    """The oldest revision whose program may run on it."""


def stored_version(connection: psycopg.Connection[Any] | Transaction) -> StoredVersion:
    """Read the version of the schema of a connection, which has one."""
    row = connection.execute("SELECT version_num, oldest_program FROM alembic_version").fetchone()
    assert row is not None, "written when the schema was made"
    return StoredVersion(*row)


def program_lock(schema: str, revision: str) -> str:
    """Name the lock of the servers whose newest revision this is; it is taken by `hashtextextended(NAME, 0)`."""
    return f"servers of {revision} in {schema}"


def with_our_types(definition: str) -> str:
    """Give the columns of a definition, as SQLAlchemy writes it, the types that hold what SQLite holds."""
    for theirs, ours in _TYPES:
        definition = re.sub(rf"\b{theirs}\b", ours, definition)
    return _FOREIGN_KEY.sub("", re.sub(r"\bVARCHAR\b", 'TEXT COLLATE "C"', definition))


def upgrade(address: Address, schema: str, files: Iterable[str]) -> None:
    """Bring a schema up to this program's version. `files`: the texts of SQL that define PostgreSQL's own.

    Returns without a change if another start was faster. Raises StorageBusy, MigrationFailed, psycopg.Error.
    """
    connect = partial(address.connect, f"search_path={schema}")
    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool, use_native_hstore=False)
    event.listen(engine, "before_cursor_execute", _translate, retval=True)
    before = "?"
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({PREPARING_LOCK})")
            raw = connection.connection.driver_connection
            assert isinstance(raw, psycopg.Connection), "the psycopg driver"
            stored = stored_version(raw)
            before = stored.revision
            if before >= migrations.HEAD:
                return
            oldest = max(stored.oldest_program, migrations.OLDEST_PROGRAM)
            _await_end(raw, schema, stored.oldest_program, oldest)
            raw.execute(f"SET LOCAL lock_timeout = {LOCK_MS}".encode())
            raw.execute("SELECT lock_apps(NULL, NULL)")
            _carry_out(connection)
            for text in files:
                for statement in again(text):
                    raw.execute(statement.encode())
            raw.execute("UPDATE alembic_version SET oldest_program = %s", (oldest,))
    except (StorageBusy, psycopg.Error):
        raise
    except Exception as error:
        cause = error.orig if isinstance(error, DBAPIError) else None
        if isinstance(cause, psycopg.OperationalError):  # of the connection or the machine, not of the steps
            raise cause from error
        reason = str(cause or error).partition("\n")[0]
        raise MigrationFailed(
            f"the upgrade from schema {before} to {migrations.HEAD} failed ({type(error).__name__}: {reason}), and"
            " nothing was changed: start the earlier version again, and report this line"
        ) from error
    finally:
        engine.dispose()
    log.warning("schema %s of PostgreSQL was upgraded from %s to %s", schema, before, migrations.HEAD)


def _translate(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    return (with_our_types(statement) if _DEFINES.match(statement) else statement), parameters


def _await_end(raw: psycopg.Connection[Any], schema: str, since: str, oldest: str) -> None:
    """Keep servers of the revisions from `since` on, before `oldest`, from running until the transaction ends. Raises
    StorageBusy when one goes on."""
    deadline = time.monotonic() + END_SECONDS
    for number in range(int(since), int(oldest)):
        revision = f"{number:04}"
        lock = program_lock(schema, revision)
        while raw.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (lock,)).fetchone() == (False,):
            if time.monotonic() >= deadline:
                raise StorageBusy(
                    f"schema {schema} has to be upgraded to {migrations.HEAD}, on which servers of {revision} cannot"
                    " run, and one does: end all of them first"
                )
            time.sleep(_END_PAUSE_SECONDS)


def _carry_out(connection: Connection) -> None:
    from alembic import command  # a tenth of what a start takes, and needed once in a version's life
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.FOLDER)).replace("%", "%%"))  # it is interpolated
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def again(text: str) -> Iterator[str]:
    """Statements that define what a file does, where all or some of it is there already.

    Functions, aggregates, views and triggers are replaced; tables, types, casts, operators and constraint triggers stay
    as they are if they are there, and first rows are not inserted again.
    """
    for found in _STATEMENT.findall(_COMMENT.sub("", text)):
        statement = found.strip()
        if _MADE_ONCE.match(statement):
            yield (
                f"DO $again$ BEGIN {statement}"
                " EXCEPTION WHEN duplicate_object OR duplicate_function THEN NULL; END $again$"
            )
        elif _KEPT.match(statement):
            yield _KEPT.sub(r"CREATE \1 IF NOT EXISTS ", statement, count=1)
        elif _REPLACED.match(statement):
            yield _REPLACED.sub("CREATE OR REPLACE ", statement, count=1)
        else:
            assert statement.startswith("INSERT INTO "), f"cannot be said twice: {statement[:60]}"
