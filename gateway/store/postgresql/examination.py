"""The examination of a ledger in PostgreSQL by `doctor`: from outside, beside a server that may be running."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple, TypeVar

import psycopg

from gateway.store.audit_entries import count_entries, verify_all
from gateway.store.postgresql.address import read_address
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.server import DURABLE, SCHEMA, one_line
from gateway.store.transaction import Transaction

Found = TypeVar("Found")


class Examination(NamedTuple):
    """A PostgreSQL that answers, and what it keeps of ours."""

    place: str
    """The database and its host, without a password."""
    major_version: int
    not_durable: list[str]
    """Settings that are off and have to be on, so that what was accepted survives a power cut."""
    tables: int
    """Tables in our schema; 0 before the first start."""
    schema_version: str | None
    """None: there is no ledger in the schema."""
    oldest_program: str | None
    """The oldest schema version whose program may run on it."""
    clock_ms: int | None
    """The last stored server time; None: nothing has been stored."""


class Unreachable(Exception):
    """PostgreSQL has refused the connection, or does not answer; the text has its reason, and no password."""


def examine_ledger(url: str, schema: str = SCHEMA) -> Examination:
    """Look at the database of an address, without a change. Raises BadAddress, Unreachable."""
    address = read_address(url)
    try:
        with address.connect("default_transaction_read_only=on") as connection:
            off = [name for name in DURABLE if _value(connection, f"SHOW {name}") == "off"]
            tables = _value(connection, "SELECT count(*) FROM pg_tables WHERE schemaname = %s", schema)
            version: str | None = None
            oldest: str | None = None
            clock_ms: int | None = None
            if _value(connection, "SELECT to_regclass(%s)::text", f"{schema}.alembic_version") is not None:
                version = str(_value(connection, f"SELECT version_num FROM {schema}.alembic_version"))
                oldest = str(_value(connection, f"SELECT oldest_program FROM {schema}.alembic_version"))
                clock_ms = _value(connection, f"SELECT max(at) FROM {schema}.clock")  # type: ignore[assignment]
            major = connection.info.server_version // 10_000
            return Examination(address.place, major, off, int(str(tables)), version, oldest, clock_ms)
    except psycopg.Error as error:
        raise Unreachable(one_line(error)) from error


def verify_audit_logs(url: str, schema: str = SCHEMA) -> tuple[list[str], int]:
    """Verify the audit logs of all apps of a ledger.

    Answers what is wrong, a line for each app, and the number of entries. Raises BadAddress, Unreachable.
    """
    return read_ledger(url, lambda transaction: (verify_all(transaction), count_entries(transaction)), schema)


def read_ledger(url: str, read: Callable[[Transaction], Found], schema: str = SCHEMA) -> Found:
    """Read in a ledger, in one snapshot, as a command beside its server. Raises BadAddress, Unreachable."""
    try:
        with closing(Connection(read_address(url), schema)) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return read(connection)
    except psycopg.Error as error:
        raise Unreachable(one_line(error)) from error


def _value(connection: psycopg.Connection[tuple[object, ...]], statement: str, *values: str) -> object:
    row = connection.execute(statement.encode(), values).fetchone()
    return None if row is None else row[0]
