"""`fleetpush backup`, `verify-backup`, `backup-key` and `restore` as they are typed, and what they say when refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gateway import backup as archive
from gateway.backup_record import read_record
from tests.gateway.cli.fake_server import Outcome, run_command
from tests.gateway.fleet_directory import make_fleet_directory


@pytest.fixture(autouse=True)
def of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Priority and signals are the tests' own."""
    monkeypatch.setattr(os, "nice", lambda increment: 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.parametrize(("command", "operation"), [("backup", "create"), ("restore", "restore")])
def test_a_refusal_of_the_system_is_in_words(
    command: str, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        (tmp_path / "none" / "folder").mkdir()

    monkeypatch.setattr(archive, operation, refuse)
    ended = run_command(command, str(tmp_path / "b.bak"), "--data-dir", str(tmp_path))
    assert ended.exit_code == 1
    assert ended.stderr.endswith(f": {tmp_path}/none/folder: No such file or directory\n")
    assert "Errno" not in ended.stderr


class Operator:
    """Somebody at the server's machine, with a key for the backups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = make_fleet_directory(folder / "data")
        self.public = self.run("backup-key", str(folder / "fleet.key"), own=False).stdout.strip()

    def run(self, *words: str, expect: int = 0, own: bool = True) -> Outcome:
        ended = run_command(*words, *(["--data-dir", str(self.data_dir)] if own else []))
        assert ended.exit_code == expect, ended
        return ended

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_a_backup_to_a_public_key_is_proven_recorded_and_restored(operator: Operator) -> None:
    assert operator.public.startswith("age1")
    made = operator.run("backup", operator.file("fleet.tgz.age"), "--key", operator.public, "--verify")
    assert "proven in" in made.stderr
    assert "3 devices, 2 pushes, 6 deliveries (2 delivered, 4 waiting)" in made.stderr
    assert "only the secret key opens it" in made.stderr
    record = read_record(operator.data_dir)
    assert record.proven_file == operator.file("fleet.tgz.age")
    proven = operator.run("verify-backup", operator.file("fleet.tgz.age"), "--identity", operator.file("fleet.key"))
    assert proven.stdout.count("\n") == 1
    assert proven.stderr == ""
    into = operator.file("restored")
    refused = operator.run("restore", operator.file("fleet.tgz.age"), "--data-dir", into, expect=1, own=False)
    assert "--identity" in refused.stderr
    operator.run(
        "restore",
        operator.file("fleet.tgz.age"),
        "--identity",
        operator.file("fleet.key"),
        "--data-dir",
        into,
        own=False,
    )
    assert (Path(into) / "admin.key").exists()
    assert sorted(path.name for path in operator.folder.iterdir()) == ["data", "fleet.key", "fleet.tgz.age", "restored"]


def test_a_proof_of_another_servers_backup_counts_for_nobody_here(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Operator(tmp_path / "other")
    other.run("backup", other.file("b.tgz"))
    proven = operator.run("verify-backup", other.file("b.tgz"))
    assert "Not recorded" in proven.stderr
    assert read_record(operator.data_dir).proven_of == 0


def test_a_kept_ledger_is_restored_like_a_backup(operator: Operator) -> None:
    kept = operator.data_dir / "fleetpush.db.before-r0018"
    kept.write_bytes((operator.data_dir / "fleetpush.db").read_bytes())
    refused = operator.run("restore", str(kept), expect=1)
    assert "not empty" in refused.stderr
    restored = operator.run("restore", str(kept), "--force")
    assert "fleetpush.db" in restored.stdout
    assert list(operator.data_dir.glob("before-restore-*/fleetpush.db.before-r0018"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "name a FILE"),
        (("b.tgz", "--every", "6h"), "name a FILE"),
        (("--every", "6h"), "name a FILE"),
        (("--to", "folder"), "name a FILE"),
        (("--every", "soon", "--to", "folder"), "--every 'soon'"),
        (("--every", "5s", "--to", "folder"), "60 seconds at least"),
        (("b.tgz", "--key", "age1nonsense"), "--key"),
        (("b.tgz", "--key", "/nowhere/key.pub"), "/nowhere/key.pub"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_done(operator: Operator, words: tuple[str, ...], why: str) -> None:
    assert why in operator.run("backup", *words, expect=2).stderr
    assert not (operator.data_dir / "backups.json").exists()


def test_a_key_is_not_overwritten(operator: Operator) -> None:
    assert "File exists" in operator.run("backup-key", operator.file("fleet.key"), expect=1, own=False).stderr
