"""A process that writes to two apps of a schema which others write, too, for `test_order`.

    python -m tests.gateway.store.order_writer URL SCHEMA BEGINNING SEED TRANSACTIONS

It stores events, pauses between the number that one is given and the commit, rolls some back, and is killed in the
middle of others: each life is a process of its own, and this one starts the next. It prints how many transactions
PostgreSQL has refused.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from enum import Enum
from typing import Final, cast

import psycopg

from gateway.store.app_locks import EVERY_APP, NO_APP, Apps
from gateway.store.audit_entries import EntryFacts, append
from gateway.store.deliveries.event_log import log_of_app
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.server import PostgresqlServer
from gateway.store.transaction import Transaction

APPS: Final = (1, 2)
EVENT: Final = "test.order"
PAUSE_SECONDS: Final = 0.004
"""The longest pause between a number and its commit: some turns of others'."""
_KILLED, _ROLLED_BACK = 0.03, 0.15
"""Shares of the transactions that end so."""
_FACTS: Final = EntryFacts("key:order", "test.order", "", "", "done", {})


class Beginning(Enum):
    """How a group begins: as it is to, or in a way that breaks the order."""

    LOCKED = "locked"
    UNLOCKED = "unlocked"
    SNAPSHOT_FIRST = "snapshot_first"


class OrderServer(PostgresqlServer):
    """The backend of a node whose groups begin in one of these ways."""

    beginning = Beginning.LOCKED

    def begin(self, connection: Transaction, apps: Apps, shared: frozenset[int]) -> None:
        if self.beginning is Beginning.LOCKED:
            super().begin(connection, apps, shared)
            return
        isolation = "READ COMMITTED" if self.beginning is Beginning.UNLOCKED else "REPEATABLE READ"
        cast(Connection, connection).begin(f"BEGIN ISOLATION LEVEL {isolation}")
        if self.beginning is Beginning.SNAPSHOT_FIRST:
            listed = None if apps is EVERY_APP else sorted(apps)
            exclusively = None if apps is EVERY_APP else [True] * len(apps)
            connection.execute("SELECT lock_apps(?, ?)", (listed, exclusively))


def order_server(url: str, schema: str, beginning: Beginning) -> OrderServer:
    """The backend of a node in a schema that is there."""
    server = OrderServer(url, schema, has_nodes=True)
    server.beginning = beginning
    return server


def write(server: OrderServer, chance: random.Random, transactions: int) -> int:
    """Write until this life ends; how many transactions were refused."""
    connection = server.connect_writer()
    refused = 0
    for _ in range(transactions):
        app_no = chance.choice(APPS)
        try:
            server.begin(connection, frozenset((app_no,)), NO_APP)
            log_of_app(connection, EVENT, 0, app_no, {})
            time.sleep(chance.uniform(0, PAUSE_SECONDS))
            append(connection, app_no, _FACTS, 0)  # it reads the last entry, and writes what follows from that
            end = chance.random()
            if end < _KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
            if end < _KILLED + _ROLLED_BACK:
                server.roll_back(connection)
            else:
                server.commit(connection)
        except psycopg.Error:  # what it has read was changed by another meanwhile
            server.roll_back(connection)
            refused += 1
    connection.close()
    return refused


def main(url: str, schema: str, beginning: str, seed: str, transactions: str) -> None:
    chance = random.Random(int(seed))
    left, refused = int(transactions), 0
    reading, writing = os.pipe()
    while left > 0:
        some = min(left, chance.randrange(10, 60))
        life = random.Random(chance.random())
        pid = os.fork()
        if not pid:
            os.write(writing, bytes([min(write(order_server(url, schema, Beginning(beginning)), life, some), 255)]))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "its traceback is above"
            refused += os.read(reading, 1)[0]
        left -= some
    sys.stdout.write(f"{refused}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
