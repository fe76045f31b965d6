"""Sessions in PostgreSQL: what was appended comes back, at whichever node, once no other one has it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.message import Body, Message
from broker.reception import PACKET_ID_BITS
from broker.settings import NEVER_EXPIRES
from broker.store import PublishedWill, StoredOutbound, StoredSession, StoredSubscription, StoredWill
from gateway.store.nodes import broker_sessions
from gateway.store.nodes.broker_sessions import LoadedSessions
from gateway.store.nodes.leases import NodeEpoch
from gateway.store.postgresql.server import PostgresqlServer
from gateway.store.postgresql.session_store import PostgresqlSessions
from gateway.store.transaction import Transaction
from tests.broker import test_sqlite_store as of_sqlite
from tests.broker.test_sqlite_store import COMMIT, OF_A_SESSION, Model, plain
from tests.gateway.nodes.conftest import NODE
from tests.postgresql import Postgresql

_schemas = itertools.count(1)
NOT_HERE = {"save_retained", "delete_retained", "delete_message"}
"""Retained messages are a node's own; messages belong to the rows that queue them."""


class Nodes:
    """Stores of nodes over one schema; each is an epoch of its own."""

    def __init__(self, url: str) -> None:
        self.backend = PostgresqlServer.open(url, f"sessions_{next(_schemas)}", has_nodes=True)
        self.lost: list[str] = []
        self._url = url
        self._no = 0

    async def open(self) -> PostgresqlSessions:
        self._no += 1
        self.execute(NODE.format(schema=self.backend._schema), (self._no, 1))
        epoch = NodeEpoch(no=self._no, epoch=1, on_ended=self.lost.append)
        return await PostgresqlSessions.open(self.backend, epoch, asyncio.get_running_loop())

    def end_epoch(self, store: PostgresqlSessions) -> None:
        self.execute(
            f"UPDATE {self.backend._schema}.node SET epoch = epoch + 1, ended_at = 1 WHERE no = %s", (store._node.no,)
        )

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    def count(self, table: str) -> int:
        with psycopg.connect(self._url, autocommit=True) as connection:
            (count,) = connection.execute(f"SELECT count(*) FROM {self.backend._schema}.{table}".encode()).fetchone()  # type: ignore[misc]
            return int(count)

    def emptied(self) -> None:
        for table in ("mqtt_session", "mqtt_subscription", "mqtt_outbound", "mqtt_received", "mqtt_published_will"):
            self.execute(f"DELETE FROM {self.backend._schema}.{table}")


class Loop(NamedTuple):
    nodes: Nodes
    store: PostgresqlSessions
    other: PostgresqlSessions


@pytest.fixture
async def two(server: Postgresql) -> AsyncIterator[Loop]:
    nodes = Nodes(server.url)
    store, other = await nodes.open(), await nodes.open()
    yield Loop(nodes, store, other)
    for one in (store, other):
        if not one.lost.done():
            await one.close()


async def done(store: PostgresqlSessions, operation: Callable[[Transaction], Any]) -> Any:
    result = asyncio.get_running_loop().create_future()
    store.run(operation, result.set_result)
    return await result


async def load(store: PostgresqlSessions, *client_ids: str) -> LoadedSessions:
    result: asyncio.Future[LoadedSessions] = asyncio.get_running_loop().create_future()
    store.load(client_ids, result.set_result)
    return await result


async def on_disk(store: PostgresqlSessions) -> None:
    await of_sqlite.on_disk(store)  # type: ignore[arg-type]  # any store has barriers


def content(message: Message) -> tuple[Any, ...]:
    body = message.body
    return message.topic, message.qos, message.retain, body.payload, body.properties, body.expires_at


@pytest.fixture(scope="module")
def module_nodes(server: Postgresql) -> Nodes:
    return Nodes(server.url)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=st.lists(of_sqlite.calls, max_size=40))
