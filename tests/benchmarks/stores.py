"""The hot operations of a ledger, in PostgreSQL beside SQLite: accept, acknowledge, read a mailbox.

A spike for many machines over PostgreSQL: the same tables, as far as these operations need them, and for each
operation the ways that either engine is good at. SQLite runs in this process with `synchronous=FULL`, PostgreSQL beside
it with `synchronous_commit`, by asyncpg; both on the same disk. The decision that its figures led to is
docs/adr/0009-postgresql.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import asyncpg
from pyroaring import BitMap

from tests.benchmarks.figures import Figure, median
from tests.benchmarks.postgresql import postgresql

SUMMARY = "accept, acknowledge and read mailboxes in PostgreSQL, beside SQLite"
ROUNDS = 15
GROUP_PUSHES = 50
"""Pushes of one device each that a group commit stores."""
GROUP_ACKNOWLEDGED = 1_000
WAITING_PUSHES = 50
"""Deliveries that wait for each device whose mailbox is read."""
PAGE_DELIVERIES = 20
RETURNING = 100
"""Devices whose mailboxes one statement reads."""
WRITERS = (1, 2, 4)
TABLES = (
    "CREATE TABLE push (no {serial}, id TEXT UNIQUE, app_no INTEGER, priority INTEGER, content TEXT,"
    " accepted_at BIGINT, expires_at BIGINT)",
    "CREATE INDEX push_open ON push (expires_at, no)",
    "CREATE TABLE delivery (push_no BIGINT, device_no BIGINT, priority INTEGER, size INTEGER, state INTEGER,"
    " qos INTEGER, delivered_at BIGINT, PRIMARY KEY (push_no, device_no)){rows}",
    "CREATE INDEX delivery_mailbox ON delivery (device_no, priority, push_no) WHERE state IN (0, 1)",
    "CREATE TABLE waiting_set (push_no BIGINT, segment INTEGER, app_no INTEGER, priority INTEGER, count INTEGER,"
    " devices {blob}, PRIMARY KEY (push_no, segment))",
    "CREATE TABLE outcome_set (no {serial}, push_no BIGINT, segment INTEGER, state INTEGER, at BIGINT, count INTEGER,"
    " devices {blob})",
    "CREATE INDEX outcome_of_push ON outcome_set (push_no, segment)",
    "CREATE TABLE event (no {serial}, app_no INTEGER, at BIGINT, type TEXT, push_no BIGINT, outcome_no BIGINT)",
)
CONTENT = json.dumps({"notification": {"title": "Fleet", "body": "x" * 150}})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="devices of a fan-out; default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices
    sqlite = SqliteStore(directory / "ledger.db")
    with postgresql(directory) as address, asyncio.Runner() as runner:
        postgres = runner.run(PostgresStore.open(address))

        def timed(operation: Callable[[int], Awaitable[object]]) -> float:
            """Milliseconds of an operation, the median of all rounds but the first."""

            async def rounds() -> list[float]:
                taken = []
                for number in range(ROUNDS):
                    began = time.perf_counter()
                    await operation(number)
                    taken.append((time.perf_counter() - began) * 1000)
                return taken

            return median(runner.run(rounds())[1:])

        figures = []

        def compare(what: str, ours: Callable[[int], Awaitable[object]], other: Callable[[int], object]) -> None:
            async def in_process(number: int) -> None:
                other(number)

            figures.append(Figure(what, "ms", timed(ours), "SQLite", timed(in_process)))

        everybody = BitMap(range(devices))
        one_by_one = list(range(devices))
        compare(
            f"accept for {devices:,} devices, as a set",
            lambda _: postgres.accept_set(everybody),
            lambda _: sqlite.accept_set(everybody),
        )

        async def accept_rows(how: str, _: int) -> int:
            return await postgres.accept_rows(one_by_one, how)

        for how in ("unnest", "copy"):
            compare(
                f"accept for {devices:,} devices, as rows ({how})",
                partial(accept_rows, how),
                lambda _: sqlite.accept_rows(one_by_one),
            )
        compare(
            f"{GROUP_PUSHES} pushes to a device each, one group",
            lambda _: postgres.accept_singles(GROUP_PUSHES),
            lambda _: sqlite.accept_singles(GROUP_PUSHES),
        )
        in_sets = runner.run(postgres.accept_set(everybody)), sqlite.accept_set(everybody)

        def part(number: int) -> list[int]:
            """A group of acknowledgements is of devices all over the fleet."""
            return [device for device in one_by_one if device % ROUNDS == number][:GROUP_ACKNOWLEDGED]

        compare(
            f"{len(part(0)):,} acknowledgements of a push, from its set",
            lambda number: postgres.acknowledge_set(in_sets[0], BitMap(part(number))),
            lambda number: sqlite.acknowledge_set(in_sets[1], BitMap(part(number))),
        )
        in_rows = runner.run(postgres.accept_rows(one_by_one, "unnest")), sqlite.accept_rows(one_by_one)
        compare(
            f"{len(part(0)):,} acknowledgements of a push, as rows",
            lambda number: postgres.acknowledge_rows(in_rows[0], part(number)),
            lambda number: sqlite.acknowledge_rows(in_rows[1], part(number)),
        )
        returning = range(devices, devices + RETURNING)
        for _ in range(WAITING_PUSHES):
            runner.run(postgres.accept_rows(returning, "unnest"))
            sqlite.accept_rows(returning)
        runner.run(postgres.analyze())
        compare(
            "the mailbox page of one device",
            lambda number: postgres.pages([devices + number]),
            lambda number: sqlite.pages([devices + number]),
        )
        compare(
            f"the mailbox pages of {RETURNING} devices, one statement",
            lambda _: postgres.pages(list(returning)),
            lambda _: sqlite.pages(list(returning)),
        )
        alone = 0.0
        for writers in WRITERS:
            rate = runner.run(postgres.accept_in_order(address, writers))
            alone = alone or rate
            what = f"pushes of one app in the order of their numbers, {writers} writers"
            figures.append(Figure(what, "pushes/s", rate, "one writer", alone))
        runner.run(postgres.close())
    return figures


class SqliteStore:
    """The operations on a file, in this thread."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode = WAL", "synchronous = FULL"):
            self._connection.execute(f"PRAGMA {setting}")
        for statement in TABLES:
            types = {"serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "blob": "BLOB", "rows": " WITHOUT ROWID"}
            self._connection.execute(statement.format(**types))

    def _together(self, operation: Callable[[sqlite3.Connection], int]) -> int:
        self._connection.execute("BEGIN IMMEDIATE")
        result = operation(self._connection)
        self._connection.execute("COMMIT")
        return result

    def accept_set(self, devices: BitMap) -> int:
        def operation(connection: sqlite3.Connection) -> int:
            push_no = self._push(connection)
            connection.execute(
                "INSERT INTO waiting_set VALUES (?, 0, 1, 1, ?, ?)", (push_no, len(devices), devices.serialize())
            )
            return push_no

        return self._together(operation)

    def accept_rows(self, devices: Sequence[int]) -> int:
        def operation(connection: sqlite3.Connection) -> int:
            push_no = self._push(connection)
            connection.execute(
                "INSERT INTO delivery SELECT ?, value, 1, 200, 0, NULL, NULL FROM json_each(?)",
                (push_no, json.dumps(list(devices))),
            )
            return push_no

        return self._together(operation)

    def accept_singles(self, count: int) -> int:
        def operation(connection: sqlite3.Connection) -> int:
            for device_no in range(count):
                push_no = self._push(connection)
                connection.execute("INSERT INTO delivery VALUES (?, ?, 1, 200, 0, NULL, NULL)", (push_no, device_no))
            return count

        return self._together(operation)

    def acknowledge_set(self, push_no: int, devices: BitMap) -> int:
        def operation(connection: sqlite3.Connection) -> int:
            (stored,) = connection.execute("SELECT devices FROM waiting_set WHERE push_no = ?", (push_no,)).fetchone()
            left = BitMap.deserialize(stored) - devices
            connection.execute(
                "UPDATE waiting_set SET count = ?, devices = ? WHERE push_no = ? AND segment = 0",
                (len(left), left.serialize(), push_no),
            )
            outcome_no = connection.execute(
                "INSERT INTO outcome_set (push_no, segment, state, at, count, devices) VALUES (?, 0, 2, 1, ?, ?)",
                (push_no, len(devices), devices.serialize()),
            ).lastrowid
            connection.execute(
                "INSERT INTO event (app_no, at, type, push_no, outcome_no) VALUES (1, 1, 'delivered', ?, ?)",
                (push_no, outcome_no),
            )
            return len(devices)

        return self._together(operation)

    def acknowledge_rows(self, push_no: int, devices: Sequence[int]) -> int:
        def operation(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "UPDATE delivery SET state = 2, qos = 1, delivered_at = 1"
                " WHERE push_no = ?1 AND device_no IN (SELECT value FROM json_each(?2)) AND state IN (0, 1)",
                (push_no, json.dumps(devices)),
            ).rowcount

        return self._together(operation)

    def pages(self, devices: Sequence[int]) -> int:
        return sum(
            len(
                self._connection.execute(
                    "SELECT d.push_no, d.priority, p.content FROM delivery AS d JOIN push AS p ON p.no = d.push_no"
                    " WHERE device_no = ? AND state IN (0, 1) ORDER BY d.priority, push_no LIMIT ?",
                    (device_no, PAGE_DELIVERIES),
                ).fetchall()
            )
            for device_no in devices
        )

    @staticmethod
    def _push(connection: sqlite3.Connection) -> int:
        push_no = connection.execute(
            "INSERT INTO push (id, app_no, priority, content, accepted_at, expires_at)"
            " VALUES (lower(hex(randomblob(13))), 1, 1, ?, 1, 2)",
            (CONTENT,),
        ).lastrowid
        assert push_no is not None, "of an INSERT"
        return push_no


class PostgresStore:
    """The operations over one connection, in as few round trips as each of them can have."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, address: str) -> PostgresStore:
        connection = await asyncpg.connect(address)
        types = {"serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "blob": "BYTEA"}
        for statement in TABLES:
            await connection.execute(statement.format(**types, rows=" WITH (fillfactor = 70)"))
        return cls(connection)

    async def close(self) -> None:
        await self._connection.close()

    async def analyze(self) -> None:
        await self._connection.execute("VACUUM ANALYZE")

    async def accept_set(self, devices: BitMap) -> int:
        return int(
            await self._connection.fetchval(
                "WITH p AS (INSERT INTO push (id, app_no, priority, content, accepted_at, expires_at)"
                " VALUES (gen_random_uuid()::text, 1, 1, $1, 1, 2) RETURNING no)"
                " INSERT INTO waiting_set SELECT no, 0, 1, 1, $2, $3 FROM p RETURNING push_no",
                CONTENT, len(devices), devices.serialize(),
            )
        )  # fmt: skip

    async def accept_rows(self, devices: Sequence[int], how: str) -> int:
        async with self._connection.transaction():
            push_no = int(
                await self._connection.fetchval(
                    "INSERT INTO push (id, app_no, priority, content, accepted_at, expires_at)"
                    " VALUES (gen_random_uuid()::text, 1, 1, $1, 1, 2) RETURNING no",
                    CONTENT,
                )
            )
            if how == "copy":
                await self._connection.copy_records_to_table(
                    "delivery", records=[(push_no, device_no, 1, 200, 0, None, None) for device_no in devices]
                )
            else:
                await self._connection.execute(
                    "INSERT INTO delivery SELECT $1, unnest($2::bigint[]), 1, 200, 0, NULL, NULL", push_no, devices
                )
        return push_no

    async def accept_singles(self, count: int) -> None:
        await self._connection.execute(
            "WITH p AS (INSERT INTO push (id, app_no, priority, content, accepted_at, expires_at)"
            " SELECT gen_random_uuid()::text, 1, 1, unnest($1::text[]), 1, 2 RETURNING no)"
            " INSERT INTO delivery SELECT no, row_number() OVER (ORDER BY no), 1, 200, 0, NULL, NULL FROM p",
            [CONTENT] * count,
        )

    async def acknowledge_set(self, push_no: int, devices: BitMap) -> None:
        async with self._connection.transaction():
            stored = await self._connection.fetchval(
                "SELECT devices FROM waiting_set WHERE push_no = $1 AND segment = 0 FOR UPDATE", push_no
            )
            left = BitMap.deserialize(stored) - devices
            await self._connection.execute(
                "WITH w AS (UPDATE waiting_set SET count = $2, devices = $3 WHERE push_no = $1 AND segment = 0),"
                " o AS (INSERT INTO outcome_set (push_no, segment, state, at, count, devices)"
                "  VALUES ($1, 0, 2, 1, $4, $5) RETURNING no)"
                " INSERT INTO event (app_no, at, type, push_no, outcome_no) SELECT 1, 1, 'delivered', $1, no FROM o",
                push_no, len(left), left.serialize(), len(devices), devices.serialize(),
            )  # fmt: skip

    async def acknowledge_rows(self, push_no: int, devices: Sequence[int]) -> None:
        await self._connection.execute(
            "UPDATE delivery SET state = 2, qos = 1, delivered_at = 1"
            " WHERE push_no = $1 AND device_no = ANY($2::bigint[]) AND state IN (0, 1)",
            push_no, devices,
        )  # fmt: skip

    async def pages(self, devices: Sequence[int]) -> None:
        await self._connection.fetch(
            "SELECT m.*, p.content FROM unnest($1::bigint[]) AS wanted(device_no), LATERAL"
            " (SELECT d.device_no, d.push_no, d.priority FROM delivery AS d WHERE d.device_no = wanted.device_no"
            "  AND d.state IN (0, 1) ORDER BY d.priority, d.push_no LIMIT $2) AS m JOIN push AS p ON p.no = m.push_no",
            devices, PAGE_DELIVERIES,
        )  # fmt: skip

    @staticmethod
    async def accept_in_order(address: str, writers: int, seconds: float = 3.0) -> float:
        """Pushes a second of nodes that accept groups for one app, in turns by its lock: commit order is the order of
        numbers."""
        connections = [await asyncpg.connect(address) for _ in range(writers)]
        until = time.perf_counter() + seconds

        async def accept(connection: asyncpg.Connection) -> int:
            stored = 0
            store = PostgresStore(connection)
            while time.perf_counter() < until:
                async with connection.transaction():
                    await connection.execute("SELECT pg_advisory_xact_lock(1)")
                    await store.accept_singles(GROUP_PUSHES)
                stored += GROUP_PUSHES
            return stored

        stored = sum(await asyncio.gather(*map(accept, connections)))
        for connection in connections:
            await connection.close()
        return stored / seconds
