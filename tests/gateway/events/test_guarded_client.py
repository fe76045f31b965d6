"""Where requests may go, and that they go there."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.events import guarded_client
from gateway.events.dns import DnsResolver, RequestFailed
from gateway.events.guarded_client import GuardedClient, may_be_asked
from tests.certificates import Authority
from tests.gateway.events.conftest import MakeReceiver
from tests.receiver import Receiver

THIS_WEBHOOK = [ipaddress.ip_network("127.0.0.1/32")]


def names(*answers: Sequence[str]) -> tuple[Callable[[str, int], Awaitable[Sequence[str]]], list[str]]:
    """A resolver that answers in turn, the last for ever, and what it was asked."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.0.170",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "fe80::1",
        "fe80::1%1",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "2001:db8::1",
        "fec0::1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "4000::1",
    ],
)
def test_private_addresses_are_not_asked(address: str) -> None:
    assert not may_be_asked(address, [])


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_ones_are(address: str) -> None:
    assert may_be_asked(address, [])


def test_a_network_can_be_allowed() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")]
    assert may_be_asked("10.1.2.3", allowed)
    assert may_be_asked("::ffff:10.1.2.3", allowed)
    assert may_be_asked("fd00::7", allowed)
    assert may_be_asked("fec0::7", [ipaddress.ip_network("fec0::/10")])
    assert not may_be_asked("10.2.0.1", allowed)
    assert not may_be_asked("127.0.0.1", allowed)


async def test_a_name_is_resolved_once_and_what_was_judged_is_asked(receiver: Receiver) -> None:
    """A name that is one address for the judge and another for the connection would get past a check (rebinding)."""
    resolve, asked = names(["127.0.0.1"], ["127.0.0.2"])
    client = GuardedClient(THIS_WEBHOOK, resolve)
    url = f"http://hooks.example:{receiver.port}/hook"
    assert (await client.post(url, b"{}", {})).status == 200
    assert asked == ["hooks.example"]
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
    with pytest.raises(RequestFailed, match=r"hooks\.example is 127\.0\.0\.2, which is private"):
        await client.post(url, b"{}", {})
    assert len(receiver.requests) == 1
    await client.close()


async def test_of_several_addresses_one_that_may_be_asked_is(receiver: Receiver) -> None:
    resolve, _ = names(["127.0.0.9", "::1", "127.0.0.1"])
    client = GuardedClient(THIS_WEBHOOK, resolve)
    assert (await client.post(f"http://hooks.example:{receiver.port}/", b"{}", {})).status == 200
    await client.close()


async def test_of_several_addresses_one_that_answers_is_asked(receiver: Receiver) -> None:
    resolve, _ = names(["127.0.0.2", "127.0.0.1"])
    client = GuardedClient([ipaddress.ip_network("127.0.0.0/8")], resolve)
    assert (await client.post(f"http://hooks.example:{receiver.port}/", b"{}", {})).status == 200
    assert len(receiver.requests) == 1
    receiver.close()
    with pytest.raises(RequestFailed, match="ConnectError"):
        await client.post(f"http://hooks.example:{receiver.port}/", b"{}", {})
    await client.close()


