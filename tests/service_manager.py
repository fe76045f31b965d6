"""The receiving end of a service manager: the datagrams of sd_notify(3), read as they are written."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self


class NotifySocket:
    """The socket that NOTIFY_SOCKET names, in a folder, or abstract (`@name`)."""

    def __init__(self, folder: Path, *, abstract: bool = False) -> None:
        self.address = f"@fleetpush-test-{os.getpid()}-{id(self)}" if abstract else str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.address[1:]}" if abstract else self.address)
        self.told: list[dict[str, str]] = []
        """Every datagram so far: its variables."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def receive(self, timeout: float) -> dict[str, str] | None:
        """The next datagram; None: none came."""
        if not select.select([self._socket], [], [], timeout)[0]:
            return None
        said = dict(line.split("=", 1) for line in self._socket.recv(65_536).decode().split("\n"))
        self.told.append(said)
        return said

    def wait(self, what: Callable[[dict[str, str]], bool], timeout: float = 15.0) -> dict[str, str]:
        """The next datagram of a kind."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            said = self.receive(left)
            if said is not None and what(said):
                return said
        raise AssertionError(f"not told of it; last of all: {self.told[-3:]}")

    def empty(self) -> None:
        """Drop what has come."""
        while self.receive(0) is not None:
            pass
