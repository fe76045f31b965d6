"""The loop and the threads of a server in turns, so that what it does is the same each time, and can be counted.

A server's loop and its writers run beside each other: how many operations share a transaction depends on the hour.
Here the threads run only while the loop has nothing to do, one after the other, each until it has nothing to do either;
time is the loop's own, and passes only when everybody waits. So everything that is submitted in one turn is one group,
as on a machine whose disk is slower than its processor.

What waits for work is replaced for that: `queue.SimpleQueue` (the store of sessions, executors) and the queue of the
ledger's writer. Everything else is the server's.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import secrets
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from gateway.store import database
from gateway.store.write_queue import WriteOperation, WriteQueue

STUCK_SECONDS = 60.0
"""Real time after which a thread's turn should have ended."""


class Turns:
    """Gives threads their turns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._has_turn: Place | int | None = None
        """Where a thread may begin; the thread that has begun; None: the loop's turn."""
        self._places: list[Place] = []

    def place(self, has_work: Callable[[], bool]) -> Place:
        """Make a place at which threads wait for work."""
        place = Place(self, has_work)
        self._places.append(place)
        return place

    def run_threads(self) -> bool:
        """Let every thread that has work do it; return False if none had any. Runs on the *loop*."""
        worked = False
        for place in list(self._places):
            while place.has_work():
                worked = True
                with self._changed:
                    self._has_turn = place
                    self._changed.notify_all()
                    if not self._changed.wait_for(lambda: self._has_turn is None, STUCK_SECONDS):
                        raise RuntimeError("a thread does not come back for more work")
        return worked

    def wait(self, place: Place) -> None:
        """Give the turn back, and wait for the next one. Runs on the thread."""
        me = threading.get_ident()
        with self._changed:
            if self._has_turn == me:
                self._has_turn = None
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._has_turn is place)
            self._has_turn = me


class Place:
    """A place at which threads wait for work."""

    def __init__(self, turns: Turns, has_work: Callable[[], bool]) -> None:
        self._turns = turns
        self.has_work = has_work

    def wait(self) -> None:
        """Return when there is work, and it is this thread's turn to do it."""
        self._turns.wait(self)


class TurnsLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only when neither it nor a thread has anything to do."""

    def __init__(self, turns: Turns) -> None:
        self._seconds = 0.0
        self.clocks: list[Callable[[float], None]] = []
        """Called with the loop's time whenever some has passed."""
        super().__init__(_TurnsSelector(turns, self))

    def time(self) -> float:
        return self._seconds

    def pass_time(self, seconds: float) -> None:
        self._seconds += seconds
        for clock in self.clocks:
            clock(self._seconds)


class _TurnsSelector(selectors.DefaultSelector):
    def __init__(self, turns: Turns, loop: TurnsLoop) -> None:
        super().__init__()
        self._turns = turns
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0 or self._turns.run_threads():
            return super().select(0)
        if timeout is None:
            raise RuntimeError("everybody waits, and for nothing")
        self._loop.pass_time(timeout)
        return super().select(0)


def take_turns() -> TurnsLoop:
    """Make a loop in turns with all threads that are started from now on. For a process of its own.

    The clock stands still for whoever slices work by it, and chance is the same each time.
    """
    turns = Turns()

    class TurnsQueue:
        """`queue.SimpleQueue`, whose items are taken in turns."""

        def __init__(self) -> None:
            self._items: deque[Any] = deque()
            self._place = turns.place(lambda: bool(self._items))

        def put(self, item: Any) -> None:
            self._items.append(item)

        def get(self, block: bool = True) -> Any:
            if not block:
                return self.get_nowait()
            self._place.wait()
            return self._items.popleft()

        def get_nowait(self) -> Any:
            raise queue.Empty  # what there is is taken in turns

    class TurnsWriteQueue(WriteQueue):
        """The writer's queue, which is emptied in turns."""

        def __init__(self) -> None:
            super().__init__()
            self._operations = 0
            self._place = turns.place(lambda: self._operations > 0)

        def put(self, operation: WriteOperation) -> None:
            self._operations += 1
            super().put(operation)

        def put_back(self, operations: Any) -> None:
            self._operations += len(operations)
            super().put_back(operations)

        def next_group(self, most: int) -> list[WriteOperation]:
            self._place.wait()
            group = super().next_group(most)
            self._operations -= len(group)
            return group

    replaced: Mapping[tuple[Any, str], Any] = {
        (queue, "SimpleQueue"): TurnsQueue,
        (database, "WriteQueue"): TurnsWriteQueue,
        (time, "monotonic"): itertools.repeat(time.monotonic()).__next__,
        (secrets, "token_bytes"): random.Random(0).randbytes,
    }
    for (module, name), replacement in replaced.items():
        setattr(module, name, replacement)
    return TurnsLoop(turns)
