"""The writer's queue: the server's own operations in their order, and those of apps in turn.

The life of a delivery relies on the order in which the loop submits operations (no `app_no`). What an app asks for by
itself (enrolling, changing, removing) waits in a queue of that app: apps take turns, one operation each, and the
server's own come in between, so that an app with a thousand changes waits for itself. Two orders hold:

- operations of one queue run in the order of submission;
- an app's operation runs after all of the server's own that were submitted before it.

`put` belongs to the loop's thread, `backlog` to any, everything else to the writer's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.store.app_locks import DeclaredApps
from gateway.store.transaction import Transaction


@dataclass(slots=True, eq=False)
class WriteOperation:
    """An operation for the writer, with its callbacks on the loop."""

    run: Callable[[Transaction], Any]
    on_commit: Callable[[Any], None]
    on_error: Callable[[BaseException], None]
    app_no: int | None = None
    """The app that asks for it by itself; None: the server's own."""
    uses_reserve: bool = True
    """Whether the disk's reserve may be given up for it."""
    apps: DeclaredApps = None
    """What was declared of the apps whose rows it may write; `apps_of` says which they are."""
    is_shared: bool = False
    """Whether it writes nothing: `apps` are those whose rows it reads, and nobody may write meanwhile."""
    number: int = 0
    """Number in the order of submission."""
    put_at: float = 0.0
    """Time of submission, in seconds of a monotonic clock."""
    result: Any = None
    error: BaseException | None = None


class WriteQueue:
    """The operations that wait for the writer thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._own: deque[WriteOperation] = deque()
        self._apps: dict[int, deque[WriteOperation]] = {}
        """Only those that have something waiting; the first is the next to have its turn."""
        self._number = 0
        self._own_is_next = True
        self._closed = False

    def put(self, operation: WriteOperation) -> None:
        with self._changed:
            self._number += 1
            operation.number = self._number
            operation.put_at = time.monotonic()
            app_no = operation.app_no
            queue = self._own if app_no is None else self._apps.setdefault(app_no, deque())
            queue.append(operation)
            self._changed.notify()

    def waiting(self, app_no: int) -> int:
        """Operations of an app that wait."""
        return len(self._apps.get(app_no, ()))

    def backlog(self) -> tuple[int, float | None]:
        """Count the operations that wait, and since when the oldest does, as `WriteOperation.put_at`. Any thread."""
        with self._changed:
            queues = [queue for queue in (self._own, *self._apps.values()) if queue]
            return sum(map(len, queues)), min((queue[0].put_at for queue in queues), default=None)

    def close(self) -> None:
        """Accept nothing more: what is in the queue is still done, then `next_group` answers nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def next_group(self, most: int) -> list[WriteOperation]:
        """Wait for the next operations, `most` at most; none when the queue is closed and empty."""
        taken: list[WriteOperation] = []
        with self._changed:
            self._changed.wait_for(lambda: self._own or self._apps or self._closed)
            while len(taken) < most and (self._own or self._apps):
                taken.append(self._next())
        return taken

    def _next(self) -> WriteOperation:
        app_no = next(iter(self._apps), None)
        if app_no is not None and self._own:
            first = self._own[0].number
            app_no = next((app_no for app_no, queue in self._apps.items() if queue[0].number < first), None)
        if app_no is None or (self._own and self._own_is_next):
            self._own_is_next = False
            return self._own.popleft()
        self._own_is_next = True
        queue = self._apps.pop(app_no)
        operation = queue.popleft()
        if queue:
            self._apps[app_no] = queue  # behind the others
        return operation

    def put_back(self, operations: Sequence[WriteOperation]) -> None:
        """Return operations that were taken last and not run for want of time."""
        with self._changed:
            for operation in reversed(operations):
                if operation.app_no is None:
                    self._own.appendleft(operation)
                else:
                    self._apps.setdefault(operation.app_no, deque()).appendleft(operation)
