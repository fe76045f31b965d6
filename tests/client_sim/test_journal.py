"""What the journal says of a push after every death, and that it stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_sim import journal as journal_module
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
    monkeypatch.setattr(journal_module, "REMEMBERED", 3)
    journal = Journal(None)
    for number in range(5):
        journal.begin(f"p{number}")
        journal.finish(f"p{number}")
    assert [journal.begin(f"p{number}") for number in (2, 3, 4)] == [Known.FINISHED] * 3
    assert journal.begin("p1") is Known.NEW
    journal.close()


def test_receipts_leave_in_order_and_only_once_acknowledged() -> None:
    journal = Journal(None)
    for text in "abc":
        journal.add_receipt(text)
    rows = journal.receipts(2)
    assert [text for _, text in rows] == ["a", "b"]
    assert journal.receipts(2) == rows
    journal.remove_receipts(rows[-1][0])
    assert [text for _, text in journal.receipts(2)] == ["c"]
    journal.close()
