"""A whole gateway but for its ports: what `gateway.composition` wires, with a hand-moved clock and a client per key."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from starlette.types import Message, Scope, Send

from broker.log_format import LineFormatter
from broker.log_writer import LogWriter
from broker.network.descriptor_shares import share_of
from broker.sqlite_store import SqliteStore
from gateway.api.connection_limiter import ConnectionLimiter
from gateway.api.describing_process import api_without_server
from gateway.api.http import create_api
from gateway.api.openapi import describe
from gateway.api.operation_problems import EVERYWHERE, OF_NO_OPERATION
from gateway.api.problems import MEDIA_TYPE
from gateway.api.request_turns import RequestTurns
from gateway.api.server import HttpServer
from gateway.composition import Components
from gateway.data_directory import KEY_FILE
from gateway.devices import MqttAddress
from gateway.nodes.membership import Membership
from gateway.nodes.tasks import TaskName
from gateway.settings import Settings
from gateway.startup import OpenStores, first_start
from gateway.store.database import Database
from tests import postgresql
from tests.empty_ledger import empty_ledger

HTTP_CONNECTIONS = 400
START = 1_800_000_000_000
OURS = {"Fleetpush-Console": "1", "Origin": "http://test"}
"""What a browser says of a request of the console's own pages."""


class Clock:
    def __init__(self) -> None:
        self.milliseconds = START

    def __call__(self) -> float:
        return self.milliseconds / 1000


