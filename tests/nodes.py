"""Several nodes over one PostgreSQL: real server processes that a test kills, stops and cuts off, and gateways in this
process for tests of the API.

    with start_nodes(tmp_path, 3) as nodes:
        nodes[0].kill()      # SIGKILL
        nodes[1].freeze()    # SIGSTOP, until `resume`
        nodes[2].api.push("kiosk-1")
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from gateway.store.postgresql.address import read_address
from gateway.store.postgresql.server import PostgresqlServer
from tests import postgresql
from tests.benchmarks.tools import free_port
from tests.end_to_end.harness import DATABASE, Server
from tests.gateway.in_process import Clock, InProcessGateway
from tests.postgresql import URL_VARIABLE, server_of_process

NODE_URL = "FLEETPUSH_NODE_URL"
_databases = itertools.count(1)


@cache
def shared_server() -> str:
    """The address of the PostgreSQL of this test process, or of the run."""
    return os.environ[URL_VARIABLE] if postgresql.is_used() else server_of_process().url


def new_database(template: str = "template1") -> str:
    """The address of an empty database, for nodes to share. `template`: the database that it is a copy of."""
    name = f"nodes_{os.getpid()}_{next(_databases)}"
    with psycopg.connect(shared_server(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return shared_server().replace("/postgres?", f"/{name}?")


@cache
def _database_with_schema() -> str:
    """The name of a database of this process whose schema no node has used: a copy takes 0.05 s, and a schema 0.3 s."""
    url = new_database()
    PostgresqlServer.open(url, has_nodes=True)
    return str(read_address(url).parameters["dbname"])


class NodeProcess(Server):
    """A server process that is a node. Its address among the others is its HTTP port, which it keeps."""

    def __init__(self, data_dir: Path, database: str, *options: str, env: dict[str, str] | None = None) -> None:
        http_port = free_port()
        url = f"http://127.0.0.1:{http_port}"
        super().__init__(data_dir, *options, env={DATABASE: database, NODE_URL: url, **(env or {})})
        # It is killed and comes back to both ports.
        self.http_port, self.mqtt_port = http_port, free_port()
        self.database = database

    def __enter__(self) -> NodeProcess:
        self.start()
        return self

    def kill(self) -> None:
        """SIGKILL, and wait for it."""
        if self.running:
            self.kill9()

    def freeze(self) -> None:
        """SIGSTOP: the process does nothing until `resume`, and its sockets stay open."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    @property
    def no(self) -> int:
        """Its number among the nodes."""
        return int((self.data_dir / "node").read_text().split()[0])

    @property
    def admin_key(self) -> str:
        """The key that the first node of the database has made, in whose folder it is."""
        (path,) = self.data_dir.parent.glob("*/admin.key")
        return path.read_text().strip()


@contextmanager
def start_nodes(
    folder: Path, count: int, *options: str, database: str | None = None, env: dict[str, str] | None = None
) -> Iterator[list[NodeProcess]]:
    """Start nodes over one database, one after the other; they are killed at the end."""
    database = database or new_database()
    with ExitStack() as ending:
        nodes = [NodeProcess(folder / f"node-{number}", database, *options, env=env) for number in range(count)]
        for node in nodes:
            ending.enter_context(node)
        yield nodes


@asynccontextmanager
async def gateways_in_process(
    folder: Path, count: int = 2, *, run: bool = False, **settings: Any
) -> AsyncIterator[list[InProcessGateway]]:
    """Start gateways in this process over one database, each a node of it whose HTTP port is open for the others, with
    one clock and the admin key of the first. With `run` they do what nodes do for all, and confirm each other's
    changes. `settings`: of each, besides its folder."""
    database = new_database(_database_with_schema())
    clock = Clock()
    async with AsyncExitStack() as ending:
        gateways: list[InProcessGateway] = []
        for number in range(count):
            path = folder / f"node-{number}"
            path.mkdir()
            listener = socket.create_server(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            gateway = await InProcessGateway.build_node(
                path, asyncio.get_running_loop(), database, url, clock, **settings
            )
            await gateway.listen(listener, run=run)
            ending.push_async_callback(gateway.close)
            gateway.key = gateway.key or gateways[0].key
            gateway.http = gateway.client(gateway.key)
            gateways.append(gateway)
        yield gateways
