"""The wall clock that is followed, and stored times that are mended."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store import server_time
from gateway.store.database import Database
from gateway.store.ledger_file import prepare
from gateway.store.server_time import EARLIEST_MS, STEP_MS, StoredClock, WallClock, mend, read_stored_clock
from gateway.timestamps import WallTime

NOW = EARLIEST_MS + 1_000_000_000_000
DAY = 86_400_000


class Machine:
    """Server time and the machine's clock, moved by hand; the boot is always the same one."""

    def __init__(self, database: Database) -> None:
        self.server = NOW
        self.wall = NOW
        self.wall_time = WallTime()
        self.database = database

    async def start(self) -> WallClock:
        stored = await self.database.read(read_stored_clock)
        clock = WallClock(
            self.database, lambda: self.server, 1_000, stored, self.wall_time, lambda: self.wall / 1000
        )  # fmt: skip
        clock.start()
        await self.stored()
        return clock

    async def stored(self) -> StoredClock:
        await self.database.write(lambda connection: None)
        return await self.database.read(read_stored_clock)


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    monkeypatch.setattr(server_time, "boot_id", lambda: "boot")
    moved: list[Machine] = []
    database = await Database.open(tmp_path / "test.db", lambda stored: lambda: moved[0].server, on_full=lambda: False)
    moved.append(Machine(database))
    yield moved[0]
    await database.close()


async def test_two_clocks_that_agree_leave_no_offset(machine: Machine) -> None:
    machine.wall += STEP_MS
    clock = await machine.start()
    assert not clock.follow()
    stored = await machine.stored()
    assert (stored.offsets, stored.boot_id, stored.boot_since_ms) == ((), "boot", NOW)


async def test_a_clock_that_is_set_is_followed_for_the_whole_boot(machine: Machine) -> None:
    await machine.start()
    machine.server += DAY
    machine.wall += 3 * DAY
    later = await machine.start()  # a second run under the same boot
    assert machine.wall_time.of(NOW) == NOW + 2 * DAY, "what the first had stored was off by the same"
    assert not later.follow()
    machine.wall -= 2 * DAY
    assert later.follow()
    assert machine.wall_time.of(NOW) == NOW
    assert (await machine.stored()).offsets == ()


async def test_each_boot_has_its_own_offset(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.wall += DAY
    await machine.start()
    monkeypatch.setattr(server_time, "boot_id", lambda: "another boot")
    machine.server += DAY
    machine.wall = machine.server + 5 * DAY
    await machine.start()
    assert (await machine.stored()).offsets == ((NOW, DAY), (NOW + DAY, 5 * DAY))


async def test_a_clock_that_cannot_be_right_is_not_followed(machine: Machine) -> None:
    machine.wall = 0
    clock = await machine.start()
    assert not clock.follow()
    assert clock.ahead_ms == 0


async def test_what_is_below_a_minute_is_followed_and_told_nobody(machine: Machine) -> None:
    clock = await machine.start()
    machine.wall += 30_000
    assert not clock.follow()
    assert machine.wall_time.of(NOW) == NOW + 30_000


def test_mending_takes_stored_times_back(tmp_path: Path) -> None:
    ledger, sessions = tmp_path / "ledger.db", tmp_path / "broker.db"
    prepare(ledger)
    future = NOW + 10_000 * DAY
    hour = 3_600_000
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("INSERT INTO clock (no, at, boot_id, boot_since) VALUES (1, ?, 'b', ?)", (future, future))
        connection.execute("INSERT INTO application (id, created_at) VALUES ('old', ?), ('new', ?)", (NOW, future))
        for at in (NOW, future):
            connection.execute("INSERT INTO funnel VALUES (1, 'all', '', ?, ?)", (at // hour, json.dumps({"n": 2})))
            connection.execute("INSERT INTO presence_hour VALUES (?, 0, x'')", (at // hour,))
    with closing(sqlite3.connect(sessions)) as connection, connection:
        for table, columns in server_time._BROKER_TIMES.items():
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        connection.execute("INSERT INTO server VALUES (?)", (future * 1_000,))

    assert mend(ledger, sessions, NOW) == 10_000 * DAY
    assert mend(ledger, sessions, NOW) == 0
    with closing(sqlite3.connect(ledger)) as connection:
        assert connection.execute("SELECT id, created_at FROM application").fetchall() == [("old", NOW), ("new", NOW)]
        assert connection.execute("SELECT hour, content FROM funnel").fetchall() == [(NOW // hour, '{"n": 4}')]
        assert connection.execute("SELECT hour FROM presence_hour").fetchall() == [(NOW // hour,)], "learned again"
        assert read_stored_clock(connection) == StoredClock(last_ms=NOW)
    with closing(sqlite3.connect(sessions)) as connection:
        assert connection.execute("SELECT time FROM server").fetchall() == [(NOW * 1_000,)]


def test_every_time_of_the_ledger_is_known_to_be_one() -> None:
    """A column of a new table that holds a time must be found by its name."""
    from sqlmodel import SQLModel

    numbers = {
        f"{table.name}.{column.name}"
        for table in SQLModel.metadata.sorted_tables
        for column in table.columns
        if column.name.endswith(("_until", "_to", "_since", "seen", "_before")) or column.name in ("at", "time", "when")
    }
    known = {name for name in numbers if name.rpartition(".")[2] in server_time._TIMES_WITHOUT_AT}
    assert numbers - known == {"application.events_lost_to", "clock.boot_since"}, numbers - known


def test_a_new_ledger_knows_no_time(tmp_path: Path) -> None:
    prepare(tmp_path / "new.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        assert read_stored_clock(connection) == StoredClock()
