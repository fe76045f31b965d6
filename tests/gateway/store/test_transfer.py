"""From the file to PostgreSQL: a fleet goes on where it was, and nothing is copied over anything."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from gateway.data_directory import locked
from gateway.store.postgresql.server import PostgresqlServer
from gateway.store.postgresql.transfer import TransferRefused, transfer
from tests import postgresql
from tests.gateway.cli.fake_server import run_command
from tests.gateway.in_process import InProcessGateway
from tests.postgresql import Postgresql


@pytest.fixture(scope="module")
def server() -> Iterator[Postgresql]:
    with Postgresql() as server:
        yield server


@pytest.fixture
def no_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledgers that are copied are files in a run over PostgreSQL, too."""
    monkeypatch.setattr(postgresql, "is_used", lambda: False)


async def lived(folder: Path) -> dict[str, str]:
    """A ledger with something in most tables; a push of each kind of storage, by what became of it."""
    gateway = await InProcessGateway.build(folder, asyncio.get_running_loop())
    try:
        await gateway.enrol(*(f"kiosk-{number}" for number in range(60)), tags=["shop"], attributes={"model": "K2"})
        await gateway.enrol("gone")
        await gateway.call("DELETE", "/v1/devices/gone", 204)
        await gateway.call("POST", "/v1/webhooks", 201, json={"url": "https://receiver.example/"})
        single = await gateway.push({"device": "kiosk-1"}, notification={"title": "Für dich"})
        everyone = await gateway.push({"all": True}, data={"n": 1})
        recalled = await gateway.push({"tag": "shop"}, data={"n": 2})
        await gateway.call("DELETE", f"/v1/pushes/{recalled}")
        return {"single": single, "everyone": everyone, "recalled": recalled, "key": gateway.key}
    finally:
        await gateway.close()


async def test_a_fleet_goes_on_where_it_was(
    server: Postgresql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_postgresql: None
) -> None:
    pushes = await lived(tmp_path)
    before = (tmp_path / "fleetpush.db").read_bytes()
    copied = {table.name: table.rows for table in transfer(tmp_path / "fleetpush.db", server.url, "moved")}
    assert copied["device"] == 61
    assert copied["push"] == 3
    assert (tmp_path / "fleetpush.db").read_bytes() == before
    with sqlite3.connect(tmp_path / "fleetpush.db") as file:
        for table, rows in copied.items():
            assert file.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)
        (last_event,) = file.execute("SELECT max(no) FROM event").fetchone()
    file.close()

    monkeypatch.setattr(postgresql, "is_used", lambda: True)
    pool = SimpleNamespace(
        backend_for=lambda folder: PostgresqlServer(server.url, "moved"), give_back=lambda folder: None
    )
    monkeypatch.setattr(postgresql, "schema_pool", lambda: pool)
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    try:
        counts = {
            name: (await gateway.call("GET", f"/v1/pushes/{push_id}"))["counts"]
            for name, push_id in pushes.items()
            if name != "key"
        }
        assert counts["single"]["waiting"] == 1
        assert counts["everyone"]["waiting"] == 60
        assert counts["recalled"]["cancelled"] == 60
        await gateway.enrol("new")
        new = await gateway.push({"device": "new"}, data={"n": 3})
        assert (await gateway.call("GET", f"/v1/pushes/{new}"))["counts"]["waiting"] == 1
        await gateway.call("DELETE", f"/v1/pushes/{new}")
        first, last = await gateway.database.read(
            lambda transaction: transaction.execute(
                "SELECT min(no), max(no) FROM event WHERE no > ?", (last_event,)
            ).fetchone()
        )
        assert last >= first > last_event
    finally:
        await gateway.close()


async def test_nothing_is_copied_over_rows(server: Postgresql, tmp_path: Path, no_postgresql: None) -> None:
    await lived(tmp_path)
    transfer(tmp_path / "fleetpush.db", server.url, "twice")
    with pytest.raises(TransferRefused, match="has rows already"):
        transfer(tmp_path / "fleetpush.db", server.url, "twice")


async def test_what_cannot_be_copied_leaves_nothing(server: Postgresql, tmp_path: Path, no_postgresql: None) -> None:
    await lived(tmp_path)
    with sqlite3.connect(tmp_path / "fleetpush.db") as file:
        file.execute("UPDATE device SET name = ? WHERE id = 'kiosk-7'", ("a\0b",))
    file.close()
    with pytest.raises(psycopg.DataError):
        transfer(tmp_path / "fleetpush.db", server.url, "nothing_left")
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT count(*) FROM nothing_left.application").fetchone() == (0,)


def test_an_older_file_is_brought_up_to_date_first(server: Postgresql, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.db") as file:
        file.execute("CREATE TABLE alembic_version (version_num)")
        file.execute("INSERT INTO alembic_version VALUES ('0007')")
    file.close()
    with pytest.raises(TransferRefused, match="of schema 0007"):
        transfer(tmp_path / "old.db", server.url, "old")


def test_the_command_copies_what_no_server_has(server: Postgresql, tmp_path: Path, no_postgresql: None) -> None:
    asyncio.run(lived(tmp_path))
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS fleetpush CASCADE")
    command = ("migrate-store", "--to", server.url, "--data-dir", str(tmp_path))
    with locked(tmp_path):
        refused = run_command(*command)
    assert refused.exit_code == 1
    assert "is in use: stop its server first" in refused.stderr
    done = run_command(*command)
    assert done.exit_code == 0, done.stderr
    assert "device\t61" in done.stdout
    assert "as it was" in done.stderr
    again = run_command(*command)
    assert again.exit_code == 1
    assert "has rows already" in again.stderr
    assert "holds no fleetpush.db" in run_command(*command[:-1], str(tmp_path / "none")).stderr
