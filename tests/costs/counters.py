"""What work costs, counted and not timed: steps of SQLite's machine, statements, pages, calls.

A count does not say how long a thing takes. But it is the same on a busy machine and on an idle one, so that a change
of one part in fifty shows.

`Counters` has to be made before the threads and connections that it counts.
"""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

from broker.sqlite_file import PAGE_BYTES

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = (f"{ROOT}/broker/", f"{ROOT}/gateway/")
TESTS = f"{ROOT}/tests/"
LOOPS_AND_THREADS = ("/asyncio/", "/concurrent/", "/queue.py", "/selectors.py", "/threading.py", "/weakref.py")
"""Parts of the paths of what is in C in a server (uvloop), or is another one here (`turns`)."""
LOG_HEADER_BYTES = 32
FRAME_BYTES = 24 + PAGE_BYTES
"""Of a write-ahead log, as in https://www.sqlite.org/fileformat2.html#the_write_ahead_log"""

COUNTERS = {
    "steps": "instructions of SQLite's virtual machine",
    "statements": "SQL statements, those of executemany one by one",
    "commits": "transactions that write, each an fsync",
    "pages": "pages of 4 KiB in the write-ahead logs",
    "calls": "calls of Python functions of broker and gateway, each resumption of a coroutine included",
    "library_calls": "calls of Python functions of others, but for loops and threads",
    "c_calls": "calls that broker and gateway make of what is written in C",
}


@dataclass(frozen=True)
class Cost:
    """What work took."""

    counts: dict[str, float]
    """By the names of `COUNTERS`."""
    functions: dict[str, float]
    """Calls of each function of ours."""

    def per(self, count: int) -> Cost:
        return Cost(
            {name: total / count for name, total in self.counts.items()},
            {name: total / count for name, total in self.functions.items()},
        )


class Counters:
    """Counts what all threads do, from `start` to `stop`."""

    def __init__(self, databases: Sequence[Path]) -> None:
        """`databases`: those whose pages count, in WAL mode and with fewer pages per count than a checkpoint has."""
        self._databases = databases
        self._statements: list[str] = []
        self._steps: list[None] = []
        self._calls: dict[CodeType, int] = {}
        self._c_calls: dict[CodeType, int] = {}
        self._connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def __enter__(self) -> Self:
        sqlite3.connect = self._connect_counted  # type: ignore[assignment]  # the same arguments
        threading.setprofile(self._profile)
        gc.disable()  # what it finds, and so what it calls, depends on what there was before
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        threading.setprofile(None)
        sqlite3.connect = self._connect  # type: ignore[assignment]

    def _connect_counted(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = self._connect(*arguments, **options)
        # Both in C, so that counting calls nothing. The second answers None: anything true would end the statement.
        connection.set_trace_callback(self._statements.append)
        connection.set_progress_handler(partial(self._steps.append, None), 1)
        return connection

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            code = frame.f_code
            self._calls[code] = self._calls.get(code, 0) + 1
        elif event == "c_call":
            code = frame.f_code
            self._c_calls[code] = self._c_calls.get(code, 0) + 1

    def start(self) -> None:
        """Forget what was counted before."""
        for path in self._databases:
            connection = self._connect(path)
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.close()
            assert not busy, "nobody reads or writes now"
        for counted in (self._statements, self._steps, self._calls, self._c_calls):
            counted.clear()
        sys.setprofile(self._profile)

    def stop(self) -> Cost:
        sys.setprofile(None)
        functions: Counter[str] = Counter()
        library_calls = 0
        for code, count in self._calls.items():
            if code.co_filename.startswith(OURS):
                functions[f"{code.co_filename.removeprefix(f'{ROOT}/')} {code.co_qualname}"] += count
            elif not _is_of_the_measurement(code):
                library_calls += count
        counts = {
            "steps": len(self._steps),
            "statements": len(self._statements),
            "commits": self._statements.count("COMMIT"),
            "pages": sum(self._pages()),
            "calls": functions.total(),
            "library_calls": library_calls,
            "c_calls": sum(n for code, n in self._c_calls.items() if code.co_filename.startswith(OURS)),
        }
        return Cost(dict(counts), dict(functions))

    def _pages(self) -> Iterator[int]:
        for path in self._databases:
            log = path.with_name(f"{path.name}-wal")
            yield max(log.stat().st_size - LOG_HEADER_BYTES, 0) // FRAME_BYTES


def _is_of_the_measurement(code: CodeType) -> bool:
    name = code.co_filename
    return name.startswith(TESTS) or any(part in name for part in LOOPS_AND_THREADS)
