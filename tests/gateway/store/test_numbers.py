"""Numbers of pushes and devices: given once, whoever draws them, and positions of one app."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.delivery.digest import PushNumbers
from gateway.store.connections import open_ledger
from gateway.store.deliveries.event_log import last_position, lost_before, newest_entries
from gateway.store.deliveries.pushes import last_push_nos
from gateway.store.ledger_file import prepare
from gateway.store.numbers import draw_numbers, last_number
from gateway.store.postgresql.address import read_address
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.server import PostgresqlServer
from tests.postgresql import Postgresql

ADD_PUSH = (
    "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, target, content, size, accepted_at, expires_at,"
    " targeted, suppressed) VALUES (?1, ?2, ?3, 'silent', 2, 1, 60, '{}', '{}', 2, 0, 60000, 1, 0)"
)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgresql]:
    with Postgresql() as server:
        yield server


@pytest.fixture
def writers(postgresql: Postgresql, request: pytest.FixtureRequest) -> Iterator[tuple[Connection, Connection]]:
    schema = f"numbers_{abs(hash(request.node.name))}"
    PostgresqlServer.open(postgresql.url, schema)
    address = read_address(postgresql.url)
    with closing(Connection(address, schema)) as first, closing(Connection(address, schema)) as second:
        yield first, second


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    prepare(tmp_path / "ledger.db")
    with closing(open_ledger(tmp_path / "ledger.db", 100)) as connection:
        yield connection


def test_two_writers_draw_no_number_twice(writers: tuple[Connection, Connection]) -> None:
    first, second = writers
    first.execute("BEGIN")
    second.execute("BEGIN")
    drawn: list[int] = []
    for _ in range(3):
        for writer in writers:
            some = list(draw_numbers(writer, "push", 5))
            assert some == sorted(some)
            assert not drawn or some[0] > drawn[-1]
            drawn += some
    # What was drawn first is stored last: the sequence stays where it is, and is not set back to what was stored.
    for writer, number in ((second, drawn[-1]), (first, drawn[0])):
        writer.execute(ADD_PUSH, (number, f"p{number}", 1))
    (more,) = draw_numbers(second, "push", 1)
    second.execute("COMMIT")
    first.execute("ROLLBACK")
    drawn += [more, *draw_numbers(first, "push", 2)]
    assert len(set(drawn)) == len(drawn) == 33
    assert last_number(first, "push") == drawn[-1]


def test_numbers_from_elsewhere_are_not_drawn(writers: tuple[Connection, Connection]) -> None:
    first, second = writers
    first.execute(ADD_PUSH, (1, "p1", 1))
    assert list(draw_numbers(second, "push", 1)) == [2]
    first.execute(ADD_PUSH, (40, "p40", 1))
    assert list(draw_numbers(second, "push", 2)) == [41, 42]


def test_over_a_file_what_is_not_used_is_drawn_again(file: sqlite3.Connection) -> None:
    numbers = PushNumbers()
    assert list(numbers.draw(file, 3)) == [1, 2, 3]
    numbers.used(2)
    assert list(numbers.draw(file, 2)) == [3, 4]
    assert numbers.assign(file) == 3
    assert list(draw_numbers(file, "push", 2)) == [1, 2], "none was stored"


def test_positions_are_of_an_app(file: sqlite3.Connection, writers: tuple[Connection, Connection]) -> None:
    for connection in (file, writers[0]):
        for app_no in (1, 2):
            connection.execute(
                "INSERT INTO application (no, id, created_at) VALUES (?, ?, 0)", (app_no, f"app-{app_no}")
            )
        for number, app_no in ((1, 1), (2, 2), (3, 1), (5, 2)):
            connection.execute(ADD_PUSH, (number, f"p{number}", app_no))
            connection.execute(
                "INSERT INTO event (app_no, at, type, content, size) VALUES (?, 0, 'device.uplink', '{}', 1)", (app_no,)
            )
        assert last_push_nos(connection, [2, 1, 9]) == {1: 3, 2: 5, 9: 0}
        assert newest_entries(connection, [1, 2, 9]) == {1: 3, 2: 4, 9: 0}
        assert last_position(connection, 1).entry == 3
        assert lost_before(connection, 1, last_position(connection, 2)) is None, "it was given once"
    file.execute("UPDATE application SET events_lost_to = 3 WHERE no = 1")
    file.execute("DELETE FROM event WHERE app_no = 1")
    assert last_position(file, 1).entry == 3
    assert lost_before(file, 1, last_position(file, 1)) is None
