from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
import ssl
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect as websockets_connect
from websockets.typing import Subprotocol

from broker.authorization import AllowAll, Credentials
from broker.broker import Broker
from broker.clock import ServerClock
from broker.connection import Connection
from broker.network import transport as tcp_transport
from broker.network.listen_address import ListenAddress
from broker.network.listeners import ListenerConfig
from broker.network.proxies import TrustedProxies
from broker.network.read_turns import BusyReader, ReadTurns
from broker.network.transport import TcpTransport
from broker.network.websocket_handshake import WebSocketRules
from broker.network.websocket_transport import WebSocketTransport
from broker.settings import BrokerSettings
from broker.store import MemoryStore
from tests import websocket_stream as ws
from tests import wire
from tests.broker.network.conftest import Run
from tests.broker.network.serving import Client, Events, Serving, serving
from tests.broker.network.test_transport import until
from tests.fakes import SlowStore
from tests.third_party import require

MEBIBYTE = 1024 * 1024
KIBIBYTE = 1024
SERVED = b"HTTP/1.1 101 Switching Protocols\r\n"


class WebClient(Client):
    """Frames by hand, on a stream of the server's own loop."""

    def send(self, *packets: bytes) -> None:
        """Each in a frame of its own."""
        self.writer.write(b"".join(map(ws.frame, packets)))

    def send_raw(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def upgrade(self, *headers: str) -> None:
        self.send_raw(ws.request("broker.example", "/mqtt", *headers))
        await self.upgraded()

    async def upgraded(self) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(SERVED), head

    async def frame(self) -> tuple[int, bytes]:
        """First byte and payload of the server's next frame."""
        first, length = await self.reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
        return first, await self.reader.readexactly(length)

    async def expect(self, *packets: bytes) -> None:
        """One after the other, in whole binary frames, however they are cut."""
        expected, got = b"".join(packets), b""
        while len(got) < len(expected):
            first, payload = await self.frame()
            assert first == 0x82, f"{first:#04x} {payload!r}"
            got += payload
        assert got == expected, f"expected {expected.hex(' ')}, got {got.hex(' ')}"

    async def expect_close(self, code: int) -> None:
        """A Close frame, and nothing behind it."""
        first, payload = await self.frame()
        assert first == 0x88, f"{first:#04x} {payload!r}"
        assert struct.unpack(">H", payload[:2]) == (code,), payload
        assert await self.rest() == b""


class WebServing(Serving):
    async def client(self, limit: int = 2**16) -> WebClient:
        """Only connected."""
        return WebClient(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))

    async def upgraded(self, *headers: str) -> WebClient:
        client = await self.client()
        await client.upgrade(*headers)
        return client

    async def joined(self, client_id: str, version: int = wire.V4) -> WebClient:
        client = await self.upgraded()
        client.send(wire.connect(client_id, version))
        if version == wire.V4:
            await client.expect(wire.connack_4())
        else:
            _, connack = await client.frame()
            assert connack[:1] == b"\x20"
            assert connack[3] == 0
        return client

    def transports(self) -> set[TcpTransport]:
        return self.server._transports


@asynccontextmanager
async def web_serving(
    limits: BrokerSettings | None = None, rules: WebSocketRules | None = None, **others: Any
) -> AsyncIterator[WebServing]:
    async with serving(limits, **others) as tcp:
        rules = rules or WebSocketRules()
        tcp.server.config = ListenerConfig(None, rules.proxies, rules.origins)
        address = await tcp.server.listen(ListenAddress("ws", "127.0.0.1", 0, rules.path))
        yield WebServing(tcp.server, tcp.events, address.port)


# -- bytes both ways ---------------------------------------------------------------------------------------------------