def test_gives_back_what_was_appended(module_nodes: Nodes, log: list[tuple[Any, ...]]) -> None:
    """Any calls come back at another node, wherever the groups end between them."""
    model = Model()
    queued: dict[tuple[str, int], tuple[Any, ...]] = {}

    async def append(store: PostgresqlSessions) -> None:
        key = 0
        for name, *arguments in log:
            if name in NOT_HERE:
                continue
            if name == COMMIT:
                await on_disk(store)
                continue
            if name == "save_message":
                key += 1
                arguments = [key, *arguments]
            elif name in OF_A_SESSION and arguments[0] not in model.sessions:
                continue
            if name == "save_outbound":
                client_id, row = arguments
                if row.message_key is not None and row.message_key not in model.messages:
                    continue
                queued.pop((client_id, row.sequence), None)
                if row.message_key is not None:
                    queued[client_id, row.sequence] = content(model.messages[row.message_key])
            for target in (store, model):
                getattr(target, name)(*arguments)
        for client_id in model.sessions:
            store.release_session(client_id)
        await store.close()

    async def read(store: PostgresqlSessions) -> tuple[LoadedSessions, list[PublishedWill]]:
        loaded = await load(store, "", "kiosk-1", "käse 🧀", '"; DROP TABLE session --')
        wills = await done(store, lambda t: broker_sessions.adopt_wills(t, store._node.no, store._node.epoch))
        await store.close()
        return loaded, wills

    async def move() -> tuple[LoadedSessions, list[PublishedWill]]:
        first = await module_nodes.open()
        await append(first)
        module_nodes.end_epoch(first)
        return await read(await module_nodes.open())

    module_nodes.emptied()
    loaded, wills = asyncio.run(move())
    state = loaded.state
    state.wills = wills
    found = {
        (session.client_id, row.sequence): content(state.messages[row.message_key])
        for session in state.sessions
        for row in session.outbound
        if row.message_key is not None
    }
    expected = model.state()
    for sessions in (state.sessions, expected.sessions):
        for session in sessions:
            for row in session.outbound:
                row.message_key = None
    assert {**plain(state), "messages": found} == {**plain(expected), "messages": {
        key: value for key, value in queued.items() if key in {
            (session.client_id, row.sequence) for session in expected.sessions for row in session.outbound
        }
    }}  # fmt: skip
    assert not loaded.interrupted


async def test_a_session_is_in_the_memory_of_one_node(two: Loop) -> None:
    nodes, store, other = two
    store.save_session(StoredSession("kiosk-1", "kiosk-1", 60, None, number=1))
    await on_disk(store)
    assert (await load(other, "kiosk-1", "nobody")).elsewhere == {"kiosk-1"}
    store.release_session("kiosk-1")
    await on_disk(store)
    loaded = await load(other, "kiosk-1")
    assert [session.client_id for session in loaded.state.sessions] == ["kiosk-1"]
    assert not loaded.interrupted
    assert (await load(store, "kiosk-1")).elsewhere == {"kiosk-1"}
    nodes.end_epoch(other)
    assert (await load(store, "kiosk-1")).interrupted == {"kiosk-1"}


async def test_nothing_is_stored_under_an_epoch_that_has_ended(two: Loop) -> None:
    nodes, store, other = two
    store.save_session(StoredSession("kiosk-1", "kiosk-1", 60, None))
    await on_disk(store)
    nodes.end_epoch(store)
    called: list[str] = []
    store.save_subscription("kiosk-1", StoredSubscription("a", 1))
    store.barrier(lambda: called.append("stored"))
    assert "ended" in await store.lost
    assert nodes.lost
    assert not called
    assert (await load(other, "kiosk-1")).state.sessions[0].subscriptions == []
    await store.close()


async def test_numbers_and_packet_identifiers_are_of_one_node(two: Loop) -> None:
    _, store, other = two
    firsts = [one.claim_packet_ids(2_048) for one in (store, other)]
    assert firsts == [1, 2_049]
    drawn = [one.draw_number() for one in (store, other) for _ in range(1_000)]
    assert len(set(drawn)) == 2_000
    assert min(drawn) >= 1


async def test_packet_identifiers_begin_again_after_the_last(two: Loop) -> None:
    _, store, other = two
    assert [store.claim_packet_ids(30_000), other.claim_packet_ids(30_000), store.claim_packet_ids(30_000)] == [
        1,
        30_001,
        1,
    ]


async def test_a_run_that_began_no_session_uses_up_no_packet_identifiers(two: Loop) -> None:
    nodes, store, other = two
    assert store.claim_packet_ids(2_048) == 1
    await store.close()
    assert other.claim_packet_ids(2_048) == 1
    third = await nodes.open()
    third.save_session(StoredSession("kiosk-1", "kiosk-1", 60, None))
    await third.close()


