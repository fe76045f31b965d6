"""Attacks that nobody had listed: each once kept everybody waiting, or filled the memory, and is bounded now."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.end_to_end.harness import Server
from tests.hostile.canary import Canary

ATTACK_SECONDS = 2.5


def request(method: str, path: str, key: str | None = None, body: object = None) -> bytes:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/x-ndjson" if path.endswith("/batch") else "application/json"
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += [] if key is None else [f"Authorization: Bearer {key}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


async def _ask(port: int, asked: bytes, until: float, statuses: Counter[int]) -> None:
    while time.monotonic() < until:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                while time.monotonic() < until:
                    writer.write(asked)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    statuses[int(head[9:12])] += 1
                    await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
                    if b"connection: close" in head:
                        break


def _hammer(port: int, requests: list[bytes], connections: int, said: Any) -> None:
    async def ask_all() -> Counter[int]:
        until = time.monotonic() + ATTACK_SECONDS
        statuses: Counter[int] = Counter()
        async with asyncio.TaskGroup() as group:
            for number in range(connections):
                group.create_task(_ask(port, requests[number % len(requests)], until, statuses))
        return statuses

    os.nice(10)  # an attacker has a machine of its own
    said.send(asyncio.run(ask_all()))


def hammer(server: Server, requests: list[bytes], connections: int) -> Counter[int]:
    """Ask again and again on so many connections, in a process of its own; the statuses that came."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_hammer, args=(server.http_port, requests, connections, theirs))
    process.start()
    statuses: Counter[int] = ours.recv()
    process.join()
    return statuses


def metric(server: Server, name: str) -> float:
    lines = server.api.request("GET", "/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def app_key(server: Server, name: str, *scopes: str) -> str:
    server.api.call("POST", "/v1/apps", 201, json={"id": name})
    answer = server.api.call("POST", "/v1/keys", 201, json={"name": name, "scopes": scopes, "app": name})
    return str(answer["key"])


def test_strangers_who_ask_for_what_needs_no_key(tmp_path: Path) -> None:
    """It was 500 requests in each turn of the loop, 3 ms each."""
    pages = ["/metrics", "/openapi.json", "/docs", "/v1/pushes/x"]
    with Server(tmp_path / "data") as server:
        with Canary(server):
            statuses = hammer(server, [request("GET", page) for page in pages], 480)
        assert set(statuses) == {200, 401}
        assert metric(server, "fleetpush_http_requests_waited_total") > 100
