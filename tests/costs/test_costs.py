"""No feature takes speed unseen: what hot operations cost is counted, and compared with what is recorded.

The measurement is a process of its own, since it replaces what threads wait with, and no other test's leftovers may be
in it.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from broker.sqlite_file import PAGE_BYTES
from gateway.delivery_handles import handle_of
from tests.costs.counters import COUNTERS, ROOT, Counters
from tests.costs.recorded import NO_REASON, RecordedCost, RecordedCosts, compare, versions_here
from tests.end_to_end.harness import clean_environment

ENVIRONMENT = {"PYTHONHASHSEED": "0", "FLEETPUSH_PURE": "1"}
"""Variables that decide how many Python functions are called, of which compiled modules have none. Those that
configure a server are left out."""


@pytest.mark.sqlite("whose pages are counted")
def test_hot_operations_cost_what_is_recorded() -> None:
    measured = subprocess.run(
        [sys.executable, "-m", "tests.costs", "--json"],
        cwd=ROOT,
        env=clean_environment(**ENVIRONMENT),
        capture_output=True,
        text=True,
    )
    assert measured.returncode == 0, measured.stderr
    costs = json.loads(measured.stdout)
    counts = {operation: cost["counts"] for operation, cost in costs.items()}
    complaints = list(RecordedCosts.read().complaints(counts, versions_here()))
    advice = (
        "CONTRIBUTING.md, “If the cost test fails”, says what to do; `python -m tests.costs OPERATION` who is called."
    )
    assert not complaints, "\n".join(["tests/costs/costs.toml is not what was counted:", *complaints, advice])


def test_every_cost_has_a_reason() -> None:
    for operation, costs in RecordedCosts.read().costs.items():
        assert set(costs) == set(COUNTERS), operation
        for name, cost in costs.items():
            assert cost.reason.strip() not in ("", NO_REASON), f"[{operation}] {name}: why is it no less?"


@pytest.mark.parametrize(
    ("recorded", "measured", "expected"),
    [
        (100.0, 102.0, None),
        (100.0, 103.0, "dearer"),
        (100.0, 91.0, None),
        (100.0, 89.0, "cheaper"),
        (0.012, 0.014, None),  # one statement more for 500 deliveries
        (0.012, 0.12, "dearer"),
        (0.0, 1.0, "dearer"),
        (1.0, 0.0, "cheaper"),
    ],
)
def test_a_change_of_cost_is_named(recorded: float, measured: float, expected: str | None) -> None:
    found = compare(recorded, measured)
    assert found is None if expected is None else found is not None and found.startswith(expected)


def test_with_other_versions_only_a_great_rise_counts() -> None:
    assert compare(100.0, 124.0, None) is None
    assert compare(100.0, 50.0, None) is None
    assert compare(100.0, 126.0, None) is not None


def test_a_complaint_has_the_line_to_paste() -> None:
    recorded = RecordedCosts({"python": "3.11"}, {"connect": {"steps": RecordedCost(100.0, "a look-up")}})
    (complaint,) = recorded.complaints({"connect": {"steps": 150.04}}, {"python": "3.11"})
    title, pasted = complaint.splitlines()
    assert title == "[connect] dearer, 100 before (+50.0%); if it is worth it, with the reason:"
    assert tomllib.loads(pasted) == {"steps": {"cost": 150, "reason": "a look-up"}}
    (complaint,) = recorded.complaints({"connect": {"steps": 100, "pages": 2}}, {"python": "3.11"})
    assert complaint == f'[connect] new:\n  pages = {{ cost = 2, reason = "{NO_REASON}" }}'
    assert list(recorded.complaints({"connect": {"steps": 101.0}}, {"python": "3.11"})) == []
    assert list(recorded.complaints({}, {"python": "3.11"})) == ["costs.toml has connect; measured was nothing"]


def insert(connection: sqlite3.Connection, rows: int) -> None:
    """Insert rows that fill a page each, in one transaction, with one call of ours."""
    handle_of(1, 2)
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO filler (content) VALUES (?)", [("x" * PAGE_BYTES,)] * rows)
    connection.execute("COMMIT")


def test_each_counter_counts(tmp_path: Path) -> None:
    """Twice as much work costs twice as much, by every counter that it touches."""
    file = tmp_path / "some.db"
    with Counters([file]) as counters, closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE filler (no INTEGER PRIMARY KEY, content TEXT)")
        costs = []
        for rows in (10, 20):
            counters.start()
            insert(connection, rows)
            costs.append(counters.stop())
    few, many = (cost.counts for cost in costs)
    assert costs[0].functions == {"gateway/delivery_handles.py handle_of": 1}
    assert (few["statements"], few["commits"]) == (12, 1)
    assert (many["statements"], many["commits"]) == (22, 1)
    assert many["steps"] - few["steps"] >= 10
    assert 10 <= many["pages"] - few["pages"] <= 30
    assert few["calls"] == many["calls"] == 1
    assert few["library_calls"] == few["c_calls"] == 0


def test_threads_are_counted(tmp_path: Path) -> None:
    with Counters([]) as counters:
        thread = threading.Thread(target=handle_of, args=(1, 2))
        counters.start()
        thread.start()
        thread.join()
        assert counters.stop().counts["calls"] == 1
