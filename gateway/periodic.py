"""Work that is done again and again while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


async def repeat(seconds: float, *works: Callable[[], object]) -> None:
    """Call each of them, again and again, until cancelled. One that fails is told of, and keeps no other from its turn:
    the end of a lifetime must not hang on a webhook."""
    while True:
        for work in works:
            try:
                work()
            except Exception:
                log.exception("what is due could not be done, trying again")
        await asyncio.sleep(seconds)
