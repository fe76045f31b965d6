"""What one HTTP connection takes from somebody who has no key, byte by byte, on both event loops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Request

from broker.network.descriptor_shares import share_of
from gateway.api import http_connection, http_framing
from gateway.api.admission import ADMITTED
from gateway.api.connection_limiter import LAST_WORDS, LOG_SECONDS, ConnectionLimiter
from gateway.api.http_connection import MQTT_PATH, READ_BYTES, HttpConnection
from gateway.api.http_framing import (
    BYTES_PER_CHUNK,
    CHUNK_LINE_BYTES,
    HEAD_BYTES,
    HEADERS_LIMIT,
    TRAILER_BYTES,
)
from gateway.api.request_turns import RequestTurns
from gateway.api.server import HttpServer
from tests.broker.network.conftest import Run, run  # noqa: F401  # the fixture
from tests.broker.network.test_transport import until

QUICK = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ADMITTED_GET = QUICK.replace(b"quick", b"admitted")
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = (
    f"GET {MQTT_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-One: 1\r\n\r\n".encode()
)


class Sleeper:
    """A connection of whoever says nothing."""

    def __init__(self, limiter: ConnectionLimiter, host: str) -> None:
        self.place = limiter.enter(self, host)
        self.is_evicted = False

    def evict(self) -> None:
        assert self.place is not None, "it is in the books"
        self.place.release()
        self.is_evicted = True


class Taker(asyncio.Protocol):
    """Stands for MQTT over WebSocket: keeps what it is given, and says so."""

    def __init__(self) -> None:
        self.said = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # it reads and writes

    def data_received(self, data: bytes) -> None:
        self.said += data
        self.transport.write(b"taken over;")


@dataclass
class Running:
    http: HttpServer
    port: int
    limiter: ConnectionLimiter
    takers: list[Taker]
    release: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers and body of each request to /echo."""

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, *parts: bytes) -> bytes:
        """Everything the server answers until it hangs up; each part is a segment of its own, and read as one."""
        reader, writer = await self.open()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                if len(parts) > 1:
                    await asyncio.sleep(0.005)
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    @property
    def connection(self) -> HttpConnection:
        (connection,) = self.http.server_state.connections
        assert isinstance(connection, HttpConnection)
        return connection


@asynccontextmanager
async def serving(connections: int = 100) -> AsyncIterator[Running]:
    app = FastAPI()
    takers: list[Taker] = []

    def websocket() -> Taker:
        takers.append(Taker())
        return takers[-1]

    limiter = ConnectionLimiter(
        connections=connections, clock=asyncio.get_running_loop().time, share_of=share_of, is_proxy=lambda _: False
    )
    listener = socket.create_server(("127.0.0.1", 0))
    running = Running(
        HttpServer(
            app=app,
            websocket=websocket,
            limiter=limiter,
            trusted_proxies=(),
            turns=RequestTurns(asyncio.get_running_loop()),
            share_of_holder=lambda *_: None,
        ),
        listener.getsockname()[1],
        limiter,
        takers,
    )

    @app.get("/quick")
    async def quick() -> str:
        return "here"

    @app.get("/admitted")
    async def admitted(request: Request) -> str:
        request.scope[ADMITTED] = True
        return "welcome"

    @app.get("/slow")
    async def slow() -> str:
        await running.release.wait()
        return "at last"

    @app.post("/echo")
    async def echo(request: Request) -> int:
        body = await request.body()
        running.asked.append((dict(request.headers), body))
        return len(body)

    @app.post("/unread")
    async def unread() -> str:
        return "did not read"

    await running.http.start(listener)
    try:
        yield running
    finally:
        running.release.set()
        await running.http.stop()


def limits(running: Running) -> dict[str, int]:
    return running.limiter.counts


# -- trailers and chunks -----------------------------------------------------------------------------------------------


