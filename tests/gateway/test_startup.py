"""What keeps the databases from being opened, and the remedy that is said: "restore a backup" of damage alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway import replacement
from gateway.cli.doctor import check_ledger
from gateway.data_directory import locked
from gateway.settings import Settings
from gateway.startup import CannotStart, damage, finish_restore, first_start, open_stores

RESTORE = "restore a backup"


def opened(folder: Path) -> bool:
    """Open as the server does; whether it was a first start. Raises CannotStart."""

    async def run() -> bool:
        async with AsyncExitStack() as ending:
            finish_restore(folder)
            stored = await open_stores(Settings(data_dir=folder), ending)
            return await first_start(folder, stored) is not None

    with locked(folder):
        return asyncio.run(run())


def refused(folder: Path) -> str:
    with pytest.raises(CannotStart) as refusal:
        opened(folder)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of a server that was started once."""
    folder = tmp_path_factory.mktemp("made") / "data"
    assert opened(folder)
    assert not opened(folder)
    return folder


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def no_tables(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "fleetpush.db")) as database:
        database.execute("PRAGMA user_version = 1")


def another_program(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "fleetpush.db")) as database:
        database.execute("CREATE TABLE t (n)")


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def attachment(folder: Path) -> None:
    remove(folder, "admin.key", "broker.db")
    (folder / "attachments").mkdir(exist_ok=True)
    (folder / "attachments" / "a").write_text("a")


def only_folder(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        remove(folder, "admin.key", "broker.db")
        (folder / name).mkdir()

    return change


LOST: dict[str, Callable[[Path], object]] = {
    "missing": lambda folder: None,
    "empty": lambda folder: (folder / "fleetpush.db").touch(),
    "no tables": no_tables,
    "another program's": another_program,
    "key only": lambda folder: remove(folder, "broker.db"),
    "broker only": lambda folder: remove(folder, "admin.key"),
    "attachments only": attachment,
    "half an old restore": only_folder("before-restore-20260101T000000Z"),
    "a restore that was killed": only_folder(".restore-staging-x"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_directory_that_lost_its_ledger_is_no_first_start(data_dir: Path, case: str) -> None:
    (data_dir / "fleetpush.db").unlink()
    LOST[case](data_dir)
    before = {path.name: path.read_bytes() for path in data_dir.iterdir() if path.is_file() and path.name != "lock"}
    said = refused(data_dir)
    assert RESTORE in said
    assert "choose another --data-dir" in said
    for name, content in before.items():
        if name != "fleetpush.db" or not content:  # opening it has made a log beside it
            assert (data_dir / name).read_bytes() == content, name
    assert "fail" in [finding.level for finding in check_ledger(data_dir / "fleetpush.db")]


def test_an_interrupted_restore_is_finished_by_the_next_start(made: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    decided = into / f"{replacement.DECIDED}20260101T000000Z"
    decided.mkdir(parents=True)
    for name in ("fleetpush.db", "broker.db", "admin.key"):
        shutil.copy(made / name, decided)
    (into / "admin.key").write_text("key_old\n")
    assert [finding.subject for finding in check_ledger(into / "fleetpush.db")] == ["restore"]
    assert not opened(into)
    assert (into / "admin.key").read_text() == (made / "admin.key").read_text()
    assert (into / "before-restore-20260101T000000Z" / "admin.key").read_text() == "key_old\n"


def test_a_directory_before_its_first_start_may_hold_what_a_person_put_there(tmp_path: Path) -> None:
    (tmp_path / "fleetpush.toml").write_text("")
    (tmp_path / "tls").mkdir()
    (tmp_path / "fleetpush.db").touch()  # a first start that was killed early
    (tmp_path / "fleetpush.db.migrate.lock").touch()
    (tmp_path / "broker.db").touch()
    assert opened(tmp_path)


def test_sessions_may_be_missing(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data_dir / "broker.db").unlink()
    assert not opened(data_dir)
    assert "sessions begin anew" in caplog.text


@pytest.mark.parametrize("name", ["fleetpush.db", "broker.db"])
@pytest.mark.parametrize("kind", ["socket", "pipe", "folder", "loop"])
def test_what_is_no_file_in_the_place_of_a_database(
    data_dir: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data_dir / name
    path.unlink()
    match kind:
        case "socket":
            monkeypatch.chdir(data_dir)
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(name)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(name)
    said = refused(data_dir)
    assert str(path) in said
    assert RESTORE not in said


def refused_to_nobody(folder: Path) -> str:
    """What is said to a user who owns nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writing, refused(folder).encode())
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_the_files_of_another_owner_are_no_reason_to_restore(data_dir: Path) -> None:
    for folder in [data_dir, *data_dir.parents][:-2]:
        folder.chmod(0o777)
    for name in ("lock", "fleetpush.db.migrate.lock", "broker.db.lock"):
        (data_dir / name).chmod(0o666)
    for name, mode in (("fleetpush.db", 0o644), ("fleetpush.db", 0o600), ("broker.db", 0o644)):
        (data_dir / "fleetpush.db").chmod(0o666)
        (data_dir / name).chmod(mode)
        said = refused_to_nobody(data_dir)
        assert f"{name} belongs to root" in said
        assert "`chown -R` the data directory" in said
        assert "--data-dir" in said
        assert RESTORE not in said
    data_dir.chmod(0o755)
    said = refused_to_nobody(data_dir)
    assert "belongs to root" in said
    assert RESTORE not in said


def test_a_locked_database_is_no_reason_either(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.ledger_file.START_BUSY_MS", 10)
    with contextlib.closing(sqlite3.connect(data_dir / "fleetpush.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        said = refused(data_dir)
    assert "fuser" in said
    assert RESTORE not in said


def test_a_read_only_disk_is_no_reason_either(data_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a disk needs root")
    try:
        folder = Path(shutil.copytree(data_dir, place / "data"))
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)

        async def run() -> None:
            async with AsyncExitStack() as ending:
                await open_stores(Settings(data_dir=folder), ending)

        with pytest.raises(CannotStart, match="read-only disk") as refusal:
            asyncio.run(run())
        assert RESTORE not in str(refusal.value)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", ["fleetpush.db", "broker.db"])
def test_damage_is(data_dir: Path, name: str) -> None:
    (data_dir / name).write_bytes(b"this is no database, and long enough to be looked at" * 100)
    assert RESTORE in refused(data_dir)
    assert RESTORE in (damage(data_dir) or "")


@pytest.mark.parametrize("name", ["fleetpush.db", "broker.db"])
def test_a_damaged_page_is_one_line_or_does_no_harm(data_dir: Path, tmp_path: Path, name: str, full: int) -> None:
    sound = (data_dir / name).read_bytes()
    pages = len(sound) // 4_096
    for page in range(0, pages, 1 if full > 1 else max(1, pages // 8)):
        folder = Path(shutil.copytree(data_dir, tmp_path / f"page-{page}"))
        (folder / name).write_bytes(sound[: page * 4_096] + os.urandom(4_096) + sound[(page + 1) * 4_096 :])
        try:
            opened(folder)
        except CannotStart as refusal:
            said = str(refusal)
        except Exception as error:
            said = damage(folder) or f"a traceback: {error!r}"
        else:
            continue
        assert "\n" not in said
        assert RESTORE in said, (page, said)
