"""A schema in PostgreSQL is upgraded by the revisions of the file, and is then what a fresh one is.

Revisions to come are made up here, and put beside those that there are.
"""

from __future__ import annotations

import logging
import lzma
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory

from gateway.store import migrations
from gateway.store.errors import StorageBusy
from gateway.store.ledger_file import prepare as prepare_file
from gateway.store.migrations import MigrationFailed, SchemaTooNew
from gateway.store.postgresql import schema as schemas
from gateway.store.postgresql import upgrade as upgrades
from gateway.store.postgresql.address import Address, read_address
from gateway.store.postgresql.schema import prepare
from gateway.store.postgresql.server import PostgresqlServer
from gateway.store.postgresql.upgrade import BASE, again
from gateway.store.transaction import Transaction
from tests.postgresql import Postgresql
from tests.third_party import require

HERE = migrations.HEAD
NEXT = f"{int(HERE) + 1:04}"
RELEASED = Path(__file__).parents[2] / "released"
REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
oldest_program = "{oldest}"


def upgrade():
{steps}
"""
STEPS = """
    op.add_column("device", sa.Column("shelf", sa.Integer(), server_default="3", nullable=False))
    op.create_table(
        "shelf",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("picture", sa.BLOB(), nullable=True),
        sqlite_autoincrement=True,
    )
    where = sa.text("picture IS NOT NULL")
    op.create_index("shelf_drawn", "shelf", ["label"], sqlite_where=where, postgresql_where=where)
    op.get_bind().exec_driver_sql("INSERT INTO shelf (label) SELECT id FROM device")
"""
CATALOG = """
SELECT 'column', format('%s.%s', c.relname, a.attname), format('%s %s %s %s', format_type(a.atttypid, a.atttypmod),
 l.collname, a.attnotnull, regexp_replace(coalesce(pg_get_expr(d.adbin, d.adrelid), ''), 'nextval.*', 'nextval'))
 FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
 LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'v', 'S')
UNION ALL SELECT c.relkind::text, c.relname, format('%s %s', c.reloptions, c.relpersistence)
 FROM pg_class AS c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'v', 'S')
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()
UNION ALL SELECT 'constraint', format('%s.%s', conrelid::regclass, conname), pg_get_constraintdef(oid)
 FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
UNION ALL SELECT 'trigger', format('%s.%s', tgrelid::regclass, tgname), pg_get_triggerdef(t.oid)
 FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid WHERE c.relnamespace = current_schema()::regnamespace
UNION ALL SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = current_schema()
UNION ALL SELECT 'function', oid::regprocedure::text, CASE prokind WHEN 'f' THEN pg_get_functiondef(oid) ELSE '' END
 FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
UNION ALL SELECT 'operator', oid::regoperator::text, oprcode::text
 FROM pg_operator WHERE oprnamespace = current_schema()::regnamespace
UNION ALL SELECT 'type', oid::regtype::text, typtype::text FROM pg_type
 WHERE typnamespace = current_schema()::regnamespace AND typtype IN ('c', 'd', 'e') AND typelem = 0
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with Postgresql() as server:
        yield server


@pytest.fixture
def address(server: Postgresql) -> Address:
    return read_address(server.url)


@pytest.fixture
def schema(address: Address, request: pytest.FixtureRequest) -> str:
    """A schema of this version, with a device in it."""
    name = f"s{abs(hash(request.node.nodeid))}"
    prepare(address, name)
    with address.connect(f"search_path={name}") as connection:
        connection.execute(
            "INSERT INTO device (no, app_no, id, attributes, token_hash, created_at, updated_at)"
            " VALUES (7, 1, 'kiosk', '{\"floor\": 2}', '', 0, 0)"
        )
    return name


