from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.authorization import Accepted, AllowAll, ClientCertificate, Credentials, Refused
from broker.network import read_turns
from broker.network.listen_address import ListenAddress, parse_address
from broker.network.listeners import ListenerConfig
from broker.network.proxies import TrustedProxies
from broker.network.tls import ServerTls, TlsFiles
from broker.settings import BrokerSettings
from tests import wire
from tests.broker.network.conftest import Run
from tests.broker.network.serving import Client, Serving, serving
from tests.broker.network.test_transport import until
from tests.certificates import Authority, Pair

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
OF_IPV4 = SIGNATURE + b"\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 10, 0, 0, 9]) + struct.pack(">HH", 4711, 8883)
OF_IPV6 = (
    SIGNATURE
    + b"\x21\x21\x00\x24"
    + socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::9")
    + struct.pack(">HH", 4711, 8883)
)
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


class Peers(AllowAll):
    """Lets everybody in, and notes from where."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.certificates: list[ClientCertificate | None] = []

    def authenticate(self, credentials: Credentials, answer: Callable[[Accepted | Refused], None]) -> None:
        self.seen.append(credentials.peer)
        self.certificates.append(credentials.certificate)
        super().authenticate(credentials, answer)


@asynccontextmanager
async def behind(
    *listen: str, trusted: str = "127.0.0.1", tls: ServerTls | None = None, timeout: float = 10.0
) -> AsyncIterator[tuple[Serving, Peers, list[ListenAddress]]]:
    peers = Peers()
    async with serving(BrokerSettings(connect_timeout=timeout), authenticator=peers) as server:
        server.server.config = ListenerConfig(tls, TrustedProxies([trusted]))
        addresses = [await server.server.listen(parse_address(text)) for text in listen]
        yield server, peers, addresses


async def dial(address: ListenAddress) -> Client:
    if address.scheme == "unix":
        return Client(*await asyncio.open_unix_connection(address.path))
    return Client(*await asyncio.open_connection(address.host, address.port))


def test_what_is_said_before_hanging_up_is_heard_over_tls(
    run: Run[None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS tells of the end in the same breath as of a heap that takes many turns."""
    monkeypatch.setattr(read_turns, "CONNECTION_SECONDS", -1.0)
    authority = Authority(tmp_path)
    pair = authority.issue("broker", "localhost")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))
    heap = wire.publish("t", b"") * 5_000 + wire.DISCONNECT

    def say_and_go(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as bare:
            client = authority.client().wrap_socket(bare, server_hostname="localhost")
            client.sendall(wire.connect("kiosk-1"))
            assert client.recv(4) == wire.connack_4()
            client.sendall(heap)
            with client, suppress(OSError):
                client.unwrap()

    async def scenario() -> None:
        async with behind("mqtts://127.0.0.1:0", tls=tls) as (server, _, (address,)):
            await asyncio.to_thread(say_and_go, address.port)
            await until(lambda: server.events.ends, "the end to be noted")
            assert server.events.ends == [("kiosk-1", "disconnected")]
            assert server.metrics.publishes_in == 5_000
            await until(lambda: not server.server._transports, "the transport to be let go")

    run(scenario())


@pytest.mark.parametrize(
    ("header", "peer"),
    [(OF_IPV4, "192.0.2.7:4711"), (OF_IPV6, "[2001:db8::7]:4711"), (LOCAL, "127.0.0.1:")],
    ids=["IPv4", "IPv6", "the proxy itself"],
)
@pytest.mark.parametrize("split", [None, 5, 20], ids=["at once", "in its signature", "in its addresses"])
def test_a_proxy_header_names_the_client(run: Run[None], header: bytes, peer: str, split: int | None) -> None:
    async def scenario() -> None:
        async with behind("mqtt://127.0.0.1:0?proxy=v2") as (_, peers, (address,)):
            client = await dial(address)
            said = header + wire.connect("kiosk-1")
            client.send(said[:split])
            if split is not None:
                await asyncio.sleep(0)
                client.send(said[split:])
            await client.expect(wire.connack_4())
            assert peers.seen[0].startswith(peer)
            await client.hang_up()

    run(scenario())


def test_a_proxy_header_comes_before_tls(run: Run[None], tmp_path: Path) -> None:
    """The client's TLS may follow in the same segment, and stays whole."""
    authority = Authority(tmp_path)
    pair = authority.issue("broker", "localhost")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))

    def passed_through(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as bare:
            bare.sendall(OF_IPV4)
            with authority.client().wrap_socket(bare, server_hostname="localhost") as client:
                client.sendall(wire.connect("kiosk-1"))
                return client.recv(4)

    async def scenario() -> None:
        async with behind("mqtts://127.0.0.1:0?proxy=v2", tls=tls) as (_, peers, (address,)):
            assert await asyncio.to_thread(passed_through, address.port) == wire.connack_4()
            assert peers.seen == ["192.0.2.7:4711"]

    run(scenario())


@pytest.mark.parametrize(
    ("said", "trusted", "words"),
    [
        (OF_IPV4, "127.0.0.9", "no trusted proxy"),
        (wire.connect("kiosk-1"), "127.0.0.1", "not a PROXY v2 header"),
        (b"PROXY TCP4 192.0.2.7 10.0.0.9 4711 8883\r\n", "127.0.0.1", "send-proxy-v2"),
        (OF_IPV4[:20], "127.0.0.1", "did not come in time"),
    ],
    ids=["forged", "none", "version 1", "half"],
)
def test_what_is_no_header_of_a_trusted_proxy_is_refused(
    run: Run[None], caplog: pytest.LogCaptureFixture, said: bytes, trusted: str, words: str
) -> None:
    async def scenario() -> None:
        async with behind("mqtt://127.0.0.1:0?proxy=v2", trusted=trusted, timeout=0.3) as (server, peers, (address,)):
            client = await dial(address)
            client.send(said)
            with suppress(ConnectionResetError):  # what it said was not read
                assert await client.rest() == b""
            assert peers.seen == []
            assert server.metrics.refused == {"bad_proxy_header": 1}
            await client.hang_up()

    with caplog.at_level(logging.WARNING, "broker"):
        run(scenario())
    (line,) = caplog.messages
    assert line.startswith("127.0.0.1:")
    assert words in line


def test_a_header_that_nobody_asked_for_is_no_mqtt(run: Run[None]) -> None:
    async def scenario() -> None:
        async with behind("mqtt://127.0.0.1:0") as (_, peers, (address,)):
            client = await dial(address)
            client.send(OF_IPV4 + wire.connect("kiosk-1"))
            assert await client.rest() == b""
            assert peers.seen == []
            await client.hang_up()

    run(scenario())


def test_who_hangs_up_without_a_word_is_a_health_check(run: Run[None], caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with behind("mqtt://127.0.0.1:0?proxy=v2") as (server, _, (address,)):
            await (await dial(address)).hang_up()
            client = await dial(address)  # comes after it
            client.send(OF_IPV4 + wire.connect("kiosk-1"))
            await client.expect(wire.connack_4())
            assert server.metrics.refused == {}
            await client.hang_up()

    with caplog.at_level(logging.INFO, "broker"):
        run(scenario())
    assert caplog.messages == []


@pytest.mark.parametrize("proxy", ["", "&proxy=v2"], ids=["plain", "proxy"])
def test_a_unix_socket_is_a_file_with_a_mode(run: Run[None], tmp_path: Path, proxy: str) -> None:
    path = tmp_path / "broker.sock"

    async def scenario() -> None:
        async with behind(f"unix:{path}?mode=660{proxy}") as (server, peers, (address,)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            client = await dial(address)
            client.send(OF_IPV4 if proxy else b"", wire.connect("kiosk-1"))
            await client.expect(wire.connack_4())
            assert peers.seen == ["192.0.2.7:4711" if proxy else "unix"]
            with pytest.raises(OSError, match="in use"):
                await server.server.listen(address)
            client.send(wire.PINGREQ)  # the server has seen by then that somebody looked who listens there
            await client.expect(wire.PINGRESP)
            await client.hang_up()
        assert not path.exists()

    run(scenario())


def test_a_socket_file_that_a_kill_has_left_is_replaced_and_a_file_is_not(run: Run[None], tmp_path: Path) -> None:
    left, file = tmp_path / "left.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))
    file.write_text("somebody's")

    async def scenario() -> None:
        async with behind(f"unix:{left}") as (server, _, (address,)):
            client = await dial(address)
            client.send(wire.connect("kiosk-1"))
            await client.expect(wire.connack_4())
            with pytest.raises(OSError, match="in use"):
                await server.server.listen(parse_address(f"unix:{file}"))
            await client.hang_up()

    run(scenario())
    assert file.read_text() == "somebody's"


def test_the_end_does_not_wait_for_who_is_on_the_way_in(run: Run[None]) -> None:
    async def scenario() -> None:
        async with behind("mqtt://127.0.0.1:0?proxy=v2") as (server, _, (address,)):
            client = await dial(address)
            client.send(OF_IPV4[:4])
            (acceptor,) = server.server._acceptors
            await until(lambda: bool(acceptor._arriving), "it to be accepted")
            await server.server.stop()
            with suppress(ConnectionResetError):
                assert await client.rest() == b""
            await client.hang_up()

    run(scenario())


@asynccontextmanager
async def entered(authority: Authority, certificate: Pair) -> AsyncIterator[tuple[Serving, Peers]]:
    """A client has shown this certificate, and said CONNECT."""
    pair = authority.issue("broker", "localhost")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key, authority.certificate, "required"))

    def enter(port: int) -> None:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=10) as bare,
            authority.client(certificate).wrap_socket(bare, server_hostname="localhost") as client,
        ):
            client.sendall(wire.connect("kiosk-1"))
            client.recv(4)

    async with behind("mqtts://127.0.0.1:0", tls=tls) as (server, peers, (address,)):
        await asyncio.to_thread(enter, address.port)
        yield server, peers


