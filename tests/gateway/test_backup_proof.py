"""A proof finds what is damaged, says so in one line, leaves nothing behind, and needs no key that the server has."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pyrage.x25519 import Identity

from gateway import backup, backup_archive, backup_proof
from gateway.backup_archive import BackupError
from gateway.backup_contents import count_contents, describe_contents
from gateway.backup_proof import create_proven, prove
from gateway.backup_record import read_record
from gateway.cli.doctor import check_audit_log
from gateway.data_directory import LEDGER
from gateway.scratch_folder import PREFIX
from tests.gateway.fleet_directory import CONTENTS, make_fleet_directory
from tests.gateway.store.test_migrations import ledger_of


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return make_fleet_directory(tmp_path / "data")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_a_proof_says_in_a_line_what_came_back(data_dir: Path, tmp_path: Path, scratch: Path) -> None:
    file = tmp_path / "fleet.tgz"
    made = backup.create(data_dir, file)
    assert made.contents == CONTENTS == count_contents(data_dir)
    proof = prove(file, scratch)
    assert proof.manifest == made
    assert proof.describe().endswith(
        " 1 apps, 3 devices, 2 pushes, 6 deliveries (2 delivered, 4 waiting), 1 waiting sets, 1 events, 0 uplink"
        " messages, 1 audit entries, 2 sessions, 1 subscriptions, 1 queued messages, 1 attachments"
    )
    assert "\n" not in proof.describe()
    assert os.listdir(scratch) == []


def test_a_proof_tells_that_the_audit_log_was_altered(data_dir: Path, tmp_path: Path, scratch: Path) -> None:
    with closing(sqlite3.connect(data_dir / LEDGER)) as ledger:
        ledger.execute("UPDATE audit_entry SET object = 'device:d3'")
        ledger.commit()
    finding = check_audit_log(data_dir / LEDGER)
    assert (finding.level, finding.subject) == ("fail", "audit log")
    backup.create(data_dir, tmp_path / "fleet.tgz")
    proof = prove(tmp_path / "fleet.tgz", scratch)  # it is as good as what it is of
    altered = "the audit log was altered: app default: entry 1 has been changed"
    assert altered in proof.describe()
    assert finding.text in proof.describe().replace("the audit log", "it")
    with closing(sqlite3.connect(data_dir / LEDGER)) as ledger:
        ledger.execute("UPDATE audit_entry SET object = 'device:d4'")
        ledger.commit()
    assert check_audit_log(data_dir / LEDGER).text == "1 entries agree with their chains"


opened: list[str] = []
"""Names of files that this process opens; filled by a hook, which stays."""


@pytest.fixture
def watched() -> list[str]:
    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "sqlite3.connect"):
            opened.append(str(arguments[0]))

    if not opened:
        sys.addaudithook(note)
    opened[:] = ["begun"]
    return opened


def test_a_proof_opens_no_file_of_the_server_and_syncs_nothing(
    data_dir: Path, tmp_path: Path, scratch: Path, watched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it costs the running server nothing but time of the disk and the processor."""
    backup.create(data_dir, tmp_path / "fleet.tgz")
    assert any(name.startswith(str(data_dir)) for name in watched)
    watched.clear()
    monkeypatch.setattr(os, "fsync", None)  # its commits would wait for ours
    prove(tmp_path / "fleet.tgz", scratch)
    assert any(name.startswith(str(scratch)) for name in watched)
    assert [name for name in watched if name.startswith(str(data_dir))] == []


def test_a_server_proves_what_it_cannot_read(data_dir: Path, tmp_path: Path, scratch: Path, watched: list[str]) -> None:
    owner = Identity.generate()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    file = folder / "fleet.tgz.age"
    made = create_proven(data_dir, file, recipients=[owner.to_public()], scratch=scratch).manifest
    there = {Path(name).name for name in watched if Path(name).is_relative_to(folder)}
    assert not there & {"fleetpush.db", "broker.db", "admin.key"}, "nothing in the clear where backups go"
    content = file.read_bytes()
    assert all(text not in content for text in (b"SQLite", b"manifest", b"key_secret"))
    assert [path.name for path in folder.iterdir()] == ["fleet.tgz.age"]
    assert prove(file, scratch, [owner]).manifest == made
    with pytest.raises(BackupError, match="--identity"):
        prove(file, scratch)
    with pytest.raises(BackupError, match="another public key"):
        prove(file, scratch, [Identity.generate()])
    into = tmp_path / "restored"
    assert backup.restore(file, into, identities=[owner]) == made
    assert (into / "admin.key").read_text() == "key_secret\n"
    assert os.listdir(scratch) == []


