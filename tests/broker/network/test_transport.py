from __future__ import annotations

import asyncio
import gc
import socket
import struct
from typing import Any

import pytest

from broker.connection import Connection
from broker.network import transport
from broker.settings import BrokerSettings
from tests import wire
from tests.broker.network.conftest import Run
from tests.broker.network.serving import Client, Serving, serving
from tests.fakes import SlowStore

MEBIBYTE = 1024 * 1024


async def until(condition: Any, what: str) -> None:
    """Wait for the other end of a socket in the same loop."""
    deadline = asyncio.get_running_loop().time() + 10.0
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited for {what}"
        await asyncio.sleep(0.001)


async def joined(server: Serving, client_id: str, version: int = wire.V4) -> Client:
    client = await server.client()
    client.send(wire.connect(client_id, version))
    if version == wire.V4:
        await client.expect(wire.connack_4())
    else:
        head = await client.reader.readexactly(2)
        await client.reader.readexactly(head[1])
    return client


def test_carries_bytes_both_ways_and_counts_them(run: Run[None]) -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await joined(server, "kiosk-1")
            client.send(wire.PINGREQ)
            await client.expect(wire.PINGRESP)
            assert server.metrics.bytes_in == len(wire.connect("kiosk-1") + wire.PINGREQ)
            assert server.metrics.bytes_out == len(wire.connack_4() + wire.PINGRESP)
            await client.hang_up()

    run(scenario())


def test_a_packet_may_come_byte_by_byte(run: Run[None]) -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            for byte in wire.connect("kiosk-1"):
                client.send(bytes([byte]))
                await client.writer.drain()
                await asyncio.sleep(0)
            await client.expect(wire.connack_4())
            await client.hang_up()

    run(scenario())


def test_a_push_does_not_wait_for_another(run: Run[None]) -> None:
    """Nagle's algorithm is off."""

    async def scenario() -> None:
        async with serving() as server:
            client = await joined(server, "kiosk-1")
            (accepted,) = server.server._transports
            raw = accepted._socket.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await client.hang_up()

    run(scenario())


def test_a_slow_consumer_is_paused_and_loses_nothing_it_was_owed(run: Run[None]) -> None:
    async def scenario() -> None:
        payload = bytes(64 * 1024)
        count = 400  # 25 MiB: more than any kernel takes on both ends of a loopback connection
        async with serving(BrokerSettings(max_queued_bytes=64 * MEBIBYTE)) as server:
            reader = await joined(server, "reader")
            reader.send(wire.subscribe(1, ("t", 1)))
            await reader.expect(wire.suback(1, 1))
            sender = await joined(server, "sender")
            for number in range(1, count + 1):
                sender.send(wire.publish("t", payload, 1, number))
                await sender.expect(wire.puback(number))
            assert server.metrics.slow_consumers == 1
            assert server.metrics.publishes_out < count
            written = max(t._socket.get_write_buffer_size() for t in server.server._transports)
            assert written < server.broker.settings.write_buffer + 2 * len(payload)
            for number in range(1, count + 1):
                await reader.expect(wire.publish("t", payload, 1, number))
                reader.send(wire.puback(number))
            assert server.metrics.dropped_queue_full == 0
            await sender.hang_up()
            await reader.hang_up()

    run(scenario())


def test_what_is_said_last_arrives_although_more_was_coming(run: Run[None]) -> None:
    """A socket closed with unread bytes in it would answer with a reset, and destroy the DISCONNECT on its way."""

    async def scenario() -> None:
        async with serving(BrokerSettings(maximum_packet_size=1_000)) as server:
            client = await joined(server, "kiosk-1", wire.V5)
            client.send(wire.publish("t", bytes(4 * MEBIBYTE), version=wire.V5))
            goodbye = await client.rest()
            assert goodbye[0] == 0xE0
            assert goodbye[2] == 0x95
            await client.hang_up()

    run(scenario())


@pytest.mark.parametrize("reads", [True, False])
def test_a_peer_that_does_not_hang_up_is_cut_off(run: Run[None], monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    monkeypatch.setattr(transport, "LINGER_SECONDS", 0.05)

    async def scenario() -> None:
        async with serving() as server:
            client = await joined(server, "kiosk-1")
            if not reads:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport can
            client.send(wire.connect("kiosk-1"))  # a second CONNECT is an error
            await until(lambda: not server.server._transports, "the socket to be cut off")
            assert server.events.ends == [("kiosk-1", "protocol error")]
            client.writer.transport.abort()

    run(scenario())


def test_a_peer_that_hangs_up_and_does_not_read_is_cut_off(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop closes a socket when what is written has left, which here is never."""
    monkeypatch.setattr(transport, "LINGER_SECONDS", 0.05)

    async def scenario() -> None:
        async with serving() as server:
            client = await joined(server, "kiosk-1")
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport can
            client.send(wire.subscribe(1, ("t", 0)))
            for _ in range(20):  # more than any kernel takes on both ends of a loopback connection
                client.send(wire.publish("t", bytes(MEBIBYTE - 100)))
            client.writer.write_eof()
            await until(lambda: server.metrics.slow_consumers, "a full socket")
            await until(lambda: not server.server._transports, "the socket to be cut off")
            client.writer.transport.abort()

    run(scenario())


def test_bytes_after_the_end_are_ignored(run: Run[None]) -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await joined(server, "kiosk-1")
            client.send(wire.DISCONNECT, wire.publish("t", b"late"))
            assert await client.rest() == b""
            client.send(wire.publish("t", b"later"))
            await client.hang_up()
            await until(lambda: not server.server._transports, "the socket to close")
            assert server.metrics.publishes_in == 0

    run(scenario())


def test_a_reset_is_told_from_a_hang_up(run: Run[None]) -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await joined(server, "kiosk-1")
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await server.events.end_noted.wait()
            server.events.end_noted.clear()
            other = await joined(server, "kiosk-2")
            await other.hang_up()
            await server.events.end_noted.wait()
            assert server.events.ends == [("kiosk-1", "connection reset"), ("kiosk-2", "connection lost")]

    run(scenario())


def test_a_publisher_waits_while_the_disk_does(run: Run[None]) -> None:
    """TCP makes the publisher wait: nothing is refused, nothing is lost, and no memory fills."""

    async def scenario() -> None:
        store = SlowStore()
        async with serving(BrokerSettings(max_unstored_bytes=MEBIBYTE), store) as server:
            client = await joined(server, "kiosk-1")
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


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage",
        wire.connect("kiosk-1"),
        wire.connect("kiosk-1") + wire.PINGREQ + wire.DISCONNECT,
        wire.connect("kiosk-1") + wire.subscribe(1, ("a", 1)) + wire.publish("a", b"x", qos=1, packet_id=2),
        wire.connect("kiosk-1") + wire.connect("kiosk-1"),
    ],
    ids=["nothing", "garbage", "hangs up", "disconnects", "leaves a message", "protocol error"],
)
def test_a_connection_that_has_ended_takes_no_memory(run: Run[None], said: bytes) -> None:
    """The collector comes seldom to a server (`tune_collector`), and connections are many."""

    def connections() -> int:
        return sum(isinstance(one, Connection | transport.TcpTransport) for one in gc.get_objects())

    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            client.send(said)
            await until(lambda: server.metrics.bytes_in == len(said) and connections() == 2, "what was said")
            await client.hang_up()
            await until(lambda: not server.server._transports, "the end")
            await until(lambda: not connections(), "nothing to be left")

    run(scenario())
