from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker.broker import Broker
from broker.message import Body, Message
from broker.network import listeners
from broker.network.listen_address import ListenAddress
from broker.network.listeners import BrokerServer, raise_open_files_limit
from broker.settings import BrokerSettings
from tests import wire
from tests.broker.network.conftest import Run
from tests.broker.network.serving import Client, Serving, serving
from tests.broker.network.test_transport import joined, until
from tests.fakes import SlowStore


def test_a_port_in_use_is_an_os_error(run: Run[None]) -> None:
    async def scenario() -> None:
        async with serving() as server:
            with pytest.raises(OSError):
                await server.server.listen(ListenAddress("mqtt", "127.0.0.1", server.port))

    run(scenario())


def test_time_passes_for_the_broker(run: Run[None]) -> None:
    """A stranger who says nothing is gone after the connect timeout."""

    async def scenario() -> None:
        async with serving(BrokerSettings(connect_timeout=0.1)) as server:
            stranger = await server.client()
            assert await stranger.rest() == b""
            await stranger.hang_up()

    run(scenario())


def test_one_deadline_that_fails_does_not_stop_the_clock(
    run: Run[None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "TICK_SECONDS", 0.01)

    async def scenario() -> None:
        async with serving() as server:
            ticks: list[float] = []

            def fail(now: float) -> None:
                ticks.append(now)
                raise RuntimeError("on purpose")

            monkeypatch.setattr(type(server.broker), "tick", lambda self, now: fail(now))
            await until(lambda: len(ticks) >= 3, "three ticks")
            assert ticks == sorted(ticks)

    run(scenario())
    assert "on purpose" in caplog.text


def test_a_stranger_is_cut_off_for_a_newcomer(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_STRANGERS", 1)

    async def scenario() -> None:
        async with serving(BrokerSettings(max_connections=1)) as server:
            first, second = await joined(server, "kiosk-1"), await server.client()
            await until(lambda: len(server.server._transports) == 2, "both to be accepted")
            third = await server.client()
            with suppress(ConnectionError):
                assert await second.rest() == b""
            third.send(wire.connect("kiosk-3"))
            await third.expect(wire.connack_4(code=3))
            first.send(wire.PINGREQ)
            await first.expect(wire.PINGRESP)
            assert server.metrics.refused == {"evicted_stranger": 1, "quota_exceeded": 1}
            for client in (first, second, third):
                await client.hang_up()

    run(scenario())


def test_nobody_who_is_accepted_is_cut_off(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_STRANGERS", 0)

    async def scenario() -> None:
        async with serving(BrokerSettings(max_connections=1)) as server:
            first, second = await joined(server, "kiosk-1"), await server.client()
            with suppress(ConnectionError):
                assert await second.rest() == b""
            first.send(wire.PINGREQ)
            await first.expect(wire.PINGRESP)
            assert server.metrics.refused == {"too_many_sockets": 1}
            for client in (first, second):
                await client.hang_up()

    run(scenario())


def test_few_descriptors_are_said_in_connack(run: Run[None]) -> None:
    async def scenario() -> None:
        async with serving() as server:
            BrokerServer(server.broker, descriptors=16)
            clients = [await joined(server, f"kiosk-{number}") for number in range(14)]
            refused = await server.client()
            refused.send(wire.connect("kiosk-14"))
            await refused.expect(wire.connack_4(code=3))
            for client in (*clients, refused):
                await client.hang_up()

    run(scenario())


def test_no_descriptor_is_said_in_log_and_metrics(
    run: Run[None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listeners, "DESCRIPTOR_CHECK_TICKS", 1)

    def nothing_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        async with serving() as server:
            first, silent = await joined(server, "kiosk-1"), await server.client()
            await until(lambda: len(server.server._transports) == 2, "both to be accepted")
            with monkeypatch.context() as patch:
                patch.setattr(os, "open", nothing_left)
                with suppress(ConnectionError):
                    assert await silent.rest() == b""
            first.send(wire.PINGREQ)
            await first.expect(wire.PINGRESP)
            assert server.metrics.refused["no_descriptor"] >= 1
            for client in (first, silent):
                await client.hang_up()

    run(scenario())
    assert "no connection can be taken: Too many open files" in caplog.text


def test_a_shutdown_acknowledges_and_disconnects(run: Run[None]) -> None:
    async def scenario() -> None:
        store = SlowStore()
        async with serving(store=store) as server:
            old, new = await server.client(), await server.client()
            for client, version in ((old, wire.V4), (new, wire.V5)):
                client.send(wire.connect(f"v{version}", version))
            await old.expect(wire.connack_4())
            connack = await new.reader.readexactly(2)
            await new.reader.readexactly(connack[1])
            stranger = await server.client()
            old.send(wire.publish("t", b"x", 1, 7))
            await until(lambda: store.waiting, "PUBLISH to wait for the disk")
            ending = asyncio.create_task(server.server.stop())
            await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                await server.client()
            store.go_on()
            await old.expect(wire.puback(7))
            assert await old.rest() == b""
            goodbye = await new.rest()
            assert (goodbye[0], goodbye[2]) == (0xE0, 0x8B)
            assert await stranger.rest() == b""
            for client in (old, new, stranger):
                await client.hang_up()
            await ending

    run(scenario())


def test_an_end_does_not_wait_for_a_disk_that_refuses(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "DRAIN_SECONDS", 0.05)

    async def scenario() -> None:
        async with serving(store=SlowStore()) as server:
            client = await joined(server, "kiosk-1")
            client.send(wire.publish("t", b"x", 1, 7))
            await server.server.stop()
            await client.hang_up()

    run(scenario())


async def _subscribed_and_given_one(server: Serving) -> Client:
    client = await joined(server, "kiosk-1")
    client.send(wire.subscribe(1, ("t", 1)))
    await client.expect(wire.suback(1, 1))
    assert server.broker.deliver("kiosk-1", Message("t", Body(b"x"), 1), 1)
    await client.expect(wire.publish("t", b"x", 1, 1))
    return client


def test_an_end_waits_for_acknowledgements_as_long_as_they_come(
    run: Run[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "QUIET_SECONDS", 10.0)

    async def scenario() -> None:
        async with serving() as server:
            client = await _subscribed_and_given_one(server)
            ending = asyncio.create_task(server.server.stop())
            await until(lambda: server.broker.shared_state.draining, "the end to begin")
            client.send(wire.PINGREQ)
            await client.expect(wire.PINGRESP)
            client.send(wire.puback(1))
            assert await client.rest() == b""
            await client.hang_up()
            await ending
            assert server.metrics.acknowledged == 1

    run(scenario())


def test_an_end_does_not_wait_for_the_deaf(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "QUIET_SECONDS", 0.05)

    async def scenario() -> None:
        async with serving() as server:
            client = await _subscribed_and_given_one(server)
            await server.server.stop()
            assert await client.rest() == b""
            await client.hang_up()

    run(scenario())


class NotedShutdowns:
    """A broker that notes how many are left after each round of goodbyes."""

    def __init__(self, broker: Broker) -> None:
        self.left: list[int] = []
        self._broker = broker

    def shutdown(self, at_most: int | None = None) -> bool:
        anybody = self._broker.shutdown(at_most)
        self.left.append(self._broker.metrics.connections)
        return anybody

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


def test_the_goodbyes_of_many_are_spread_and_those_of_few_are_not(
    run: Run[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(spread: float, *left: int) -> None:
        async with serving(BrokerSettings(disconnect_spread=spread)) as server:
            clients = [await joined(server, f"kiosk-{number}", wire.V5) for number in range(5)]
            noted = NotedShutdowns(server.broker)
            monkeypatch.setattr(server.server, "broker", noted)
            ending = asyncio.create_task(server.server.stop())
            for client in clients:
                goodbye = await client.rest()
                assert (goodbye[0], goodbye[2]) == (0xE0, 0x8B)
                await client.hang_up()
            await ending
            assert tuple(noted.left) == left

    run(scenario(2.0, 0))
    monkeypatch.setattr(listeners, "DISCONNECTS_PER_SECOND", 1)
    monkeypatch.setattr(listeners, "POLL_SECONDS", 0.001)
    run(scenario(0.0045, 4, 3, 2, 1, 0))
    run(scenario(0.0025, 3, 1, 0))
    run(scenario(0.0, 0))


def test_takes_all_the_open_files_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: taken.append(limits))
    assert raise_open_files_limit() == 4_096
    assert taken == [(4_096, 4_096)]


def test_asks_for_a_long_queue_of_connections(run: Run[None]) -> None:
    """The kernel tells a listening socket's backlog where a connection has its SACK counter (struct tcp_info)."""

    async def scenario() -> None:
        async with serving() as server:
            (listener,) = server.server._listeners[0].sockets
            (backlog,) = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 28)
            assert backlog == min(listeners.BACKLOG_CONNECTIONS, int(Path("/proc/sys/net/core/somaxconn").read_text()))

    run(scenario())
