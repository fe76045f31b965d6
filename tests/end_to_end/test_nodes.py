"""Several server processes over one PostgreSQL: leases that are kept, lost and ended by others.

Each test ends a node in another way: frozen, cut off, killed inside a group, its clocks moved by a day. What others do
with its devices is tested where it is built.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psycopg
import pytest

from broker.sqlite_store import EXIT_UNSYNCED
from tests.end_to_end.conftest import Wire
from tests.end_to_end.harness import StartFailed, wait_for
from tests.end_to_end.wire_device import WireDevice
from tests.nodes import NodeProcess, new_database, start_nodes
from tests.postgresql import Postgresql
from tests.postgresql_relay import PostgresqlRelay
from tests.preloaded import preload_environment

EXIT_LEASE_LOST = 69
DAY_SECONDS = 86_400
DECLARED = "has not renewed its lease: declared ended"


class NodeRow(NamedTuple):
    """What the database has of a node."""

    epoch: int
    renewals: int
    groups: int
    has_ended: bool


def row_of(node: NodeProcess, database: str | None = None) -> NodeRow:
    rows = query(
        database or node.database,
        "SELECT epoch, renewals, groups, ended_at IS NOT NULL FROM fleetpush.node WHERE no = %s",
        node.no,
    )
    return NodeRow(*rows[0])


def query(database: str, statement: str, *values: object) -> list[Any]:
    with psycopg.connect(database, autocommit=True) as connection:
        found = connection.execute(statement.encode(), values)
        return found.fetchall() if found.description else []


def wait_renewed(*nodes: NodeProcess, database: str | None = None, times: int = 3) -> None:
    """Wait until each node has renewed its lease so often from now on."""
    before = {node: row_of(node, database).renewals for node in nodes}
    wait_for(
        lambda: all(row_of(node, database).renewals >= before[node] + times for node in nodes),
        what="renewals of the leases",
    )


@pytest.fixture
def relay() -> Iterator[PostgresqlRelay]:
    with PostgresqlRelay(new_database()) as relay:
        yield relay


@pytest.fixture
def pair(tmp_path: Path, relay: PostgresqlRelay) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """A node, and one that reaches the same database over the relay."""
    with (
        start_nodes(tmp_path, 1, database=relay.target_address) as (first,),
        NodeProcess(tmp_path / "cut-off", relay.address) as second,
    ):
        yield first, second


def connected(wire: Wire, node: NodeProcess, device_id: str) -> WireDevice:
    device: WireDevice = wire(node, node.api.enrol(device_id))
    return device.start()


def test_a_node_that_was_frozen_ends_when_it_goes_on(tmp_path: Path, wire: Wire) -> None:
    with start_nodes(tmp_path, 2) as (first, second):
        device = connected(wire, second, "kiosk-1")
        before = row_of(second)
        second.freeze()
        first.wait_log(DECLARED)
        after = row_of(second)
        assert (after.epoch, after.has_ended) == (before.epoch + 1, True)
        assert "\nfleetpush_node_ends_declared_total 1.0\n" in first.api.request("GET", "/metrics").text
        second.resume()
        assert second.wait() == EXIT_LEASE_LOST
        assert "this node's lease is over" in second.errors
        device.wait_closed()
        second.start()  # the number is that of the data directory, and its epoch the next
        assert row_of(second)[:1] == (after.epoch + 1,)
        assert not row_of(second).has_ended
        assert second.api.push("kiosk-1")
        assert first.stop() == second.stop() == 0


@pytest.mark.parametrize("end", [PostgresqlRelay.freeze, PostgresqlRelay.close])
def test_a_node_that_is_cut_off_ends_by_itself(
    pair: tuple[NodeProcess, NodeProcess], relay: PostgresqlRelay, wire: Wire, end: Callable[[PostgresqlRelay], None]
) -> None:
    """Whether the network says so, or takes everything and brings nothing."""
    first, second = pair
    device = connected(wire, second, "kiosk-1")
    end(relay)
    assert second.wait() == EXIT_LEASE_LOST
    assert "no renewal of its lease was confirmed for 3 s" in second.errors
    device.wait_closed()
    first.wait_log(DECLARED)
    assert first.api.push("kiosk-1")


def test_a_connection_that_is_lost_costs_no_lease(
    pair: tuple[NodeProcess, NodeProcess], relay: PostgresqlRelay, wire: Wire
) -> None:
    first, second = pair
    device = connected(wire, second, "kiosk-1")
    epoch = row_of(second, first.database).epoch
    for _ in range(2):
        relay.cut()
        wait_renewed(second, database=first.database)
        device.wait_push(second.api.push("kiosk-1"))
    assert device.connections == 1
    assert row_of(second, first.database).epoch == epoch
    assert DECLARED not in first.errors


def test_a_node_that_is_killed_inside_a_group_has_stored_nothing_of_it(tmp_path: Path) -> None:
    """And whoever declares it ended does not wait for that group, which has its row."""
    with start_nodes(tmp_path, 2) as (first, second):
        first.api.enrol("kiosk-1")
        query(
            first.database,
            f"CREATE FUNCTION fleetpush.pause() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(6);"
            f" RETURN NULL; END $$; CREATE TRIGGER pause AFTER UPDATE OF groups ON fleetpush.node FOR EACH ROW"
            f" WHEN (NEW.no = {second.no}) EXECUTE FUNCTION fleetpush.pause()",
        )
        groups = row_of(second).groups
        asking = threading.Thread(target=lambda: push_in_vain(second))
        asking.start()
        sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        wait_for(lambda: query(first.database, sleeping), what="a group under way")
        second.kill()
        asking.join()
        wait_renewed(first)
        assert query(first.database, sleeping), "the group has the row of its node meanwhile"
        first.wait_log(DECLARED)
        assert row_of(second)[2:] == (groups, True)
        assert first.api.mailbox("kiosk-1") == []
        assert first.api.push("kiosk-1")


def push_in_vain(node: NodeProcess) -> None:
    """Send a push that is not answered."""
    with pytest.raises(httpx2.HTTPError):
        node.api.push("kiosk-1")


def test_a_node_that_is_killed_or_stopped_is_back_at_once(tmp_path: Path) -> None:
    """Its next start does not wait for the lease of the one before; and nobody waits for one that has said goodbye."""
    with start_nodes(tmp_path, 2) as (first, second):
        epoch = row_of(second).epoch
        second.kill()
        assert not row_of(second).has_ended
        second.start()
        assert row_of(second).epoch == epoch + 1
        assert second.stop() == 0
        assert row_of(second).has_ended
        wait_renewed(first)
        assert DECLARED not in first.errors


def test_a_start_waits_for_the_database(tmp_path: Path, relay: PostgresqlRelay) -> None:
    relay.close()
    node = NodeProcess(tmp_path / "waiting", relay.address)
    failures: list[StartFailed] = []

    def start() -> None:
        try:
            node.start()
        except StartFailed as failed:
            failures.append(failed)

    with start_nodes(tmp_path, 1, database=relay.target_address):
        for is_stopped in (True, False):
            starting = threading.Thread(target=start)
            starting.start()
            wait_for(lambda: "waiting for PostgreSQL" in node.errors, what="a line that says why")
            if is_stopped:
                node.signal(signal.SIGTERM)
                starting.join()
                assert [failed.exit_code for failed in failures] == [0]
                node._errors.unlink()
            else:
                relay.open()
                starting.join()
        assert node.api.is_ready()
        assert node.stop() == 0
        node.__exit__()  # which closes the connections to it


def test_clocks_that_are_moved_by_a_day_move_no_lease(tmp_path: Path, wire: Wire, full: int) -> None:
    """The wall clocks of a node and of the database; what a machine was suspended for counts."""
    preload = preload_environment()
    with moved_server() as (server, of_database):
        of_node = tmp_path / "clocks"
        env = preload | {"CLOCK_SHIM": str(of_node)}
        with (
            start_nodes(tmp_path, 1, database=server.url) as (first,),
            NodeProcess(tmp_path / "moved", server.url, env=env) as second,
        ):
            device = connected(wire, second, "kiosk-1")

            def serve() -> None:
                wait_renewed(first, second)
                device.wait_push(second.api.push("kiosk-1"))

            for days in (1, -1) if full > 1 else (1,):
                set_clock(of_node, days * DAY_SECONDS)
                serve()
                set_clock(of_database, -days * DAY_SECONDS)
                wait_days_ahead(server.url, -days)
                serve()
            assert device.connections == 1
            second.freeze()  # a machine that is suspended for a day
            set_clock(of_node, 0, DAY_SECONDS)
            first.wait_log(DECLARED)
            second.resume()
            assert second.wait() == EXIT_LEASE_LOST


def wait_days_ahead(database: str, days: int) -> None:
    """Wait until the database's clock is so many days ahead of this machine's."""

    def ahead() -> float:
        shown = query(database, "SELECT extract(epoch FROM clock_timestamp())::float8")[0][0]
        return float(shown - time.time()) / DAY_SECONDS

    wait_for(lambda: round(ahead()) == days, what="the database's clock")


@contextmanager
def moved_server() -> Iterator[tuple[Postgresql, Path]]:
    """A PostgreSQL, and the file that moves its clock (`set_clock`)."""
    preload = preload_environment()
    for library in preload["LD_PRELOAD"].split(":"):
        Path(library).parent.chmod(0o755)  # it runs as somebody else
    with Postgresql(environment=preload | {"CLOCK_SHIM": "/proc/self/cwd/clocks"}) as server:
        yield server, server.folder / "data" / "clocks"


def seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def set_clock(file: Path, wall: int, boot: int = 0) -> None:
    partial = file.with_suffix(".new")
    partial.write_text(f"{wall} {boot} 0")
    partial.chmod(0o644)
    partial.replace(file)


def test_a_lifetime_is_the_same_on_every_node(tmp_path: Path, wire: Wire) -> None:
    """The database's clock, which is the wall of all nodes, is set by a day between the starts of two."""
    with moved_server() as (server, of_database), start_nodes(tmp_path, 1, database=server.url) as (first,):
        lived = first.api.push(first.api.enrol("kiosk-1").id, ttl=3_600)
        enrolled = first.api.enrol("kiosk-2")
        set_clock(of_database, DAY_SECONDS)
        wait_days_ahead(server.url, 1)
        with NodeProcess(tmp_path / "later", server.url) as second:
            device: WireDevice = wire(second, second.api.enrol("kiosk-3")).start()
            short = second.api.push(device.client_id, ttl=3_600)
            assert 3_590 <= device.wait_push(short).push["expires_in"] <= 3_600
            over = first.api.push(enrolled.id, ttl=1)
            alive = first.api.push(enrolled.id, ttl=3_600)
            wait_for(lambda: first.api.only(over) == {"expired": 1}, what="the end of a lifetime")
            device = wire(second, enrolled).start()
            assert 3_590 <= device.wait_push(alive).push["expires_in"] <= 3_600
            assert device.push_ids() == [alive]
            assert first.api.only(lived) == {"waiting": 1}
            # Each shows the time of a push as the other does, by the clock that they have in common.
            shown = [node.api.call("GET", f"/v1/pushes/{alive}", 200)["sent_at"] for node in (first, second)]
            assert abs(seconds_of(shown[0]) - seconds_of(shown[1])) <= 2


