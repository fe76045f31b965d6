"""Helpers of the socket tests: a broker with its listener, and a client on streams of the same loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from broker.authorization import AllowAll, Authenticator
from broker.broker import Broker
from broker.clock import ServerClock
from broker.message import Message
from broker.network.listen_address import ListenAddress
from broker.network.listeners import BrokerServer
from broker.settings import BrokerSettings
from broker.store import MemoryStore, SessionStore


class Events:
    """An embedder that agrees to everything, and notes how connections ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []
        self.end_noted = asyncio.Event()

    def connected(self, client_id: str, identity: object, session_present: bool) -> None: ...

    def disconnected(self, client_id: str, reason: str, detail: str) -> None:
        self.ends.append((client_id, reason))
        self.end_noted.set()

    def ready(self, client_id: str, room: int) -> None: ...

    def delivery_ended(self, client_id: str, handle: int, outcome: int) -> None: ...

    def resume(
        self, client_id: str, handles: Sequence[int], done: Callable[[Mapping[int, Message | None]], None]
    ) -> None:
        done({})

    def published(
        self, client_id: str, message: Message, done: Callable[[int], None], identifier: int | None = None
    ) -> None:
        done(0)

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        done()


class Serving:
    def __init__(self, server: BrokerServer, events: Events, port: int) -> None:
        self.server = server
        self.broker = server.broker
        self.metrics = server.broker.metrics
        self.events = events
        self.port = port

    async def client(self, limit: int = 2**16) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(packets))

    async def expect(self, *packets: bytes) -> None:
        expected = b"".join(packets)
        got = await self.reader.readexactly(len(expected))
        assert got == expected, f"expected {expected.hex(' ')}, got {got.hex(' ')}"

    async def rest(self) -> bytes:
        """Read until the server ends its side."""
        return await self.reader.read()

    async def hang_up(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


@asynccontextmanager
async def serving(
    settings: BrokerSettings | None = None,
    store: SessionStore | None = None,
    authenticator: Authenticator | None = None,
) -> AsyncIterator[Serving]:
    events = Events()
    clock = ServerClock()
    broker = Broker(settings or BrokerSettings(), store or MemoryStore(), authenticator or AllowAll(), events, clock)
    broker.start()
    server = BrokerServer(broker)
    address = await server.listen(ListenAddress("mqtt", "127.0.0.1"))
    try:
        yield Serving(server, events, address.port)
    finally:
        await server.stop()
