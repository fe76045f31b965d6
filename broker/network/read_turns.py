"""Busy sockets take turns: what one client says in a heap is handled in parts, so that others are served in between.

A read of up to `PART_BYTES` is handled as it comes; that is what all clients send that are not in a hurry, and it costs
one comparison. A larger one waits here, its socket is not read meanwhile, and parts of it are handled whenever the loop
comes by.

Laws
1. In one turn of the loop a connection is served for `CONNECTION_SECONDS`, and all that wait here together for
   `TURN_SECONDS`; each for a part at least.
2. Who was served goes to the end of the line.

The budget is a share of the loop: what busy connections cost others is at most `TURN_SECONDS` for each turn, however
many there are; while nobody else wants the loop, they get all of it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

PART_BYTES: Final = 2_048
"""A thousand PINGREQs, or the acknowledgements of a whole window (`max_inflight`): 5 ms at most, most of it system
calls for answers."""
CONNECTION_SECONDS: Final = 0.002
TURN_SECONDS: Final = 0.01


class BusyReader(Protocol):
    def read_on(self, until: float) -> bool:
        """Handle a part of what was read, and further ones until `until` (`time.monotonic`). True: there is more, and
        it wants another turn."""


class ReadTurns:
    """Of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[BusyReader, None] = {}
        """In their order."""
        self._scheduled = False

    def add(self, reader: BusyReader) -> None:
        """Give it a turn soon. Harmless while it waits for one."""
        self._waiting.setdefault(reader)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        waiting = self._waiting
        now = time.monotonic()
        until = now + TURN_SECONDS
        for reader in list(waiting):
            del waiting[reader]
            if reader.read_on(now + CONNECTION_SECONDS):
                waiting[reader] = None
            now = time.monotonic()
            if now >= until:
                break
        if waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)
