from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import RetryableProblem
from gateway.store.connections import APP_READER_STATEMENTS
from gateway.store.database import Database
from gateway.store.errors import StorageBusy, StorageDamaged, StorageFull
from gateway.store.server_time import StoredClock
from gateway.store.transaction import Transaction

INSERT = "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (?, '', x'', 0)"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "test.db", lambda last_stored: lambda: 1_000, on_full=lambda: False)
    yield database
    await database.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            pass


def insert(number: int) -> Any:
    def operation(connection: Transaction) -> int:
        connection.execute(INSERT, (number,))
        return number

    return operation


async def numbers(database: Database) -> list[int]:
    rows = await database.read(
        lambda connection: connection.execute("SELECT device_no FROM uplink_message ORDER BY no").fetchall()
    )
    return [number for (number,) in rows]


class Hold:
    """Keeps the writer busy until released, so that what follows becomes one group."""

    def __init__(self, database: Database) -> None:
        self._entered = threading.Event()
        self._released = threading.Event()
        self.done = asyncio.ensure_future(database.write(self._operation))

    def _operation(self, connection: Transaction) -> None:
        self._entered.set()
        assert self._released.wait(10)

    async def entered(self) -> None:
        await asyncio.to_thread(self._entered.wait, 10)

    def release(self) -> None:
        self._released.set()


async def test_what_waits_is_one_group_with_callbacks_in_order(database: Database) -> None:
    hold = Hold(database)
    await hold.entered()
    called: list[int] = []
    writes = []
    for number in range(50):
        database.submit(insert(number), called.append, lambda error: called.append(-1))
        if number % 10 == 0:
            writes.append(asyncio.ensure_future(database.write(insert(100 + number))))
            await asyncio.sleep(0)
    before = database.groups
    hold.release()
    await asyncio.gather(*writes)
    await database.write(lambda connection: None)
    assert called == list(range(50))
    assert database.groups - before <= 3  # the hold's own, the group, the last one


async def test_a_failing_operation_does_not_hurt_its_neighbours(database: Database) -> None:
    hold = Hold(database)
    await hold.entered()

    def fails(connection: Transaction) -> None:
        connection.execute(INSERT, (666,))
        raise ValueError("mine")

    def breaks(connection: Transaction) -> None:
        connection.execute("INSERT INTO nowhere VALUES (1)")

    results = [asyncio.ensure_future(database.write(o)) for o in (insert(1), fails, insert(2), breaks, insert(3))]
    await asyncio.sleep(0)
    hold.release()
    one, two, three, four, five = await asyncio.gather(*results, return_exceptions=True)
    assert (one, three, five) == (1, 2, 3)
    assert isinstance(two, ValueError)
    assert isinstance(four, sqlite3.OperationalError)
    assert await numbers(database) == [1, 2, 3]


async def test_a_full_disk_refuses_what_writes_and_serves_what_reads(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "small.db", lambda last_stored: lambda: 1_000, on_full=lambda: False)

    def shrink(connection: Transaction) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")

    def insert_much(connection: Transaction) -> None:
        connection.execute(
            "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (1, '', zeroblob(100000), 0)"
        )

    await database.write(insert(1))
    await database.write(shrink)
    hold = Hold(database)
    await hold.entered()
    full = asyncio.ensure_future(database.write(insert_much))
    reading = asyncio.ensure_future(
        database.write(lambda connection: connection.execute("SELECT count(*) FROM uplink_message").fetchone())
    )
    await asyncio.sleep(0)
    hold.release()
    with pytest.raises(StorageFull):
        await full
    assert await reading == (1,)
    assert await numbers(database) == [1]
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone())
    await database.write(insert(2))
    await database.close()


async def test_a_really_full_disk_is_survived_and_forgotten(small_disk: Path) -> None:
    database = await Database.open(small_disk / "test.db", lambda last_stored: lambda: 1_000, on_full=lambda: False)
    await database.write(insert(1))
    ballast = small_disk / "ballast"
    fill(ballast)
    outcomes: list[type] = []
    for number in range(100):
        database.submit(insert(2 + number), lambda _: outcomes.append(int), lambda e: outcomes.append(type(e)))
    assert await database.write(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)
    refused = outcomes.count(StorageFull)
    assert refused > 0
    assert refused + outcomes.count(int) == 100
    kept = await numbers(database)
    assert len(kept) == 1 + outcomes.count(int), "what was answered is there, what was refused is not"
    ballast.unlink()
    await database.write(insert(500))
    assert await numbers(database) == [*kept, 500]
    await database.close()


