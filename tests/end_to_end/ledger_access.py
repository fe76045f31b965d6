"""A server's ledger from outside, whichever database has it: what is committed, and a lock that stalls commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg

from gateway.store.models import Push
from gateway.store.postgresql.address import read_address
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.server import SCHEMA
from gateway.store.transaction import Transaction
from tests.end_to_end.harness import DATABASE, Server

LEDGER = "fleetpush.db"


@contextmanager
def stalled_ledger(server: Server) -> Iterator[None]:
    """Nothing is committed to the ledger meanwhile, as with a slow disk or a backup. What is read is there."""
    address = server.env.get(DATABASE)
    if address is None:
        with stalled_file(server, LEDGER):
            yield
        return
    with psycopg.connect(address) as other:
        other.execute("LOCK TABLE fleetpush.clock IN EXCLUSIVE MODE")  # each group that writes has a row in it
        yield
        other.rollback()


@contextmanager
def stalled_file(server: Server, name: str) -> Iterator[None]:
    """Nothing is committed to a file of the data directory meanwhile."""
    with closing(sqlite3.connect(server.data_dir / name, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def committed_rows(server: Server, query: str) -> list[Any]:
    """Rows of the ledger, as the last commit has left them."""
    address = server.env.get(DATABASE)
    if address is None:
        return committed_rows_of(server, LEDGER, query)
    with psycopg.connect(address, options="-c search_path=fleetpush") as other:
        return other.execute(query.encode()).fetchall()


@contextmanager
def opened_ledger(server: Server) -> Iterator[Transaction]:
    """The ledger of a server that does not run, in a transaction that is committed at the end."""
    address = server.env.get(DATABASE)
    with closing(_connection(server.data_dir / LEDGER, address)) as connection:
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def _connection(file: Path, address: str | None) -> Transaction:
    if address is None:
        return cast(Transaction, sqlite3.connect(file, isolation_level=None))
    return cast(Transaction, Connection(read_address(address), SCHEMA))


def change_ledger(server: Server, statement: str) -> None:
    """Carry out a statement in the ledger of a server that does not run, and commit it."""
    with opened_ledger(server) as ledger:
        ledger.execute(statement)


def copy_push(ledger: Transaction, copies: int) -> int:
    """Store the one push that there is so many times more, for nobody; its number, above which theirs are."""
    (first,) = ledger.execute("SELECT no FROM push").fetchone()
    listed = ", ".join(name for name in Push.model_fields if name not in ("no", "id"))
    ledger.execute(
        f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {copies})"
        f" INSERT INTO push (no, id, {listed}) SELECT {first} + x, 'copy-' || x, {listed} FROM n, push"
    )
    return int(first)


def committed_rows_of(server: Server, name: str, query: str) -> list[Any]:
    """Rows of a file of the data directory, as the last commit has left them."""
    with closing(sqlite3.connect(server.data_dir / name)) as other:
        return other.execute(query).fetchall()