def test_what_fails_its_proof_gets_no_name(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = backup_archive.write_archive

    def write_damaged(path: Path, *arguments: object, **options: object) -> None:
        write(path, *arguments, **options)  # type: ignore[arg-type]
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\0\0\0\0")

    monkeypatch.setattr(backup, "write_archive", write_damaged)
    with pytest.raises(BackupError):
        create_proven(data_dir, tmp_path / "fleet.tgz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert read_record(data_dir).proven_of == 0


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 2 // 3)


def cut_little(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(file: Path) -> None:
    with file.open("r+b") as content:
        content.seek(file.stat().st_size // 2)
        (byte,) = content.read(1)
        content.seek(-1, os.SEEK_CUR)
        content.write(bytes([byte ^ 0x10]))


def empty(file: Path) -> None:
    os.truncate(file, 0)


def append(file: Path) -> None:
    with file.open("ab") as content:
        content.write(os.urandom(1 << 20))


@pytest.mark.parametrize("name", ["fleet.tar", "fleet.tgz", "fleet.tar.age", "fleet.tgz.age"])
@pytest.mark.parametrize("damage", [cut, cut_little, flip, empty, append])
def test_damage_of_every_kind_is_one_clear_line(
    data_dir: Path, tmp_path: Path, scratch: Path, name: str, damage: Callable[[Path], None]
) -> None:
    owner = Identity.generate()
    file = tmp_path / name
    backup.create(data_dir, file, recipients=[owner.to_public()] if name.endswith(".age") else [])
    damage(file)
    if (name, damage) == ("fleet.tar", cut_little):
        prove(file, scratch)  # the zeros behind the last file
        return
    with pytest.raises(BackupError) as refusal:
        prove(file, scratch, [owner])
    text = str(refusal.value)
    assert text.startswith(f"{file}: it is damaged") or "is damaged" in text or "more than its manifest" in text, text
    assert "\n" not in text
    assert len(text) < 300
    assert os.listdir(scratch) == []


def test_counts_that_do_not_come_back_are_named(
    data_dir: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "count_contents", lambda folder: CONTENTS | {"devices": 4})
    backup.create(data_dir, tmp_path / "fleet.tar")
    with pytest.raises(BackupError, match="does not hold what was backed up: 3 devices instead of 4"):
        prove(tmp_path / "fleet.tar", scratch)


def test_a_backup_of_an_earlier_version_is_migrated_in_its_proof(tmp_path: Path, scratch: Path) -> None:
    data_dir = tmp_path / "old"
    data_dir.mkdir()
    ledger_of("0001", data_dir / LEDGER).close()
    backup.create(data_dir, tmp_path / "old.tgz")
    proof = prove(tmp_path / "old.tgz", scratch)
    assert "schema 0001" in proof.describe()
    assert os.listdir(scratch) == []


def test_a_backup_without_counts_says_so(data_dir: Path, tmp_path: Path, scratch: Path) -> None:
    """As those are that an earlier version has made."""
    backup.create(data_dir, tmp_path / "new.tar")
    with tarfile.open(tmp_path / "new.tar") as new, tarfile.open(tmp_path / "old.tar", "w") as old:
        for member in new:
            content = new.extractfile(member)
            assert content is not None
            text = content.read()
            if member.name == "manifest.json":
                at, end = text.index(b',\n "origin"'), text.rindex(b"\n}")
                text = text[:at] + text[end:]
                member.size = len(text)
            old.addfile(member, io.BytesIO(text))
    proof = prove(tmp_path / "old.tar", scratch)
    assert "earlier version" in proof.describe()
    assert proof.manifest.origin == ""


def test_a_proof_takes_no_room_that_is_not_there(
    data_dir: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup.create(data_dir, tmp_path / "fleet.tar")
    usage = shutil.disk_usage(scratch)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(BackupError, match="has 100 left"):
        prove(tmp_path / "fleet.tar", scratch)
    assert os.listdir(scratch) == []


def test_a_backup_leaves_the_server_room_for_pushes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "SPARE_BYTES", 1 << 60)
    monkeypatch.setattr(backup, "SPARE_SHARE", 1)
    with pytest.raises(BackupError, match="--scratch"):
        backup.create(data_dir, tmp_path / "fleet.tar")
    assert list(tmp_path.glob(f"**/{PREFIX}*")) == []


def test_sessions_stay_only_if_that_is_asked_for(data_dir: Path, tmp_path: Path) -> None:
    backup.create(data_dir, tmp_path / "fleet.tar")
    for name, keep_sessions, sessions in (("restored", False, 0), ("moved", True, 2)):
        backup.restore(tmp_path / "fleet.tar", tmp_path / name, keep_sessions=keep_sessions)
        with closing(sqlite3.connect(tmp_path / name / "broker.db")) as broker:
            assert broker.execute("SELECT count(*) FROM session").fetchone() == (sessions,)


@pytest.mark.parametrize("verify", [False, True])
def test_a_full_disk_of_the_server_stops_no_backup_to_another(
    data_dir: Path, tmp_path: Path, verify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("gateway.backup_record.write_private", refuse)
    (create_proven if verify else backup.create)(data_dir, tmp_path / "fleet.tgz")
    assert prove(tmp_path / "fleet.tgz", tmp_path).manifest.origin == ""


def test_contents_of_nothing_are_said_as_such() -> None:
    assert describe_contents({}) == "nothing that can be counted"
    assert backup_proof.UNCHANGED_BY_MIGRATION[1] in CONTENTS
