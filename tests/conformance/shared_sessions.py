"""A broker whose sessions are in PostgreSQL, where other brokers have theirs: each is loaded when its client comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import psycopg

from broker.authorization import Accepted, AllowAll, Credentials, Refused
from broker.broker import Broker
from broker.clock import ServerClock
from broker.network.listen_address import ListenAddress
from broker.network.listeners import BrokerServer
from broker.settings import BrokerSettings
from gateway.store.nodes.broker_sessions import LoadedSessions, due_sessions
from gateway.store.nodes.leases import NodeEpoch
from gateway.store.postgresql.server import PostgresqlServer
from gateway.store.postgresql.session_store import PostgresqlSessions
from tests.nodes import new_database

SECONDS = 30.0
LOOK_SECONDS = 0.2
_NODE = (
    "INSERT INTO fleetpush.node (identity, epoch, url, secret, renewals, groups, at, renewed_at)"
    " VALUES ('', 1, '', '', 0, 0, 0, 0)"
)


class SharedSessionsBroker:
    """A broker on a thread of its own, from `start` to `stop`, at `port`. Anybody may connect."""

    def __init__(self) -> None:
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    def start(self) -> None:
        """Return when it listens."""
        self._thread.start()
        assert self._ready.wait(SECONDS), "it did not start"

    def stop(self) -> None:
        """Return when everything is stored."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(SECONDS)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        url = new_database()
        backend = await asyncio.to_thread(PostgresqlServer.open, url, has_nodes=True)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_NODE.encode())
        store = await PostgresqlSessions.open(
            backend, NodeEpoch(no=1, epoch=1, on_ended=lambda reason: None), self._loop
        )
        authenticator = LoadingAuthenticator(store)
        broker = Broker(BrokerSettings(), store, authenticator, None, ServerClock())
        authenticator.broker = broker
        broker.start()
        server = BrokerServer(broker)
        self.port = (await server.listen(ListenAddress("mqtt", "127.0.0.1"))).port
        self._ready.set()
        looking = asyncio.create_task(authenticator.see_to_due())
        await self._stopping.wait()
        looking.cancel()
        await server.stop()
        await store.close()


class LoadingAuthenticator(AllowAll):
    """Accepts everybody, when the client's session is in memory."""

    broker: Broker

    def __init__(self, store: PostgresqlSessions) -> None:
        super().__init__()
        self._store = store
        self._waiting: dict[str, list[Callable[[], None]]] = {}

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        client_id = credentials.client_id
        accept = partial(super().authenticate, credentials, answer)
        if self.broker.is_connected(client_id):
            accept()
            return
        if client_id in self._waiting:
            self._waiting[client_id].append(accept)
            return
        self._waiting[client_id] = [accept]
        self._store.load([client_id], partial(self._loaded, client_id))

    async def see_to_due(self) -> None:
        """Load what is due, as if its client had come, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now_us = int(self.broker.shared_state.clock() * 1_000_000)
            self._store.run(partial(due_sessions, now_us=now_us, most=100), self._load_due)

    def _load_due(self, client_ids: list[str]) -> None:
        for client_id in client_ids:
            if client_id not in self._waiting:
                self._waiting[client_id] = []
                self._store.load([client_id], partial(self._loaded, client_id))

    def _loaded(self, client_id: str, loaded: LoadedSessions) -> None:
        if client_id not in self.broker.sessions:
            self.broker.adopt(loaded.state)
        for accept in self._waiting.pop(client_id):
            accept()
        if client_id in self.broker.sessions and not self.broker.is_connected(client_id):
            self.broker.release(client_id, lambda: None)
