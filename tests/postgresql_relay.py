"""The network between a server and its PostgreSQL, which a test can cut, stop and open again."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

_CHUNK_BYTES = 65_536


class PostgresqlRelay:
    """A TCP port that leads to a PostgreSQL on a socket in a folder. `address` has the port instead of the folder."""

    def __init__(self, address: str) -> None:
        self.target_address = address
        parts = urlsplit(address)
        self._target = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._passes = threading.Event()
        self._passes.set()
        self._is_closed = False
        self._ends: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"postgresql://fleetpush@127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> PostgresqlRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.close()
        self._passes.set()

    def freeze(self) -> None:
        """Take everything, and bring nothing: no end of a connection can be seen."""
        self._passes.clear()

    def cut(self) -> None:
        """End all connections; new ones pass."""
        for end in list(self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections, and each new one at once."""
        self._is_closed = True
        self.cut()

    def open(self) -> None:
        """Let new connections pass again."""
        self._is_closed = False

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            if self._is_closed:
                ours.close()
                continue
            theirs = socket.socket(socket.AF_UNIX)
            theirs.connect(self._target)
            self._ends |= {ours, theirs}
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                self._passes.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._ends.discard(source)
        source.close()
