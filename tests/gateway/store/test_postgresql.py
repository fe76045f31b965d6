"""The ledger's backend in PostgreSQL: what is different from a file, beside a server that is stopped and killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from gateway.delivery_handles import handle_of
from gateway.delivery_states import DeliveryState
from gateway.store.database import Database
from gateway.store.deliveries.event_log import log_deliveries
from gateway.store.deliveries.ledger_statements import _ACKNOWLEDGE, _END_HANDLES, _SENT
from gateway.store.errors import OutcomeUnknown, StorageBusy, StorageUnreachable
from gateway.store.migrations import SchemaTooNew, SchemaUnsuitable
from gateway.store.nodes.leases import NodeEpoch, declare_ended, register, renew
from gateway.store.postgresql.server import DURABLE, RETRY_SECONDS, PostgresqlServer
from gateway.store.server_time import read_stored_clock
from gateway.store.transaction import Transaction
from tests.postgresql import Postgresql

INSERT = "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (?, '', ?, 0)"
END_CONNECTIONS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with Postgresql() as server:
        yield server


@pytest.fixture
def backend(server: Postgresql, request: pytest.FixtureRequest) -> PostgresqlServer:
    return PostgresqlServer.open(server.url, f"s{abs(hash(request.node.name))}")


@pytest.fixture
async def database(backend: PostgresqlServer, tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.over(backend, tmp_path / "ledger", lambda stored: lambda: 1_000, lambda: False)
    yield database
    await database.close()


def insert(number: int) -> Callable[[Transaction], int]:
    return lambda transaction: transaction.execute(INSERT, (number, b"")).lastrowid or 0


async def numbers(database: Database) -> list[int]:
    def read(transaction: Transaction) -> list[int]:
        return [number for (number,) in transaction.execute("SELECT device_no FROM uplink_message ORDER BY no")]

    return await database.read(read)


def end_connections(server: Postgresql) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(END_CONNECTIONS)


async def test_what_is_committed_is_read_and_what_fails_takes_nothing_with_it(database: Database) -> None:
    def fail(transaction: Transaction) -> int:
        transaction.execute(INSERT, (9, b""))
        return int(transaction.execute("SELECT nothing FROM nowhere").fetchone()[0])

    group = [database.write(insert(1)), database.write(fail), database.write(insert(2))]
    answers = await asyncio.gather(*group, return_exceptions=True)
    assert isinstance(answers[1], psycopg.errors.UndefinedTable)
    first, _, last = answers
    assert isinstance(first, int)
    assert isinstance(last, int)
    assert last > first > 0
    assert await numbers(database) == [1, 2]


async def test_one_server_has_a_schema_at_a_time(
    server: Postgresql, backend: PostgresqlServer, database: Database
) -> None:
    with pytest.raises(StorageBusy, match="another server has schema"):
        backend.connect_writer()
    await database.close()
    backend.connect_writer().close()


async def test_lost_connections_are_made_again(server: Postgresql, database: Database) -> None:
    await database.write(insert(1))
    assert await numbers(database) == [1]
    end_connections(server)  # nobody is in the middle of anything
    assert await numbers(database) == [1]
    await database.write(insert(2))
    await database.read_soon(lambda transaction: transaction.execute("SELECT 7").fetchone())

    def cut(transaction: Transaction) -> None:
        transaction.execute(INSERT, (9, b""))
        end_connections(server)
        transaction.execute(INSERT, (9, b""))

    answers = await asyncio.gather(database.write(insert(8)), database.write(cut), return_exceptions=True)
    assert isinstance(answers[1], StorageUnreachable)
    await database.write(insert(3))
    assert await numbers(database) == [1, 2, 8, 3], "its neighbour was done again, alone"
    assert not database.lost.done()
    assert database.unready() is None


async def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with Postgresql() as server:
        database = await Database.over(
            PostgresqlServer.open(server.url), tmp_path / "ledger", lambda stored: lambda: 1_000, lambda: False
        )
        await database.write(insert(1))
        server.stop()
        for _ in range(3):
            with pytest.raises(StorageUnreachable):
                await database.write(insert(2))
            with pytest.raises(StorageUnreachable):
                await numbers(database)
        assert database.unready() is not None
        server.start()
        await asyncio.sleep(RETRY_SECONDS)  # it is asked once in that time
        async with asyncio.timeout(5):
            while database.unready() is not None:  # nobody else has anything to write
                database.ask_again()
                await asyncio.sleep(0)
        await database.write(insert(3))
        assert await numbers(database) == [1, 3]
        await database.close()


async def test_a_server_whose_schema_another_one_has_had_meanwhile_ends(
    server: Postgresql, database: Database, backend: PostgresqlServer
) -> None:
    await database.write(insert(1))
    end_connections(server)
    PostgresqlServer(server.url, backend._schema).connect_writer().close()
    with pytest.raises(OutcomeUnknown):
        await database.write(insert(2))
    assert "another server has written" in await asyncio.wait_for(database.lost, 5)


class OneNode:
    """A node of a schema of its own, and the connection for its lease."""

    def __init__(self, server: Postgresql, schema: str) -> None:
        self.backend = PostgresqlServer.open(server.url, schema, has_nodes=True)
        self.lease = self.backend.connect_lease()
        self.no, self.epoch = self.lease.run(partial(register, known=None, identity="", url="", secret=""))
        self.reasons: list[str] = []
        self.backend.share(NodeEpoch(no=self.no, epoch=self.epoch, on_ended=self.reasons.append))

    def declare_ended(self, renewals: int = 0) -> bool:
        return self.lease.run(partial(declare_ended, no=self.no, epoch=self.epoch, renewals=renewals))


@pytest.fixture
def node(server: Postgresql, request: pytest.FixtureRequest) -> Iterator[OneNode]:
    node = OneNode(server, f"n{abs(hash(request.node.name))}")
    yield node
    node.lease.close()


@pytest.mark.parametrize("is_node", [False, True])
@pytest.mark.parametrize("arrives", [False, True])
async def test_a_commit_that_is_not_answered_is_asked_after(
    server: Postgresql,
    backend: PostgresqlServer,
    node: OneNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_node: bool,
    arrives: bool,
) -> None:
    """What is stored was answered, and what is not was not; and nothing ends."""
    over = node.backend if is_node else backend
    database = await Database.over(over, tmp_path / "ledger", lambda stored: lambda: 1_000, lambda: False)
    commit = PostgresqlServer.commit
    cuts = 0

    def cut(self: PostgresqlServer, connection: Transaction) -> None:
        nonlocal cuts
        if self._group is not None and cuts < 2:
            cuts += 1
            if arrives:
                connection.execute("COMMIT")
            end_connections(server)
        commit(self, connection)

    monkeypatch.setattr(PostgresqlServer, "commit", cut)
    if arrives:
        await asyncio.gather(database.write(insert(1)), database.write(insert(2)))
        await database.write(insert(3))
    else:
        with pytest.raises(StorageUnreachable):
            await database.write(insert(9))
        # Known not to be stored, a group is stored again one by one.
        await asyncio.gather(database.write(insert(1)), database.write(insert(2)), database.write(insert(3)))
    assert await numbers(database) == [1, 2, 3]
    assert cuts == 2
    assert not database.lost.done()
    assert not node.reasons
    await database.close()


async def test_a_commit_that_nobody_answers_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.postgresql.server.OUTCOME_SECONDS", 0.5)
    with Postgresql() as server:
        backend = PostgresqlServer.open(server.url)
        database = await Database.over(backend, tmp_path / "ledger", lambda stored: lambda: 1_000, lambda: False)
        commit = PostgresqlServer.commit

        def cut(self: PostgresqlServer, connection: Transaction) -> None:
            server.stop()
            commit(self, connection)

        monkeypatch.setattr(PostgresqlServer, "commit", cut)
        with pytest.raises(OutcomeUnknown):
            await database.write(insert(1))
        assert "did not confirm a commit" in await asyncio.wait_for(database.lost, 5)
        await database.close()


async def test_nothing_is_stored_under_an_epoch_that_has_ended(node: OneNode, tmp_path: Path) -> None:
    database = await Database.over(node.backend, tmp_path / "ledger", lambda stored: lambda: 1_000, lambda: False)
    await database.write(insert(1))
    assert not node.declare_ended(1), "it has not renewed so often"
    assert node.declare_ended()
    with pytest.raises(StorageUnreachable):
        await database.write(insert(2))
    assert node.reasons
    assert database.unready() is not None
    assert await numbers(database) == [1]
    await database.close()


def test_rows_of_nodes_that_ended_long_ago_leave(node: OneNode) -> None:
    """Of those only: one that is killed and not declared ended yet has none."""
    begin = partial(register, known=None, identity="", url="", secret="")
    later, _ = node.lease.run(begin)
    assert node.declare_ended()
    node.lease.run(lambda transaction: transaction.execute("UPDATE node SET ended_at = 1 WHERE no = ?", (node.no,)))
    node.lease.run(begin)
    left = node.lease.run(lambda transaction: transaction.execute("SELECT no FROM node ORDER BY no").fetchall())
    assert left == [(later,), (later + 1,)]


def test_who_declares_an_end_does_not_wait_for_a_group_that_is_under_way(node: OneNode) -> None:
    """It has a lease of its own to renew."""
    writer = node.backend.connect_writer()
    node.backend.begin(writer, frozenset(), frozenset())
    insert(1)(writer)
    node.backend.record_group(writer, 1_000)
    assert not node.declare_ended()
    node.backend.commit(writer)
    assert node.declare_ended()
    writer.close()


def test_a_server_that_is_no_node_has_the_schema_alone(
    server: Postgresql, node: OneNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.postgresql.server.LOCK_SECONDS", 0.2)
    of_node = node.backend.connect_writer()
    alone = PostgresqlServer.open(server.url, node.backend._schema)
    with pytest.raises(StorageBusy, match="another server"):
        alone.connect_writer()
    of_node.execute("UPDATE node SET at = 5000")
    of_node.execute("INSERT INTO clock (no, at) VALUES (1, 1000)")
    of_node.close()
    writer = alone.connect_writer()
    assert read_stored_clock(writer).last_ms == 5_000, "time goes on where any node has left it"
    with pytest.raises(StorageBusy, match="no node"):
        node.backend.connect_writer()
    assert node.lease.run(partial(renew, no=node.no, epoch=node.epoch, at=0)) is None, "its epoch has ended"
    writer.close()


async def test_a_read_for_an_app_that_takes_too_long_is_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.database.READ_SECONDS", 0.05)
    with pytest.raises(Exception, match="takes longer than"):
        await database.read(lambda transaction: transaction.execute("SELECT pg_sleep(20)").fetchone(), 1)
    assert await database.read(lambda transaction: transaction.execute("SELECT 7").fetchone(), 1) == (7,)


def test_schemas_of_others_are_left_alone(server: Postgresql) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA theirs; CREATE TABLE theirs.things (no int)")
        with pytest.raises(SchemaUnsuitable, match="another program"):
            PostgresqlServer.open(server.url, "theirs")
        PostgresqlServer.open(server.url, "newer")
        connection.execute("UPDATE newer.alembic_version SET version_num = '9999', oldest_program = '9999'")
        with pytest.raises(SchemaTooNew):
            PostgresqlServer.open(server.url, "newer")


async def test_a_server_without_sync_is_named(
    server: Postgresql, backend: PostgresqlServer, caplog: pytest.LogCaptureFixture
) -> None:
    backend.connect_writer().close()
    assert "PostgreSQL has fsync = off" in caplog.text
    assert not backend.is_durable


async def test_a_setting_that_is_changed_is_noticed(
    backend: PostgresqlServer, caplog: pytest.LogCaptureFixture
) -> None:
    connection = backend.connect_writer()
    values = dict.fromkeys(DURABLE, "on")
    checked = cast(Transaction, _Settings(values))
    backend._check_durability(checked)
    found = [backend.is_durable]
    values["synchronous_commit"] = "off"
    caplog.clear()
    for _ in range(2):
        backend._check_durability(checked)
    assert [*found, backend.is_durable] == [True, False]
    assert caplog.text.count("PostgreSQL has synchronous_commit = off") == 1, "once, and not each minute"
    connection.close()


class _Settings:
    """A connection to a PostgreSQL that has these settings."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def execute(self, statement: str) -> _Settings:
        self._asked = statement.removeprefix("SHOW ")
        return self

    def fetchone(self) -> tuple[str]:
        return (self._values[self._asked],)


