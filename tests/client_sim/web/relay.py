"""A cable that can be cut: what the browser says goes through it to the server, byte for byte."""

from __future__ import annotations

import socket
import threading
from typing import Self


class Relay:
    """Listens on a port of its own. Cut, it ends what there is and lets nothing through until it is mended."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._whole = True
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        with self._lock:
            self._whole = False
            for end in self._ends:
                self._hang_up(end)

    def mend(self) -> None:
        with self._lock:
            self._whole = True

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends |= {near, far}
            for source, target in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pass, args=(source, target), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass
        with self._lock:
            self._hang_up(target)
            self._ends.discard(source)
        source.close()

    def _hang_up(self, end: socket.socket) -> None:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has hung up itself
