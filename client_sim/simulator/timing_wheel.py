"""One timer for all devices of a process: what is due goes into slots of 10 ms, and one call of the loop empties them.

A loop's own `call_later` costs a heap entry and a handle each: ten thousand keep alives, think times and shaped packets
are what this is for. A call is late by up to a slot, and never early. There is no cancelling: whoever is called looks
whether it still matters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

SLOT_SECONDS = 0.01
"""Seconds."""


class TimingWheel:
    """Timers in slots of ten milliseconds: one timer of the loop, whatever waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[tuple[Callable[[Any], None], Any]]] = {}
        self._next = int(loop.time() / SLOT_SECONDS)
        """The first slot that is not emptied yet."""
        self._timer: asyncio.TimerHandle | None = None
        self.lag = 0.0
        """The longest that a slot had to wait since this was last set to 0: the loop was busy."""

    def after(self, delay: float, call: Callable[[Any], None], argument: Any) -> None:
        """`call(argument)` in so many seconds."""
        self.at(time.monotonic() + delay, call, argument)

    def at(self, when: float, call: Callable[[Any], None], argument: Any) -> None:
        """`call(argument)` at a time of `time.monotonic()`. What is asked for with rising times is called in order."""
        # Rounded up, and one further: the slot that is under way may be read already.
        slot = max(int(when / SLOT_SECONDS) + 1, self._next)
        calls = self._slots.get(slot)
        if calls is None:
            self._slots[slot] = [(call, argument)]
        else:
            calls.append((call, argument))

    def start(self) -> None:
        """Begin to turn."""
        self._next = int(self._loop.time() / SLOT_SECONDS)
        self._tick()

    def stop(self) -> None:
        """Stop the wheel and forget what is in its slots."""
        if self._timer is not None:
            self._timer.cancel()
        self._slots.clear()

    def _tick(self) -> None:
        now = self._loop.time()
        slots = self._slots
        end = int(now / SLOT_SECONDS)
        self.lag = max(self.lag, now - (self._next + 1) * SLOT_SECONDS)
        while self._next <= end:
            calls = slots.pop(self._next, None)
            self._next += 1
            if calls is not None:
                for call, argument in calls:
                    call(argument)
        self._timer = self._loop.call_at((self._next + 1) * SLOT_SECONDS, self._tick)