class _Explained:
    """A connection that answers how a statement would be carried out, and does not do it."""

    def __init__(self, backend: PostgresqlServer) -> None:
        self.connection = backend.connect_reader(for_apps=False)
        self.plan = ""

    def execute(self, statement: str, values: Any = ()) -> None:
        rows = self.connection.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {statement}", values)
        self.plan = "\n".join(line for (line,) in rows)


def test_an_entry_of_one_delivery_each_does_not_look_at_all_deliveries_of_the_pushes(backend: PostgresqlServer) -> None:
    explained = _Explained(backend)
    for statement in (
        "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, target, content, size, accepted_at, expires_at,"
        " targeted, suppressed) SELECT n, n, 1, 'silent', 2, 1, 60, '{}', '{}', 2, 0, 0, 0, 0"
        " FROM generate_series(1, 100) AS n",
        "INSERT INTO delivery (push_no, device_no, priority, size, state) SELECT p, d, 2, 2, 0"
        " FROM generate_series(1, 100) AS p, generate_series(1, 200) AS d",
        "ANALYZE",
    ):
        explained.connection.execute(statement)
    transaction: Any = explained
    log_deliveries(transaction, "cancelled", 1, [(push_no, [7]) for push_no in range(1, 101)])
    assert "(push_no = p.no) AND (device_no = " in explained.plan, explained.plan
    explained.connection.close()