async def test_nothing_is_given_up_for_what_may_be_refused(small_disk: Path) -> None:
    reserve, ballast = small_disk / "reserve", small_disk / "ballast"
    reserve.write_bytes(bytes(64 << 10))
    given_up: list[bool] = []

    def give_up() -> bool:
        there_was_one = reserve.exists()
        reserve.unlink(missing_ok=True)
        given_up.append(there_was_one)
        return there_was_one

    database = await Database.open(small_disk / "test.db", lambda last_stored: lambda: 1_000, on_full=give_up)
    await database.write(insert(1))
    fill(ballast)
    refused: list[type] = []
    number = 1
    while not refused:
        number += 1
        database.submit(insert(number), lambda _: None, lambda error: refused.append(type(error)), uses_reserve=False)
        await database.write(lambda connection: None)
    assert refused == [StorageFull]
    assert not given_up
    assert reserve.exists()

    # The new beside what was accepted, in one group: the one is refused, the other stored.
    may_go_on = threading.Event()
    database.submit(lambda connection: may_go_on.wait(5), lambda _: None, lambda error: None)
    database.submit(insert(number), lambda _: None, lambda error: refused.append(type(error)), uses_reserve=False)
    accepted = asyncio.ensure_future(database.write(insert(1_000)))
    await asyncio.sleep(0)
    may_go_on.set()
    await accepted
    assert given_up == [True]
    assert 1_000 in await numbers(database)
    assert refused == [StorageFull] * 2
    await database.close()


async def test_a_file_that_another_process_keeps_locked_is_an_error_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.ledger_file.BUSY_MS", 10)
    database = await Database.open(tmp_path / "test.db", lambda last_stored: lambda: 1_000, on_full=lambda: False)
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy, match="locked"):
            await database.write(insert(1))
    await database.write(insert(2))
    assert await numbers(database) == [2]
    await database.close()


async def test_an_operation_that_breaks_the_groups_transaction_breaks_nothing_else(database: Database) -> None:
    hold = Hold(database)
    await hold.entered()
    rollback = asyncio.ensure_future(database.write(lambda connection: connection.execute("ROLLBACK").fetchone()))
    writes = [asyncio.ensure_future(database.write(insert(number))) for number in range(3)]
    await asyncio.sleep(0)
    hold.release()
    assert await asyncio.gather(*writes) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="ended its group"):
        await rollback
    assert await numbers(database) == [0, 1, 2]


async def test_readers_see_a_snapshot_and_never_wait_for_the_writer(database: Database) -> None:
    await database.write(insert(1))
    hold = Hold(database)
    await hold.entered()
    assert await numbers(database) == [1]
    hold.release()
    await hold.done
    before = threading.Event()
    between = threading.Event()

    def look_twice(connection: Transaction) -> list[int]:
        (first,) = connection.execute("SELECT count(*) FROM uplink_message").fetchone()
        before.set()
        assert between.wait(10)
        (second,) = connection.execute("SELECT count(*) FROM uplink_message").fetchone()
        return [first, second]

    looking = asyncio.ensure_future(database.read(look_twice))
    await asyncio.to_thread(before.wait, 10)
    await database.write(insert(2))
    between.set()
    assert await looking == [1, 1]
    assert await numbers(database) == [1, 2]


async def test_a_reader_cannot_write(database: Database) -> None:
    await database.read(insert(1))  # rolled back with its snapshot
    assert await numbers(database) == []


async def test_close_stores_and_calls_back_everything_submitted(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "test.db", lambda last_stored: lambda: 1_000, on_full=lambda: False)
    called: list[int] = []
    for number in range(100):
        database.submit(insert(number), called.append, lambda error: called.append(-1))
    await database.close()
    assert called == list(range(100))
    with pytest.raises(RuntimeError):
        database.submit(insert(1), called.append, lambda error: None)


