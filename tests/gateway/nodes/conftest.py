"""Two databases of ours over one schema of PostgreSQL, as two nodes have them; and peers on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from gateway.nodes.membership import Node
from gateway.nodes.peer_client import PeerClient
from gateway.store.app_locks import NO_APP
from gateway.store.database import Database
from gateway.store.nodes.leases import NodeEpoch
from gateway.store.postgresql.server import PostgresqlServer
from gateway.store.transaction import Transaction
from tests.gateway.in_process import InProcessGateway
from tests.gateway.nodes.peers import FakePeer, HandClock, MakePeer, Script, ServedPair, served
from tests.postgresql import Postgresql, server_of_process

NODE = (
    "INSERT INTO {schema}.node (no, identity, epoch, url, secret, renewals, groups, at, renewed_at)"
    " OVERRIDING SYSTEM VALUE VALUES (%s, '', %s, '', '', 0, 0, 0, 0)"
)


class Pair(NamedTuple):
    """Two nodes over one schema, without leases."""

    databases: list[Database]
    owners: list[Node]

    async def end(self, number: int) -> None:
        """Declare the epoch of a node ended."""
        no = self.owners[number].no

        def write(transaction: Transaction) -> None:
            transaction.execute("UPDATE node SET epoch = epoch + 1, ended_at = 1 WHERE no = ?", (no,))

        await self.databases[1 - number].write(write, apps=NO_APP)


@pytest.fixture(scope="session")
def server() -> Postgresql:
    return server_of_process()


@pytest.fixture
async def pair(server: Postgresql, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    schema = f"s{abs(hash(request.node.nodeid))}"
    PostgresqlServer.open(server.url, schema, has_nodes=True)
    owners = [Node(1, 1, "", ""), Node(2, 1, "", "")]
    with psycopg.connect(server.url, autocommit=True) as connection:
        for owner in owners:
            connection.execute(NODE.format(schema=schema).encode(), (owner.no, owner.epoch))
    async with AsyncExitStack() as ending:
        databases = []
        for owner in owners:
            backend = PostgresqlServer.open(server.url, schema, has_nodes=True)
            backend.share(NodeEpoch(no=owner.no, epoch=owner.epoch, on_ended=lambda reason: None))
            path = tmp_path / f"ledger-{owner.no}"
            database = await Database.over(backend, path, lambda stored: lambda: 1_000, lambda: False)
            ending.push_async_callback(database.close)
            databases.append(database)
        yield Pair(databases, owners)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def client(clock: HandClock) -> AsyncIterator[PeerClient]:
    client = PeerClient(clock)
    yield client
    await client.close()


@pytest.fixture
async def ending() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def served_pair(gateway: InProcessGateway, ending: AsyncExitStack) -> ServedPair:
    """Two nodes."""
    first = await ending.enter_async_context(served(gateway, 1))
    return first, await ending.enter_async_context(served(gateway, 2))


@pytest.fixture
async def make_peer(ending: AsyncExitStack) -> MakePeer:
    made = 0

    async def make(script: Script) -> FakePeer:
        nonlocal made
        made += 1
        peer = FakePeer(script)
        await peer.start(100 + made)
        ending.push_async_callback(peer.close)
        return peer

    return make
