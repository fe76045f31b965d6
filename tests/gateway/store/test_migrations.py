from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pyroaring import BitMap
from sqlmodel import SQLModel, create_engine

from gateway.store import migrations, models
from gateway.store.ledger_file import prepare
from gateway.store.migrations import SchemaTooNew

ROOT = Path(__file__).parents[3]


def schema(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        " AND name != 'alembic_version'"
    )
    return {name: "".join(sql.split()).replace('"', "") for name, sql in rows}


def indexes(connection: sqlite3.Connection, table: str) -> set[tuple[Any, ...]]:
    """(columns, unique, origin, partial) of each, those of the constraints included."""
    return {
        (tuple(row[2] for row in connection.execute(f"PRAGMA index_info({name})")), unique, origin, partial)
        for _, name, unique, origin, partial in connection.execute(f"PRAGMA index_list({table})")
    }


def foreign_keys(connection: sqlite3.Connection, table: str) -> set[tuple[Any, ...]]:
    return {row[2:] for row in connection.execute(f"PRAGMA foreign_key_list({table})")}


def test_the_migrated_schema_is_that_of_the_models(tmp_path: Path) -> None:
    prepare(tmp_path / "migrated.db")
    migrated = sqlite3.connect(tmp_path / "migrated.db")
    wanted = sqlite3.connect(":memory:", check_same_thread=False)
    SQLModel.metadata.create_all(create_engine("sqlite://", creator=lambda: wanted), checkfirst=False)
    assert models.Push.__tablename__ in schema(wanted)
    for name, sql in schema(wanted).items():
        columns = [row[1:] for row in wanted.execute(f"PRAGMA table_info({name})")]
        assert [row[1:] for row in migrated.execute(f"PRAGMA table_info({name})")] == columns, name
        if sql.startswith(("CREATEINDEX", "CREATEUNIQUEINDEX")):
            assert schema(migrated)[name] == sql
        else:
            assert ("WITHOUTROWID" in schema(migrated)[name]) == ("WITHOUTROWID" in sql), name
            assert ("AUTOINCREMENT" in schema(migrated)[name]) == ("AUTOINCREMENT" in sql), name
            assert indexes(migrated, name) == indexes(wanted, name), name
            assert foreign_keys(migrated, name) == foreign_keys(wanted, name), name
    assert schema(migrated).keys() == schema(wanted).keys()
    migrated.close()
    wanted.close()


def test_the_newest_revision_is_the_one_that_starts_compare_with() -> None:
    script = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert script.get_heads() == [migrations.HEAD]


def ledger_of(revision: str, path: Path) -> sqlite3.Connection:
    """A new ledger of an earlier version."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()
    return sqlite3.connect(path)


def test_what_waits_of_an_earlier_version_is_found_by_its_collapse_key(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    connection = ledger_of("0015", path)
    connection.executemany(
        "INSERT INTO push (no, id, app_no, kind, priority, qos, ttl, collapse_key, target, content, size, accepted_at,"
        " expires_at, closed_at, targeted, suppressed)"
        " VALUES (?1, ?1, 1, 'silent', 2, 1, 60, ?2, '{}', '{}', 2, 0, 60000, ?3, 2, 0)",
        [(1, None, None), (2, "price", None), (3, "price", 70_000)],
    )
    connection.executemany(
        "INSERT INTO delivery (push_no, device_no, priority, size, state) VALUES (?, ?, 2, 2, ?)",
        [(1, 1, 0), (2, 1, 0), (2, 2, 10), (3, 1, 20)],
    )
    connection.commit()
    prepare(path)
    rows = connection.execute("SELECT push_no, device_no FROM delivery WHERE collapse_key = 'price'").fetchall()
    assert rows == [(2, 1)]
    connection.close()


def test_devices_of_an_earlier_version_are_in_the_sets_of_their_app_and_tags(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    connection = ledger_of("0016", path)
    removed, other_app = 7, 9
    numbers = [1, 2, removed, other_app, *range(65_530, 65_540), 1_000_000]
    connection.executemany(
        "INSERT INTO device (no, app_no, id, removed_at, token_hash, created_at, updated_at)"
        " VALUES (?1, ?2, ?1, ?3, x'', 0, 0)",
        [(no, 2 if no == other_app else 1, 5 if no == removed else None) for no in numbers],
    )
    tags = {"hall": [1, removed, 65_535, 65_536, 1_000_000], "gone": [removed]}
    connection.executemany(
        "INSERT INTO device_tag (app_no, tag, device_no) VALUES (?, ?, ?)",
        [(1, tag, no) for tag, tagged in tags.items() for no in tagged] + [(2, "hall", other_app)],
    )
    connection.commit()
    prepare(path)
    sets = {
        (app_no, tag, segment): list(BitMap.deserialize(devices))
        for app_no, tag, segment, devices in connection.execute("SELECT app_no, tag, segment, devices FROM device_set")
    }
    assert sets == {
        (1, "", 0): [1, 2, *range(65_530, 65_536)],
        (1, "", 1): [65_536, 65_537, 65_538, 65_539],
        (1, "", 15): [1_000_000],
        (1, "hall", 0): [1, 65_535],
        (1, "hall", 1): [65_536],
        (1, "hall", 15): [1_000_000],
        (2, "", 0): [other_app],
        (2, "hall", 0): [other_app],
    }
    connection.close()


def test_preparing_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    prepare(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO application (id, created_at) VALUES ('a', 1)")
    connection.commit()
    prepare(path)
    assert connection.execute("SELECT id FROM application").fetchall() == [("a",)]
    connection.close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    prepare(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    with pytest.raises(SchemaTooNew, match="newer version"):
        prepare(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    connection.close()


def test_two_starts_at_once_migrate_once(tmp_path: Path) -> None:
    program = "import sys, pathlib; from gateway.store import ledger_file as l; l.prepare(pathlib.Path(sys.argv[1]))"
    starts = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "test.db")], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for start in starts:
        _, errors = start.communicate(timeout=60)
        assert start.returncode == 0, errors.decode()


def test_deep_mailboxes_are_noted_by_app(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    connection = ledger_of("0033", path)
    far = 1 << 16
    connection.executemany(
        "INSERT INTO device (no, app_no, id, token_hash, created_at, updated_at) VALUES (?1, ?2, ?1, x'00', 0, 0)",
        [(1, 1), (2, 2), (3, 1), (far, 2)],
    )
    # The last of the first segment has gone.
    noted = [(0, BitMap([1, 2, 3, 9]).serialize()), (1, BitMap([far]).serialize())]
    connection.executemany("INSERT INTO deep_mailbox VALUES (?, ?)", noted)
    connection.commit()
    connection.close()
    prepare(path)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT app_no, segment, devices FROM deep_mailbox ORDER BY 1, 2").fetchall()
    found = {(app_no, segment): list(BitMap.deserialize(devices)) for app_no, segment, devices in rows}
    assert found == {(1, 0): [1, 3], (2, 0): [2], (2, 1): [far]}
