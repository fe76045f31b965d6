"""Many sockets in one event loop, and what the broker's process costs while they are open."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

SECONDS = 10.0
"""How long anything may take that has to come."""


class Peer:
    """One connection to the broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, came: float) -> None:
        self.reader = reader
        self.writer = writer
        self.came = came
        """When it began to connect."""

    @classmethod
    async def open(cls, port: int) -> Peer:
        came = time.monotonic()
        return cls(*await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), SECONDS), came)

    async def send(self, *packets: bytes) -> None:
        """A connection that ends meanwhile is no error here: the end is what is looked at."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(b"".join(packets))
            await asyncio.wait_for(self.writer.drain(), SECONDS)

    async def read(self, seconds: float = SECONDS) -> bytes:
        """The next packet; b"" at the end."""
        try:
            async with asyncio.timeout(seconds):
                head = await self.reader.readexactly(2)
                length = head[1] & 0x7F
                shift = 7
                while head[-1] & 0x80:
                    head += await self.reader.readexactly(1)
                    length |= (head[-1] & 0x7F) << shift
                    shift += 7
                return head + await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def enter(self, connect: bytes) -> None:
        await self.send(connect)
        connack = await self.read()
        assert connack[:1] == b"\x20", connack.hex(" ")
        assert connack[3] == 0, connack.hex(" ")

    async def until_end(self, seconds: float = SECONDS) -> bytes:
        """Read until the server closes the connection; TimeoutError if it does not."""
        data = b""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65_536):
                    data += part
        return data

    def reset(self) -> None:
        """End with RST: no goodbye, not even TCP's."""
        raw = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), SECONDS)


@contextlib.asynccontextmanager
async def peers(port: int, count: int) -> AsyncIterator[list[Peer]]:
    """Open so many connections; a hundred SYNs at a time."""
    opened: list[Peer] = []
    try:
        while len(opened) < count:
            batch = min(100, count - len(opened))
            opened += await asyncio.gather(*(Peer.open(port) for _ in range(batch)))
        yield opened
    finally:
        for peer in opened:
            peer.reset()
        await asyncio.gather(*(peer.close() for peer in opened))


def connect_silently(
    ending: contextlib.ExitStack, address: tuple[str, int], seconds: float, most: int, source: str | None = None
) -> None:
    """Open connections for so many seconds, and say nothing. Of more than `most` the first ends, and the rest with
    `ending`: a test that fails leaves none to the collector, which would complain of them in another test."""
    silent: deque[socket.socket] = deque()

    def close() -> None:
        for raw in silent:
            raw.close()

    ending.callback(close)
    source_address = None if source is None else (source, 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            silent.append(socket.create_connection(address, timeout=5, source_address=source_address))
        if len(silent) > most:
            silent.popleft().close()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, "Linux says so"
    return int(found[1]) * 1024


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def becomes(value: Callable[[], int], wanted: int, seconds: float = SECONDS) -> int:
    """The kernel's books have no event to wait for: look until they say what is wanted; the last that they said."""
    until = time.monotonic() + seconds
    while (now := value()) != wanted and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return now
