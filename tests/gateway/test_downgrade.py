"""A version that finds a newer ledger says which file and which command lead back, and they do."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway import downgrade, kept_ledger
from gateway.backup_archive import BackupError
from gateway.backup_contents import count_contents
from gateway.data_directory import BROKER, LEDGER, locked
from gateway.startup import refusal
from gateway.store.ledger_file import prepare
from gateway.store.migrations import HEAD, SchemaTooNew
from tests.gateway.fleet_directory import ATTACHMENT, make_fleet_directory


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The directory after a later version has migrated it, and has enrolled another device."""
    folder = make_fleet_directory(tmp_path / "data")
    with closing(sqlite3.connect(folder / LEDGER, isolation_level=None)) as ledger:
        kept_ledger.keep(ledger, folder / LEDGER, HEAD)
        ledger.execute("UPDATE alembic_version SET version_num = '9999'")
        ledger.execute(
            "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at) VALUES (9, 1, 'd9', x'', 0, 0)"
        )
    return folder


def refused(data_dir: Path) -> str:
    with pytest.raises(SchemaTooNew) as error:
        prepare(data_dir / LEDGER)
    return str(refusal(data_dir / LEDGER, error.value))


def test_the_refusal_names_the_file_and_the_command_and_they_work(data_dir: Path) -> None:
    text = refused(data_dir)
    assert "\n" not in text
    assert "newer version (schema 9999" in text
    command = re.search(r"`fleetpush restore (\S+) --force --data-dir (\S+)`", text)
    assert command is not None, text
    kept, into = Path(command[1]), Path(command[2])
    assert kept == data_dir / f"fleetpush.db.before-r{HEAD}"
    assert downgrade.is_ledger(kept)
    restored = downgrade.restore_kept(kept, into, replace=True)
    assert restored.contents["devices"] == 3
    prepare(data_dir / LEDGER)
    found = count_contents(data_dir)
    assert (found["devices"], found["deliveries_waiting"], found["attachments"]) == (3, 4, 1)
    assert found["sessions"] == 0, "devices have gone on since"
    assert (data_dir / "admin.key").read_text() == "key_secret\n"
    assert (data_dir / "attachments" / ATTACHMENT).read_text() == "hi"
    with closing(sqlite3.connect(data_dir / LEDGER)) as ledger:
        ledger.execute("INSERT INTO event (app_no, at, type, size) VALUES (1, 0, 'x', 1)")
        assert ledger.execute("SELECT max(no) FROM event").fetchone()[0] > 10**15, "ids of events go on"
    (aside,) = data_dir.glob("before-restore-*")
    with closing(sqlite3.connect(aside / LEDGER)) as newer:
        assert newer.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


def test_a_broker_of_a_newer_schema_is_left_behind(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / BROKER)) as broker:
        broker.execute("PRAGMA user_version = 99")
    (kept,) = kept_ledger.kept_ledgers(data_dir)
    downgrade.restore_kept(kept, data_dir, replace=True)
    assert not (data_dir / BROKER).exists()


def test_without_a_kept_ledger_it_is_a_backup(data_dir: Path) -> None:
    kept_ledger.give_up(data_dir)
    assert f"`fleetpush restore FILE --force --data-dir {data_dir}`" in refused(data_dir)


def test_a_kept_ledger_that_is_too_new_itself_is_not_named(data_dir: Path) -> None:
    (kept,) = kept_ledger.kept_ledgers(data_dir)
    kept.rename(kept.with_name("fleetpush.db.before-r9998"))
    assert "before-r9998" not in refused(data_dir)


def test_nothing_is_touched_where_a_server_runs_or_the_file_is_damaged(data_dir: Path) -> None:
    (kept,) = kept_ledger.kept_ledgers(data_dir)
    before = sorted(path.name for path in data_dir.iterdir())
    with locked(data_dir), pytest.raises(BackupError, match="in use"):
        downgrade.restore_kept(kept, data_dir, replace=True)
    content = kept.read_bytes()
    kept.write_bytes(content[:100] + bytes(len(content) - 100))
    with pytest.raises(BackupError, match=r"damaged|malformed") as refusal_of_damage:
        downgrade.restore_kept(kept, data_dir, replace=True)
    assert "\n" not in str(refusal_of_damage.value)
    assert sorted(path.name for path in data_dir.iterdir()) == sorted({*before, "lock"})