async def test_numbers_go_on_when_a_block_is_used_up(two: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, _, _ = two
    monkeypatch.setattr("gateway.store.postgresql.session_store.SESSION_NUMBERS", 8)
    store = await nodes.open()
    drawn = []
    for _ in range(30):
        drawn.append(store.draw_number())
        await on_disk(store)
    assert len(set(drawn)) == 30
    await store.close()


async def test_a_lost_connection_costs_nothing(two: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, store, other = two
    monkeypatch.setattr("broker.group_commit.RETRY_SECONDS", 0.01)
    for number in range(1, 20):
        store.save_session(StoredSession(f"kiosk-{number}", "kiosk", 60, None))
        store.release_session(f"kiosk-{number}")
        nodes.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s",
            (store._connection._raw.info.backend_pid,),  # type: ignore[attr-defined]  # a connection of ours
        )
        await on_disk(store)
    loaded = await load(other, *(f"kiosk-{number}" for number in range(1, 20)))
    assert len(loaded.state.sessions) == 19


async def test_what_an_ended_node_had_expires_from_then_on(two: Loop) -> None:
    nodes, store, other = two
    will = StoredWill(Message("gone", Body(b"w"), 1), None, delay=30, number=7)
    store.save_session(StoredSession("kiosk-1", "kiosk-1", 60, None, will=will))
    store.save_session(StoredSession("kiosk-2", "kiosk-2", NEVER_EXPIRES, None))
    store.save_session(StoredSession("kiosk-3", "kiosk-3", 60, 5.0))
    await on_disk(store)
    assert await done(other, lambda t: broker_sessions.begin_expiry(t, 1_000_000)) == 0, "it lives"
    assert await done(other, lambda t: broker_sessions.due_sessions(t, 10**9, 10)) == []
    nodes.end_epoch(store)
    assert await done(other, lambda t: broker_sessions.begin_expiry(t, 1_000_000)) == 1
    assert await done(other, lambda t: broker_sessions.begin_expiry(t, 9_000_000)) == 0, "once"
    assert await done(other, lambda t: broker_sessions.due_sessions(t, 30_999_999, 10)) == ["kiosk-3"]
    assert await done(other, lambda t: broker_sessions.due_sessions(t, 31_000_000, 10)) == ["kiosk-3", "kiosk-1"]
    sessions = {session.client_id: session for session in (await load(other, "kiosk-1", "kiosk-2")).state.sessions}
    assert sessions["kiosk-1"].expires_at == 61.0
    assert sessions["kiosk-2"].expires_at is None
    assert await done(other, lambda t: broker_sessions.due_sessions(t, 31_000_000, 10)) == ["kiosk-3"], "it is here"


async def test_messages_of_a_device_that_has_gone_are_forgotten(two: Loop) -> None:
    nodes, store, _ = two
    store.save_session(StoredSession("kiosk-1", "kiosk-1", 60, None, number=5))
    store.save_published_will(PublishedWill(6, "kiosk-2", Message("gone", Body(b"w"), 1)))

    def note(transaction: Transaction) -> None:
        for number in (5, 6, 7):
            transaction.execute("INSERT INTO received_message VALUES (?)", (number << PACKET_ID_BITS | 3,))

    await done(store, note)
    assert await done(store, lambda t: broker_sessions.forget_messages_of_nobody(t, PACKET_ID_BITS)) == 1
    assert nodes.count("received_message") == 2


async def test_a_session_that_is_deleted_leaves_no_rows(two: Loop) -> None:
    nodes, store, _ = two
    store.save_session(StoredSession("kiosk-1", "kiosk-1", 60, None))
    store.save_subscription("kiosk-1", StoredSubscription("a", 2))
    store.save_outbound("kiosk-1", StoredOutbound(1, None, 5, 2, 3))
    store.save_received("kiosk-1", 5)
    await on_disk(store)
    store.delete_session("kiosk-1")
    await on_disk(store)
    tables = ("mqtt_session", "mqtt_subscription", "mqtt_outbound", "mqtt_received")
    assert [nodes.count(table) for table in tables] == [0, 0, 0, 0]
