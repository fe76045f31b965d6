"""A webhook's receiver that answers without end delays nobody; its address is in no log."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.end_to_end.harness import Server, wait_for
from tests.hostile.canary import Canary

ATTACK_SECONDS = 1.5
WEBHOOKS = 3
ANSWERS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


@asynccontextmanager
async def receiver(first: bytes, again: bytes) -> AsyncIterator[int]:
    """Answers so for ever; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            while True:
                writer.write(again * 1_000)
                await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def receiving(first: bytes, again: bytes) -> Iterator[int]:
    """A receiver on a thread with its own loop."""
    ready, over = threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with receiver(first, again) as port:
            ports.append(port)
            ready.set()
            await asyncio.to_thread(over.wait)
        answering = asyncio.all_tasks() - {asyncio.current_task()}
        if answering:  # the server's end aborts their connections
            await asyncio.wait(answering)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield ports[0]
    over.set()
    thread.join()


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "continue" else pytest.mark.full_only) for kind in ANSWERS]
)
def test_an_answer_without_end(tmp_path: Path, kind: str) -> None:
    options = ("--webhook-networks", "127.0.0.0/8", "--log-level", "debug")
    with receiving(*ANSWERS[kind]) as port, Server(tmp_path / "data", *options) as server:
        url = f"http://127.0.0.1:{port}/hook?token=sesame"
        hooks = [server.api.call("POST", "/v1/webhooks", 201, json={"url": url}) for _ in range(WEBHOOKS)]
        devices = server.api.enrol_many(f"d{number}" for number in range(16))

        def attempted() -> bool:
            answer = server.api.call("GET", f"/v1/webhooks/{hooks[-1]['id']}", 200)
            return bool(answer["failed_at"] or answer["succeeded_at"])

        with Canary(server):
            until = time.monotonic() + ATTACK_SECONDS
            number = 0
            while time.monotonic() < until:
                number += 1
                hours = {"start": f"{number % 24:02}:00", "end": "23:59"}
                for device in devices:
                    server.api.call("PATCH", f"/v1/devices/{device.id}/preferences", 200, json={"quiet_hours": hours})
            wait_for(attempted, timeout=40, what="an attempt to have ended")
        assert "sesame" not in server.errors
