"""Nodes in this process, on real sockets: the gateway's API with questions of its own, and peers that misbehave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from gateway.api.http import create_api
from gateway.api.server import HttpServer
from gateway.nodes.membership import Node
from gateway.nodes.peer_routes import PeerVerbs
from tests.gateway.in_process import InProcessGateway, http_server


@dataclass
class ServedNode:
    """A node whose HTTP port is open."""

    node: Node
    verbs: PeerVerbs
    http: HttpServer

    @property
    def connections(self) -> int:
        return len(self.http.server_state.connections)


@asynccontextmanager
async def served(gateway: InProcessGateway, no: int, *, has_nodes: bool = True) -> AsyncIterator[ServedNode]:
    """Serve the gateway's API as that of a node of this number."""
    listener = socket.create_server(("127.0.0.1", 0))
    node = Node(no, 1, f"http://127.0.0.1:{listener.getsockname()[1]}", f"secret of {no}")
    verbs = PeerVerbs(lambda: node.secret)
    http = http_server(
        create_api(replace(gateway.components.services(lambda: False), peer_verbs=verbs if has_nodes else None))
    )
    await http.start(listener)
    try:
        yield ServedNode(node, verbs, http)
    finally:
        await http.stop()


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakePeer:
    """Something at a node's address that does as its script says, on each connection."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.node: Node

    async def start(self, no: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.node = Node(no, 1, f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}", "secret")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a server's connection has one"
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            await self.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()


async def read_question(reader: asyncio.StreamReader) -> bytes:
    """Read a request with its body; the body is returned."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that a node does by itself, once a second."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


class HandClock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


ServedPair = tuple[ServedNode, ServedNode]
MakePeer = Callable[[Script], Awaitable[FakePeer]]