async def test_stored_time_is_handed_to_the_next_start(tmp_path: Path) -> None:
    now = 5_000

    def clock() -> int:
        return now

    starts: list[int] = []

    def make_clock(stored: StoredClock) -> Any:
        starts.append(stored.last_ms)
        return clock

    for expected in (0, 5_000, 9_000):
        database = await Database.open(tmp_path / "test.db", make_clock, on_full=lambda: False)
        assert starts[-1] == expected
        await database.write(insert(1))
        await database.close()
        now = 9_000 if now == 5_000 else 1  # a clock that jumps back does not take stored time with it


async def test_a_commit_is_synced(database: Database) -> None:
    def pragmas(connection: Transaction) -> list[Any]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await database.write(pragmas) == ["wal", 2]


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


async def test_a_read_for_an_app_that_takes_too_long_is_interrupted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.database.READ_SECONDS", 0.05)
    with pytest.raises(RetryableProblem) as refusal:
        await database.read(lambda connection: connection.execute(ENDLESS).fetchone(), 1)
    assert refusal.value.code == "busy"
    assert database.reads.refused["too_long"] == 1
    assert await database.read(lambda connection: connection.execute("SELECT 1").fetchone(), 1) == (1,)


async def test_a_reader_for_apps_keeps_few_statements(database: Database) -> None:
    """Those of long expressions are large, and no two are alike."""

    def compiled(connection: Transaction) -> list[int]:
        assert isinstance(connection, sqlite3.Connection)
        counts = []
        for most in (APP_READER_STATEMENTS, APP_READER_STATEMENTS + 1):
            seen = 0

            def count(*_: object) -> int:
                nonlocal seen
                seen += 1
                return sqlite3.SQLITE_OK

            connection.set_authorizer(count)
            for number in (*range(most), 0):
                before = seen
                connection.execute(f"SELECT {number} + {most}").fetchall()
            counts.append(seen - before)
        connection.set_authorizer(None)
        return counts

    kept, compiled_again = await database.read(compiled, 1)
    assert kept < compiled_again


async def test_credentials_are_looked_up_whatever_is_read(database: Database) -> None:
    released = threading.Event()
    reads = [database.read(lambda connection: released.wait(10), app_no) for app_no in (None, 1, 1, 1, 2, 2, 3)]
    reading = asyncio.gather(*reads)
    await asyncio.sleep(0)
    found: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    database.look_up(lambda connection: 1, found.set_result, found.set_exception)
    assert await asyncio.wait_for(found, 5) == 1
    assert await asyncio.wait_for(database.read_soon(lambda connection: 2), 5) == 2
    released.set()
    assert await reading == [True] * 7


