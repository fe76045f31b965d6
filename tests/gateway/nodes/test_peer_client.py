"""What a peer can make its questions cost: nothing but its own time."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

from gateway.events import dns
from gateway.nodes.membership import Node
from gateway.nodes.peer_client import (
    HEAD_BYTES,
    LOG_SECONDS,
    QUESTIONS_AT_ONCE,
    QUESTIONS_WAITING,
    REST_SECONDS,
    PeerClient,
    PeerUnavailable,
)
from gateway.nodes.peer_routes import BODY_BYTES
from tests.gateway.nodes.peers import HandClock, MakePeer, ServedPair, read_question

LONG = 30.0
"""Seconds that no test waits."""


async def echo(body: bytes) -> bytes:
    return body


async def answer_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        body = await read_question(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_questions_go_over_a_kept_connection(client: PeerClient, served_pair: ServedPair) -> None:
    node = served_pair[0]
    node.verbs.add("echo", echo)
    for size in (0, 1, BODY_BYTES):
        assert await client.ask(node.node, "echo", b"\0" * size, LONG) == b"\0" * size
    assert node.connections == 1
    assert client.answered == 3


async def test_a_peer_that_hangs_costs_its_time_out_now_and_then(
    client: PeerClient, make_peer: MakePeer, clock: HandClock
) -> None:
    """Others who ask are told at once, until it has rested; and its connection is closed."""
    peer = await make_peer(hang)
    with pytest.raises(PeerUnavailable, match="no answer within"):
        await client.ask(peer.node, "sent", b"", 0.05)
    for _ in range(100):
        with pytest.raises(PeerUnavailable, match="a moment ago"):
            await client.ask(peer.node, "sent", b"", LONG)
    assert peer.connections == 1
    peer.script = answer_for_ever
    assert await client.ask(peer.node, "yield", b"x", LONG) == b"x"  # another verb is not held up
    clock.seconds += REST_SECONDS
    assert await client.ask(peer.node, "sent", b"x", LONG) == b"x"
    assert (client.failed, client.unasked) == (1, 100)


async def test_a_peer_that_is_dead_is_unavailable(client: PeerClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(PeerUnavailable, match="ConnectError"):
        await client.ask(Node(1, 1, url, "s"), "echo", b"", LONG)


FILLER = b"X-Filler: " + b"x" * 100 + b"\r\n"


@pytest.mark.parametrize(
    "said",
    {
        "refused": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        "elsewhere": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "of no length": b"HTTP/1.1 200 OK\r\n\r\nx",
        "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "too long": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES + 1),
        "of a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "of an absurd length": b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % (b"9" * 1_000),
        "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
        "garbage": b"\x16\x03\x01\x02\x00",
        "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "nothing": b"",
        "a head without end": b"HTTP/1.1 200 OK\r\n" + FILLER * (HEAD_BYTES // 64),
        "continuations without end": b"HTTP/1.1 100 Continue\r\n\r\n" * HEAD_BYTES,
    }.items(),
    ids=lambda item: item[0],
)
async def test_a_peer_that_lies_is_not_believed(
    client: PeerClient, make_peer: MakePeer, said: tuple[str, bytes]
) -> None:
    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_question(reader)
        writer.write(said[1])
        with suppress(ConnectionError):
            await writer.drain()

    peer = await make_peer(lie)
    with pytest.raises(PeerUnavailable):
        await client.ask(peer.node, "sent", b"", LONG)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b""])
async def test_little_of_a_flood_is_read(client: PeerClient, make_peer: MakePeer, head: bytes) -> None:
    """A peer that sends without end is cut off: after a head of HEAD_BYTES, or after the length that it named."""
    sent = 0
    cut_off = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        try:
            await read_question(reader)
            writer.write(head)
            while True:
                writer.write(FILLER if head else b"HTTP/1.1 100 Continue\r\n\r\n")
                await writer.drain()
                sent += len(FILLER)
        finally:
            cut_off.set()

    peer = await make_peer(flood)
    if head.endswith(b"\r\n\r\n"):
        assert await client.ask(peer.node, "sent", b"", LONG) == FILLER[:5]
        client.end(peer.node)
    else:
        with pytest.raises(PeerUnavailable):
            await client.ask(peer.node, "sent", b"", LONG)
    await asyncio.wait_for(cut_off.wait(), LONG)


async def test_a_peer_that_hangs_keeps_no_other_waiting(
    client: PeerClient, make_peer: MakePeer, served_pair: ServedPair
) -> None:
    served_pair[0].verbs.add("echo", echo)
    hanging = await make_peer(hang)
    tasks = [asyncio.create_task(client.ask(hanging.node, "echo", b"", LONG)) for _ in range(50)]
    for _ in range(20):
        assert await client.ask(served_pair[0].node, "echo", b"x", LONG) == b"x"
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_slow_peer_has_two_questions_of_a_verb_and_a_bounded_queue(
    client: PeerClient, make_peer: MakePeer
) -> None:
    release, is_full = asyncio.Event(), asyncio.Event()
    under_way = most = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while True:
            await read_question(reader)
            under_way += 1
            most = max(most, under_way)
            if under_way == QUESTIONS_AT_ONCE:
                is_full.set()
            await release.wait()
            under_way -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    peer = await make_peer(slow)
    room = QUESTIONS_AT_ONCE + QUESTIONS_WAITING
    tasks = [asyncio.create_task(client.ask(peer.node, "sent", b"", LONG)) for _ in range(room)]
    await asyncio.sleep(0)
    with pytest.raises(PeerUnavailable, match="too much"):
        await client.ask(peer.node, "sent", b"", LONG)
    await is_full.wait()
    release.set()
    assert await asyncio.gather(*tasks) == [b""] * room
    assert (most, peer.connections) == (QUESTIONS_AT_ONCE, QUESTIONS_AT_ONCE)


async def test_a_peer_that_has_started_again_is_asked_with_its_new_secret(
    client: PeerClient, make_peer: MakePeer
) -> None:
    peer = await make_peer(answer_for_ever)
    await client.ask(peer.node, "echo", b"", LONG)
    again = Node(peer.node.no, 2, peer.node.url, "a new one")
    await client.ask(again, "echo", b"", LONG)
    assert peer.connections == 2
    client.end(peer.node)  # what ended was the run before
    await client.ask(again, "echo", b"", LONG)
    assert peer.connections == 2
    client.end(again)
    await client.ask(again, "echo", b"", LONG)
    assert peer.connections == 3


async def test_a_name_that_does_not_resolve_keeps_no_thread_of_others(
    client: PeerClient, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lookup, however often the peer is asked."""
    asked: list[str] = []
    blocked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def dead(work: object) -> list[str]:
        asked.append("node.dead")
        await blocked.wait()
        raise dns.RequestFailed("node.dead cannot be resolved")

    monkeypatch.setattr(dns, "_on_a_thread", dead)
    node = Node(1, 1, "http://node.dead:8080", "s")
    for _ in range(5):
        with pytest.raises(PeerUnavailable):
            await client.ask(node, "sent", b"", 0.01)
        clock.seconds += REST_SECONDS
    assert asked == ["node.dead"]
    assert loop.is_running()
    blocked.set()


async def test_a_peer_is_found_at_its_second_address(client: PeerClient, make_peer: MakePeer) -> None:
    peer = await make_peer(answer_for_ever)
    port = peer.node.url.rpartition(":")[2]

    async def resolve(share: int, host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    client._resolver._addresses = resolve  # type: ignore[method-assign]  # two addresses, of which one is dead
    assert await client.ask(Node(1, 1, f"http://node.example:{port}", "s"), "echo", b"x", LONG) == b"x"


async def test_the_failures_of_a_peer_are_logged_now_and_then(
    client: PeerClient, make_peer: MakePeer, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_question(reader)
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    peer = await make_peer(refuse)
    for _ in range(int(LOG_SECONDS / REST_SECONDS) + 1):
        with pytest.raises(PeerUnavailable):
            await client.ask(peer.node, "sent", b"", LONG)
        clock.seconds += REST_SECONDS
    assert caplog.text.count("node 101 has not answered sent: it answered 503") == 2