def test_few_deliveries_of_a_push_to_many_are_found_before_anything_was_counted(backend: PostgresqlServer) -> None:
    """The list of devices was read anew for each of the ten thousand: five seconds of the writer."""
    explained = _Explained(backend)
    explained.connection.execute(
        "INSERT INTO delivery (push_no, device_no, priority, size, state) SELECT p, d, 2, 2, 0"
        " FROM generate_series(1, 2) AS p, generate_series(1, 10000) AS d"
    )
    devices = json.dumps(list(range(50, 150)))
    for statement, values in ((_SENT, (1, devices)), (_ACKNOWLEDGE, (1, 1, 2, devices))):
        explained.execute(statement, values)
        assert "(device_no = ANY ($" in explained.plan, explained.plan
        assert "rows=100 loops=1" in explained.plan, explained.plan
    explained.connection.close()


def test_ending_a_few_of_many_that_wait_does_not_look_at_all_of_them(backend: PostgresqlServer) -> None:
    """Although nothing waited when PostgreSQL last counted: it read every waiting row for each hundred that ended."""
    explained = _Explained(backend)
    explained.connection.execute(
        "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, target, content, size, accepted_at, expires_at,"
        " targeted, suppressed) SELECT n, n, 1, 'silent', 2, 1, 60, '{}', '{}', 2, 0, 0, 0, 0"
        " FROM generate_series(1, 400) AS n"
    )
    deliveries = (
        "INSERT INTO delivery (push_no, device_no, priority, size, state) SELECT p, d, 2, 2, {}"
        " FROM generate_series({}, {}) AS p, generate_series(1, 400) AS d"
    )
    explained.connection.execute(deliveries.format(int(DeliveryState.DELIVERED), 1, 200))
    explained.connection.execute("ANALYZE")
    explained.connection.execute(deliveries.format(int(DeliveryState.WAITING), 201, 400))
    handles = json.dumps([handle_of(push_no, 7) for push_no in range(201, 301)])
    explained.execute(_END_HANDLES, (int(DeliveryState.CANCELLED), "recalled", 1, handles))
    assert "Index Scan using delivery_pkey" in explained.plan, explained.plan
    explained.connection.close()