def test_a_database_that_is_away_for_all_ends_nobody(
    tmp_path: Path, relay: PostgresqlRelay, wire: Wire, full: int
) -> None:
    """For longer than a lease: nothing is handed over meanwhile, and no device has to connect again."""
    with (
        NodeProcess(tmp_path / "one", relay.address) as first,
        NodeProcess(tmp_path / "two", relay.address) as second,
    ):
        nodes = {first: connected(wire, first, "kiosk-1"), second: connected(wire, second, "kiosk-2")}
        epochs = [row_of(node, relay.target_address).epoch for node in nodes]

        def wait_lines(text: str, number: int) -> None:
            wait_for(lambda: all(node.errors.count(text) >= number for node in nodes), what=f"{text!r}, {number} times")

        for number in (1, 2) if full > 1 else (1,):
            relay.close()
            wait_lines("nothing is handed over", number)
            relay.open()
            wait_lines("serves on", number)
            for node in nodes:
                wait_for(node.api.is_ready, what="a node that is ready")
            for node, device in nodes.items():
                device.wait_push(node.api.push(device.client_id))
        wait_renewed(first, database=relay.target_address, times=10)  # longer than it takes to be declared ended
        assert [row_of(node, relay.target_address).epoch for node in nodes] == epochs
        assert [device.connections for device in nodes.values()] == [1, 1]
        assert DECLARED not in first.errors + second.errors
        assert first.running
        assert second.running


@pytest.mark.full_only
def test_a_database_that_has_lost_what_it_had_confirmed_ends_every_node(tmp_path: Path, wire: Wire) -> None:
    """Also one that has stored nothing itself: what it read is lost as well, and its numbers are given once more."""
    with Postgresql() as server, start_nodes(tmp_path, 2, database=server.url) as (first, second):
        device = connected(wire, second, "kiosk-1")
        with server.losing_commits():
            for node in (first, second):
                wait_for(node.api.is_ready, what="a node that is ready")
            device.wait_push(first.api.push("kiosk-1"))
            wait_renewed(first, second)
        assert {first.wait(), second.wait()} <= {EXIT_LEASE_LOST, EXIT_UNSYNCED}
        for node in (first, second):
            assert "that it had confirmed" in node.errors
        for node in (first, second):
            node.start()
        device.wait_closed()
        device.start()
        push_id = first.api.push("kiosk-1")
        device.wait_push(push_id)
        first.api.wait_counts(push_id, delivered=1)
