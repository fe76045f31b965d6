"""The HTTP server inside our own loop: uvicorn, with connections of our own (`http_connection`).

uvicorn runs as a task of the composition root, which owns the sockets and the signals.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import uvicorn
from fastapi import FastAPI

from gateway.api.connection_limiter import ConnectionLimiter
from gateway.api.http_connection import HttpConnection
from gateway.api.request_turns import RequestTurns

KEEP_ALIVE_SECONDS: Final = 75
"""An idle connection; more than the 60 s after which common proxies give theirs up, so that they close first."""
DRAIN_SECONDS: Final = 10
"""Time for requests that are being answered when the server ends."""
BACKLOG_CONNECTIONS: Final = 4_096


class HttpServer(uvicorn.Server):
    """The HTTP server of the gateway. `await start(..)`, then `await stop()`; `ended` is done when it stops, whatever
    the reason. Runs on the *loop*."""

    def __init__(
        self,
        *,
        app: FastAPI,
        websocket: Callable[[], asyncio.Protocol],
        limiter: ConnectionLimiter,
        trusted_proxies: Sequence[str],
        turns: RequestTurns,
        share_of_holder: Callable[[Sequence[tuple[bytes, bytes]], str], str | None],
    ) -> None:
        """`websocket` makes the protocol that takes an open connection over: it gets the head of the request first.
        X-Forwarded-For and X-Forwarded-Proto are believed from `trusted_proxies`, addresses and networks. `turns`:
        those that others take as well; `share_of_holder` as in `HttpConnection`."""
        self._connection = partial(
            HttpConnection,
            limiter=limiter,
            turns=turns,
            share_of_holder=share_of_holder,
            websocket=websocket,
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=self._connection,  # type: ignore[arg-type]  # what makes one; it has no use for the class
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,  # a line per request costs more than the request, and paths may hold anything
                server_header=False,
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                backlog=BACKLOG_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self.ended: asyncio.Task[None]
        self._listening = asyncio.Event()

    async def start(self, listener: socket.socket | None) -> None:
        """Serve on a bound socket. None: on connections that somebody else accepts for `protocol`. Returns when
        requests are answered."""
        sockets = [] if listener is None else [listener]
        self.ended = asyncio.get_running_loop().create_task(self.serve(sockets=sockets))
        listening = asyncio.ensure_future(self._listening.wait())
        await asyncio.wait([listening, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            listening.cancel()
            self.ended.result()

    def protocol(self) -> asyncio.BaseProtocol:
        """Make the protocol of one more connection; from `start` on."""
        return self._connection(self.config, self.server_state, self.lifespan.state)

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
