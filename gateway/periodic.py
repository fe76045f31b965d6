"""Work that is done again and again while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


async def repeat(seconds: float, *works: Callable[[], object]) -> None:
    """Call each of them, again and again, until cancelled. One that fails is logged, and keeps no other from its turn:
    the end of a lifetime must not hang on a webhook."""
    while True:
        for work in works:
            try:
                work()
            except Exception:
                log.exception("what is due could not be done, trying again")
        await asyncio.sleep(seconds)


class ServerTimers:
    """Timers of the *loop*, until the server ends. What was to be looked at or tried again later then has no database
    any more, and the next start looks at it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.call_soon: Callable[[Callable[[], None]], object] = loop.call_soon
        self._loop = loop
        self._ended = False

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        return self._loop.call_later(delay, self._call, callback)

    def end(self) -> None:
        self._ended = True

    def _call(self, callback: Callable[[], None]) -> None:
        if not self._ended:
            callback()