@pytest.mark.parametrize(("second", "name"), [(None, "kiosk-1"), ("kiosk-2", "")])
def test_a_certificate_with_two_names_is_nobody_s(
    run: Run[None], tmp_path: Path, second: str | None, name: str
) -> None:
    authority = Authority(tmp_path)

    async def scenario() -> None:
        certificate = authority.issue("kiosk-1", second_name=second)
        async with entered(authority, certificate) as (_, peers):
            assert peers.certificates == [ClientCertificate(name, None)]

    run(scenario())


def test_a_certificate_that_cannot_be_read_is_refused(
    run: Run[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The DNS name in the certificate is not even UTF-8."""
    authority = Authority(tmp_path)

    async def scenario() -> None:
        certificate = authority.issue("kiosk-1", alternative_names=b"\x30\x04\x82\x02\xff\xfe")
        async with entered(authority, certificate) as (server, peers):
            await until(lambda: bool(server.metrics.refused), "it to be refused")
            assert server.metrics.refused == {"tls_client_certificate": 1}
            assert peers.certificates == []

    run(scenario())
    assert "its client certificate cannot be read" in caplog.text


def test_descriptors_do_not_leak(run: Run[None], tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("broker", "localhost")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))

    async def scenario() -> None:
        async with behind("mqtts://127.0.0.1:0", "mqtt://127.0.0.1:0?proxy=v2", tls=tls) as (server, _, addresses):

            async def turned_away() -> None:
                for address in addresses:
                    client = await dial(address)
                    client.send(wire.connect("kiosk-1"))
                    with suppress(ConnectionResetError):
                        await client.rest()
                    await client.hang_up()

            await turned_away()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                await turned_away()
            assert len(os.listdir("/proc/self/fd")) <= before + 2
            assert server.metrics.refused == {"tls_plain_text": 21, "bad_proxy_header": 21}

    run(scenario())


def test_the_silent_one_leaves_for_a_newcomer_and_not_who_has_begun(run: Run[None], tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("broker", "localhost")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))

    async def scenario() -> None:
        async with behind("mqtts://127.0.0.1:0", tls=tls) as (server, _, (address,)):
            server.server._limit = 3
            begun = await dial(address)
            begun.writer.write(b"\x16\x03\x01\x02\x00")  # the head of a ClientHello
            (acceptor,) = server.server._acceptors
            await until(lambda: (acceptor.arriving, acceptor.silent) == (1, 0), "the handshake to begin")
            first, second = await dial(address), await dial(address)
            await until(lambda: acceptor.silent == 2, "two to be accepted")
            third = await dial(address)
            with suppress(ConnectionError):
                assert await first.rest() == b""
            assert (acceptor.arriving, acceptor.silent) == (3, 2)
            assert server.metrics.refused == {"evicted_stranger": 1}
            for client in (begun, first, second, third):
                await client.hang_up()

    run(scenario())


def test_silent_sockets_of_all_ports_count_together(run: Run[None], tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("broker", "localhost")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))

    async def scenario() -> None:
        async with behind("mqtts://127.0.0.1:0", "wss://127.0.0.1:0", tls=tls) as (server, _, addresses):
            server.server._limit = 4
            clients = [await dial(address) for address in addresses for _ in range(4)]
            await until(lambda: server.metrics.refused.get("evicted_stranger") == 4, "four to leave")
            assert sum(acceptor.arriving for acceptor in server.server._acceptors) == 4
            newcomer = await server.client()
            newcomer.send(wire.connect("kiosk-1"))
            await newcomer.expect(wire.connack_4())
            for client in (*clients, newcomer):
                await client.hang_up()

    run(scenario())


def test_who_is_silent_for_too_long_is_turned_away(
    run: Run[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Authority(tmp_path).issue("broker", "localhost")

    async def scenario() -> None:
        tls = ServerTls(TlsFiles(pair.certificate, pair.key))
        async with behind("mqtts://127.0.0.1:0", tls=tls, timeout=0.1) as (server, _, (address,)):
            client = await dial(address)
            assert await client.rest() == b""
            assert server.metrics.refused == {"tls_timeout": 1}
            await client.hang_up()

    run(scenario())
    assert "did not finish the TLS handshake in time" in caplog.text


def test_what_has_been_said_and_not_been_read_yet_is_a_word(run: Run[None], tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("broker", "localhost")
    tls = ServerTls(TlsFiles(pair.certificate, pair.key))

    async def scenario() -> None:
        async with behind("mqtts://127.0.0.1:0", tls=tls) as (server, _, (address,)):
            first, second = await dial(address), await dial(address)
            (acceptor,) = server.server._acceptors
            await until(lambda: acceptor.silent == 2, "both to be accepted")
            first.writer.write(b"\x16")
            assert acceptor.evict_silent("127.0.0.1")
            assert (acceptor.arriving, acceptor.silent) == (1, 0)
            assert await second.rest() == b""
            for client in (first, second):
                await client.hang_up()

    run(scenario())
