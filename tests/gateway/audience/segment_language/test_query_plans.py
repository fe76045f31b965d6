"""How SQLite finds the devices of typical expressions: by an index, and never by walking a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.audience.segment_language.segment import compile_expression
from gateway.store.audience.device_sets import ALL_TAG, add_to_sets
from gateway.store.segments import evaluation
from gateway.store.transaction import Rows, Transaction
from tests.gateway.audience.segment_language.fleet import NOW_MS
from tests.gateway.delivery.machinery import APP_NO, fresh_database

pytestmark = pytest.mark.sqlite("whose plans they are")
ATTRIBUTE = "SEARCH a USING PRIMARY KEY (app_no=? AND name=? AND value=?)"
RECEIPTS = "SEARCH d USING PRIMARY KEY (push_no=?)"
ASKED = "SEARCH device USING INTEGER PRIMARY KEY (rowid=?)"
FOUND_BY = {
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
    "missed('P') && 'hall' in tags": RECEIPTS,
    "delivered('P') || 'hall' in tags": RECEIPTS,
    "opened_channel('offers', duration('7d')) && size(tags) > 2": (
        "SEARCH p USING INDEX push_of_app (app_no=? AND no>?)"
    ),
    "(muted('offers') || consent == 'denied') && locale == 'de'": (
        "SEARCH device USING INDEX device_restricted (app_no=?)"
    ),
    "'hall' in tags && name.contains('K')": ASKED,
    "last_seen > now - duration('7d') && timezone == 'UTC'": ASKED,
}  # fmt: skip
"""What finds the first devices of an expression that are not those of a tag or a topic, which are a set each."""


@pytest.fixture
def connection() -> Iterator[Transaction]:
    connection = fresh_database()
    add_to_sets(connection, APP_NO, {ALL_TAG: range(1, 1_001), "hall": range(1, 1_001, 2)})
    connection.execute(
        "WITH RECURSIVE n(no) AS (SELECT 1 UNION ALL SELECT no + 1 FROM n WHERE no < 1000)"
        " INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at)"
        f" SELECT no, {APP_NO}, 'kiosk-' || no, x'', 0, 0 FROM n"
    )
    yield connection
    connection.close()


def plans(connection: Transaction, text: str) -> list[list[str]]:
    """The plans of the statements that find the devices of an expression, in their order."""
    asked: list[tuple[str, Any]] = []

    class Recorder:
        def execute(self, sql: str, parameters: Any = ()) -> Rows:
            asked.append((sql, parameters))
            return connection.execute(sql, parameters)

    compile_expression(text).devices(Recorder(), APP_NO, NOW_MS, [1, 2])  # type: ignore[arg-type]  # all it is asked
    return [
        [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
        for sql, parameters in asked
        if "device_set" not in sql
    ]


@pytest.mark.parametrize("few", [0, 10_000], ids=["found", "asked"])
@pytest.mark.parametrize("text", FOUND_BY)
def test_no_table_is_walked(connection: Transaction, text: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "FEW_DEVICES", few)
    found = plans(connection, text)
    for plan in found:
        assert [line for line in plan if re.match(r"SCAN (device|m|d|p|o|s|c|w|push)\b", line)] == []
        if "MATERIALIZE crowded" not in plan:
            assert "SCAN a" not in plan
    if not few:
        searched = (line for line in found[0] if line.startswith("SEARCH"))
        assert next(searched) == FOUND_BY[text]


@pytest.mark.parametrize("text", ["'hall' in tags && attributes.model == 'K2'", "!opened('P') && 'hall' in tags"])
def test_what_others_leave_is_looked_up_device_by_device(connection: Transaction, text: str) -> None:
    (plan,) = plans(connection, text)
    assert "SCAN candidate VIRTUAL TABLE INDEX 1:" in plan
    assert ASKED in plan
    assert any(re.search(r"\(.*device_no=\?.*\)", line) for line in plan)
