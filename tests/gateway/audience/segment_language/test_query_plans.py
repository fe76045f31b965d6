"""How SQLite finds the devices of typical expressions: by an index, and never by walking a table."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest

from gateway.audience.segment_language.segment import compile_expression
from gateway.audience.segment_language.sql_compiler import compile_statement
from tests.gateway.audience.segment_language.fleet import NOW_MS
from tests.gateway.delivery.machinery import APP_NO, fresh_database

TAG = "SEARCH m USING PRIMARY KEY (app_no=? AND tag=?)"
ATTRIBUTE = "SEARCH a USING PRIMARY KEY (app_no=? AND name=? AND value=?)"
RECEIPTS = "SEARCH d USING PRIMARY KEY (push_no=?)"
ALL_DEVICES = "SEARCH s USING INDEX sqlite_autoindex_device_set_1 (app_no=? AND tag=?)"
FOUND_BY = {
    "'hall' in tags && name.contains('K')": TAG,
    "'news' in topics && !('beta' in topics)": "SEARCH m USING PRIMARY KEY (app_no=? AND topic=?)",
    "attributes.model == 'K2' && 'hall' in tags": ATTRIBUTE,
    "attributes.model in ['K1', 'K2'] && attributes.floor > 3": ATTRIBUTE,
    "attributes.serial.startsWith('SN00') && online": (
        "SEARCH a USING PRIMARY KEY (app_no=? AND name=? AND value>? AND value<?)"
    ),
    "version(attributes.version) < version('2.3') && locale == 'de'": ATTRIBUTE,
    "id in ['kiosk-1', 'kiosk-2'] && attributes.a == 1": (
        "SEARCH device USING INDEX device_id_of_app (app_no=? AND id=?)"
    ),
    "opened('P') && !acted('P')": RECEIPTS,
    "delivered('P') || 'hall' in tags": RECEIPTS,
    "opened_channel('offers', duration('7d')) && size(tags) > 2": (
        "SEARCH p USING INDEX push_of_app (app_no=? AND no>?)"
    ),
    "(muted('offers') || consent == 'denied') && locale == 'de'": (
        "SEARCH device USING INDEX device_restricted (app_no=?)"
    ),
    "!('hall' in tags)": ALL_DEVICES,
    "last_seen > now - duration('7d') && timezone == 'UTC'": ALL_DEVICES,
}  # fmt: skip


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = fresh_database()
    yield connection
    connection.close()


@pytest.mark.parametrize("text", FOUND_BY)
def test_devices_are_found_by_an_index(connection: sqlite3.Connection, text: str) -> None:
    statement, parameters = compile_expression(text).select(APP_NO, NOW_MS)
    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)]
    begins = plan.index("SEARCH device USING INTEGER PRIMARY KEY (rowid=?)")
    first = next(line for line in plan[begins + 1 :] if line.startswith("SEARCH"))
    assert first == FOUND_BY[text]
    of_tables = [line for line in plan if re.match(r"SCAN (device|m|d|p|o|s|c|w|push)\b", line)]
    assert of_tables == []
    if "MATERIALIZE crowded" not in plan:
        assert "SCAN a" not in plan


@pytest.mark.parametrize("text", ["'hall' in tags && attributes.model == 'K2'", "!opened('P') && 'hall' in tags"])
def test_what_others_leave_is_looked_up_device_by_device(connection: sqlite3.Connection, text: str) -> None:
    statement, parameters = compile_expression(text).select(APP_NO, NOW_MS)
    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)]
    assert any(re.search(r"\(.*device_no=\?.*\)", line) for line in plan)


def test_candidates_are_looked_up_by_their_numbers(connection: sqlite3.Connection) -> None:
    asked = compile_statement(compile_expression("last_seen > now - duration('7d')").term, of_candidates=True)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked.sql}", [None] * len(asked.parameters))]
    assert "SCAN candidate VIRTUAL TABLE INDEX 1:" in plan
    assert "SEARCH device USING INTEGER PRIMARY KEY (rowid=?)" in plan
