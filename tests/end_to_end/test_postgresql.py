"""A server process over a PostgreSQL of its own: refused, away, killed, and back by itself.

These run in every run, whatever database it has: each starts its own PostgreSQL, with `fsync` on, so that what a commit
answered is what is there after a crash.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.empty_ledger import make_data_directory
from tests.end_to_end.conftest import Wire
from tests.end_to_end.fleet_under_kills import FleetUnderKills
from tests.end_to_end.harness import DATABASE, Server, StartFailed, expect_problem, fleetpush, wait_for
from tests.end_to_end.ledger_access import change_ledger
from tests.end_to_end.wire_device import WireDevice
from tests.postgresql import Postgresql

PASSWORD = "p4ss-of-nobody-else"
EXIT_REFUSED, EXIT_UNCONFIRMED, EXIT_LATER = 2, 74, 75


@pytest.fixture
def postgresql() -> Iterator[Postgresql]:
    with Postgresql(fsync="on") as postgresql:
        yield postgresql


@pytest.fixture
def over(postgresql: Postgresql, tmp_path: Path) -> Iterator[Server]:
    """A server over it, not started yet."""
    server = Server(tmp_path / "data", env={DATABASE: postgresql.address()})
    yield server
    server.__exit__()


def refusal(data_dir: Path, address: str) -> tuple[int, str]:
    """The exit code of a start that is refused, and its only line."""
    server = Server(data_dir, env={DATABASE: address})
    before = len(server.errors.splitlines())
    with pytest.raises(StartFailed) as failed:
        server.start()
    lines = server.errors.splitlines()[before:]
    assert len(lines) == 1, server.errors
    return failed.value.exit_code, lines[0]


def test_the_first_start_makes_the_schema_and_the_next_finds_it(over: Server, postgresql: Postgresql) -> None:
    over.start()
    assert "made the app 'default' and an admin key" in over.output
    api = over.api
    device = api.enrol("kiosk-1")
    push_id = api.push(device.id)
    assert not (over.data_dir / "fleetpush.db").exists()
    over.kill9()
    over.start()  # the lock of a server that was killed is free
    assert over.output.count("an admin key") == 1
    assert api.mailbox(device.id) == [push_id]
    assert api.request("GET", "/metrics").text.count("fleetpush_database_size_bytes") > 0
    assert over.stop() == 0
    checked = fleetpush("doctor", "--data-dir", str(over.data_dir), env={DATABASE: postgresql.address()})
    for line in ("ok    postgresql: version", "ok    durability:", "ok    schema:", "ok    clock:"):
        assert line in checked.stdout, checked.stdout
    assert "ok    audit log: 1 entries agree with their chains" in checked.stdout
    change_ledger(over, "UPDATE audit_entry SET actor = 'key:k_other' WHERE action = 'device.enrol'")
    checked = fleetpush("doctor", "--data-dir", str(over.data_dir), env={DATABASE: postgresql.address()})
    assert checked.returncode == 1
    assert "fail  audit log: it was altered: app default: entry" in checked.stdout


def test_what_keeps_it_from_starting_is_one_line(over: Server, postgresql: Postgresql, tmp_path: Path) -> None:
    address = postgresql.address()
    over.start()
    other = tmp_path / "other"
    code, line = refusal(other, address)
    assert (code, "another server has schema fleetpush" in line) == (EXIT_LATER, True), line
    code, line = refusal(other, postgresql.address("nowhere"))
    assert (code, 'database "nowhere" does not exist' in line) == (EXIT_REFUSED, True), line
    code, line = refusal(other, "postgresql://fleetpush@127.0.0.1:1/postgres")
    assert (code, "refused" in line) == (EXIT_LATER, True), line
    code, line = refusal(other, "mysql://u:sesame@h/d")
    assert (code, "no address of PostgreSQL" in line) == (EXIT_REFUSED, True), line
    assert over.stop() == 0

    # A directory and a database that do not belong together.
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
        connection.execute("CREATE DATABASE theirs")
    code, line = refusal(over.data_dir, postgresql.address("empty"))
    assert (code, "admin.key" in line, "of an earlier server" in line) == (EXIT_REFUSED, True, True), line
    with psycopg.connect(postgresql.address("theirs"), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA fleetpush CREATE TABLE things (no int)")
    code, line = refusal(other, postgresql.address("theirs"))
    assert (code, "another program" in line) == (EXIT_REFUSED, True), line
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("UPDATE fleetpush.alembic_version SET version_num = '9999', oldest_program = '9999'")
    code, line = refusal(over.data_dir, address)
    assert (code, "newer version" in line) == (EXIT_REFUSED, True), line
    done = fleetpush("serve", "--data-dir", str(over.data_dir), "--http-port", "0", "--mqtt-port", "0")
    assert done.returncode == EXIT_REFUSED
    assert "its ledger is in PostgreSQL" in done.stderr
    postgresql.stop()
    assert refusal(over.data_dir, address)[0] == EXIT_LATER


@pytest.mark.parametrize("password", ["sesame-17", "se/same", "se@same", "se%zame", "se:same", "se[same"])
def test_no_message_has_the_password(postgresql: Postgresql, tmp_path: Path, password: str) -> None:
    """Right or wrong, and whatever a mistake in its spelling makes of the address."""
    with psycopg.connect(postgresql.address(), autocommit=True) as connection:
        connection.execute("CREATE ROLE kiosk LOGIN PASSWORD 'another'")
    postgresql.require_passwords()
    address = f"postgresql://kiosk:{password}@/postgres?host={postgresql.folder}"
    code, line = refusal(tmp_path / "data", address)
    assert code == EXIT_REFUSED, line
    checked = fleetpush("doctor", "--data-dir", str(tmp_path / "data"), env={DATABASE: address})
    assert checked.returncode == 1
    assert "fail  postgresql" in checked.stdout
    said = line + checked.stdout + checked.stderr
    assert not [piece for piece in ("same", "zame") if piece in said], said


def test_commands_for_the_file_name_what_to_use_instead(over: Server, tmp_path: Path) -> None:
    over.start()
    data_dir = ("--data-dir", str(over.data_dir))
    archive = str(tmp_path / "b.tgz")
    for command, words in (
        (("backup", archive), "pg_dump"),
        (("backup", "--every", "6h", "--to", str(tmp_path / "backups")), "pg_dump"),
        (("backup", archive, "--verify"), "pg_dump"),
        (("doctor", "--mend-clock"), "in PostgreSQL"),
    ):
        done = fleetpush(*command, *data_dir)
        assert done.returncode in (1, 2), done
        assert words in done.stderr, done.stderr
    assert not Path(archive).exists()
    assert over.stop() == 0
    make_data_directory(tmp_path / "embedded")
    done = fleetpush("backup", archive, "--data-dir", str(tmp_path / "embedded"))
    assert done.returncode == 0, done.stderr
    done = fleetpush("restore", archive, "--force", *data_dir)
    assert done.returncode == 1
    assert "pg_dump" in done.stderr


def test_it_outlasts_a_postgresql_that_is_away(over: Server, postgresql: Postgresql, wire: Wire) -> None:
    """Pushes are refused, devices keep their connections, and what they acknowledged meanwhile is recorded after."""
    over.start()
    api = over.api
    enrolled = api.enrol("kiosk-1")
    device: WireDevice = wire(over, enrolled)
    device.answer = lambda publish: None
    device.start()
    push_id = api.push(enrolled.id)
    publish = device.wait_push(push_id)
    assert over.api.is_ready()

    postgresql.stop()
    wait_for(lambda: not over.api.is_ready(), what="503 of /readyz")
    refused = api.request("POST", "/v1/pushes", json={"target": {"device": enrolled.id}})
    assert expect_problem(refused, 503)["retryable"] is True
    device.acknowledge(publish)
    time.sleep(1)
    assert over.running
    assert device.connected

    postgresql.start()
    wait_for(over.api.is_ready, what="200 of /readyz")
    api.wait_counts(push_id, delivered=1)
    again = api.push(enrolled.id)
    device.acknowledge(device.wait_push(again))
    api.wait_counts(again, delivered=1)
    assert device.connections == 1
    assert over.stop() == 0


def test_one_that_has_lost_what_it_had_confirmed_ends_the_server(over: Server, postgresql: Postgresql) -> None:
    """As behind a fail-over to a standby that was not synchronous: numbers in memory would be given to other pushes."""
    over.start()
    over.api.enrol("kiosk-1")
    with postgresql.losing_commits():
        wait_for(over.api.is_ready, what="200 of /readyz")
        over.api.push("kiosk-1")
    assert over.wait() == EXIT_UNCONFIRMED
    assert "groups of" in over.errors
    over.start()
    assert over.api.push("kiosk-1")
    assert over.stop() == 0


@pytest.mark.long
@pytest.mark.timeout(240)
def test_crashes_of_postgresql_under_load(over: Server, postgresql: Postgresql, wire: Wire, full: int) -> None:
    """A crash, 30 with --full: nothing lost, nothing twice, and the server is back by itself (`fleet_under_kills`).
    A commit that the crash left unanswered ends it with 74; here we are the service manager that starts it again."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    over.start()
    fleet = FleetUnderKills(over, wire, dice)
    fleet.start()

    def crash() -> None:
        postgresql.stop()
        time.sleep(dice.uniform(0, 1.5))
        postgresql.start()

    for _ in range(1 if full == 1 else 30):
        time.sleep(dice.uniform(0.3, 1.5))  # the moment of the crash is the experiment
        fleet.crash_below(crash, EXIT_UNCONFIRMED)
        wait_for(over.api.is_ready, what="the server to be back")
    fleet.finish()
    fleet.judge()
