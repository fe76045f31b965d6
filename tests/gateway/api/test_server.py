from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response

from broker.network.descriptor_shares import share_of
from gateway.api import http_connection, server
from gateway.api.connection_limiter import MAX_CONNECTIONS, ConnectionLimiter
from gateway.api.http_framing import HEAD_BYTES
from gateway.api.request_turns import RequestTurns
from gateway.api.server import HttpServer
from tests.broker.network.test_transport import until
from tests.certificates import Authority

LARGE = 32 * 1024 * 1024
"""Bytes: more than the kernel keeps for who does not read."""


def limiter() -> ConnectionLimiter:
    return ConnectionLimiter(
        connections=MAX_CONNECTIONS, clock=asyncio.get_running_loop().time, share_of=share_of, is_proxy=lambda _: False
    )


def server_of(app: FastAPI, trusted_proxies: Sequence[str] = ()) -> HttpServer:
    return HttpServer(
        app=app,
        websocket=asyncio.Protocol,
        limiter=limiter(),
        trusted_proxies=trusted_proxies,
        turns=RequestTurns(asyncio.get_running_loop()),
        share_of_holder=lambda *_: None,
    )


@dataclass
class Running:
    http: HttpServer
    port: int
    entered: asyncio.Event
    release: asyncio.Event

    async def say(self, data: bytes) -> bytes:
        """Everything the server answers until it hangs up; empty when it was cut off."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    app = FastAPI()
    entered, release = asyncio.Event(), asyncio.Event()

    @app.get("/quick")
    async def quick() -> str:
        return "here"

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE))

    @app.get("/slow")
    async def slow() -> str:
        entered.set()
        await release.wait()
        return "answered"

    listener = socket.create_server(("127.0.0.1", 0))
    http = server_of(app)
    await http.start(listener)
    yield Running(http, listener.getsockname()[1], entered, release)
    release.set()
    await http.stop()


async def test_what_is_not_http_is_answered_with_a_problem(running: Running) -> None:
    head, _, body = (await running.say(b"\x16\x03\x01\x02\x00 rubbish\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == "malformed_request"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /" + b"x" * 2 * HEAD_BYTES, id="an endless line"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES, id="an endless header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * HEAD_BYTES, id="endless headers"),
    ],
)
async def test_the_head_of_a_request_is_bounded(running: Running, head: bytes) -> None:
    answer = await running.say(head)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert b"here" in await running.say(b"GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


async def test_a_head_that_takes_too_long_is_cut_off(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.05)
    assert await running.say(b"GET /quick HTTP/1.1\r\n") == b""
    assert b"here" in await running.say(b"GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


GET = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        pytest.param(GET, b"GET /" + b"x" * 1_000, id="a second head"),
        pytest.param(GET, b"\r\n" * 500, id="empty lines"),
        pytest.param(GET + b"GET /", b"x" * 1_000, id="a second head that begins with the first"),
        pytest.param(REFUSED, b"x" * 999, id="the body of a request that is answered"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 1_000], ids=["once", "bit by bit"])
async def test_nor_is_more_awaited_for_ever(
    running: Running, monkeypatch: pytest.MonkeyPatch, first: bytes, later: bytes, pieces: int
) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(first)
    await reader.readuntil(b"\r\n\r\n")
    gone = asyncio.create_task(reader.read())
    for index in range(pieces):
        writer.write(later[index : index + 1])
        await asyncio.wait([gone], timeout=0.02)
        if gone.done():
            break
    with suppress(ConnectionError):
        await asyncio.wait_for(gone, 2)
    writer.close()


async def test_a_body_that_comes_after_its_answer_is_the_end_of_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is idle then, for the next request or until that takes too long."""
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.2)
    running.http.config.timeout_keep_alive = 1
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(REFUSED)
    assert b" 404 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"x" * 500)
    await asyncio.sleep(0.05)
    writer.write(b"x" * 500)
    await asyncio.sleep(0.4)
    writer.write(GET)
    assert b"here" in await reader.readuntil(b"here")
    writer.write(REFUSED)
    assert b" 404 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"x" * 1_000)
    await asyncio.wait_for(reader.read(), 5)
    writer.close()


@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"], ids=["kept", "to be closed"])
async def test_who_does_not_read_its_answer_is_cut_off(
    running: Running, monkeypatch: pytest.MonkeyPatch, ending: bytes
) -> None:
    monkeypatch.setattr(http_connection, "UNREAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1_000)
    writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n" + ending + b"\r\n")
    connections = running.http.server_state.connections
    await until(lambda: bool(connections), "it to connect")
    await until(lambda: not connections, "it to be cut off")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(LARGE)
    writer.close()


async def test_who_reads_its_answer_slowly_gets_all_of_it(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "UNREAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1_000)
    writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    got = 0
    while data := await reader.read(LARGE // 20):
        got += len(data)
        await asyncio.sleep(0.001)
    assert got > LARGE
    writer.close()


async def test_the_end_does_not_wait_for_idle_clients_to_say_goodbye(tmp_path: Path) -> None:
    """Over TLS: a pool of connections answers close_notify when it is used again."""
    authority = Authority(tmp_path)
    pair = authority.issue("server", "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    http = server_of(FastAPI())
    await http.start(None)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(http.protocol, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]

    def ask() -> ssl.SSLSocket:
        bare = socket.create_connection(("127.0.0.1", port), timeout=10)
        client = authority.client().wrap_socket(bare, server_hostname="localhost")
        client.sendall(GET)
        assert client.recv(1_000).startswith(b"HTTP/1.1 404 ")
        return client

    with await asyncio.to_thread(ask):
        listening.close()
        began = loop.time()
        await http.stop()
        assert loop.time() - began < server.DRAIN_SECONDS / 2


@pytest.mark.parametrize(("trusted", "client"), [("127.0.0.1", "192.0.2.7"), ("10.0.0.0/8", "127.0.0.1")])
async def test_on_a_socket_for_both_ipv4_is_itself(trusted: str, client: str) -> None:
    app = FastAPI()

    @app.get("/client")
    async def whose(request: Request) -> str:
        assert request.client is not None
        return request.client.host

    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    http = server_of(app, trusted_proxies=[trusted])
    await http.start(listener)
    running = Running(http, listener.getsockname()[1], asyncio.Event(), asyncio.Event())
    asked = b"GET /client HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n"
    try:
        assert (await running.say(asked)).endswith(f'"{client}"'.encode())
    finally:
        await http.stop()


async def test_stopping_answers_what_was_asked_and_takes_nothing_new(running: Running) -> None:
    asked = asyncio.create_task(running.say(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"))
    await running.entered.wait()
    stopping = asyncio.create_task(running.http.stop())
    while True:
        try:
            (await asyncio.open_connection("127.0.0.1", running.port))[1].close()
        except ConnectionError:
            break
        await asyncio.sleep(0.01)
    assert not asked.done()
    running.release.set()
    assert b"answered" in await asked
    await stopping
    assert running.http.ended.done()