Release = Callable[..., None]


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Make this program the one of the next revision."""

    def make(steps: str = STEPS, oldest: str = HERE) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
        text = REVISION.format(revision=NEXT, before=HERE, oldest=oldest, steps=steps)
        (folder / "versions" / f"r{NEXT}_next.py").write_text(text)
        monkeypatch.setattr(migrations, "FOLDER", folder)
        for module in (migrations, schemas):
            monkeypatch.setattr(module, "HEAD", NEXT)
            monkeypatch.setattr(module, "OLDEST_PROGRAM", oldest)

    return make


def catalog(address: Address, schema: str) -> dict[tuple[str, str], str]:
    """All that a schema defines, by kind and name."""
    with address.connect(f"search_path={schema}") as connection:
        rows = connection.execute(CATALOG.encode()).fetchall()
    return {(kind, name): text.replace(f"{schema}.", "") for kind, name, text in rows}


def differences(first: dict[Any, Any], second: dict[Any, Any]) -> dict[Any, Any]:
    names = first.keys() | second.keys()
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def test_one_revision_upgrades_a_file_and_a_schema_with_what_is_in_them(
    address: Address, schema: str, release: Release, tmp_path: Path
) -> None:
    prepare_file(tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as file, file:
        file.execute(
            "INSERT INTO device (no, app_no, id, attributes, token_hash, created_at, updated_at)"
            " VALUES (7, 1, 'kiosk', '{\"floor\": 2}', '', 0, 0)"
        )
    release()
    prepare_file(tmp_path / "ledger.db")
    prepare(address, schema)
    with (
        address.connect(f"search_path={schema}") as connection,
        closing(sqlite3.connect(tmp_path / "ledger.db")) as file,
    ):
        for question in ("SELECT no, id, shelf FROM device", "SELECT no, label FROM shelf"):
            assert connection.execute(question.encode()).fetchall() == file.execute(question).fetchall() != []
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [(NEXT, HERE)]
    found = catalog(address, schema)
    assert found["column", "device.shelf"].startswith("bigint  t ")
    assert found["column", "shelf.no"] == "bigint  t nextval"
    assert found["column", "shelf.label"].startswith("text C t")
    assert found["column", "shelf.picture"].startswith("bytea  f")
    assert found["index", "shelf_drawn"].endswith("WHERE (picture IS NOT NULL)")


def test_what_postgresql_has_of_its_own_is_made_again_and_is_what_a_fresh_schema_has(
    address: Address, schema: str, release: Release
) -> None:
    fresh = catalog(address, schema)
    assert len(fresh) > 300
    with address.connect(f"search_path={schema}") as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION instr(t text, part text) RETURNS bigint LANGUAGE sql AS 'SELECT 0'"
        )
        connection.execute("DROP TRIGGER key_invalid ON api_key; DROP VIEW sqlite_sequence; DROP TABLE task")
        connection.execute("DROP FUNCTION json_in(text, text) CASCADE")
    assert len(differences(fresh, catalog(address, schema))) > 5
    release("    pass")
    prepare(address, schema)
    assert differences(fresh, catalog(address, schema)) == {}


def test_a_statement_that_cannot_be_said_twice_is_no_definition() -> None:
    text = "-- a; b\nCREATE FUNCTION f() RETURNS int AS $$ SELECT 1; $$;\nINSERT INTO t VALUES (1);\nCREATE TABLE t ();"
    assert [statement[:26] for statement in again(text)] == ["CREATE OR REPLACE FUNCTION", "CREATE TABLE IF NOT EXISTS"]
    with pytest.raises(AssertionError, match="said twice"):
        list(again("ALTER TABLE device ADD COLUMN shelf int;"))


def test_of_several_starts_at_once_one_upgrades(
    address: Address, schema: str, release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    release()
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor() as pool:
        for start in [pool.submit(prepare, address, schema) for _ in range(4)]:
            start.result(60)
    assert caplog.text.count("was upgraded") == 1
    with address.connect(f"search_path={schema}") as connection:
        assert connection.execute("SELECT count(*) FROM shelf").fetchone() == (1,)


def test_a_revision_that_fails_changes_nothing(address: Address, schema: str, release: Release) -> None:
    before = catalog(address, schema)
    release(STEPS + '\n    op.add_column("device", sa.Column("shelf", sa.Integer()))')
    with pytest.raises(MigrationFailed, match="nothing was changed"):
        prepare(address, schema)
    assert catalog(address, schema) == before


# -- servers of several versions ---------------------------------------------------------------------------------------


class Node:
    """A server over the schema, of the version that this program is when it is made."""

    def __init__(self, url: str, schema: str) -> None:
        self.backend = PostgresqlServer(url, schema, has_nodes=True)
        self.writer: Transaction = self.backend.connect_writer()

    def write(self) -> None:
        self.backend.begin(self.writer, frozenset({1}), frozenset())
        self.writer.execute("UPDATE device SET updated_at = updated_at + 1")
        self.backend.commit(self.writer)


def test_a_server_that_may_go_on_serves_through_an_upgrade_and_may_come_back(
    server: Postgresql, address: Address, schema: str, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(server.url, schema)
    node.write()
    with monkeypatch.context():
        release(oldest=HERE)
        prepare(address, schema)
    node.write()
    monkeypatch.undo()
    prepare(address, schema)  # as the earlier version
    another = Node(server.url, schema)
    another.write()
    for each in (node, another):
        each.writer.close()
    with address.connect(f"search_path={schema}") as connection:
        assert connection.execute("SELECT updated_at, shelf FROM device").fetchone() == (3, 3)


def test_a_server_that_may_not_go_on_is_waited_for_and_does_not_come_back(
    server: Postgresql, address: Address, schema: str, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrades, "END_SECONDS", 0.3)
    node = Node(server.url, schema)
    release(oldest=NEXT)
    with pytest.raises(StorageBusy, match=f"servers of {HERE} cannot run, and one does"):
        prepare(address, schema)
    node.write()
    node.writer.close()
    monkeypatch.setattr(upgrades, "END_SECONDS", 10)
    prepare(address, schema)
    monkeypatch.undo()
    with pytest.raises(SchemaTooNew):
        prepare(address, schema)
    with pytest.raises(SchemaTooNew):  # it had looked before the upgrade, and connects after it
        Node(server.url, schema)


# -- walls -------------------------------------------------------------------------------------------------------------


def schema_of(revision: str, server: Postgresql, address: Address) -> str:
    """A schema as the last server of a revision has left it, with rows."""
    if revision == HERE:
        prepare(address, "base")
        return "base"
    dump = RELEASED / f"p{revision}.sql.xz"
    made = f"python -m tests.released.make TREE --postgresql, with TREE the last commit of schema {revision}"
    assert dump.exists(), (
        f"schema {HERE} has to be reached from {revision} in PostgreSQL, too, and there is no {dump.name}: {made}."
        f" As long as no version with PostgreSQL is released, BASE = {HERE} in store/postgresql/upgrade.py does"
    )
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS fleetpush CASCADE")
    subprocess.run(
        [require("psql"), "--quiet", "--set", "ON_ERROR_STOP=1", server.url],
        input=lzma.decompress(dump.read_bytes()), check=True, capture_output=True,
    )  # fmt: skip
    return "fleetpush"


def test_from_the_oldest_schema_on_an_upgraded_one_is_what_a_fresh_one_is(server: Postgresql, address: Address) -> None:
    """A revision for the file alone is found here."""
    name = schema_of(BASE, server, address)
    prepare(address, name)
    prepare(address, "fresh")
    assert differences(catalog(address, name), catalog(address, "fresh")) == {}


def test_a_revision_that_forgets_postgresql_is_found(address: Address, schema: str, release: Release) -> None:
    release("    if op.get_bind().dialect.name == 'sqlite':\n        op.create_index('device_shelf', 'device', ['id'])")
    prepare(address, schema)
    prepare(address, "other")
    with address.connect("search_path=other") as connection:
        connection.execute("CREATE INDEX device_shelf ON device (id)")  # as the models would
    found = differences(catalog(address, schema), catalog(address, "other"))
    assert found.keys() == {("index", "device_shelf")}


def test_each_revision_says_which_programs_may_run_on_its_schema() -> None:
    script = ScriptDirectory(str(migrations.FOLDER))
    said = {
        revision.revision: getattr(revision.module, "oldest_program", None)
        for revision in script.walk_revisions()
        if revision.revision > BASE
    }
    for revision, oldest in said.items():
        assert oldest is not None, f"{revision}: oldest_program is missing (migrations/script.py.mako explains it)"
        assert BASE <= oldest <= revision
    assert max([BASE, *filter(None, said.values())]) == migrations.OLDEST_PROGRAM
