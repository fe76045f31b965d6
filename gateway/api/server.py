"""The HTTP server inside our own loop: uvicorn, with a bounded head and our own words for what is not HTTP.

uvicorn runs as a task of the composition root, which owns the sockets and the signals. It has gaps that a stranger
could use without a key: the head of a request, of the first and of each later one, may be as long and take as long as
its sender likes, and so may what comes of a body after its answer; and an answer is kept until it is read. Here all of
it has an end: some timer runs whenever no request is being answered, or an answer waits for its reader.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.problems import MEDIA_TYPE
from gateway.errors import problem

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's first line and headers together."""
HEAD_SECONDS = 30.0
"""From the connection to the end of its first request's head; from the first byte on for each later one, and for what
comes of a body after its answer."""
UNREAD_SECONDS = 30.0
"""Without a byte taken of an answer that waits to be sent."""
KEEP_ALIVE_SECONDS = 75
"""An idle connection; more than the 60 s after which common proxies give theirs up, so that they close first."""
DRAIN_SECONDS = 10
"""For requests that are being answered when the server ends."""
GOODBYE_SECONDS = 0.2
"""For an idle connection to hang up after us, when the server ends: over TLS its goodbye is waited for, and a pool of
connections that nobody looks at says none."""
BACKLOG = 4_096


MQTT_PATH = "/mqtt"
"""Where this port speaks MQTT over WebSocket."""


class HttpProtocol(HttpToolsProtocol):
    _head: int | None = 0
    """Bytes of the head that is being read; None while a body is."""
    _impatient: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if self.client is not None and self.client[0].startswith("::ffff:"):
            # IPv4 on a socket for both: uvicorn compares it with the trusted proxies as it stands.
            self.client = self.client[0].removeprefix("::ffff:"), self.client[1]
        self._impatient = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        self._stop_watching()
        super().connection_lost(exc)

    def _be_patient(self) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response(f"the head of a request may have {HEAD_LIMIT} bytes")
        if self.timeout_keep_alive_task is None and self._impatient is None:
            self._await_more()

    def _await_more(self) -> None:
        """What came was not the idle connection's next request, or not all of it, and uvicorn waits no longer."""
        if self not in self.connections or self.transport.is_closing():
            return  # somebody else's by now
        if not self.cycle.response_complete:
            return  # it is our turn
        if self._head == 0:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._impatient = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_headers_complete(self) -> None:
        self._head = None
        self._be_patient()
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        self._head = self._head or 1
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._head = 0
        self._be_patient()
        super().on_message_complete()

    def _should_upgrade_to_ws(self) -> bool:
        """Elsewhere an upgrade is a request like any other: nothing is there."""
        return self.url.partition(b"?")[0] == MQTT_PATH.encode()

    def _unsupported_upgrade_warning(self) -> None:
        """It would advise to install a library."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch_reader()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_reader()

    def _watch_reader(self) -> None:
        """Until all is sent: who takes nothing of it is cut off. Without that neither its answer nor `close` ends."""
        self._stop_watching()
        if waiting := self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(UNREAD_SECONDS, self._look, waiting)

    def _look(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._watch_reader()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def handle_websocket_upgrade(self) -> None:
        self._be_patient()
        self._stop_watching()
        super().handle_websocket_upgrade()
        # It refers to us and we to it: such a circle would stay in memory until the collector comes. Nobody parses here
        # any more.
        self.parser = None  # type: ignore[assignment]  # as in its connection_lost

    def shutdown(self) -> None:
        """TLS waits for the other side's goodbye, and a client that is idle does not read ours."""
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        content = json.dumps(problem("malformed_request", msg).document()).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + content)
        self.transport.close()


class HttpServer(uvicorn.Server):
    """`await start(..)`, then `await stop()`. `ended` is done when it stops, whatever the reason."""

    def __init__(
        self, app: FastAPI, websocket: Callable[[], asyncio.Protocol], trusted_proxies: Sequence[str] = ()
    ) -> None:
        """`websocket` makes the protocol that takes an open connection over: it gets the head of the request first.
        X-Forwarded-For and X-Forwarded-Proto are believed from `trusted_proxies`, addresses and networks."""
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws=lambda **_: websocket(),  # type: ignore[arg-type]  # what it calls it with we do not need
                lifespan="off",
                log_config=None,
                access_log=False,  # a line per request costs more than the request, and paths may hold anything
                server_header=False,
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self.ended: asyncio.Task[None]
        self._listening = asyncio.Event()

    async def start(self, listener: socket.socket | None) -> None:
        """Serve on a bound socket, or on connections that somebody else accepts for `protocol`; returns when requests
        are answered."""
        sockets = [] if listener is None else [listener]
        self.ended = asyncio.get_running_loop().create_task(self.serve(sockets=sockets))
        listening = asyncio.ensure_future(self._listening.wait())
        await asyncio.wait([listening, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            listening.cancel()
            self.ended.result()

    def protocol(self) -> asyncio.Protocol:
        """Of one more connection; from `start` on."""
        return HttpProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def stop(self) -> None:
        """Take no more connections, answer what was asked, close."""
        self.should_exit = True
        await self.ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:  # the composition root has them
        yield
