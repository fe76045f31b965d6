"""What the journal says of a push after every death, and that it stays small."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest

from client_sim import journal as journal_module
from client_sim.errors import JournalTooNew
from client_sim.journal import Journal, Known


def test_a_push_is_new_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    assert journal.begin("p1") is Known.NEW
    journal.close()
    journal = Journal(tmp_path / "j.db")
    assert journal.begin("p1") is Known.INTERRUPTED
    journal.finish("p1")
    journal.close()
    journal = Journal(tmp_path / "j.db")
    assert journal.begin("p1") is Known.FINISHED
    journal.close()


def test_the_oldest_ids_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "REMEMBERED_PUSHES", 3)
    journal = Journal(None)
    for number in range(5):
        journal.begin(f"p{number}")
        journal.finish(f"p{number}")
    assert [journal.begin(f"p{number}") for number in (2, 3, 4)] == [Known.FINISHED] * 3
    assert journal.begin("p1") is Known.NEW
    journal.close()


def test_what_is_said_leaves_in_order_and_only_once_acknowledged() -> None:
    journal = Journal(None)
    for text in "abc":
        journal.enqueue("receipts", text)
    rows = journal.queued(2)
    assert [row[1:] for row in rows] == [("receipts", "a"), ("receipts", "b")]
    assert journal.queued(2) == rows
    journal.remove_acknowledged(rows[-1][0])
    assert [text for _, _, text in journal.queued(2)] == ["c"]
    journal.close()


def test_the_result_is_kept_with_the_mark_that_it_was_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.begin("p1")
    journal.finish("p1", ("receipts", "done"))
    journal.close()
    journal = Journal(tmp_path / "j.db")
    assert journal.begin("p1") is Known.FINISHED
    assert [row[1:] for row in journal.queued(2)] == [("receipts", "done")]
    journal.close()


def test_the_oldest_is_given_up_when_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_module, "OUTBOX_MESSAGES", 2)
    journal = Journal(None)
    for text in "abc":
        journal.enqueue("uplink/x", text)
    assert [text for _, _, text in journal.queued(10)] == ["b", "c"]
    assert "given up" in caplog.text
    journal.close()


def test_a_sequence_number_is_above_every_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a clock that was set back."""
    journal = Journal(tmp_path / "j.db")
    for milliseconds in (5_000, 1_000, 5_000, 9_000):
        monkeypatch.setattr(time, "time_ns", lambda now=milliseconds: now * 1_000_000)
        journal.change_settings({"consent": "granted"}, {})
    assert [json.loads(text)["seq"] for _, _, text in journal.queued(10)] == [5_000, 5_001, 5_002, 9_000]
    journal.close()


def test_a_journal_of_the_first_version_keeps_its_receipts(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "j.db", isolation_level=None)
    old.executescript("""
        CREATE TABLE handled (
            no INTEGER PRIMARY KEY AUTOINCREMENT, push_id TEXT NOT NULL UNIQUE, finished INTEGER NOT NULL DEFAULT 0
        );
        CREATE TABLE outbox (no INTEGER PRIMARY KEY AUTOINCREMENT, receipt TEXT NOT NULL);
        INSERT INTO handled (push_id, finished) VALUES ('p1', 1);
        INSERT INTO outbox (receipt) VALUES ('{"push_id": "p1", "event": "displayed"}');
    """)
    old.close()
    for _ in range(2):
        journal = Journal(tmp_path / "j.db")
        assert journal.begin("p1") is Known.FINISHED
        assert [row[1:] for row in journal.queued(2)] == [("receipts", '{"push_id": "p1", "event": "displayed"}')]
        journal.close()


def test_a_journal_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    later = sqlite3.connect(tmp_path / "j.db")
    later.execute(f"PRAGMA user_version={journal_module.SCHEMA_VERSION + 1}")
    later.close()
    with pytest.raises(JournalTooNew, match="update"):
        Journal(tmp_path / "j.db")


@pytest.mark.parametrize("name", [":memory:", "file:x", "q?x", "a%41"])
def test_the_file_is_where_it_was_asked_for(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path(name))
    journal.begin("p1")
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
