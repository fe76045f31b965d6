"""The copy of a ledger's file in PostgreSQL: every row of every table in one transaction, counted on both sides.

The file is only read, in one snapshot. What PostgreSQL's triggers derive from other rows is not copied.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Table
from sqlmodel import SQLModel

from broker.sqlite_file import connect
from gateway.store.migrations import HEAD
from gateway.store.postgresql.address import read_address
from gateway.store.postgresql.schema import prepare
from gateway.store.postgresql.server import SCHEMA

DERIVED: frozenset[str] = frozenset({"device_attribute"})
"""Tables that triggers fill while others are copied, in a form of PostgreSQL's own."""
READ_ROWS = 10_000
"""Rows that are read from the file at a time."""


class TransferRefused(Exception):
    """The copy was not made; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """A table that is the same on both sides."""

    name: str
    rows: int


def transfer(ledger: Path, url: str, schema: str = SCHEMA) -> list[CopiedTable]:
    """Copy the ledger in the file into a schema that is new or empty; the tables that had rows, by name.

    No server may have the file. Raises TransferRefused, BadAddress, SchemaTooNew, SchemaUnsuitable, sqlite3.Error,
    psycopg.Error, FileNotFoundError.
    """
    with closing(connect(ledger, must_exist=True, isolation_level=None)) as file:
        file.execute("PRAGMA query_only = ON")
        file.execute("BEGIN")
        _require_schema(file)
        address = read_address(url)
        prepare(address, schema)
        with address.connect(f"search_path={schema}") as target:
            copied = [
                _copy(file, target, table) for table in SQLModel.metadata.sorted_tables if table.name not in DERIVED
            ]
            for number in _numbers(target):
                _go_on_numbering(file, target, *number)
    return [table for table in sorted(copied, key=lambda table: table.name) if table.rows]


def _require_schema(file: sqlite3.Connection) -> None:
    found = file.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    version = None if found is None else file.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    if version != HEAD:
        had = "is no ledger" if version is None else f"is of schema {version}, and this program's is {HEAD}"
        raise TransferRefused(f"the file {had}: start the server of this version with it once, and stop it")


def _copy(file: sqlite3.Connection, target: psycopg.Connection[Any], table: Table) -> CopiedTable:
    name = sql.Identifier(table.name)
    if target.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(name)).fetchone() is not None:
        raise TransferRefused(f"the table {table.name} in PostgreSQL has rows already: copy into an empty database")
    columns = [column.name for column in table.columns]
    if table.name != "device":  # whose triggers make what is derived
        target.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(name, sql.SQL(", ").join(map(sql.Identifier, columns)))
    count = 0
    with target.cursor().copy(into) as copy:
        for row in _rows(file, f"SELECT {', '.join(columns)} FROM {table.name}"):
            copy.write_row(row)
            count += 1
    target.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(name))
    stored = target.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
    assert stored is not None, "a count"
    if stored[0] != count:
        raise TransferRefused(f"{table.name}: {count:,} rows were read, and {stored[0]:,} are there; nothing was kept")
    return CopiedTable(table.name, count)


def _rows(file: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    cursor = file.execute(query)
    while rows := cursor.fetchmany(READ_ROWS):
        yield from rows


def _numbers(target: psycopg.Connection[Any]) -> list[tuple[str, str, str]]:
    """Table, column and sequence of each column that numbers its rows, of the tables that a file has, too."""
    numbered = target.execute(
        "SELECT table_name, column_name, pg_get_serial_sequence(table_name, column_name)"
        " FROM information_schema.columns WHERE table_schema = current_schema() AND column_default LIKE 'nextval(%'"
    ).fetchall()
    return [number for number in numbered if number[0] in SQLModel.metadata.tables]


def _go_on_numbering(
    file: sqlite3.Connection, target: psycopg.Connection[Any], table: str, column: str, sequence: str
) -> None:
    """No number is given twice, of rows that have gone either."""
    (last,) = file.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()
    given = file.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    last = max(last, given[0] if given is not None else 0)
    if last:
        target.execute("SELECT setval(%s, %s)", (sequence, last))
