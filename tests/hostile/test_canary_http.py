"""Strangers at the HTTP port, who have no key: whatever they say or keep to themselves, nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.end_to_end.harness import Api, Server
from tests.hostile.canary import Canary
from tests.hostile.peer import descriptors

CHUNKED = b"POST /v1/pushes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
FEW_DESCRIPTORS = 1_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("strangers") / "data") as server:
        yield server


class Stranger:
    """A socket that says what it can until its time is over, and comes again when it is hung up on."""

    def __init__(self, port: int, first: bytes, more: bytes, until: float) -> None:
        self._port = port
        self._first = first
        self._more = more
        self._until = until
        self.sent = 0

    def run(self) -> None:
        while time.monotonic() < self._until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=0.2) as own:
                self.sent += own.send(self._first)
                while time.monotonic() < self._until:
                    self.sent += own.send(self._more)


def attack(port: int, sockets: int, seconds: float, first: bytes, more: bytes) -> int:
    """Bytes that so many strangers got rid of."""
    strangers = [Stranger(port, first, more, time.monotonic() + seconds) for _ in range(sockets)]
    threads = [threading.Thread(target=stranger.run) for stranger in strangers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(stranger.sent for stranger in strangers)


ATTACKS = {
    "a trailer without end": (2, CHUNKED.replace(b"POST", b"GET") + b"0\r\n", b"a:b\r\n" * 9_000),
    "requests without end": (20, b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 9_000),
    "large answers that nobody reads": (20, b"", b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 9_000),
    "chunks of a byte": (5, CHUNKED, b"1\r\nx\r\n" * 9_000),
    "chunks of a byte behind an answer": (5, CHUNKED.replace(b"POST", b"GET"), b"1\r\nx\r\n" * 9_000),
    "a head without end": (20, b"GET / HTTP/1.1\r\n", b"X: x\r\n" * 9_000),
    "empty lines without end": (5, b"", b"\r\n" * 9_000),
    "a body for nobody": (20, CHUNKED + b"fffffff\r\n", bytes(60_000)),
}
"""How many strangers, what each says first, and then again and again."""


def test_strangers_who_talk(server: Server, full: int) -> None:
    with Canary(server):
        for sockets, first, more in ATTACKS.values():
            assert attack(server.http_port, sockets, 0.4 * full, first, more)
    limits = metrics(server, "fleetpush_http_limits_total")
    assert {"too_many_headers", "head_too_large"} <= set(limits), limits
    assert "too_many_headers" in server.errors


def metrics(server: Server, name: str) -> dict[str, float]:
    """The values of a metric by its one label."""
    text = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


SILENT: dict[str, Callable[[int], bytes]] = {
    "nothing": lambda _: b"",
    "a request": lambda _: b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a head": lambda number: b"GET / HTTP/1.1\r\n" + (b"X: %d\r\n" % number) * 90,
    "half a body": lambda _: b"POST /v1/pushes HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"x" * 20_000,
}


def test_strangers_who_stay(tmp_path: Path) -> None:
    """A thousand at a server with a thousand descriptors: devices have theirs all the same, and senders theirs."""
    with Server(tmp_path / "data", open_files=FEW_DESCRIPTORS) as server:
        with Canary(server):
            for say in SILENT.values():
                with contextlib.ExitStack() as stay:
                    for number in range(FEW_DESCRIPTORS):
                        place = ("127.0.0.1", server.http_port)
                        stranger = stay.enter_context(socket.create_connection(place, timeout=5))
                        with contextlib.suppress(OSError):
                            stranger.sendall(say(number))
                    assert server.api.request("GET", "/v1/devices").status_code == 200
                    assert descriptors(server.pid) < FEW_DESCRIPTORS / 2
        assert metrics(server, "fleetpush_http_limits_total")["evicted_by_own_address"] > 0
        assert "evicted_by_own_address" in server.errors


@pytest.mark.full_only
def test_one_request_that_is_all_mistakes(server: Server, full: int) -> None:
    """A request of a device with its own token, and one of a sender: refused unparsed, or parsed a part at a time."""
    device = server.api.enrol()
    owner = Api(server.url, device.token)
    unknown = b",".join(b'"%x":1' % number for number in range(360_000))
    empty = b"[]," * 1_300_000 + b"[]"
    list_of_empty = empty * (3 if full > 1 else 1)  # 16 MiB take 15 s, a millisecond at a time
    ndjson = {"Content-Type": "application/x-ndjson"}
    requests: list[tuple[Api, str, str, bytes, dict[str, str]]] = [
        (owner, "PATCH", f"/v1/devices/{device.id}/preferences", b"{" + unknown + b"}", {}),
        (owner, "PATCH", f"/v1/devices/{device.id}/preferences", b"{" + unknown[:30_000] + b'"x":1}', {}),
        (server.api, "POST", "/v1/pushes", b"{" + unknown + b"}", {}),
        (server.api, "POST", "/v1/pushes", b'{"target":{"all":true},"data":[' + empty + b"]}", {}),
        (server.api, "POST", "/v1/pushes/batch", b"\n" * 16_000_000, ndjson),
        (server.api, "POST", "/v1/pushes/batch", b"\n".join([b"{" + unknown[:1_500] + b'"x":1}'] * 9_000), ndjson),
        (server.api, "POST", "/v1/devices/bulk", b'{"devices":[' + list_of_empty + b"]}", {}),
        (server.api, "POST", "/v1/devices/bulk", b'{"devices":[[' + list_of_empty + b"]]}", {}),
        (server.api, "POST", "/v1/devices/bulk", b'{"devices":["' + b'\\"' * 5_000_000, {}),
    ]
    with Canary(server):
        for _ in range(full):
            for api, method, path, body, headers in requests:
                headers = headers or {"Content-Type": "application/json"}
                answer = api.request(method, path, content=body, headers=headers)
                assert answer.status_code in (200, 201, 400, 413, 422), answer.text
    owner.close()
