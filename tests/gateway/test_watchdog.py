"""A writer that hangs is found by an operation that does not come back, and one that is merely busy is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from broker.sqlite_store import SqliteStore
from gateway.store.database import Database
from gateway.watchdog import Watchdog, WriterProbe


class Writer:
    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.excused = False
        self.probe = WriterProbe("the writer", self.waiting.append, is_waiting=lambda: self.excused)


def test_an_operation_that_does_not_come_back_is_a_stall() -> None:
    writer, other = Writer(), Writer()
    now = 0.0
    watchdog = Watchdog([other.probe, writer.probe], lambda: now, 60.0)
    assert watchdog.fault() is None
    for later in (10.0, 60.0):
        now = later
        other.waiting.pop()()
        assert watchdog.fault() is None
        assert len(writer.waiting) == 1, "one at a time"
    now = 61.0
    assert watchdog.fault() == "the writer has been at one operation for 61 s"
    writer.waiting.pop()()
    assert watchdog.fault() is None
    assert len(writer.waiting) == 1


def test_a_writer_that_waits_for_the_disk_is_alive() -> None:
    writer = Writer()
    now = 0.0
    watchdog = Watchdog([writer.probe], lambda: now, 60.0)
    writer.excused = True
    for later in (0.0, 50.0, 100.0, 150.0):
        now = later
        assert watchdog.fault() is None
    writer.excused = False
    now = 200.0
    assert watchdog.fault() is None, "it has had 50 seconds"
    now = 211.0
    assert watchdog.fault() is not None


async def test_the_writers_of_a_server(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "test.db", lambda stored: lambda: 1, on_full=lambda: False)
    sessions = SqliteStore(tmp_path / "broker.db", asyncio.get_running_loop())
    came_back = asyncio.Event()
    now = 0.0

    def ask(done: Callable[[], None]) -> None:
        def answered(_: object) -> None:
            done()
            came_back.set()

        database.submit(lambda connection: None, answered, answered)

    probes = [
        WriterProbe("the ledger", ask, is_waiting=lambda: False),
        WriterProbe("the sessions", sessions.barrier, is_waiting=lambda: sessions.error is not None),
    ]
    watchdog = Watchdog(probes, lambda: now, 60.0)
    hanging = threading.Event()
    database.submit(lambda connection: hanging.wait(), lambda _: None, lambda _: None)
    assert watchdog.fault() is None
    now = 61.0
    assert watchdog.fault() == "the ledger has been at one operation for 61 s"
    hanging.set()
    await asyncio.wait_for(came_back.wait(), 15)
    assert watchdog.fault() is None
    await sessions.close()
    await database.close()