def test_carries_packets_both_ways_and_counts_their_bytes(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.joined("kiosk-1")
            client.send(wire.PINGREQ)
            await client.expect(wire.PINGRESP)
            assert server.metrics.bytes_in == len(wire.connect("kiosk-1") + wire.PINGREQ)
            assert server.metrics.bytes_out == len(wire.connack_4() + wire.PINGRESP)
            await client.hang_up()

    run(scenario())


def test_no_secret_gets_into_the_log(run: Run[None], caplog: pytest.LogCaptureFixture) -> None:
    """The library's own DEBUG would have them, in plain text and in hexadecimal digits."""
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.upgraded("Cookie: cookie-7")
            client.send(wire.connect("k", username="u", password="tok7"))
            await client.expect(wire.connack_4())
            await client.hang_up()

    run(scenario())
    for secret in ("cookie-7", "tok7", b"tok7".hex(" ")):
        assert secret not in caplog.text


def test_everything_may_come_byte_by_byte(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.client()
            for byte in ws.request() + ws.frame(wire.connect("kiosk-1")):
                client.send_raw(bytes([byte]))
                await client.writer.drain()
                await asyncio.sleep(0)
            await client.upgraded()
            await client.expect(wire.connack_4())
            await client.hang_up()

    run(scenario())


def test_everything_may_come_at_once(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.client()
            client.send_raw(ws.request(), ws.frame(wire.connect("kiosk-1")), ws.frame(wire.PINGREQ))
            await client.upgraded()
            await client.expect(wire.connack_4(), wire.PINGRESP)
            await client.hang_up()

    run(scenario())


def test_frames_are_not_packets(run: Run[None]) -> None:
    """Several packets in a frame, a packet over several frames, and a message in fragments with a ping in between."""

    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.upgraded()
            said = wire.connect("kiosk-1") + wire.PINGREQ + wire.subscribe(1, ("t", 0)) + wire.PINGREQ
            client.send_raw(
                ws.frame(said[:3], final=False),
                ws.frame(b"between", ws.PING),
                ws.frame(b"", ws.CONTINUATION, final=False),
                ws.frame(said[3:20], ws.CONTINUATION),
                ws.frame(b""),
                ws.frame(said[20:-1]),
                ws.frame(said[-1:]),
            )
            frames = [await client.frame() for _ in range(5)]
            assert (0x8A, b"between") in frames
            frames.remove((0x8A, b"between"))
            answers = b"".join(payload for _, payload in frames)
            assert answers == wire.connack_4() + wire.PINGRESP + wire.suback(1, 0) + wire.PINGRESP
            await client.hang_up()

    run(scenario())


def test_a_message_in_fragments_may_be_endless(run: Run[None]) -> None:
    """The parts are handed over as they come, so it is a stream like any other."""

    async def scenario() -> None:
        async with web_serving(BrokerSettings(maximum_packet_size=1_000, connect_buffer=500)) as server:
            client = await server.joined("kiosk-1")
            client.send_raw(ws.frame(wire.PINGREQ, final=False))
            await client.expect(wire.PINGRESP)
            for _ in range(50):
                client.send_raw(ws.frame(wire.publish("t", bytes(100)) + wire.PINGREQ, ws.CONTINUATION, final=False))
                await client.expect(wire.PINGRESP)
            await client.hang_up()

    run(scenario())


@pytest.mark.parametrize("size", [0, 124, 125, 126, 127, 65_535, 65_536, 100_000])
def test_what_is_written_at_once_is_one_frame_in_one_write(owner: OneBroker, size: int) -> None:
    """RFC 6455, 5.2: the length takes no more bytes than it needs."""
    socket = FakeSocket()
    connected = hand_made(owner, socket)
    connected.send(bytes(size))
    assert socket.written == [ws.frame(bytes(size), mask=None)]


@pytest.mark.parametrize("length", [100, 30_000, 200_000])
def test_large_messages_arrive_whole(run: Run[None], length: int) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.joined("kiosk-1")
            client.send(wire.subscribe(1, ("t", 1)))
            await client.expect(wire.suback(1, 1))
            payload = bytes(range(256)) * (length // 256 + 1)
            client.send(wire.publish("t", payload, 1, 1))
            await client.expect(wire.publish("t", payload, 1, 1), wire.puback(1))
            await client.hang_up()

    run(scenario())


# -- the opening handshake ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status", "label"),
    [
        (ws.request(path="/"), 404, "websocket_path_unknown"),
        (ws.request("x", "/mqtt", "Origin: https://evil.example"), 403, "websocket_origin_refused"),
        (ws.request(protocol=None), 400, "websocket_subprotocol_missing"),
        (ws.request().replace(b"Upgrade: websocket", b"X: y"), 426, "not_a_websocket_request"),
        (ws.request().replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "not_a_websocket_request"),
        (wire.connect("kiosk-1"), 400, "not_a_websocket_request"),
        (b"\x16\x03\x01", 400, "not_a_websocket_request"),
        (b"GET /mqtt HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431, "websocket_request_too_large"),
        (b"GET /mqtt HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431, "websocket_request_too_large"),
    ],
)  # fmt: skip
def test_a_refusal_is_answered_logged_and_counted(
    run: Run[None], caplog: pytest.LogCaptureFixture, said: bytes, status: int, label: str
) -> None:
    caplog.set_level(logging.INFO, "broker")

    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.client()
            client.send_raw(said)
            response = await client.rest()
            assert response.startswith(b"HTTP/1.1 %d " % status)
            host, port = client.writer.get_extra_info("sockname")
            (line,) = (record.getMessage() for record in caplog.records)
            assert line.startswith(f"{host}:{port}: ")
            assert line.endswith(f" ({label})")
            assert server.metrics.refused == {label: 1}
            await client.hang_up()
            await until(lambda: not server.transports(), "the socket to close")

    run(scenario())


def test_a_head_may_be_as_large_as_a_connect(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving(BrokerSettings(connect_buffer=4_000)) as server:
            client = await server.upgraded("X: " + "y" * 3_500)
            await client.hang_up()
            client = await server.client()
            client.send_raw(ws.request("x", "/mqtt", "X: " + "y" * 4_000))
            assert (await client.rest()).startswith(b"HTTP/1.1 431 ")
            await client.hang_up()

    run(scenario())


@pytest.mark.parametrize(
    ("said", "logged"),
    [(b"", True), (ws.request()[:-1], True), (ws.request(), False), (ws.request() + b"\x82", False)],
    ids=["nothing", "half a head", "no frame", "half a frame"],
)
def test_a_stranger_has_so_long_for_all_of_it(
    run: Run[None], caplog: pytest.LogCaptureFixture, said: bytes, logged: bool
) -> None:
    """The time limit is for the opening handshake and CONNECT together."""
    caplog.set_level(logging.INFO, "broker")

    async def scenario() -> None:
        async with web_serving(BrokerSettings(connect_timeout=0.1)) as server:
            client = await server.client()
            client.send_raw(said)
            answered = await client.rest()
            assert answered == b"" or answered.endswith(b"\x88\x02\x03\xe8")
            assert server.metrics.refused == {"connect_timeout": 1}
            assert ["opening handshake" in record.getMessage() for record in caplog.records] == [True] * logged
            await client.hang_up()

    run(scenario())


def test_a_proxys_word_counts_if_it_is_trusted(run: Run[None]) -> None:
    class Curious(AllowAll):
        def __init__(self) -> None:
            super().__init__()
            self.peers: list[str] = []

        def authenticate(self, credentials: Credentials, done: Any) -> None:
            self.peers.append(credentials.peer)
            super().authenticate(credentials, done)

    async def scenario() -> None:
        for trusted, peer in ((["127.0.0.0/8"], "192.0.2.7:0"), (["10.0.0.0/8"], "127.0.0.1:")):
            curious = Curious()
            rules = WebSocketRules(proxies=TrustedProxies(trusted))
            async with web_serving(None, rules, authenticator=curious) as server:
                client = await server.upgraded("X-Forwarded-For: 203.0.113.9, 192.0.2.7")
                client.send(wire.connect("kiosk-1"))
                await client.expect(wire.connack_4())
                assert [seen[: len(peer)] for seen in curious.peers] == [peer]
                await client.hang_up()

    run(scenario())


def test_a_socket_may_come_from_an_http_server(run: Run[None]) -> None:
    """The HTTP server hands over its open transport and the request's head, put together anew."""

    class HttpServer(asyncio.Protocol):
        def __init__(self, owner: Any) -> None:
            self.owner = owner

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert data.endswith(b"\r\n\r\n"), "a short head comes at once"
            loop = asyncio.get_running_loop()
            protocol = WebSocketTransport(self.owner, loop, WebSocketRules(), "192.0.2.7:4711")
            protocol.connection_made(self.transport)
            protocol.data_received(data.lower().replace(b"get", b"GET").replace(b"http/", b"HTTP/").replace(
                ws.KEY.lower().encode(), ws.KEY.encode()))  # fmt: skip
            self.transport.set_protocol(protocol)

    async def scenario() -> None:
        async with web_serving() as server:
            loop = asyncio.get_running_loop()
            http = await loop.create_server(lambda: HttpServer(server.server), "127.0.0.1", 0)
            server.port = http.sockets[0].getsockname()[1]
            client = await server.joined("kiosk-1")
            (connected,) = server.transports()
            assert connected._connection is not None
            assert connected._connection.peer == "192.0.2.7:4711"
            client.send_raw(ws.close_frame())
            await client.expect_close(1000)
            await client.hang_up()
            refused = await server.client()
            refused.send_raw(ws.request(path="/other"))
            assert (await refused.rest()).startswith(b"HTTP/1.1 404 ")
            await refused.hang_up()
            http.close()

    run(scenario())


# -- what a stranger costs ---------------------------------------------------------------------------------------------


def buffered(server: WebServing) -> int:
    """Bytes kept for the only client that is not decoded yet."""
    (connected,) = server.transports()
    assert isinstance(connected, WebSocketTransport)
    assert connected._connection is not None
    frames = connected._frames
    return connected._connection._decoder.buffered + (0 if frames is None else len(frames.reader.buffer))


@pytest.mark.parametrize("payload", [64 * KIBIBYTE + 1, 1 * MEBIBYTE, 2**62])
def test_a_stranger_cannot_announce_a_large_frame(run: Run[None], payload: int) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.upgraded()
            client.send_raw(b"\x82\xff" + struct.pack(">Q", payload))
            await client.expect_close(1009)
            assert server.metrics.refused == {"websocket_frame_too_large": 1}
            await client.hang_up()

    run(scenario())


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_nor_say_too_much_in_small_ones(run: Run[None], size: int) -> None:
    async def scenario() -> None:
        async with web_serving(BrokerSettings(connect_buffer=20_000)) as server:
            client = await server.upgraded()
            beginning = wire.packet(0x10, bytes(19_000))[:-1]
            for start in range(0, len(beginning), size):
                client.send(beginning[start : start + size])
            await client.writer.drain()
            await until(lambda: not server.transports() or buffered(server) > 2_500, "the bytes")
            client.send_raw(ws.frame(b"\x00" * 2_000, ws.BINARY) * 10)
            while (await client.frame())[0] != 0x88:
                pass
            assert sum(server.metrics.refused.values()) == 1
            await client.hang_up()

    run(scenario())


@pytest.mark.parametrize("frame", [ws.frame(b"", ws.PING), ws.frame(b"", ws.PONG), ws.frame(b"")])
def test_nor_keep_us_busy_without_saying_anything(run: Run[None], frame: bytes) -> None:
    async def scenario() -> None:
        async with web_serving(BrokerSettings(connect_buffer=20_000)) as server:
            client = await server.upgraded()
            while not server.metrics.refused:
                client.send_raw(frame * 200)
                await client.writer.drain()
                await asyncio.sleep(0)
            answered = await client.rest()
            assert answered.endswith(b"\x88\x02\x03\xf1")
            assert server.metrics.refused == {"too_much_before_authentication": 1}
            await client.hang_up()

    run(scenario())


def test_the_largest_connect_comes_through_in_one_frame(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving(BrokerSettings(connect_buffer=5_000)) as server:
            client = await server.upgraded()
            filler = len(wire.connect("kiosk-1", will=("t", b"", 0, False)))
            largest = wire.connect("kiosk-1", will=("t", bytes(5_000 - filler - 1), 0, False))
            assert len(largest) == 5_000
            in_one = ws.frame(largest)
            client.send_raw(in_one[:-1])
            await client.writer.drain()
            await until(lambda: buffered(server) == 4_999, "all but the last byte")
            client.send_raw(in_one[-1:])
            await client.expect(wire.connack_4())
            client.send(wire.publish("t", bytes(100_000)), wire.PINGREQ)
            await client.expect(wire.PINGRESP)
            await client.hang_up()

    run(scenario())


def test_a_frame_larger_than_a_packet_may_be_is_refused_at_its_head(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving(BrokerSettings(maximum_packet_size=100_000)) as server:
            client = await server.joined("kiosk-1", wire.V5)
            client.send_raw(b"\x82\xff" + struct.pack(">Q", 100_001))
            first, goodbye = await client.frame()
            assert (first, goodbye[0], goodbye[2]) == (0x82, 0xE0, 0x95)
            await client.expect_close(1009)
            assert server.metrics.refused == {"websocket_frame_too_large": 1}
            await client.hang_up()

    run(scenario())


# -- what is no frame of MQTT ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "code", "label"),
    [
        (ws.frame(b"hello", ws.TEXT), 1003, "websocket_text_frame"),
        (ws.frame(b"hel", ws.TEXT, final=False) + ws.frame(b"lo", ws.CONTINUATION), 1003, "websocket_text_frame"),
        (ws.frame(wire.PINGREQ, mask=None), 1002, "websocket_protocol_error"),
        (b"\xc2\x80" + ws.MASK, 1002, "websocket_protocol_error"),
        (ws.frame(b"", 0x3), 1002, "websocket_protocol_error"),
        (ws.frame(b"", 0xB), 1002, "websocket_protocol_error"),
        (ws.frame(b"", ws.CONTINUATION), 1002, "websocket_protocol_error"),
        (ws.frame(b"\xc0", final=False) + ws.frame(b"\x00"), 1002, "websocket_protocol_error"),
        (ws.frame(b"", ws.PING, final=False), 1002, "websocket_protocol_error"),
        (ws.frame(bytes(126), ws.PING), 1002, "websocket_protocol_error"),
        (ws.frame(b"\x03", ws.CLOSE), 1002, "websocket_protocol_error"),
        (ws.close_frame(1005), 1002, "websocket_protocol_error"),
        (ws.frame(b"\x03\xe8\xff", ws.CLOSE), 1007, "websocket_protocol_error"),
    ],
)  # fmt: skip
def test_what_breaks_the_framing_ends_the_connection_in_both_languages(
    run: Run[None], caplog: pytest.LogCaptureFixture, frames: bytes, code: int, label: str
) -> None:
    caplog.set_level(logging.INFO, "broker")

    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.joined("kiosk-1", wire.V5)
            client.send_raw(ws.frame(wire.PINGREQ), frames, ws.frame(wire.publish("t", b"late", version=wire.V5)))
            await client.expect(wire.PINGRESP)
            first, goodbye = await client.frame()
            assert (first, goodbye[0], goodbye[2]) == (0x82, 0xE0, 0x82)
            await client.expect_close(code)
            assert server.metrics.refused == {label: 1}
            assert server.metrics.publishes_in == 0
            assert server.events.ends == [("kiosk-1", label.replace("_", " "))]
            (line,) = (record.getMessage() for record in caplog.records)
            assert line.endswith(f"({label})")
            await client.hang_up()

    run(scenario())


def test_pings_are_answered_and_pongs_are_not(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.upgraded()
            client.send_raw(ws.frame(b"1", ws.PING), ws.frame(b"2", ws.PONG), ws.frame(b"", ws.PING))
            assert [await client.frame(), await client.frame()] == [(0x8A, b"1"), (0x8A, b"")]
            client.send(wire.connect("kiosk-1"))
            await client.expect(wire.connack_4())
            await client.hang_up()

    run(scenario())


def test_a_ping_is_no_packet_for_the_keep_alive(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.joined("kiosk-1")
            (connected,) = server.transports()
            connection = connected._connection
            assert connection is not None
            said = connection.last_received
            client.send_raw(ws.frame(b"", ws.PING), ws.frame(b""))
            await client.frame()
            assert connection.last_received == said
            await client.hang_up()

    run(scenario())


def test_a_full_socket_takes_no_pongs(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving(BrokerSettings(max_queued_bytes=64 * MEBIBYTE)) as server:
            client = await server.joined("kiosk-1")
            client.send(wire.subscribe(1, ("t", 0)))
            await client.expect(wire.suback(1, 0))
            for _ in range(20):  # more than any kernel takes on both ends of a loopback connection
                client.send(wire.publish("t", bytes(MEBIBYTE - 100)))
                await client.writer.drain()
            await until(lambda: server.metrics.slow_consumers, "a full socket")
            (connected,) = server.transports()
            written = connected._socket.get_write_buffer_size()
            for _ in range(100):
                client.send_raw(ws.frame(bytes(125), ws.PING) * 1_000)
                await client.writer.drain()
            assert connected._socket.get_write_buffer_size() <= written
            client.writer.transport.abort()
            await until(lambda: not server.transports(), "the end")

    run(scenario())


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_is_answered_and_sees_the_end(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.joined("kiosk-1")
            client.send(wire.PINGREQ, wire.DISCONNECT, wire.publish("t", b"late"))
            await client.expect(wire.PINGRESP)
            await client.expect_close(1000)
            assert server.events.ends == [("kiosk-1", "disconnected")]
            assert server.metrics.publishes_in == 0
            client.send_raw(ws.close_frame())
            await client.hang_up()
            await until(lambda: not server.transports(), "the socket to close")

    run(scenario())


@pytest.mark.parametrize(
    ("code", "echo"), [(1000, b"\x03\xe8"), (1001, b"\x03\xe9"), (4_000, b"\x0f\xa0"), (None, b"")]
)
def test_a_close_frame_is_answered_and_is_no_disconnect(run: Run[None], code: int | None, echo: bytes) -> None:
    """The browser's tab was closed: that is a lost connection, and its will is published."""

    async def scenario() -> None:
        async with web_serving() as server:
            watcher = await server.joined("watcher")
            watcher.send(wire.subscribe(1, ("gone", 0)))
            await watcher.expect(wire.suback(1, 0))
            client = await server.upgraded()
            client.send(wire.connect("kiosk-1", will=("gone", b"kiosk-1", 0, False)))
            await client.expect(wire.connack_4())
            client.send_raw(ws.frame(wire.PINGREQ), ws.close_frame(code))
            await client.expect(wire.PINGRESP)
            assert await client.frame() == (0x88, echo)
            assert await client.rest() == b""
            await watcher.expect(wire.publish("gone", b"kiosk-1"))
            assert server.events.ends == [("kiosk-1", "connection lost")]
            assert server.metrics.refused == {}
            await client.hang_up()
            await watcher.hang_up()

    run(scenario())


def test_a_hang_up_needs_no_close_frame(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.joined("kiosk-1")
            client.send_raw(b"\x82")
            await client.hang_up()
            await server.events.end_noted.wait()
            assert server.events.ends == [("kiosk-1", "connection lost")]

    run(scenario())


@pytest.mark.parametrize("reads", [True, False])
def test_a_peer_that_does_not_hang_up_is_cut_off(run: Run[None], monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    monkeypatch.setattr(tcp_transport, "LINGER_SECONDS", 0.05)

    async def scenario() -> None:
        async with web_serving() as server:
            client = await server.joined("kiosk-1")
            if not reads:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport can
            client.send(wire.DISCONNECT)
            await until(lambda: not server.transports(), "the socket to be cut off")
            client.writer.transport.abort()

    run(scenario())


def test_a_stop_says_goodbye_to_all(run: Run[None]) -> None:
    async def scenario() -> None:
        async with web_serving() as server:
            clients = [await server.joined("kiosk-1"), await server.upgraded(), await server.client()]
            stopped = asyncio.create_task(server.server.stop())
            await clients[0].expect_close(1000)
            await clients[1].expect_close(1000)
            assert await clients[2].rest() == b""
            for client in clients:
                await client.hang_up()
            await stopped

    run(scenario())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's context, and that of a client that trusts anybody."""
    folder = tmp_path_factory.mktemp("tls")
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=broker -days 2"
    files = ["-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem")]
    subprocess.run([require("openssl"), *made.split(), *files], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


@pytest.mark.parametrize("encrypted", [False, True], ids=["tcp", "tls"])
def test_what_is_said_last_arrives_although_more_was_coming(
    run: Run[None], certificate: tuple[ssl.SSLContext, ssl.SSLContext], encrypted: bool
) -> None:
    """The last packet arrives even if our side cannot be closed alone: TLS has no half of a connection."""

    async def scenario() -> None:
        async with web_serving(BrokerSettings(maximum_packet_size=1_000)) as server:
            loop = asyncio.get_running_loop()
            listener = await loop.create_server(
                lambda: WebSocketTransport(server.server, loop, WebSocketRules()),
                "127.0.0.1",
                0,
                ssl=certificate[0] if encrypted else None,
            )
            port = listener.sockets[0].getsockname()[1]
            client = WebClient(
                *await asyncio.open_connection("127.0.0.1", port, ssl=certificate[1] if encrypted else None)
            )
            await client.upgrade()
            client.send(wire.connect("kiosk-1", wire.V5))
            await client.frame()
            for _ in range(4 * 64):
                client.send(wire.publish("t", bytes(16 * KIBIBYTE), version=wire.V5))
            _, goodbye = await client.frame()
            assert (goodbye[0], goodbye[2]) == (0xE0, 0x95)
            await client.expect_close(1009)
            client.writer.transport.abort()
            await until(lambda: not server.transports(), "the end")
            listener.close()

    run(scenario())


# -- a reader that is slow, a writer that is fast ----------------------------------------------------------------------


def test_a_slow_consumer_is_paused_and_loses_nothing_it_was_owed(run: Run[None]) -> None:
    async def scenario() -> None:
        payload = bytes(64 * KIBIBYTE)
        count = 400  # 25 MiB: more than any kernel takes on both ends of a loopback connection
        async with web_serving(BrokerSettings(max_queued_bytes=64 * MEBIBYTE)) as server:
            reader = await server.joined("reader")
            reader.send(wire.subscribe(1, ("t", 1)))
            await reader.expect(wire.suback(1, 1))
            sender = await server.joined("sender")
            for number in range(1, count + 1):
                sender.send(wire.publish("t", payload, 1, number))
                await sender.expect(wire.puback(number))
            assert server.metrics.slow_consumers == 1
            assert server.metrics.publishes_out < count
            written = max(connected._socket.get_write_buffer_size() for connected in server.transports())
            assert written < server.broker.settings.write_buffer + 2 * len(payload)
            for number in range(1, count + 1):
                await reader.expect(wire.publish("t", payload, 1, number))
                reader.send(wire.puback(number))
            assert server.metrics.dropped_queue_full == 0
            await sender.hang_up()
            await reader.hang_up()

    run(scenario())


def test_a_publisher_waits_while_the_disk_does(run: Run[None]) -> None:
    async def scenario() -> None:
        store = SlowStore()
        async with web_serving(BrokerSettings(max_unstored_bytes=MEBIBYTE), store=store) as server:
            client = await server.joined("kiosk-1")
            for number in range(1, 101):
                client.send(wire.publish("a", bytes(MEBIBYTE // 2), 1, number))
            await until(lambda: server.metrics.held_publishers, "the hold")
            for _ in range(50):
                await asyncio.sleep(0)
            assert server.metrics.publishes_in < 10
            store.go_on()
            await client.expect(*(wire.puback(number) for number in range(1, 101)))
            await client.hang_up()

    run(scenario())


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage",
        ws.request()[:-1],
        ws.request(path="/"),
        ws.request(),
        ws.request() + ws.frame(b"garbage"),
        ws.request() + ws.frame(wire.connect("kiosk-1")),
        ws.request() + ws.frame(wire.connect("kiosk-1")) + b"\x82",
        ws.request() + ws.frame(wire.connect("kiosk-1")) + ws.frame(wire.PINGREQ + wire.DISCONNECT),
        ws.request() + ws.frame(wire.connect("kiosk-1")) + ws.close_frame(),
        ws.request() + ws.frame(wire.connect("kiosk-1")) + ws.frame(b"", ws.TEXT),
        ws.request() + ws.frame(wire.connect("kiosk-1")) + ws.frame(b"", 0x3),
        ws.request() + ws.frame(wire.connect("kiosk-1")) + ws.frame(bytes(2 * MEBIBYTE))[:20],
    ],
    ids=["nothing", "garbage", "half a head", "refused", "no connect", "no mqtt", "hangs up", "half a frame",
         "disconnects", "closes", "text", "no frame", "too large"],
)  # fmt: skip
def test_a_connection_that_has_ended_takes_no_memory(run: Run[None], said: bytes) -> None:
    """The collector comes seldom to a server (`tune_collector`), and connections are many."""

    def things() -> int:
        return sum(
            isinstance(one, Connection | TcpTransport) or type(one).__name__ in ("ServerProtocol", "Frame", "Request")
            for one in gc.get_objects()
        )

    async def scenario() -> None:
        async with web_serving() as server:
            before = things()
            client = await server.client()
            await until(lambda: things() == before + 2, "the socket")
            client.send_raw(said)
            client.writer.write_eof()
            await client.rest()
            await client.hang_up()
            await until(lambda: not server.transports(), "the end")
            await until(lambda: things() == before, "nothing to be left")

    run(scenario())


def traced(make: Callable[[], object], count: int) -> float:
    """Bytes that each of `count` takes."""
    keep = [make()]  # what is made once and for all
    gc.collect()
    tracemalloc.start()
    keep += [make() for _ in range(count)]
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(keep) == count + 1
    return used / count


@pytest.mark.skipif(sys.gettrace() is not None, reason="what counts branches takes memory of its own")
def test_an_idle_connection_takes_little_more_than_over_tcp(owner: OneBroker) -> None:
    """The request of the opening handshake is gone, and so is the last frame, large as it may have been."""
    headers = [f"X-{number}: {'x' * 100}" for number in range(30)]

    def over_tcp() -> TcpTransport:
        connected = TcpTransport(owner, owner.loop)
        connected.connection_made(FakeSocket())
        connected.data_received(wire.connect(f"kiosk-{next(_numbers)}"))
        return connected

    def over_websocket() -> TcpTransport:
        connected = hand_made(owner, FakeSocket(), *headers)
        connected.data_received(ws.frame(wire.connect(f"kiosk-{next(_numbers)}")))
        connected.data_received(ws.frame(wire.publish("t", bytes(MEBIBYTE // 2))))
        return connected

    assert traced(over_websocket, 50) - traced(over_tcp, 50) < 2.5 * KIBIBYTE


# -- without a socket --------------------------------------------------------------------------------------------------


class FakeSocket(asyncio.Transport):
    """Takes everything at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.7", 4711)})
        self.written: list[bytes] = []
        self.ended = False

    def write(self, data: Any) -> None:
        assert not self.ended, "nothing is sent after the end"
        self.written.append(bytes(data))

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...


class AtOnce(ReadTurns):
    """Turns without a loop."""

    def add(self, reader: BusyReader) -> None:
        while reader.read_on(math.inf):
            pass


class OneBroker:
    """TransportOwner of transports without a listener."""

    def __init__(self) -> None:
        self.broker = Broker(BrokerSettings(), MemoryStore(), AllowAll(), Events(), ServerClock())
        self.broker.start()
        self.loop = asyncio.new_event_loop()
        self.read_turns: ReadTurns = AtOnce(self.loop)

    def opened(self, transport: TcpTransport, peer: str) -> bool:
        return True

    def closed(self, transport: TcpTransport) -> None: ...


@pytest.fixture(scope="module")
def owner() -> Iterator[OneBroker]:
    one = OneBroker()
    yield one
    one.loop.close()


_numbers = itertools.count(1)


def hand_made(owner: OneBroker, socket: FakeSocket, *headers: str) -> WebSocketTransport:
    """Past the opening handshake."""
    transport = WebSocketTransport(owner, owner.loop, WebSocketRules())
    transport.connection_made(socket)
    transport.data_received(ws.request("broker.example", "/mqtt", *headers))
    assert socket.written.pop().startswith(SERVED)
    return transport


STREAM = (
    wire.connect("kiosk-1")
    + wire.subscribe(1, ("a/#", 1))
    + wire.publish("a/short", b"x", 1, 2)
    + wire.PINGREQ
    + wire.publish("a/long", bytes(range(256)) * 2, 1, 3)
    + wire.publish("b", b"", 0)
    + wire.DISCONNECT
)
CUTS = st.lists(st.integers(0, len(STREAM)), max_size=30).map(sorted)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=CUTS,
    kinds=st.lists(st.sampled_from(["whole", "fragments", "ping", "empty"]), min_size=1, max_size=10),
    reads=st.lists(st.integers(1, 200), min_size=1, max_size=20),
    mask=st.binary(min_size=4, max_size=4),
)
def test_wherever_a_stream_is_cut_the_packets_are_the_same(
    owner: OneBroker, frames: list[int], kinds: list[str], reads: list[int], mask: bytes
) -> None:
    """Cut into frames, the frames into fragments with pings in between, and all of it into reads."""
    framed = bytearray()
    for number, (start, end) in enumerate(itertools.pairwise([0, *frames, len(STREAM)])):
        part = STREAM[start:end]
        kind = kinds[number % len(kinds)]
        if kind == "fragments":
            framed += ws.frame(part[:1], final=False, mask=mask)
            framed += ws.frame(b"!", ws.PING, mask=mask)
            framed += ws.frame(part[1:], ws.CONTINUATION, mask=mask)
        else:
            framed += ws.frame(part, mask=mask)
        if kind == "ping":
            framed += ws.frame(b"?", ws.PING, mask=mask)
        elif kind == "empty":
            framed += ws.frame(b"", mask=mask)
    over_tcp = FakeSocket()
    plain = TcpTransport(owner, owner.loop)
    plain.connection_made(over_tcp)
    plain.data_received(STREAM)
    plain.connection_lost(None)

    socket = FakeSocket()
    transport = hand_made(owner, socket)
    for size in itertools.cycle(reads):
        if not framed:
            break
        transport.data_received(bytes(framed[:size]))
        del framed[:size]
    transport.connection_lost(None)
    assert payloads(b"".join(socket.written)) == b"".join(over_tcp.written)
    assert socket.written[-1].endswith(ws.frame(b"\x03\xe8", ws.CLOSE, mask=None))
    assert socket.ended


def test_packets_that_leave_together_have_a_frame_each(owner: OneBroker) -> None:
    """Paho for C handles the first packet of a frame only, until more bytes come."""
    socket = FakeSocket()
    transport = hand_made(owner, socket)
    packets = [wire.publish("t", bytes(size)) for size in (1, 118, 119, 125, 126, 65_530, 65_531, 70_000)]
    transport.send_together(packets)
    assert socket.written == [b"".join(ws.frame(packet, mask=None) for packet in packets)]
    transport.connection_lost(None)


def payloads(sent: bytes) -> bytes:
    """Return the payloads of the binary frames that a server has sent."""
    stream = b""
    while sent:
        length, start = sent[1], 2
        if length == 126:
            length, start = int.from_bytes(sent[2:4]), 4
        if sent[0] == 0x82:
            stream += sent[start : start + length]
        sent = sent[start + length :]
    return stream


@given(
    st.lists(
        st.binary(max_size=60)
        | st.tuples(st.binary(max_size=20), st.integers(0, 15), st.booleans()).map(
            lambda drawn: ws.frame(drawn[0], drawn[1], final=drawn[2])
        ),
        max_size=12,
    )
)
def test_whatever_comes_it_is_answered_or_the_end(owner: OneBroker, said: list[bytes]) -> None:
    """Any bytes end in no exception; nothing is written after the end, and at most one Close frame."""
    socket = FakeSocket()
    transport = hand_made(owner, socket)
    transport.data_received(ws.frame(wire.connect("kiosk-1")))
    for data in said:
        transport.data_received(data)
    closes = [written for written in socket.written if written[0] == 0x88]
    assert len(closes) <= 1
    assert bool(closes) <= socket.ended
    transport.connection_lost(None)


@given(st.binary(max_size=40), st.integers(0, 300), st.integers(1, 50))
def test_whatever_comes_instead_of_a_request_it_is_answered_or_awaited(
    owner: OneBroker, damage: bytes, position: int, size: int
) -> None:
    head = ws.request()
    head = head[:position] + damage + head[position + len(damage) :]
    socket = FakeSocket()
    transport = WebSocketTransport(owner, owner.loop, WebSocketRules())
    transport.connection_made(socket)
    for start in range(0, len(head), size):
        transport.data_received(head[start : start + size])
    if socket.written and not socket.written[0].startswith(b"HTTP/1.1 101 "):
        assert socket.written[0].startswith(b"HTTP/1.1 4")
        assert len(socket.written) == 1
        assert socket.ended
    transport.connection_lost(None)


# -- another implementation --------------------------------------------------------------------------------------------


def test_the_client_of_websockets_is_served(run: Run[None]) -> None:
    """The client checks every frame, offers a compressor, and masks with keys of its own."""

    def talk(port: int) -> None:
        with websockets_connect(f"ws://127.0.0.1:{port}/mqtt", subprotocols=[Subprotocol("mqtt")]) as client:
            assert client.subprotocol == "mqtt"
            assert client.protocol.extensions == []
            client.send(wire.connect("kiosk-1"))
            assert client.recv(10) == wire.connack_4()
            assert client.ping("still there?").wait(10)
            payload = bytes(100_000)
            client.send(wire.subscribe(1, ("t", 0)))
            assert client.recv(10) == wire.suback(1, 0)
            client.send([wire.publish("t", payload)[:70_000], wire.publish("t", payload)[70_000:]])
            assert client.recv(10) == wire.publish("t", payload)
            client.send(wire.DISCONNECT)
            with pytest.raises(ConnectionClosedOK):
                client.recv(10)

    async def scenario() -> None:
        async with web_serving() as server:
            await asyncio.to_thread(talk, server.port)
            assert server.events.ends == [("kiosk-1", "disconnected")]

    run(scenario())