def test_a_trailer_is_no_header(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            trailer = b"0\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
            answer = await running.say(CHUNKED + b"2;name=value\r\nhi\r\n" + trailer)
            assert b" 200 " in answer
            ((headers, body),) = running.asked
            assert body == b"hi"
            assert set(headers) == {"host", "connection", "transfer-encoding"}

    run(scene())


@pytest.mark.parametrize("before", [b"2\r\nhi\r\n0\r\n", b"0\r\n"])
@pytest.mark.parametrize("field", [b"aa:bb\r\n", b"a" * 1_000])
def test_a_trailer_is_bounded(run: Run[Any], before: bytes, field: bytes) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            answer = await running.say(CHUNKED + before + field * (2 * TRAILER_BYTES // len(field)))
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert limits(running) == {"trailer_too_large": 1}
            assert not running.asked

    run(scene())


def test_chunks_come_as_they_are_cut(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Also when each byte is a segment of its own, and one byte is a chunk."""
    monkeypatch.setattr(http_framing, "FREE_CHUNKS", 2_000)
    whole = CHUNKED + b"A\r\n0123456789\r\n1;x\r\n!\r\n000\r\nA: b\r\n\r\n"

    async def scene() -> None:
        async with serving() as running:
            assert b" 200 " in await running.say(whole)
            assert b" 200 " in await running.say(*(whole[at : at + 1] for at in range(len(whole))))
            many = CHUNKED + b"1\r\nx\r\n" * 1_999 + b"0\r\n\r\n"
            assert (await running.say(many)).endswith(b"1999")
            assert [body for _, body in running.asked[:2]] == [b"0123456789!"] * 2

    run(scene())


def test_chunks_are_bounded_in_number_by_what_is_in_them(
    run: Run[Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_framing, "FREE_CHUNKS", 1_000)

    async def scene() -> None:
        async with serving() as running:
            answer = await running.say(CHUNKED + b"1\r\nx\r\n" * 2_000)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert limits(running) == {"too_many_chunks": 1}
            size = BYTES_PER_CHUNK
            many = CHUNKED + (b"%x\r\n%b\r\n" % (size, b"x" * size)) * 2_000 + b"0\r\n\r\n"
            assert (await running.say(many)).endswith(str(2_000 * size).encode())

    run(scene())


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        pytest.param(b"1;" + b"x" * CHUNK_LINE_BYTES, "chunk_line_too_large", id="an endless extension"),
        pytest.param(b"0" * 2 * CHUNK_LINE_BYTES, "chunk_line_too_large", id="an endless number"),
        pytest.param(b"xyz\r\n", "malformed", id="no number"),
        pytest.param(b"1\r\nxy\r\n", "malformed", id="more than it said"),
        pytest.param(b"f" * 17 + b"\r\n", "malformed", id="no size at all"),
    ],
)
def test_what_stands_before_a_chunk_is_bounded(run: Run[Any], said: bytes, limit: str) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            assert (await running.say(CHUNKED + said)).startswith(b"HTTP/1.1 400 ")
            assert limits(running) == {limit: 1}
            assert not running.asked

    run(scene())


def test_what_comes_behind_an_answer_is_not_parsed(
    run: Run[Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is thrown away, and not for long; the answer arrives whole all the same."""
    monkeypatch.setattr(http_connection, "LINGER_SECONDS", 0.2)

    async def scene() -> None:
        async with serving() as running:
            reader, writer = await running.open()
            writer.write(b"POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            await asyncio.sleep(0.02)
            connection = running.connection
            steps = 0
            parser = connection._parser
            assert b"connection: close" in (await reader.readuntil(b"\r\n\r\n")).lower()

            class Counting:
                def feed_data(self, data: bytes) -> None:
                    nonlocal steps
                    steps += 1
                    parser.feed_data(data)

            connection._parser = Counting()  # type: ignore[assignment]  # all of it that is used
            with suppress(ConnectionError):
                for _ in range(50):
                    writer.write(b"1\r\nx\r\n" * 1_000)
                    await writer.drain()
                    await asyncio.sleep(0)
            assert b"did not read" in await asyncio.wait_for(reader.read(), 5)
            assert not steps
            await until(lambda: not running.http.server_state.connections, "it to be cut off")
            writer.close()

    run(scene())


def test_a_turn_of_the_loop_is_not_for_one_connection(run: Run[Any]) -> None:  # noqa: F811
    """Tiny chunks are parsed a few at a time, and the loop has its turns in between."""

    async def scene() -> None:
        async with serving() as running:
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            chunks = READ_BYTES // len(b"1\r\nx\r\n")
            await running.say(CHUNKED + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
            counting.cancel()
            assert turns > 2 * chunks // http_connection.STEPS_PER_TURN

    run(scene())


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_a_head_that_comes_in_pieces(run: Run[Any], pieces: int) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            said = b"\r\n" + QUICK + CLOSE
            size = -(-len(said) // pieces)
            answer = await running.say(*(said[at : at + size] for at in range(0, len(said), size)))
            assert answer.count(b"here") == 2

    run(scene())


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        pytest.param(b"GET /" + b"x" * 2 * HEAD_BYTES, "head_too_large", id="an endless line"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES, "head_too_large", id="an endless header"),
        pytest.param(b"\r\n" * HEAD_BYTES, "head_too_large", id="empty lines"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * (HEADERS_LIMIT + 2), "too_many_headers", id="very many headers"
        ),
    ],
)
def test_a_head_is_bounded(run: Run[Any], said: bytes, limit: str) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            assert (await running.say(said)).startswith(b"HTTP/1.1 400 ")
            assert (await running.say(QUICK + said)).count(b"HTTP/1.1 ") == 2
            assert limits(running) == {limit: 2}

    run(scene())


def test_as_many_headers_as_there_may_be(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            head = b"GET /quick HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + b"X: x\r\n" * (HEADERS_LIMIT - 2)
            assert b"here" in await running.say(head + b"\r\n")

    run(scene())


# -- one request at a time ---------------------------------------------------------------------------------------------


def test_pipelined_requests_wait_unparsed_and_their_socket_is_not_read(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            reader, writer = await running.open()
            writer.write(SLOW)
            requests = 200_000
            writer.write(QUICK * (requests - 1) + CLOSE)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.2)
            connection = running.connection
            assert len(connection._unparsed) <= 2 * READ_BYTES
            assert len(running.http.server_state.tasks) == 1
            writer.transport.abort()
            with suppress(ConnectionError):
                await reader.read()

    run(scene())


def test_pipelined_requests_are_answered_in_order(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            body = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
            chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            said = (QUICK + body + b"hello" + chunked) * 300 + QUICK
            running.release.set()
            answer = await running.say(said + SLOW + CLOSE + QUICK)
            answers = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
            assert answers == [b'"here"', b"5", b"2"] * 300 + [b'"here"', b'"at last"', b'"here"']
            assert [body for _, body in running.asked] == [b"hello", b"hi"] * 300

    run(scene())


def test_an_upgrade_waits_for_the_answer_before_it(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving() as running:
            reader, writer = await running.open()
            writer.write(SLOW + UPGRADE + b"frames")
            await until(lambda: bool(running.http.server_state.tasks), "the request to be asked")
            await asyncio.sleep(0.02)
            assert not running.takers
            running.release.set()
            assert (await reader.readuntil(b"taken over;")).endswith(b'"at last"taken over;')
            (taker,) = running.takers
            head, _, rest = taker.said.partition(b"\r\n\r\n")
            assert head.startswith(b"GET /mqtt HTTP/1.1\r\n")
            assert b"x-one: 1" in head
            assert rest == b"frames"
            writer.write(b"more")
            await reader.readuntil(b"taken over;")
            assert taker.said.endswith(b"framesmore")
            writer.close()

    run(scene())


@pytest.mark.parametrize("path", [b"/echo", MQTT_PATH.encode()])
def test_an_upgrade_to_what_is_not_spoken_here_is_a_request(run: Run[Any], path: bytes) -> None:  # noqa: F811
    """Java's client asks for HTTP/2 with each first request, whatever its body."""

    async def scene() -> None:
        async with serving() as running:
            head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" % path
            answer = await running.say(head + b"HTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\nhello" + CLOSE)
            assert answer.count(b"HTTP/1.1 ") == 2
            assert b"here" in answer
            assert [body for _, body in running.asked] == ([b"hello"] if path == b"/echo" else [])
            assert not running.takers
            assert (await running.say(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 400 ")

    run(scene())


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [b"", b"x" * 10], ids=["nothing", "drops"])
@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nf4240\r\n"],
    ids=["length", "chunk"],
)
def test_a_body_has_to_come(
    run: Run[Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    head: bytes,
    part: bytes,
) -> None:
    monkeypatch.setattr(http_connection, "BODY_SECONDS", 0.1)

    async def scene() -> None:
        async with serving() as running:
            reader, writer = await running.open()
            writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\n" + head)
            answered = asyncio.create_task(reader.readuntil(b"}"))
            while not answered.done():
                writer.write(part)
                await asyncio.wait([answered], timeout=0.02)
            assert b" 408 " in answered.result()
            assert b"request_timeout" in answered.result()
            await until(lambda: not running.http.server_state.tasks, "the request to end")
            assert not running.asked
            writer.close()

    run(scene())


def test_a_body_may_come_slowly_but_not_for_ever(
    run: Run[Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(http_connection, "WHOLE_BODY_SECONDS", 0.6)

    async def scene() -> None:
        async with serving() as running:
            reader, writer = await running.open()
            writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            answered = asyncio.create_task(reader.readuntil(b"}"))
            began = asyncio.get_running_loop().time()
            while not answered.done():
                writer.write(b"x" * 1_000)
                await asyncio.wait([answered], timeout=0.01)
            assert b" 408 " in answered.result()
            assert asyncio.get_running_loop().time() - began >= 0.6
            writer.close()

    run(scene())


def test_a_stranger_does_not_wait_for_leave_to_send_what_is_refused(run: Run[Any]) -> None:  # noqa: F811
    """`Expect: 100-continue`: leave for who is read, an answer and the end for who is not."""

    async def scene() -> None:
        async with serving() as running:
            expecting = b"Host: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            reader, writer = await running.open()
            writer.write(b"POST /echo HTTP/1.1\r\n" + expecting)
            assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"hello" + CLOSE)
            assert (await reader.read()).count(b" 200 ") == 2
            writer.close()
            answer = await running.say(b"POST /unread HTTP/1.1\r\n" + expecting)
            assert b" 100 " not in answer
            assert b"connection: close" in answer.lower()

    run(scene())


def test_a_connection_without_a_request_has_a_moment_for_it_at_the_end(
    run: Run[Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        async with serving() as running:
            reader, writer = await running.open()
            await until(lambda: running.limiter.open == 1, "it to be there")
            running.connection.shutdown()
            writer.write(QUICK)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert b"connection: close" in answer
            assert answer.endswith(b'"here"')
            writer.close()
            await until(lambda: running.limiter.open == 0, "it to be gone")
            monkeypatch.setattr(http_connection, "FIRST_REQUEST_SECONDS", 0.05)
            reader, writer = await running.open()
            await until(lambda: running.limiter.open == 1, "it to be there")
            running.connection.shutdown()
            assert await asyncio.wait_for(reader.read(), 10) == b"", "a moment, and no longer"
            writer.close()

    run(scene())


# -- how many ----------------------------------------------------------------------------------------------------------


def test_the_longest_idle_connection_makes_room(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving(8) as running:
            assert running.limiter.limit_of_address == 2
            idle = await running.open()
            idle[1].write(QUICK)
            await idle[0].readuntil(b"here")
            newer = await running.open()
            await until(lambda: running.limiter.open == 2, "both to be there")
            assert b"here" in await running.say(CLOSE)
            assert await idle[0].read() in (b"", b'"')
            newer[1].write(CLOSE)
            assert b"here" in await newer[0].read()
            assert limits(running) == {"evicted_by_own_address": 1}
            for _, writer in (idle, newer):
                writer.close()

    run(scene())


def test_strangers_make_room_before_who_has_shown_a_key(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving(12) as running:
            reader, writer = await running.open()
            writer.write(ADMITTED_GET)
            await reader.readuntil(b"welcome")
            for _ in range(5):
                assert b"here" in await running.say(QUICK + CLOSE)
                Sleeper(running.limiter, "127.0.0.1")
            writer.write(CLOSE)
            assert b"here" in await reader.read()
            writer.close()

    run(scene())


def test_who_comes_when_all_are_at_work_is_told_to_come_again(run: Run[Any]) -> None:  # noqa: F811
    async def scene() -> None:
        async with serving(8) as running:
            working = [await running.open() for _ in range(2)]
            for _, writer in working:
                writer.write(SLOW)
            await until(lambda: len(running.http.server_state.tasks) == 2, "both to be at work")
            answer = await running.say(QUICK)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1\r\n" in answer
            assert b'"busy"' in answer
            assert limits(running) == {"too_many_of_address": 1}
            running.release.set()
            for reader, writer in working:
                assert b"at last" in await reader.readuntil(b"at last")
                writer.close()
            await until(lambda: running.limiter.open == 0, "the books to be even")
            assert b"here" in await running.say(CLOSE)

    run(scene())


async def test_addresses_are_bounded_and_whoever_has_most_makes_room() -> None:
    limiter = ConnectionLimiter(
        connections=8, clock=lambda: 0.0, share_of=share_of, is_proxy=lambda host: host == "10.0.0.1"
    )
    first = Sleeper(limiter, "192.0.2.1")
    network = [Sleeper(limiter, f"2001:db8::{number}") for number in range(3)]
    assert [one.is_evicted for one in network] == [True, False, False]
    proxied = [Sleeper(limiter, "10.0.0.1") for _ in range(5)]
    assert limiter.open == 8
    Sleeper(limiter, "192.0.2.2")
    assert [one.is_evicted for one in proxied] == [True, False, False, False, False]
    assert not first.is_evicted
    assert limiter.counts == {"evicted_by_own_address": 1, "evicted": 1}
    for one in (first, *network, *proxied):
        if not one.is_evicted and one.place is not None:
            one.place.release()
            one.place.release()
    assert limiter.open == 1


class Arriving:
    """TLS handshakes, of which so many are under way."""

    def __init__(self, arriving: int, evicts: bool) -> None:
        self.arriving = arriving
        self.evicts = evicts
        self.asked: list[str] = []

    def evict(self, address: str) -> bool:
        self.asked.append(address)
        return self.evicts


async def test_handshakes_are_of_the_same_share() -> None:
    limiter = ConnectionLimiter(connections=400, clock=lambda: 0.0, share_of=share_of, is_proxy=lambda _: True)
    connections = [Sleeper(limiter, "192.0.2.1") for _ in range(390)]
    assert limiter.open == 390
    handshakes = Arriving(LAST_WORDS - 1, evicts=False)
    assert limiter.room_for(handshakes, "192.0.2.2"), "who comes may end an idle one"
    handshakes.arriving = LAST_WORDS
    assert not limiter.room_for(handshakes, "192.0.2.2")
    handshakes.evicts = True
    assert limiter.room_for(handshakes, "192.0.2.2")
    assert handshakes.asked == ["192.0.2.2"] * 2
    for one in connections[:100]:
        assert one.place is not None
        one.place.release()
    handshakes.arriving, handshakes.asked = 109, []
    assert limiter.room_for(handshakes, "192.0.2.2")
    assert handshakes.asked == []


def test_a_limit_that_acts_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    limiter = ConnectionLimiter(connections=8, clock=lambda: now, share_of=share_of, is_proxy=lambda _: False)
    for _ in range(5):
        limiter.acted("too_many", "none left")
    now += LOG_SECONDS
    limiter.acted("too_many", "none left")
    assert [record.getMessage() for record in caplog.records] == [
        "too_many: none left",
        "too_many: none left (5 times since the last line)",
    ]
    assert limiter.counts == {"too_many": 6}
