"""Before a migration the ledger is kept as it was: one, for a while, and never at the price of the server."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from broker.sqlite_file import Fault
from gateway import kept_ledger
from gateway.kept_ledger import KEPT_DAYS, NoRoomToKeep, kept_ledgers
from gateway.store import migrations
from gateway.store.errors import StorageError
from gateway.store.ledger_file import prepare
from gateway.store.migrations import HEAD, MigrationFailed
from tests.gateway.store.test_migrations import ledger_of, schema

DAY = 86_400


@cache
def _empty(revision: str) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "old.db"
        ledger_of(revision, path).close()
        return path.read_bytes()


def old_ledger(folder: Path, revision: str = "0016", rows: int = 1) -> Path:
    path = folder / "fleetpush.db"
    path.write_bytes(_empty(revision))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executemany(
            "INSERT INTO application (id, created_at) VALUES (?, 0)",
            [(f"a{row}" + "x" * 3_000,) for row in range(rows)],
        )
        connection.commit()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def revision_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as opened:
        (revision,) = opened.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(revision)


@pytest.mark.parametrize("is_read", [False, True])
def test_the_old_file_is_beside_the_new_one(tmp_path: Path, is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.ledger_file.START_BUSY_MS", 200)
    path = old_ledger(tmp_path)
    with closing(sqlite3.connect(path)) as reader:
        before = schema(reader)
        if is_read:  # a backup under way: the log cannot be emptied
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM application").fetchone()
            with closing(sqlite3.connect(path)) as writer:
                writer.execute("INSERT INTO application (id, created_at) VALUES ('in the log', 0)")
                writer.commit()
        prepare(path)
    assert revision_of(path) == HEAD
    kept = tmp_path / "fleetpush.db.before-r0016"
    assert kept.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(kept)) as old:
        assert schema(old) == before
        assert old.execute("SELECT count(*) FROM application").fetchone() == (2 if is_read else 1,)
    prepare(path)
    assert kept_ledgers(tmp_path) == [kept]


def test_one_is_kept_and_the_log_names_the_loser(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = old_ledger(tmp_path)
    loser = tmp_path / "fleetpush.db.before-r0001"
    loser.touch()
    prepare(path)
    assert [kept.name for kept in kept_ledgers(tmp_path)] == ["fleetpush.db.before-r0016"]
    assert f"{loser}, kept by an earlier upgrade, is removed" in caplog.text


def test_a_new_ledger_and_a_scratch_copy_keep_nothing(tmp_path: Path) -> None:
    prepare(tmp_path / "new.db")
    path = old_ledger(tmp_path)
    prepare(path, keep_old=False)
    assert kept_ledgers(tmp_path) == []


def test_it_leaves_after_its_time_or_when_the_disk_is_nearly_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "fleetpush.db.before-r0016"
    kept.touch()
    made = kept.stat().st_mtime
    kept_ledger.remove_expired(tmp_path, made + (KEPT_DAYS - 1) * DAY)
    assert kept.exists()
    kept_ledger.remove_expired(tmp_path, made + (KEPT_DAYS + 1) * DAY)
    assert not kept.exists()
    assert not kept_ledger.give_up(tmp_path)
    kept.touch()
    assert kept_ledger.give_up(tmp_path)
    assert not kept.exists()
    assert "the disk is nearly full" in caplog.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_without_room_nothing_is_changed_and_the_remedy_is_named(small_disk: Path) -> None:
    path = old_ledger(small_disk, rows=700)
    older = small_disk / "fleetpush.db.before-r0001"
    older.write_bytes(bytes(100_000))
    (small_disk / "of others").write_bytes(bytes(6 << 20))
    before = path.read_bytes()
    with pytest.raises(NoRoomToKeep, match=r"free some.*start again.*nothing was changed") as refusal:
        prepare(path)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == before
    assert names(small_disk) == ["fleetpush.db", "of others"], "the older one was tried as room"


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_ledger(tmp_path)
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("CREATE TABLE waiting_set (other)")  # in the way of a later revision
        before = schema(opened)
    with pytest.raises(
        MigrationFailed, match=r"from schema 0016 to .* as it was: start the earlier version"
    ) as failure:
        prepare(path)
    assert "\n" not in str(failure.value)
    with closing(sqlite3.connect(path)) as opened:
        assert schema(opened) == before
    assert revision_of(path) == "0016"
    assert names(tmp_path) == ["fleetpush.db"]


def test_a_disk_that_fills_in_the_middle_is_told_as_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_ledger(tmp_path)

    def fill(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr("alembic.command.upgrade", fill)
    with pytest.raises(StorageError) as refusal:
        prepare(path)
    assert refusal.value.fault is Fault.FULL
    assert revision_of(path) == "0016"
    assert names(tmp_path) == ["fleetpush.db"]


def test_a_start_that_is_killed_in_between_is_made_good_by_the_next(tmp_path: Path) -> None:
    path = old_ledger(tmp_path)
    for at in ("keep", "upgrade"):
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                if at == "keep":
                    os.replace = lambda *_: os._exit(9)  # in the child only
                else:
                    import alembic.command

                    alembic.command.upgrade = lambda *_: os._exit(9)
                prepare(path)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert revision_of(path) == "0016"
    prepare(path)
    assert revision_of(path) == migrations.HEAD
    assert revision_of(tmp_path / "fleetpush.db.before-r0016") == "0016"
    assert names(tmp_path) == ["fleetpush.db", "fleetpush.db.before-r0016"]


def test_where_files_share_blocks_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As XFS and btrfs do it; a file system that cannot refuses the call, as this machine's."""

    def clone(target: int, request: int, source: int) -> None:
        assert request == kept_ledger.FICLONE
        os.sendfile(target, source, 0, os.fstat(source).st_size)

    monkeypatch.setattr("gateway.kept_ledger.fcntl.ioctl", clone)
    monkeypatch.setattr(kept_ledger, "_has_room", lambda *_: False)
    path = old_ledger(tmp_path, rows=50)
    with closing(sqlite3.connect(path)) as before:
        before.execute("INSERT INTO application (id, created_at) VALUES ('in the log', 0)")
        before.commit()
        prepare(path)
    kept = tmp_path / "fleetpush.db.before-r0016"
    assert revision_of(kept) == "0016"
    with closing(sqlite3.connect(kept)) as old:
        assert old.execute("SELECT count(*) FROM application").fetchone() == (51,)
        assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)
