"""The schema in PostgreSQL: the same tables, and the functions that the store's statements take for granted.

Text is compared by its bytes (`COLLATE "C"`), as in SQLite. There are no foreign keys, as there: the code guarantees
what they would look up for each row of the hot tables.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import SQLModel

from gateway.store import models  # noqa: F401 - defines the tables
from gateway.store.attribute_index import INDEXED_ATTRIBUTES, NAME_CHARACTERS, PREFIX_CHARACTERS
from gateway.store.migrations import HEAD, OLDEST_PROGRAM, NoSchema, SchemaTooNew, SchemaUnsuitable
from gateway.store.nodes.broker_sessions import SESSION_NUMBERS
from gateway.store.nodes.invalidations import INVALIDATIONS_LOCK
from gateway.store.postgresql.address import Address
from gateway.store.postgresql.upgrade import (
    BASE,
    PREPARING_LOCK,
    StoredVersion,
    stored_version,
    upgrade,
    with_our_types,
)
from gateway.store.segments.terms import COMPONENT_DIGITS, VERSION_CHARACTERS, VERSION_COMPONENTS

_ON_TABLES = "CREATE FUNCTION note_numbers"
"""What begins here in functions.sql names tables, and comes after them."""
_OF_NODES = (
    "nodes.sql",
    "tasks.sql",
    "invalidations.sql",
    "attachments.sql",
    "token_requests.sql",
    "sign_ins.sql",
    "sessions.sql",
    "connections.sql",
)
"""Files of tables that a file of SQLite does not have."""
_FILES = ("functions.sql", *_OF_NODES)
_FIGURES = {
    "INVALIDATIONS_LOCK": INVALIDATIONS_LOCK,
    "SESSION_NUMBERS": SESSION_NUMBERS,
    "PREFIX_CHARACTERS": PREFIX_CHARACTERS,
    "NAME_CHARACTERS": NAME_CHARACTERS,
    "INDEXED_ATTRIBUTES": INDEXED_ATTRIBUTES,
    "VERSION_CHARACTERS": VERSION_CHARACTERS,
    "VERSION_COMPONENTS": VERSION_COMPONENTS,
    "FURTHER_COMPONENTS": VERSION_COMPONENTS - 1,
    "COMPONENT_DIGITS": COMPONENT_DIGITS,
}
"""Figures that the files of SQL have by name: `@NAME@`."""
LEAST_MAJOR_VERSION = 15
"""The oldest major version of PostgreSQL that the statements are tested with."""


def prepare(address: Address, schema: str, *, fresh: bool = True) -> None:
    """Make the schema if it is not there, and may be made (`fresh`), or upgrade it.

    Raises NoSchema, SchemaTooNew, SchemaUnsuitable, MigrationFailed, StorageBusy, psycopg.Error.
    """
    with address.connect(f"search_path={schema}") as connection:
        major = connection.info.server_version // 10_000
        if major < LEAST_MAJOR_VERSION:
            raise SchemaUnsuitable(f"this is PostgreSQL {major}, and it has to be {LEAST_MAJOR_VERSION} at least")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (PREPARING_LOCK,))
        there = _tables(connection, schema)
        if not there:
            if not fresh:
                raise NoSchema(f"there is no ledger in schema {schema}")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            _fill(connection)
            return
        if "alembic_version" not in there:
            raise SchemaUnsuitable(f"schema {schema} holds the tables of another program")
        stored = stored_version(connection)
    if stored.revision < BASE:
        raise SchemaUnsuitable(f"the data is of schema {stored.revision}, and there is no way from there to {HEAD}")
    if stored.revision < HEAD:
        upgrade(address, schema, [_file(name) for name in _FILES])
    require_program(stored)


def require_program(stored: StoredVersion) -> None:
    """Raises SchemaTooNew for a schema on which this program may not run."""
    if stored.oldest_program > HEAD:
        raise SchemaTooNew(f"the data was written by a newer version (schema {stored.revision}; this one knows {HEAD})")


def _tables(connection: psycopg.Connection[Any], schema: str) -> set[str]:
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,))
    return {str(name) for (name,) in rows}


def _fill(connection: psycopg.Connection[Any]) -> None:
    functions, on_tables = _file("functions.sql").split(_ON_TABLES, 1)
    connection.execute(functions.encode())
    for statement in table_statements():
        connection.execute(statement.encode())
    connection.execute(f"{_ON_TABLES}{on_tables}".encode())
    for name in _OF_NODES:
        connection.execute(_file(name).encode())
    connection.execute("CREATE TABLE alembic_version (version_num TEXT NOT NULL, oldest_program TEXT NOT NULL)")
    connection.execute("CREATE TABLE server_start (no BIGINT NOT NULL, groups BIGINT NOT NULL DEFAULT 0)")
    connection.execute("INSERT INTO server_start (no) VALUES (0)")
    connection.execute("INSERT INTO alembic_version VALUES (%s, %s)", (HEAD, OLDEST_PROGRAM))


def _file(name: str) -> str:
    text = resources.files("gateway.store.postgresql").joinpath(name).read_text()
    return re.sub("@([A-Z_]+)@", lambda found: str(_FIGURES[found[1]]), text)


def table_statements() -> list[str]:
    """Statements that make the tables and indexes of the models."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's
    statements = []
    for table in SQLModel.metadata.sorted_tables:
        statements.append(with_our_types(str(CreateTable(table).compile(dialect=dialect))))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            condition = index.dialect_options["sqlite"]["where"]
            made = str(CreateIndex(index).compile(dialect=dialect))
            statements.append(made if condition is None else f"{made} WHERE {condition}")
    return statements
