"""Statements as SQLite takes them, in PostgreSQL: both are asked, and have to answer the same."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.store.connections import open_ledger
from gateway.store.ledger_file import prepare
from gateway.store.postgresql.address import read_address
from gateway.store.postgresql.connection import Connection
from gateway.store.postgresql.dialect import translated
from gateway.store.postgresql.server import PostgresqlServer
from tests.postgresql import Postgresql


class Both:
    def __init__(self, ours: sqlite3.Connection, theirs: Connection) -> None:
        self.ours = ours
        self.theirs = theirs

    def ask(self, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
        ours = [tuple(row) for row in self.ours.execute(statement, values).fetchall()]
        theirs = [tuple(row) for row in self.theirs.execute(statement, values).fetchall()]
        assert [plain(row) for row in theirs] == [plain(row) for row in ours], translated(statement)
        return ours


def plain(row: tuple[Any, ...]) -> list[Any]:
    """JSON as its value: the two put their blanks in different places, and say truth as 1 and as true."""
    return [_value(item) for item in row]


def _value(item: Any) -> Any:
    if isinstance(item, str) and item[:1] in ("[", "{"):
        return json.loads(item)
    return item


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    prepare(path)
    with Postgresql() as server:
        PostgresqlServer.open(server.url, "dialect")
        ours, theirs = open_ledger(path, 100), Connection(read_address(server.url), "dialect")
        yield Both(ours, theirs)
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("SELECT value FROM json_each(?)", ('[3, 1, "a", null, 2]',)),
        ("SELECT key, value FROM json_each(?) ORDER BY key", ("[" + ", ".join(map(str, range(12))) + "]",)),
        ("SELECT value ->> 0, value ->> 1 FROM json_each(?)", ('[[1, "x"], [2, "y,\\"z\\""]]',)),
        ("SELECT value FROM json_each(?, '$[1]')", ("[[1], [2, 3]]",)),
        ("SELECT key, value, type FROM json_each(?) ORDER BY key", ('{"a": 1, "b": true, "c": "t", "d": 1.5}',)),
        ("SELECT json_group_array(value) FROM json_each(?) WHERE value > 1", ("[1, 2, 3]",)),
        ("SELECT json_group_array(value) FROM json_each(?) WHERE value > 9", ("[1, 2, 3]",)),
        ("SELECT json_group_array(value) FILTER (WHERE value > 1) FROM json_each(?)", ("[1, 2, 3]",)),
        ("SELECT json_group_array(json_array(key, value, 'x')) FROM json_each(?)", ('["a", 2]',)),
        ("SELECT iif(?1 > 1, iif(?1 > 2, 'three', 'two'), 'one')", (2,)),
        ("SELECT 1 WHERE ?1 IS NULL OR ?1 = 3", (3,)),
        ("SELECT max(?1, 5), min(?1, 5), coalesce(max(?1, NULL), -1)", (7,)),
        ("SELECT count(*) FROM (SELECT 1 UNION ALL SELECT 2)", ()),
        ("SELECT lower(hex(x'00ff')), length(x'00ff'), instr('abc', 'c'), substr('abcdef', 2, 3)", ()),
        ("SELECT 'a' LIKE 'A', '50%' || ':name' || '?'", ()),
        ("SELECT sum(value), total FROM (SELECT value, 5 AS total FROM json_each(?)) GROUP BY total", ("[1, 2]",)),
        ("SELECT ? IS ?, ? IS NOT ?", (1, 1, 1, 2)),
        ("SELECT value % 3, value & 6, value >> 1 FROM json_each(?)", ("[5, 7]",)),
        ("SELECT value GLOB 'a.c*', value NOT GLOB '*[^0-9.]*' FROM json_each(?)", ('["a.cd", "abc", "1.2", "x"]',)),
        ("SELECT json_set('{\"a\": {\"b\": 1}}', '$.a.b', ?)", (2,)),
        ("SELECT value FROM json_each(?) WHERE value ->> '$.a' IS NOT NULL", ('[{"a": "x"}, {"a": 1}, {"b": 1}]',)),
        ("SELECT value FROM json_each(?) WHERE value IS NOT NULL", ('["x", 1, null]',)),
        ("SELECT CAST(value AS INTEGER) FROM json_each(?)", ("[5, 7000000000]",)),
        ("SELECT j.value FROM json_each(?) AS j WHERE j.key = ?", ('{"a": 1, "b": 2}', "b")),
        ("SELECT substr('abcdef', -2) = ?, substr(substr('abcdef', 1, 4), -9)", ("ef",)),
        ("SELECT 1 == 1, 'a == b' WHERE TRUE AND NOT FALSE", ()),
        ("SELECT CAST('z' AS TEXT) < x''", ()),
        ("SELECT 1 WHERE CAST('z' AS TEXT) = ?", ("z\0",)),
    ],
)
def test_statements_answer_the_same(both: Both, statement: str, values: tuple[Any, ...]) -> None:
    both.ask(statement, values)


def test_rows_that_are_there_already(both: Both) -> None:
    add = "ON CONFLICT DO UPDATE SET count = count + excluded.count"
    for statement in (
        "INSERT OR IGNORE INTO rule_change (app_no, number) VALUES (1, 1)",
        "INSERT OR IGNORE INTO rule_change (app_no, number) VALUES (1, 2)",
        "INSERT OR REPLACE INTO rule_change (app_no, number) VALUES (2, 1), (1, 3)",
        f"INSERT INTO delivery_count (push_no, state, count) VALUES (1, 0, 5) {add}",
        f"INSERT INTO delivery_count (push_no, state, count) VALUES (1, 0, 2) {add}",
    ):
        both.ask(statement)
    assert both.ask("SELECT app_no, number FROM rule_change ORDER BY app_no") == [(1, 3), (2, 1)]
    assert both.ask("SELECT count FROM delivery_count") == [(7,)]


def test_a_row_that_is_replaced_keeps_nothing(both: Both) -> None:
    columns = "app_no, id, content, due_at, created_at, updated_at"
    both.ask("INSERT INTO application (no, id, created_at) VALUES (7, 'seven', 0)")
    both.ask(f"INSERT INTO watch ({columns}, silent_at) VALUES (7, 'prices', '{{}}', 1, 1, 1, 5)")
    both.ask(f"INSERT OR REPLACE INTO watch ({columns}) VALUES (7, 'prices', '{{}}', 2, 1, 2)")
    assert both.ask("SELECT due_at, silent_at FROM watch WHERE app_no = 7") == [(2, None)]


SETS = st.one_of(
    st.sets(st.integers(0, 300_000), max_size=200),
    st.builds(lambda start, length: set(range(start, start + length)), st.integers(0, 200_000), st.integers(1, 9_000)),
)


@given(st.lists(SETS, min_size=1, max_size=3), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sets_of_devices_are_read_as_they_were_written(both: Both, parts: list[set[int]], optimized: bool) -> None:
    devices = BitMap(set().union(*parts))
    if optimized:
        devices.run_optimize()
    stored = devices.serialize()
    both.ask("SELECT devices_json(?)", (stored,))
    both.ask("SELECT here.value FROM (SELECT ? AS d) AS o CROSS JOIN json_each(devices_json(o.d)) AS here", (stored,))
    some = [*list(devices)[:2], 0, 65_536, 299_999]
    for number in some:
        both.ask("SELECT in_set(?, ?)", (stored, number))


def test_numbers_of_devices_are_given_once(both: Both) -> None:
    for number in (5, 3):
        both.ask(
            "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at) VALUES (?, 1, ?, x'00', 0, 0)",
            (number, str(number)),
        )
    assert both.ask("SELECT seq FROM sqlite_sequence WHERE name = 'device'") == [(5,)]
    both.ask("DELETE FROM device")
    assert both.ask("SELECT seq FROM sqlite_sequence WHERE name = 'device'") == [(5,)]


def test_what_is_wrong_in_both_says_so(both: Both) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn):
        both.theirs.execute("SELECT nothing FROM device")
