"""A server's ledger from outside, whichever database has it: what is committed, and a lock that stalls commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

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


def change_ledger(server: Server, statement: str) -> None:
    """Carry out a statement in the ledger of a server that does not run, and commit it."""
    address = server.env.get(DATABASE)
    if address is None:
        with closing(sqlite3.connect(server.data_dir / LEDGER)) as ledger, ledger:
            ledger.execute(statement)
        return
    with psycopg.connect(address, options="-c search_path=fleetpush") as database:
        database.execute(statement.encode())


def committed_rows_of(server: Server, name: str, query: str) -> list[Any]:
    """Rows of a file of the data directory, as the last commit has left them."""
    with closing(sqlite3.connect(server.data_dir / name)) as other:
        return other.execute(query).fetchall()