@cache
def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, which is the same in every gateway; it takes a while to make."""
    return describe(api_without_server())


@cache
def _operations() -> list[tuple[str, re.Pattern[str], list[str]]]:
    """Method, path and problem codes of each operation, those with the fewest parameters first."""
    found = []
    for template, operations in sorted(openapi_document()["paths"].items(), key=lambda item: str(item[0]).count("{")):
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)))
        for method, operation in operations.items():
            contents = [response.get("content", {}) for response in operation["responses"].values()]
            codes = [code for content in contents for code in content.get(MEDIA_TYPE, {}).get("examples", ())]
            found.append((method.upper(), pattern, codes))
    return found


def documented_codes(method: str, path: str) -> Sequence[str]:
    """The problem codes that the OpenAPI document lists for a request."""
    wanted = "GET" if method == "HEAD" else method
    for name, pattern, codes in _operations():
        if name == wanted and pattern.fullmatch(path.partition("?")[0]):
            return codes
    return (*OF_NO_OPERATION, *EVERYWHERE)


def http_server(api: FastAPI) -> HttpServer:
    """A server of an application, with the limits of a small one; `start` it on a socket."""
    loop = asyncio.get_running_loop()
    return HttpServer(
        app=api,
        websocket=asyncio.Protocol,
        limiter=ConnectionLimiter(
            connections=HTTP_CONNECTIONS, clock=loop.time, share_of=share_of, is_proxy=lambda _: False
        ),
        trusted_proxies=(),
        turns=RequestTurns(loop),
        share_of_holder=lambda *_: None,
    )


async def _open_ledger(folder: Path, clock: Clock) -> Database:
    """In PostgreSQL, if the tests are to run over that."""
    path = folder / "fleetpush.db"
    if postgresql.is_used():
        backend = postgresql.schema_pool().backend_for(folder)
        return await Database.over(backend, path, lambda stored: lambda: clock.milliseconds, lambda: False)
    if not path.exists():
        path.write_bytes(empty_ledger())
    return await Database.open(path, lambda stored: lambda: clock.milliseconds, on_full=lambda: False)


class _EitherTransport(httpx2.AsyncBaseTransport):
    """One of several, for each request anew."""

    def __init__(self, transports: Sequence[httpx2.AsyncBaseTransport]) -> None:
        self._transports = transports

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await random.choice(self._transports).handle_async_request(request)


class InProcessGateway:
    """A gateway in this process, without ports. `call` is for an expected success, `refused` for a problem, `http` for
    anything else; all with the admin key."""

    def __init__(self, components: Components, database: Database, clock: Clock, ending: AsyncExitStack) -> None:
        self.components = components
        self.database = database
        self.clock = clock
        self.is_ending = False
        self.key = ""
        self._ending = ending
        self._sharing: Sequence[InProcessGateway] = ()
        self.api = create_api(components.services(lambda: self.is_ending))
        # False: an exception of ours must become a 500, as it does behind a real server.
        self._transport: httpx2.AsyncBaseTransport = httpx2.ASGITransport(self.api, raise_app_exceptions=False)
        self.http = self.client(None)

    @classmethod
    async def build(cls, folder: Path, loop: asyncio.AbstractEventLoop, **settings: Any) -> InProcessGateway:
        """Start over what is in the folder, or anew if there is nothing."""
        ending = AsyncExitStack()
        clock = Clock()
        sessions = SqliteStore(folder / "broker.db", loop)
        ending.push_async_callback(sessions.close)
        database = await _open_ledger(folder, clock)
        ending.push_async_callback(database.close)
        stored = OpenStores(database, sessions, clock, lambda: clock.milliseconds, None)
        return await cls._build(folder, stored, clock, ending, settings)

    @classmethod
    async def build_node(
        cls, folder: Path, loop: asyncio.AbstractEventLoop, address: str, url: str, clock: Clock, **settings: Any
    ) -> InProcessGateway:
        """Start as a node of the database at an address of PostgreSQL, which other nodes share."""
        from gateway.store.postgresql.server import PostgresqlServer
        from gateway.store.postgresql.session_store import PostgresqlSessions

        ending = AsyncExitStack()
        backend = await asyncio.to_thread(PostgresqlServer.open, address, has_nodes=True)
        membership = await Membership.join(backend.connect_lease(), folder, url)
        ending.push_async_callback(membership.end)
        membership.store_time_of(lambda: clock.milliseconds)
        backend.share(membership.writer_epoch)
        sessions = await PostgresqlSessions.open(backend, membership.writer_epoch, loop)
        ending.push_async_callback(sessions.close)
        path = folder / "fleetpush.db"
        database = await Database.over(backend, path, lambda stored: lambda: clock.milliseconds, lambda: False)
        ending.push_async_callback(database.close)
        stored = OpenStores(database, sessions, clock, lambda: clock.milliseconds, None, 0, membership, sessions)
        return await cls._build(folder, stored, clock, ending, settings | {"database": address, "node_url": url})

    @classmethod
    async def _build(
        cls, folder: Path, stored: OpenStores, clock: Clock, ending: AsyncExitStack, settings: dict[str, Any]
    ) -> InProcessGateway:
        database = stored.database
        made = await first_start(folder, stored)
        components = Components(
            Settings(data_dir=folder, **settings), stored, LogWriter("INFO", LineFormatter("%(message)s"))
        )
        components.mqtt_address = MqttAddress("push.example", 1883, False, "ws://push.example:8080/mqtt")
        await components.delivery.fatigue.load()
        gateway = cls(components, database, clock, ending)
        if stored.membership is None or made is not None:  # another node has the key of the fleet
            gateway.key = (folder / KEY_FILE).read_text().strip()
        gateway.http = gateway.client(gateway.key)
        return gateway

    def share_requests(self, other: InProcessGateway) -> None:
        """Have each request to this gateway or the other answered by one of them, at random."""
        both = self, other
        transport = _EitherTransport([gateway._transport for gateway in both])
        for gateway in both:
            gateway._sharing, gateway._transport = both, transport
            gateway.http = gateway.client(gateway.key)

    @property
    def nodes(self) -> Sequence[InProcessGateway]:
        """Those that may answer its requests: without --nodes itself alone."""
        return self._sharing or (self,)

    async def catch_up(self) -> None:
        """Have all nodes that requests are shared with know what each of them has stored, before the clock is moved: a
        push is answered a moment before. One server by itself knows."""
        for gateway in self._sharing:
            assert gateway.components.nodes is not None, "there are several"
            await gateway.components.nodes.invalidations.read()
            await gateway.components.nodes.tasks.follow()
            gateway.components._webhooks._followed_at = 0  # it looks seldom, by a clock that stands still
            await gateway.components.nodes.follow_others()

    async def owner_of(self, task: TaskName) -> InProcessGateway:
        """The one that does a task for all, once one does, when it knows what the others have stored."""
        async with asyncio.timeout(10):
            while self._sharing:
                await self.catch_up()
                for gateway in self._sharing:
                    if gateway.components._owns(task):
                        return gateway
                await asyncio.sleep(0.01)
        return self

    async def listen(self, listener: socket.socket, *, run: bool = False) -> None:
        """Serve the application on a socket as well, until `close`, and tell the other nodes what they have to know;
        with `run`, do what one of the nodes does for all, too."""
        http = http_server(self.api)
        await http.start(listener)
        self._ending.push_async_callback(http.stop)
        if self.components.peers is not None:
            works = [self.components.peers.run()]
            if run and self.components.nodes is not None:
                await self.components.recover()
                works.append(self.components.nodes.run())
            for work in works:
                task = asyncio.create_task(work)
                self._ending.push_async_callback(asyncio.wait, [task])
                self._ending.callback(task.cancel)

    async def close(self) -> None:
        if self.components.peers is not None:
            await self.components.peers.end()
        self.components.feed.end()
        await self.components.webhook_sender.end()
        await self.components.people.end()
        if self.components.moving_sessions is not None:
            await self.components.moving_sessions.takeover.end()
        await self.components.flush()
        await self._ending.aclose()

    def client(self, key: str | None) -> httpx2.AsyncClient:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx2.AsyncClient(transport=self._transport, base_url="http://test", headers=headers)

    async def call(
        self, method: str, path: str, expect: int = 200, http: httpx2.AsyncClient | None = None, **options: Any
    ) -> Any:
        answer = await (http or self.http).request(method, path, **options)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def refused(
        self,
        method: str,
        path: str,
        status: int,
        code: str | None = None,
        http: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        answer = await (http or self.http).request(method, path, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = answer.json()
        place = {"line", "column"} if document["code"] == "invalid_expression" else set()
        assert {"type", "title", "status", "code", "detail", "retryable"} | place == set(document)
        assert document["status"] == status
        assert code is None or document["code"] == code, document
        assert document["code"] in documented_codes(method, path), f"{method} {path} is not said to answer it"
        return document

    async def key_for(self, *scopes: str, app: str | None = None) -> httpx2.AsyncClient:
        """A client with a new key."""
        body = {"name": "test", "scopes": list(scopes)} | ({} if app is None else {"app": app})
        return self.client((await self.call("POST", "/v1/keys", 201, json=body))["key"])

    async def ask(self, path: str, send: Send) -> None:
        """GET with the admin key, of a client that takes the answer as `send` does."""

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("a client that stays")

        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {self.key}".encode())],
            "client": ("10.0.0.1", 1),
            "server": ("test", 80),
            "scheme": "http",
            "http_version": "1.1",
        }
        await self.api(scope, receive, send)

    async def begin_unread(self, path: str) -> asyncio.Task[None]:
        """GET of a client that takes the head of the answer and then nothing more; returns when the answer begins."""
        began = asyncio.Event()

        async def send(message: Message) -> None:
            began.set()
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # the socket takes nothing more

        answering = asyncio.create_task(self.ask(path, send))
        beginning = asyncio.create_task(began.wait())
        await asyncio.wait({answering, beginning}, return_when=asyncio.FIRST_COMPLETED)
        beginning.cancel()
        assert began.is_set(), "it ended without an answer"
        return answering

    async def enrol(self, *device_ids: str, **fields: Any) -> None:
        devices = [{"device_id": device_id, **fields} for device_id in device_ids]
        answer = await self.call("POST", "/v1/devices/bulk", 201, json={"devices": devices})
        assert all("token" in device for device in answer["devices"])

    async def push(self, target: dict[str, Any], **fields: Any) -> str:
        return str((await self.call("POST", "/v1/pushes", 202, json={"target": target, **fields}))["push_id"])
