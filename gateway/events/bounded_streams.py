"""Network streams that bound what a receiver's answer may cost. Every byte of it counts, and others have their turn.

An HTTP parser works through everything that a read brings before anybody else runs, and what costs it time need not be
a body: `100 Continue` without end, headers, chunks of one byte, trailers, or a byte at a time. So it is given little at
once, all of it counts, and beyond a common answer's size all receivers together have one read per EXTRA_READ_SECONDS.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2

ANSWER_BYTES = 16_384
"""Bytes of everything that a receiver sends in answer to one request, unless its client says otherwise."""
READ_BYTES = 1_024
"""Given to the parser at a time: 170 chunks of one byte, which cost it 4 ms. A common answer has a fifth of it."""
LEAST_COUNTED_BYTES = 64
"""Bytes that a read counts as, at least: who sends byte by byte has 256 reads."""
EXTRA_READ_SECONDS = 0.01
"""Time between two reads beyond the first READ_BYTES of an answer, of all receivers: a third of the loop at most."""


class AnswerTooLong(Exception):
    """A receiver has sent more bytes than an answer may have."""


class ExtraReads:
    """Turns at reading long answers."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        async with self._lock:
            await asyncio.sleep(EXTRA_READ_SECONDS)


class BoundedStream(httpcore2.AsyncNetworkStream):
    """Counts from the last write on: each request has its answer."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, extra: ExtraReads, answer_bytes: int) -> None:
        self._stream = stream
        self._extra = extra
        self._answer_bytes = answer_bytes
        self._counted = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._counted >= self._answer_bytes:
            raise AnswerTooLong(f"its answer has more than {self._answer_bytes} bytes, headers included")
        if self._counted >= READ_BYTES:
            await self._extra.turn()
        data = await self._stream.read(min(max_bytes, READ_BYTES), timeout)
        self._counted += max(len(data), LEAST_COUNTED_BYTES)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._counted = 0
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return BoundedStream(stream, self._extra, self._answer_bytes)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class BoundedNetwork(httpcore2.AsyncNetworkBackend):
    """Makes such streams for a pool of connections."""

    def __init__(self, extra: ExtraReads, answer_bytes: int = ANSWER_BYTES) -> None:
        self._backend = httpcore2.AnyIOBackend()
        self._extra = extra
        self._answer_bytes = answer_bytes

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return BoundedStream(stream, self._extra, self._answer_bytes)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
