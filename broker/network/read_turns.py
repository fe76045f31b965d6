"""Turns of busy sockets: a large read of one client is processed in parts, so that others are served in between.

A read of up to `PART_BYTES` is processed as it comes: that is all that most clients send, and it costs one comparison.
A larger one waits here, its socket is not read meanwhile, and parts of it are processed in the loop's next turns.

Laws
1. In one turn of the loop a connection is served for `CONNECTION_SECONDS`, and all that wait here together for
   `TURN_SECONDS`; each for a part at least.
2. A connection that was served goes to the end of the line.

The budget is a share of the loop: busy connections cost others at most `TURN_SECONDS` for each turn, however
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
    """A connection that waits for its turn."""

    def read_on(self, until: float) -> bool:
        """Process one part of the bytes, and further ones until `until` (`time.monotonic`).

        Return True if there are more, for another turn.
        """


class ReadTurns:
    """The line of busy connections of one *loop*."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[BusyReader, None] = {}
        """Connections in the order of their turns."""
        self._scheduled = False

    def add(self, reader: BusyReader) -> None:
        """Add a connection to the line. Harmless while it is in it."""
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
