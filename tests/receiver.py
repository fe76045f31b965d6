"""A webhook's receiver: an HTTP server of the standard library that answers as it is told and remembers what it took.

A request is taken when it was answered with 2xx; one that was cut off has not been made. Each one's signature is
computed again by an independent library.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    """With names in small letters."""
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        document = json.loads(self.body)
        assert document["type"] == "events"
        return list(document["data"]["events"])

    def is_signed_with(self, secret: str) -> bool:
        at = datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), tz=UTC)
        expected = Webhook(secret).sign(self.headers["webhook-id"], at, self.body.decode())
        return expected in self.headers["webhook-signature"].split(" ")


Answer = Callable[[Request], tuple[int, dict[str, str]]]
"""Status and headers."""


class Receiver:
    def __init__(self, port: int = 0, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = lambda request: (200, {})
        self.on_request: Callable[[], None] = lambda: None
        """Called on a thread after each answer."""
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        self.at_once = 0
        """Most requests under way at the same time."""
        self._under_way = 0
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver._connections.add(self.connection)

            def do_POST(self) -> None:
                receiver._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http://{host}:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def events(self) -> list[dict[str, Any]]:
        """Taken, in the order of their arrival, each once."""
        with self._lock:
            found = {event["id"]: event for request in self.taken for event in request.events}
        return list(found.values())

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["Content-Length"])
        body = handler.rfile.read(length)
        if len(body) < length:  # its sender was killed between the head and the body
            handler.close_connection = True
            return
        request = Request(handler.path, {name.lower(): value for name, value in handler.headers.items()}, body)
        with self._lock:
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
            self.requests.append(request)
        status, headers = self.answer(request)
        with self._lock:
            if 200 <= status < 300:
                self.taken.append(request)
            self._under_way -= 1
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        self.on_request()
