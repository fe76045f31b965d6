"""A path is a path, whatever characters it has, and an error says what is the matter with the file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from broker.sqlite_file import Fault, connect, fault_of

ODD_NAMES = [
    "q?x", "q?mode=memory", "a%41", "50%25off", "%", "h#x", "with blank", "new\nline", "tüñ-日本", ":memory:", "file:x",
    "file:x?mode=ro", "file::memory:", "a+b", "a&b=c", "'quoted\"", "back\\slash", "-dash", "~", "$HOME", "*[a]",
    os.fsdecode(b"latin-\xe9"),
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_an_odd_name_is_the_name_of_the_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(name), tmp_path / "folder" / name):
        path.parent.mkdir(exist_ok=True)
        with closing(connect(path)) as database:
            database.execute("CREATE TABLE t (n)")
        assert path.read_bytes().startswith(b"SQLite format 3\0")
        with closing(connect(path, must_exist=True)) as database:
            assert database.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert sorted(os.listdir()) == sorted([name, "folder"])


def test_what_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(tmp_path / "none", must_exist=True)
    assert not os.listdir(tmp_path)


def test_the_first_failure_counts(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "x.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE t (n)")
        database.execute("PRAGMA max_page_count = 2")
        database.execute("BEGIN")

        def insert() -> None:
            try:
                database.execute("INSERT INTO t VALUES (zeroblob(100000))")
            except sqlite3.Error:
                database.execute("RELEASE missing")

        with pytest.raises(sqlite3.OperationalError) as caught:
            insert()
        assert "no such savepoint" in str(caught.value)
        assert fault_of(caught.value) is Fault.FULL
        assert fault_of(ValueError("mine")) is None
        assert fault_of(None) is None


def test_what_is_no_database_and_what_may_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, and long enough to be looked at" * 10)
    (tmp_path / "folder").mkdir()
    for name, fault in (("text", Fault.DAMAGED), ("folder", Fault.FORBIDDEN)):
        with pytest.raises(sqlite3.Error) as caught, closing(connect(tmp_path / name)) as database:
            database.execute("SELECT * FROM sqlite_master")
        assert fault_of(caught.value) is fault


def test_a_lock_of_another_connection(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(connect(path, isolation_level=None)) as one, closing(connect(path, timeout=0)) as other:
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            other.execute("SELECT * FROM sqlite_master")
    assert fault_of(caught.value) is Fault.LOCKED


def test_text_that_is_no_utf_8_is_damage(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "x.db")) as database, pytest.raises(sqlite3.OperationalError) as caught:
        database.execute("SELECT CAST(x'ff' AS TEXT)").fetchall()
    assert fault_of(caught.value) is Fault.DAMAGED
