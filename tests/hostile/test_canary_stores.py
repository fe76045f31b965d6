"""A client that uses all uploads, streams or downloads, or sends without end, has a share; the log names it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests import wire
from tests.end_to_end.harness import Api, Device, Server
from tests.hostile.canary import Canary
from tests.hostile.peer import Peer

ATTACK_SECONDS = 1.0
ANSWER_SECONDS = 30.0
"""A machine that runs other tests beside this one may need some of it; the canary measures what the server needs."""
UPLOADS = 205
"""Of 5 MiB each, which they never send: the whole room for attachments, if it were reserved."""
KEYS, STREAMS_OF_KEY = 10, 20
DOWNLOADS = 60
PICTURE = bytes(4 * 1024 * 1024)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("stores") / "data") as server:
        server.api.call("POST", "/v1/apps", 201, json={"id": "other"})
        yield server


@pytest.fixture(scope="module")
def other(server: Server) -> Iterator[Api]:
    """Another app."""
    body = {"name": "o", "scopes": ["send", "read", "devices"], "app": "other"}
    api = Api(server.url, server.api.call("POST", "/v1/keys", 201, json=body)["key"])
    yield api
    api.close()


def over_share(server: Server, limit: str) -> float:
    text = server.api.request("GET", "/metrics").text
    found = re.search(rf'^fleetpush_requests_over_share_total{{limit="{limit}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


async def ask(stack: AsyncExitStack, server: Server, requests: list[bytes], unanswered: int = 0) -> list[bytes]:
    """The status of each request, of which no more is read; b"" for the `unanswered` ones."""
    peers = await asyncio.gather(*(Peer.open(server.http_port) for _ in requests))
    for peer in peers:
        stack.callback(peer.reset)
    for peer, request in zip(peers, requests, strict=True):
        await peer.send(request)
    await asyncio.sleep(ATTACK_SECONDS)  # what is measured is a time

    async def status(peer: Peer) -> bytes:
        return (await peer.reader.readline())[9:12]

    statuses = [asyncio.create_task(status(peer)) for peer in peers]
    async with asyncio.timeout(ANSWER_SECONDS):
        while sum(task.done() for task in statuses) < len(requests) - unanswered:
            await asyncio.wait([task for task in statuses if not task.done()], return_when=asyncio.FIRST_COMPLETED)
    for task in statuses:
        task.cancel()
    answers = await asyncio.gather(*statuses, return_exceptions=True)
    return [answer if isinstance(answer, bytes) else b"" for answer in answers]


def attacked(server: Server, requests: list[bytes], meanwhile: Callable[[], None], unanswered: int = 0) -> list[bytes]:
    async def attack() -> list[bytes]:
        async with AsyncExitStack() as stack:
            answers = await ask(stack, server, requests, unanswered)
            await asyncio.to_thread(meanwhile)
            return answers

    with Canary(server):
        return asyncio.run(attack())


def request(method: str, path: str, key: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def test_uploads_of_a_byte_that_never_end(server: Server, other: Api) -> None:
    def meanwhile() -> None:
        other.call("POST", "/v1/attachments", 201, content=b"another app's")

    length = f"Content-Length: {len(PICTURE)}"
    upload = request("POST", "/v1/attachments", server.admin_key, "Content-Type: image/png", length) + b"x"
    answers = attacked(server, [upload] * UPLOADS, meanwhile, unanswered=20)
    assert answers.count(b"503") == UPLOADS - 20
    assert over_share(server, "uploads") == UPLOADS - 20
    assert "20 of this app" in server.wait_log("app 1: an upload is refused: 20 are under way")
    server.api.call("POST", "/v1/attachments", 201, content=PICTURE)


def test_keys_that_hold_all_event_streams(server: Server, other: Api) -> None:
    def meanwhile() -> None:
        asyncio.run(one_more())

    async def one_more() -> None:
        async with AsyncExitStack() as stack:
            assert other.key is not None
            assert await ask(stack, server, [request("GET", "/v1/events", other.key)]) == [b"200"]

    body = {"name": "k", "scopes": ["read"]}
    keys = [server.api.call("POST", "/v1/keys", 201, json=body)["key"] for _ in range(KEYS)]
    requests = [request("GET", "/v1/events", key) for key in keys for _ in range(STREAMS_OF_KEY)]
    answers = attacked(server, requests, meanwhile)
    assert (answers.count(b"200"), answers.count(b"429")) == (100, 100)
    assert over_share(server, "event_streams") == 100
    assert "100 of this app" in server.wait_log("app 1: a stream of events is refused: 100 are open")


def test_readers_of_nothing_that_hold_downloads(server: Server, other: Api) -> None:
    theirs = other.call("POST", "/v1/attachments", 201, content=b"another picture")["id"]

    def meanwhile() -> None:
        assert other.request("GET", f"/v1/attachments/{theirs}").content == b"another picture"

    ours = server.api.call("POST", "/v1/attachments", 201, content=PICTURE + b"2")["id"]
    download = request("GET", f"/v1/attachments/{ours}", server.admin_key)
    answers = attacked(server, [download] * DOWNLOADS, meanwhile)
    assert (answers.count(b"200"), answers.count(b"503")) == (20, DOWNLOADS - 20)
    assert over_share(server, "downloads") == DOWNLOADS - 20
    assert "20 of" in server.wait_log("app 1: a download is refused: 20 are under way")


async def say_for_ever(server: Server, device: Device) -> int:
    """Publish uplink as fast as the socket takes it; the bytes that it took."""
    peer = await Peer.open(server.mqtt_port)
    await peer.enter(wire.connect(f"{device.client_id}:s", username=device.client_id, password=device.token))
    packet = wire.publish(device.topics["uplink"].replace("#", "x"), bytes(60_000))
    until, sent = time.monotonic() + 2 * ATTACK_SECONDS, 0
    while time.monotonic() < until:
        peer.writer.write(packet)
        try:
            await asyncio.wait_for(peer.writer.drain(), 0.1)
        except TimeoutError:
            continue
        sent += len(packet)
    peer.reset()
    return sent


def test_a_device_that_speaks_without_end(server: Server) -> None:
    device = server.api.enrol("talker")
    with Canary(server):
        sent = asyncio.run(say_for_ever(server, device))
    assert sent < 32 * 1024 * 1024, "its socket is not read while it is over its rate"
    text = server.api.request("GET", "/metrics").text
    limited = re.search(r"^fleetpush_broker_limited_senders_total (\S+)$", text, re.MULTILINE)
    assert limited is not None
    assert float(limited[1]) >= 1
    server.wait_log("talker")
    kept = list(server.api.items("/v1/devices/talker/uplink"))
    assert 0 < len(kept) <= 100
