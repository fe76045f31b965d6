"""A backup is one moment, proves itself, and its restoration overwrites nothing."""

from __future__ import annotations

import json
import sqlite3
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from gateway import backup
from gateway.backup import BackupError
from gateway.data_directory import held


def database(path: Path, rows: int) -> None:
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE thing (no INTEGER PRIMARY KEY, twin INTEGER)")
        made.executemany("INSERT INTO thing (twin) VALUES (?)", [(number,) for number in range(rows)])
        made.commit()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    database(folder / "fleetpush.db", 100)
    database(folder / "broker.db", 10)
    (folder / "admin.key").write_text("key_secret\n")
    return folder


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as opened:
        (count,) = opened.execute("SELECT count(*) FROM thing").fetchone()
        return int(count)


def test_the_ca_that_every_device_trusts_comes_back(data_dir: Path, tmp_path: Path) -> None:
    tls = data_dir / "tls"
    (tls / "devices").mkdir(parents=True)
    names = ("ca.key", "ca.pem", "server.key", "server.pem")
    for name in (*names, "devices/kiosk-1.key"):
        (tls / name).write_text(name)
    file = tmp_path / "fleet.tar"
    made = backup.create(data_dir, file)
    assert {f"tls/{name}" for name in names} == {stored.name for stored in made.files if "/" in stored.name}
    assert backup.check(file) == made
    into = tmp_path / "restored"
    backup.restore(file, into)
    assert sorted(path.name for path in (into / "tls").iterdir()) == list(names)
    assert (into / "tls" / "ca.key").read_text() == "ca.key"
    assert (into / "tls").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (into / "tls").iterdir())
    backup.restore(file, into, replace=True)
    (aside,) = into.glob("before-restore-*")
    assert (aside / "tls" / "ca.key").exists()


@pytest.mark.parametrize("name", ["fleet.tar", "fleet.tgz"])
def test_what_was_backed_up_comes_back(data_dir: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    made = backup.create(data_dir, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert {stored.name: stored.rows.get("thing") for stored in made.files} == {
        "broker.db": 10,
        "fleetpush.db": 100,
        "admin.key": None,
    }
    assert backup.check(file) == made
    into = tmp_path / "restored"
    assert backup.restore(file, into) == made
    assert (rows(into / "fleetpush.db"), rows(into / "broker.db")) == (100, 10)
    assert (into / "admin.key").read_text() == "key_secret\n"
    assert {path.name for path in into.iterdir()} == {"admin.key", "broker.db", "fleetpush.db", "lock"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in into.iterdir())


@pytest.mark.parametrize("before", [0, 5])
def test_no_event_of_a_restored_ledger_has_an_id_that_was_given_since(
    data_dir: Path, tmp_path: Path, before: int
) -> None:
    def happen(folder: Path, count: int) -> int:
        with closing(sqlite3.connect(folder / "fleetpush.db")) as ledger:
            ledger.executemany("INSERT INTO event (type) VALUES (?)", [("x",)] * count)
            ledger.commit()
            (last,) = ledger.execute("SELECT coalesce(max(no), 0) FROM event").fetchone()
            return int(last)

    with closing(sqlite3.connect(data_dir / "fleetpush.db")) as ledger:
        ledger.execute("CREATE TABLE event (no INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT)")
    happen(data_dir, before)
    backup.create(data_dir, tmp_path / "fleet.tar")
    seen = happen(data_dir, 1_000)
    for name in ("once", "again"):
        backup.restore(tmp_path / "fleet.tar", tmp_path / name)
        with closing(sqlite3.connect(tmp_path / name / "fleetpush.db")) as ledger:
            assert ledger.execute("SELECT count(*) FROM event").fetchone() == (before,)
        new = happen(tmp_path / name, 1)
        assert new > seen
        assert new < 2**53
        seen = happen(tmp_path / name, 1_000)


def test_a_backup_under_writes_is_one_moment(data_dir: Path, tmp_path: Path) -> None:
    """A writer that always adds two rows at once is never seen halfway."""
    stop, began = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(data_dir / "fleetpush.db", isolation_level=None, timeout=30)) as writer:
            while not stop.is_set():
                writer.execute("INSERT INTO thing (twin) VALUES (1), (2)")
                began.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert began.wait(10)
        for number in range(5):
            made = backup.create(data_dir, tmp_path / f"{number}.tar")
            count = next(stored.rows["thing"] for stored in made.files if stored.name == "fleetpush.db")
            assert count % 2 == 0
    finally:
        stop.set()
        thread.join()


def test_nothing_is_overwritten_unasked(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "fleet.tar"
    backup.create(data_dir, file)
    with pytest.raises(BackupError, match="exists"):
        backup.create(data_dir, file)
    backup.create(data_dir, file, overwrite=True)
    into = tmp_path / "restored"
    backup.restore(file, into)
    with pytest.raises(BackupError, match="not empty"):
        backup.restore(file, into)
    (into / "admin.key").write_text("another")
    backup.restore(file, into, replace=True)
    assert (into / "admin.key").read_text() == "key_secret\n"
    (aside,) = into.glob("before-restore-*")
    assert (aside / "admin.key").read_text() == "another"


def test_a_directory_without_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="--data-dir"):
        backup.create(tmp_path, tmp_path / "fleet.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_is_not_backed_up(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "fleetpush.db"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("CREATE INDEX thing_twin ON thing (twin)")
        opened.commit()
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page_size,) = opened.execute("PRAGMA page_size").fetchone()
        (root,) = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = 'thing_twin'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * page_size)
        file.write(b"\xff" * page_size)
    with pytest.raises(BackupError, match=r"fleetpush\.db is damaged"):
        backup.create(data_dir, tmp_path / "fleet.tar")
    assert not (tmp_path / "fleet.tar").exists()


@pytest.mark.parametrize("where", ["middle", "manifest", "other"])
def test_a_damaged_archive_is_refused_and_touches_nothing(data_dir: Path, tmp_path: Path, where: str) -> None:
    file, into = tmp_path / "fleet.tar", tmp_path / "restored"
    backup.create(data_dir, file)
    content = bytearray(file.read_bytes())
    if where == "middle":
        at = content.index(b"key_secret")
        content[at] ^= 1
    elif where == "manifest":
        at = content.index(b'"size": ') + 8
        content[at : at + 1] = b"9"
    else:
        content = bytearray(b"not a tar at all")
    file.write_bytes(content)
    with pytest.raises(BackupError) as refusal:
        backup.restore(file, into)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in into.iterdir()] == ["lock"]


def test_a_directory_in_use_is_left_alone(data_dir: Path, tmp_path: Path) -> None:
    backup.create(data_dir, tmp_path / "fleet.tar")
    with held(data_dir), pytest.raises(BackupError, match="in use by process"):
        backup.restore(tmp_path / "fleet.tar", data_dir, replace=True)
    assert rows(data_dir / "fleetpush.db") == 100


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    manifest = {
        "format": 1,
        "created_at": "now",
        "fleetpush": "1",
        "files": [{"name": "../escaped", "size": 1, "sha256": "0", "schema": None, "rows": {}}],
    }
    text = tmp_path / "manifest.json"
    text.write_text(json.dumps(manifest))
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(text, "manifest.json")
        tar.add(text, "../escaped")
    with pytest.raises(BackupError):
        backup.restore(file, tmp_path / "data")
    assert not (tmp_path / "escaped").exists()