async def test_an_address_that_says_nothing_leaves_time_for_the_next(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket whose queue is full does not answer, as a host that is off."""
    monkeypatch.setattr(guarded_client, "ATTEMPT_SECONDS", 2.0)
    with socket.socket() as off, socket.socket() as first, socket.socket() as second:
        off.bind(("127.0.0.2", receiver.port))
        off.listen(0)
        for other in (first, second):
            other.setblocking(False)
            other.connect_ex(off.getsockname())
        resolve, _ = names(["127.0.0.2", "127.0.0.1"])
        client = GuardedClient([ipaddress.ip_network("127.0.0.0/8")], resolve)
        assert (await client.post(f"http://hooks.example:{receiver.port}/", b"{}", {})).status == 200
        await client.close()


async def test_what_was_asked_of_one_address_is_not_asked_of_the_next(receiver: Receiver) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.2", receiver.port):
        resolve, _ = names(["127.0.0.2", "127.0.0.1"])
        client = GuardedClient([ipaddress.ip_network("127.0.0.0/8")], resolve)
        with pytest.raises(RequestFailed):
            await client.post(f"http://hooks.example:{receiver.port}/", b"{}", {})
        await client.close()
    assert receiver.requests == []


async def test_a_name_without_an_address() -> None:
    client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
    with pytest.raises(RequestFailed, match=r"nowhere\.invalid cannot be resolved"):
        await client.post("http://nowhere.invalid/", b"{}", {})
    resolve, _ = names([])
    with pytest.raises(RequestFailed, match="has no address"):
        await GuardedClient(THIS_WEBHOOK, resolve).post("http://hooks.example/", b"{}", {})
    await client.close()


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "..", "x\u0301" * 70, "exa mple"])
async def test_what_is_no_name_is_a_failed_attempt(host: str) -> None:
    client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
    with pytest.raises(RequestFailed):
        await client.post(f"http://{host}/", b"{}", {})
    await client.close()


async def test_the_environments_proxy_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
    assert (await client.post(receiver.url, b"{}", {})).status == 200
    await client.close()


async def test_the_certificate_is_the_names(make_receiver: MakeReceiver, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("hooks", "hooks.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    receiver = make_receiver(context=context)
    resolve, _ = names(["127.0.0.1"])
    client = GuardedClient(THIS_WEBHOOK, resolve, ssl.create_default_context(cafile=authority.certificate))
    assert (await client.post(f"https://hooks.example:{receiver.port}/hook", b"{}", {})).status == 200
    await client.close()
    client = GuardedClient(THIS_WEBHOOK, resolve, ssl.create_default_context(cafile=authority.certificate))
    with pytest.raises(RequestFailed, match=r"(?i)hostname mismatch"):
        await client.post(f"https://other.example:{receiver.port}/hook", b"{}", {})
    await client.close()
    stranger = GuardedClient(THIS_WEBHOOK, resolve)
    with pytest.raises(RequestFailed, match=r"(?i)certificate verify failed"):
        await stranger.post(f"https://hooks.example:{receiver.port}/hook", b"{}", {})
    await stranger.close()


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 4_096)
                await writer.drain()

    async with await asyncio.start_server(endless, "127.0.0.1") as server:
        client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
        answer = await client.post(url_of(server), b"{}", {})
        assert (answer.status, answer.text) == (200, "x" * 200)
        await client.close()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Handler) -> AsyncIterator[asyncio.Server]:
    """A server; at the end its connections have ended, since its clients are closed then."""
    handlers: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a handler is a task"
        handlers.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1") as server:
        yield server
        if handlers:
            _, late = await asyncio.wait(handlers, timeout=10)
            assert not late


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        (HEAD, b"X-More: and more\r\n"),
        (HEAD + b"X-Long: ", b"x" * 100),
        (b"", b"1"),
    ],
    ids=["continue", "hints", "headers", "a-header", "no-http"],
)
async def test_everything_that_is_answered_counts(first: bytes, again: bytes) -> None:
    """What comes before the answer's end is an attempt that failed, soon."""
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        with suppress(ConnectionError):
            while True:
                writer.write(again * 100)
                sent += len(again) * 100
                await writer.drain()

    async with serving(answer) as server:
        client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
        with pytest.raises(RequestFailed):
            await asyncio.wait_for(client.post(url_of(server), b"{}", {}), 5)
        await client.close()


@pytest.mark.parametrize("endless", [b"1\r\nx\r\n", b"1;" + b"e" * 200 + b"\r\nx\r\n"], ids=["chunks", "extensions"])
async def test_a_body_that_never_ends_was_answered(endless: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(endless * 100)
                await writer.drain()

    async with serving(answer) as server:
        client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
        assert (await asyncio.wait_for(client.post(url_of(server), b"{}", {}), 5)).status == 200
        await client.close()


async def test_byte_by_byte_is_not_listened_to_for_long() -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            for byte in HEAD + b"X: " + b"x" * 100_000:
                writer.write(bytes([byte]))
                sent += 1
                await asyncio.sleep(0)
                await writer.drain()

    async with serving(answer) as server:
        client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
        with pytest.raises(RequestFailed, match="more than 16384 bytes"):
            await asyncio.wait_for(client.post(url_of(server), b"{}", {}), 15)
        await client.close()


async def test_every_request_of_a_connection_has_its_whole_answer() -> None:
    body = b"x" * 5_000
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"{}"):
                writer.write(HEAD + b"Content-Length: 5000\r\nRetry-After: 7\r\n\r\n" + body)

    async with serving(answer) as server:
        client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
        for _ in range(5):
            answered = await client.post(url_of(server), b"{}", {})
            assert (answered.status, answered.retry_after, answered.text) == (200, "7", "x" * 200)
        assert connections == 1
        await client.close()


async def test_who_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_client, "ATTEMPT_SECONDS", 0.1)
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1") as server:
        client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
        with pytest.raises(RequestFailed, match="no answer within"):
            await client.post(url_of(server), b"{}", {})
        await asyncio.wait_for(ended.wait(), 5)
        await client.close()


async def test_what_is_not_http_is_a_failure() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1") as server:
        client = GuardedClient(THIS_WEBHOOK, DnsResolver().of_share(1))
        with pytest.raises(RequestFailed, match="RemoteProtocolError"):
            await client.post(url_of(server), b"{}", {})
        await client.close()


def url_of(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_a_document_may_be_as_long_as_its_client_says_and_no_longer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /document HTTP/1.1\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30_000)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/document"
        resolve = DnsResolver().of_share(1)
        long = GuardedClient(THIS_WEBHOOK, resolve, answer_bytes=65_536, text_bytes=65_536)
        assert len((await long.get(url, {})).text) == 30_000
        short = GuardedClient(THIS_WEBHOOK, resolve, answer_bytes=8_192, text_bytes=65_536)
        assert len((await short.get(url, {})).text) < 8_192
        away = GuardedClient([], resolve, setting="oidc_networks")
        with pytest.raises(RequestFailed, match="oidc_networks"):
            await away.get(url, {})
        await long.close()
        await short.close()