async def test_a_group_ends_when_it_has_taken_long_enough(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.database.GROUP_SECONDS", 0.0)
    hold = Hold(database)
    await hold.entered()
    before = database.groups
    writes = [asyncio.ensure_future(database.write(insert(number))) for number in range(3)]
    await asyncio.sleep(0)
    hold.release()
    await asyncio.gather(*writes, hold.done)
    assert database.groups - before == 4  # one commit for each
    assert await numbers(database) == [0, 1, 2]


async def test_changes_of_an_app_take_turns_and_have_a_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.database.WAITING_WRITES_OF_APP", 3)
    hold = Hold(database)
    await hold.entered()
    busy = [asyncio.ensure_future(database.write(insert(number), 1)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(RetryableProblem):
        await database.write(insert(9), 1)
    own, other = asyncio.ensure_future(database.write(insert(10))), asyncio.ensure_future(database.write(insert(20), 2))
    await asyncio.sleep(0)
    hold.release()
    await asyncio.gather(*busy, own, other, hold.done)
    found = await numbers(database)
    assert found.index(10) <= 1
    assert found.index(20) <= 2
    assert [number for number in found if number < 10] == [0, 1, 2]


def insert_bytes(count: int) -> Any:
    def operation(connection: Transaction) -> None:
        connection.execute(
            "INSERT INTO uplink_message (device_no, topic, payload, received_at) VALUES (1, '', zeroblob(?), 0)",
            (count,),
        )

    return operation


async def test_a_log_that_a_reader_let_grow_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.sqlite_file.LOG_PAGES", 64)
    monkeypatch.setattr("gateway.store.database.CHECK_SECONDS", 0.0)
    path = tmp_path / "test.db"
    log = tmp_path / "test.db-wal"
    database = await Database.open(path, lambda stored: lambda: 1_000, on_full=lambda: False)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM uplink_message").fetchone()
        for _ in range(30):
            await database.write(insert_bytes(100_000))
        assert log.stat().st_size > 3_000_000
        other.execute("ROLLBACK")
    await database.maintain_file()
    await database.maintain_file()
    assert log.stat().st_size <= 2 * 64 * 4_096
    await database.close()


async def test_pages_that_are_free_are_counted_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.database.CHECK_SECONDS", 0.0)
    monkeypatch.setattr("gateway.store.ledger_file.KEPT_FREE_PAGES", 300)
    path = tmp_path / "test.db"
    database = await Database.open(path, lambda stored: lambda: 1_000, on_full=lambda: False)
    for _ in range(10):
        await database.write(insert_bytes(1_000_000))
    await database.write(lambda connection: connection.execute("DELETE FROM uplink_message"))
    await database.maintain_file()
    await database.maintain_file()
    assert database.free_bytes > 9_000_000
    given = 0
    while slice_ := await database.give_back():
        given += slice_
    assert given * 4_096 > 5_000_000
    await database.maintain_file()
    await database.maintain_file()
    assert 300 * 4_096 <= database.free_bytes < 4_500_000, "some are kept for tomorrow"
    while await database.give_back(all_pages=True):
        pass
    await database.close()
    assert path.stat().st_size < 1_000_000


async def test_a_full_disk_is_tried_again_when_something_was_given_up_for_it(small_disk: Path) -> None:
    kept = small_disk / "kept"
    kept.write_bytes(bytes(300_000))

    def give_up() -> bool:
        if not kept.exists():
            return False
        kept.unlink()
        return True

    database = await Database.open(small_disk / "test.db", lambda stored: lambda: 1_000, on_full=give_up)
    fill(small_disk / "ballast")
    written = 0
    while kept.exists():
        await database.write(insert_bytes(5_000))
        written += 1
    assert len(await numbers(database)) == written
    (small_disk / "ballast").unlink()
    await database.close()


async def test_what_fails_before_room_was_made_is_not_told_of_what_is_stored_after_it(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "test.db", lambda stored: lambda: 1_000, on_full=lambda: True)
    may_go_on = threading.Event()
    calls = 0

    def fail_twice(connection: Transaction) -> str:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise ZeroDivisionError
        return "stored"

    def meet_a_full_disk(connection: Transaction) -> str:
        if calls == 2:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return "stored"

    database.submit(lambda connection: may_go_on.wait(5), lambda _: None, lambda error: None)  # the others are a group
    answers = asyncio.gather(database.write(fail_twice), database.write(meet_a_full_disk))
    await asyncio.sleep(0)
    may_go_on.set()
    first, second = await answers
    assert first == second == "stored"
    await database.close()


async def test_damage_that_is_met_is_told_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    database = await Database.open(path, lambda stored: lambda: 1_000, on_full=lambda: False)
    await database.write(insert(1))
    await database.close()
    with contextlib.closing(sqlite3.connect(path)) as opened:
        (root,) = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = 'uplink_message'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4_096)
        file.write(b"\xff" * 4_096)
    database = await Database.open(path, lambda stored: lambda: 1_000, on_full=lambda: False)
    assert not database.trouble
    with pytest.raises(StorageDamaged):
        await numbers(database)
    assert isinstance(database.trouble, StorageDamaged)
    with pytest.raises(StorageDamaged):
        await database.write(insert(2))
    await database.close()


async def test_the_backlog_tells_how_long_the_writer_has_not_answered(database: Database) -> None:
    assert database.backlog() == (0, 0.0)
    before = dict(database.commits.buckets())["+Inf"]
    hold = Hold(database)
    await hold.entered()
    began = time.monotonic()
    waiting = [asyncio.ensure_future(database.write(insert(number))) for number in range(3)]
    await asyncio.sleep(0)
    count, age = database.backlog()
    assert count == 4
    assert age >= time.monotonic() - began
    hold.release()
    await asyncio.gather(hold.done, *waiting)
    assert database.backlog() == (0, 0.0)
    assert dict(database.commits.buckets())["+Inf"] == before + 1, "the others wrote together, the first nothing"
