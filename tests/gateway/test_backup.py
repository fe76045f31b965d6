"""A backup is one moment, proves itself, and its restoration overwrites nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from gateway import backup
from gateway.backup_archive import BackupError, RestoreUnfinished
from gateway.data_directory import locked
from gateway.startup import CannotStart, finish_restore, is_new_directory


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
    with pytest.raises(BackupError, match=rf"^{re.escape(str(into))}: not empty"):
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


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("broker.db", "PRAGMA user_version = 99"),
        ("fleetpush.db", "CREATE TABLE alembic_version AS SELECT '9999' AS version_num"),
    ],
)
def test_a_backup_of_a_later_version_is_refused_and_touches_nothing(
    data_dir: Path, tmp_path: Path, name: str, made: str
) -> None:
    with closing(sqlite3.connect(data_dir / name)) as later:
        later.execute(made)
    file = tmp_path / "fleet.tar"
    backup.create(data_dir, file)
    before = {path.name for path in data_dir.iterdir()}
    for use in (backup.check, lambda archive: backup.restore(archive, data_dir, replace=True)):
        with pytest.raises(BackupError, match=rf"{name} was written by a later version \(schema 9+\)"):
            use(file)
    assert {path.name for path in data_dir.iterdir()} - {"lock"} == before - {"lock"}


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
    with locked(data_dir), pytest.raises(BackupError, match="in use by process"):
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


# A restore that is killed, at any moment.


STEPS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.scandir", "os.listdir", "sqlite3.connect")


def killed_restore(file: Path, into: Path, at: int) -> bool:
    """Restore in a process that kills itself when it comes to its step `at`; False if it was done before."""
    child = os.fork()
    if child == 0:
        steps = 0

        def kill_at_step(name: str, _: object) -> None:
            nonlocal steps
            if name in STEPS:
                steps += 1
                if steps > at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_at_step)
        try:
            backup.restore(file, into, replace=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def found_by_a_server(into: Path) -> tuple[str, int, int] | None:
    """What a start would serve: admin key, rows of ledger and broker. None: it refuses, with the remedy."""
    with locked(into):
        finish_restore(into)
        try:
            is_new = is_new_directory(into)
        except CannotStart as refusal:
            return None if "restore a backup" in str(refusal) else (str(refusal), 0, 0)
        if not (into / "fleetpush.db").exists():
            assert is_new
            return ("", 0, 0)
    return (into / "admin.key").read_text().strip(), rows(into / "fleetpush.db"), rows(into / "broker.db")


@pytest.mark.parametrize("before", ["nothing", "another fleet"])
def test_a_restore_killed_at_any_moment_leaves_the_old_state_or_the_new(
    data_dir: Path, tmp_path: Path, before: str, full: int
) -> None:
    file = tmp_path / "fleet.tar"
    backup.create(data_dir, file)
    old = tmp_path / "old"
    old.mkdir()
    if before == "another fleet":
        database(old / "fleetpush.db", 7)
        database(old / "broker.db", 5)
        (old / "admin.key").write_text("key_old\n")
        (old / "attachments").mkdir()
        (old / "attachments" / "a").write_text("old")
    new = ("key_secret", 100, 10)
    outcomes = []
    at, killed = 0, True
    while killed:
        into = tmp_path / f"into-{at}"
        shutil.copytree(old, into)
        killed = killed_restore(file, into, at)
        found = found_by_a_server(into)
        outcomes.append(found)
        if found == new:
            assert not (into / "attachments").exists()
            if before == "another fleet":
                (aside,) = into.glob("before-restore-*")
                assert (aside / "admin.key").read_text() == "key_old\n"
                assert (aside / "attachments" / "a").read_text() == "old"
                assert rows(aside / "fleetpush.db") == 7
        backup.restore(file, into, replace=True)  # whatever was there, it can be done again
        assert found_by_a_server(into) == new
        assert not list(into.glob(".restore-*"))
        at += 1 if full > 1 else 4
    allowed = {new, ("", 0, 0), None} if before == "nothing" else {new, ("key_old", 7, 5)}
    assert set(outcomes) <= allowed
    assert outcomes[-1] == new
    assert outcomes.index(new) < len(outcomes) - 2, "some were killed after the decision"
    if before == "nothing":
        assert None in outcomes
        assert ("", 0, 0) not in outcomes[outcomes.index(None) :], "what has begun is no first start any more"


def test_what_cannot_be_put_in_its_place_is_finished_later(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, into = tmp_path / "fleet.tar", tmp_path / "into"
    backup.create(data_dir, file)
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "broker.db":
            raise OSError(5, "Input/output error", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(RestoreUnfinished, match="finishes it"):
        backup.restore(file, into)
    (into / "fleetpush.db").touch()
    with pytest.raises(BackupError, match="interrupted"):
        backup.create(into, tmp_path / "half.tar")
    (into / "fleetpush.db").unlink()
    monkeypatch.undo()
    assert found_by_a_server(into) == ("key_secret", 100, 10)


# Archives that somebody else made.


def archive(file: Path, manifest: object, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    with tarfile.open(file, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for info, content in ((tarfile.TarInfo("manifest.json"), text), *members):
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def listed(*files: dict[str, object]) -> dict[str, object]:
    usual: dict[str, object] = {"sha256": "0" * 64, "schema": None, "rows": {}}
    return {"format": 1, "created_at": "now", "fleetpush": "1", "files": [usual | file for file in files]}


def hostile(kind: str, file: Path) -> Path:
    key, ledger = tarfile.TarInfo("admin.key"), tarfile.TarInfo("fleetpush.db")
    match kind:
        case "a file larger than it says":
            return archive(file, listed({"name": "admin.key", "size": 3}), (key, bytes(1 << 24)), mode="w:gz")
        case "larger than the disk":
            return archive(file, listed({"name": "admin.key", "size": 1 << 60}), (key, b"x"))
        case "a manifest that fills the memory":
            return archive(file, b'"' + b" " * (1 << 26) + b'"', mode="w:gz")
        case "a link":
            key.type, key.linkname = tarfile.SYMTYPE, "/etc/passwd"
            return archive(file, listed({"name": "admin.key", "size": 0}), (key, b""))
        case "a long name":
            return archive(file, listed(), (tarfile.TarInfo("x" * (1 << 22)), b""), mode="w:gz")
        case "a sparse map":
            key.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "admin.key"}
            return archive(file, listed({"name": "admin.key", "size": 1}), (key, b"9" * (1 << 22)), mode="w:gz")
        case "a name twice":
            return archive(file, listed(*[{"name": "admin.key", "size": 1}] * 2), (key, b"x"), (key, b"y"))
        case "another order":
            two = listed({"name": "admin.key", "size": 1}, {"name": "fleetpush.db", "size": 1})
            return archive(file, two, (ledger, b"x"), (key, b"x"))
        case "a path":
            return archive(file, listed({"name": "attachments/../../x", "size": 1}), (tarfile.TarInfo("x"), b"x"))
        case "a size below zero":
            return archive(file, listed({"name": "admin.key", "size": -1}), (key, b"x"))
        case "a manifest of lists":
            return archive(file, b"[" * 100_000)
        case "no ledger":
            digest = hashlib.sha256(b"x").hexdigest()
            return archive(file, listed({"name": "admin.key", "size": 1, "sha256": digest}), (key, b"x"))
        case "another compression":
            return archive(file, listed(), mode="w:xz")
        case "broken compression":
            file.write_bytes(gzip.compress(bytes(100_000))[:50])
            return file
        case "a trigger":
            made = file.with_name("made.db")
            with closing(sqlite3.connect(made)) as opened:
                opened.execute("CREATE TABLE thing (no)")
                opened.execute("CREATE TRIGGER t AFTER INSERT ON thing BEGIN DELETE FROM thing; END")
                opened.commit()
            content = made.read_bytes()
            one = {"name": "fleetpush.db", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            return archive(file, listed(one | {"schema": "0", "rows": {"thing": 0}}), (ledger, content))
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "a file larger than it says", "larger than the disk", "a manifest that fills the memory", "a link",
        "a long name", "a sparse map", "a name twice", "another order", "a path", "a size below zero",
        "a manifest of lists", "no ledger", "another compression", "broken compression", "a trigger",
    ],
)  # fmt: skip
def test_a_hostile_archive_is_refused_in_one_line_for_little(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    file, into = hostile(kind, folder / "hostile.tar"), tmp_path / "into"
    tracemalloc.start()
    try:
        with pytest.raises(BackupError) as refusal:
            backup.restore(file, into)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1_000
    assert peak < 40 << 20
    assert [path.name for path in into.iterdir()] == ["lock"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "into"]


def test_a_full_disk_leaves_no_half_backup(data_dir: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with closing(sqlite3.connect(data_dir / "fleetpush.db")) as opened:
        opened.execute("INSERT INTO thing (twin) VALUES (zeroblob(3000000))")
        opened.commit()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(BackupError, match="full") as refusal:
            backup.create(data_dir, disk / "fleet.tar")
        assert "\n" not in str(refusal.value)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
