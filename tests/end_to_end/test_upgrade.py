"""An upgrade loses nothing: sessions, what waits, tokens and the ids of events live on, whichever version was there
before, and the way back is beside the ledger."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

import pytest

from client_sim.simulator.fleet import DevicePlan, FleetPlan, Observation
from client_sim.simulator.human_behaviour import HumanBehaviour
from client_sim.simulator.simulated_push import push_body
from client_sim.simulator.workers import Worker, WorkerPool
from gateway.store.migrations import HEAD
from tests.end_to_end.conftest import StartServer, Wire
from tests.end_to_end.harness import Api, Device, Server, StartFailed, fleetpush
from tests.end_to_end.test_events import Stream
from tests.end_to_end.wire_device import WireDevice
from tests.released import ReleasedDirectory, released, revisions

pytestmark = pytest.mark.sqlite("files of earlier versions")

KEEP_OLD = ("--event-days", "40000", "--retention-days", "40000", "--counts-days", "40000")
"""What is in those files is as old as they are."""
DEVICES = 5_000
INTERRUPTION_SECONDS = 10.0
NOBODY = HumanBehaviour(0, 0, 0, 0, 0)


def enrolled(old: ReleasedDirectory, name: str) -> Device:
    """A device as it was enrolled then, with the token that it was given."""
    topics = {"push": f"default/devices/{name}/push"}
    mqtt = {"client_id": name, "topics": topics}
    return Device({"device_id": name, "token": old.facts["tokens"][name], "mqtt": mqtt})


def without_sent(counts: dict[str, int]) -> dict[str, int]:
    """The counts of a push after a kill: what was on its way to a device is on its way no more."""
    found = dict(counts)
    found["waiting"] = found.get("waiting", 0) + found.pop("sent", 0)
    return {state: count for state, count in found.items() if count}


@pytest.mark.parametrize("revision", revisions())
def test_a_server_goes_on_where_one_of_an_earlier_schema_was_killed(
    revision: str, start_server: StartServer, wire: Wire, tmp_path: Path
) -> None:
    old = released(revision, tmp_path / "data")
    server = start_server(*KEEP_OLD, data_dir=old.data_dir)
    api, pushes = server.api, old.facts["pushes"]
    kept = old.data_dir / f"fleetpush.db.before-r{revision}"
    assert kept.exists() == (revision != HEAD)

    for name, push_id in pushes.items():
        if name not in ("released", "unreleased"):
            assert without_sent(api.only(push_id)) == without_sent(old.facts["counts"][name]), name
    for device_id, waiting in old.facts["mailbox"].items():
        assert api.mailbox(device_id) == waiting
    shop = Api(server.url, old.facts["key"])
    sent = shop.push("away", data="after the upgrade")
    shop.close()
    goes_on_with_events(server, old)
    goes_on_with_plans(server, old, wire)

    away: WireDevice = wire(server, enrolled(old, "away"))
    assert away.connect().session_present
    expected = [pushes["urgent"], pushes["news"], sent, pushes["late"]]
    away.wait_received(len(expected))
    assert away.push_ids() == expected

    exact: WireDevice = wire(server, enrolled(old, "exact"))
    assert exact.connect().session_present
    exact.wait_push(pushes["unreleased"])
    exact.wait_released(2)
    assert pushes["released"] not in exact.push_ids(), "PUBREC had come"
    assert sorted(exact.push_ids()) == sorted(pushes[name] for name in ("news", "urgent", "unreleased"))

    present: WireDevice = wire(server, enrolled(old, "present"))
    assert present.connect().session_present
    unseen: WireDevice = wire(server, enrolled(old, "unseen"))
    assert not unseen.start().received or unseen.push_ids() == [pushes["news"]]
    unseen.wait_push(pushes["news"])

    api.wait_counts(pushes["news"], delivered=3, displayed=1)
    api.wait_counts(pushes["urgent"], delivered=3)
    for name in ("late", "released", "unreleased"):
        api.wait_counts(pushes[name], delivered=1)
    api.wait_counts(sent, delivered=1)
    for device in (away, exact, present, unseen):
        device.ping()
    assert [len(device.received) for device in (away, exact, present, unseen)] == [len(expected), 3, 0, 1]


def goes_on_with_events(server: Server, old: ReleasedDirectory) -> None:
    """Who followed events comes back with the last id it had, and misses and repeats none."""
    ids, cursor = old.facts["events"], old.facts["cursor"]
    if cursor is None:
        return  # of a version without
    rest = ids[ids.index(cursor) + 1 :]
    assert rest
    with Stream(server, since=cursor) as stream:
        new = server.api.push("away", data="an event to come", ttl=60)
        server.api.call("DELETE", f"/v1/pushes/{new}", 200)
        events = stream.wait(len(rest) + 1)
    assert [event["id"] for event in events[: len(rest)]] == rest
    assert events[len(rest)]["data"]["push_id"] == new
    numbers = [tuple(map(int, event["id"].split("."))) for event in events]
    assert numbers == sorted(set(numbers))


def goes_on_with_plans(server: Server, old: ReleasedDirectory, wire: Wire) -> None:
    """What was planned is there, and what was sent of it comes to its device with the text that it was given."""
    plans, api = old.facts.get("plans"), server.api
    if plans is None:
        return  # of a version without
    assert api.call("GET", "/v1/segments/upstairs", 200)["examples"] == ["planned"]
    assert api.call("GET", "/v1/topics/plans", 200)["devices"] == 1
    assert api.call("GET", "/v1/templates/hello", 200)["version"] == 1
    schedule = api.call("GET", f"/v1/schedules/{plans['schedule_id']}", 200)
    assert (schedule["name"], schedule["state"]) == ("Mondays", "paused")
    campaign = api.call("GET", f"/v1/campaigns/{plans['campaign_id']}", 200)
    assert (campaign["state"], campaign["counts"]) == ("paused", plans["campaign_counts"])
    assert api.mailbox("planned") == plans["mailbox"]
    old.facts["tokens"]["planned"] = plans["token"]
    planned: WireDevice = wire(server, enrolled(old, "planned"))
    planned.start()
    planned.wait_received(1)
    assert planned.received[0].push["notification"]["title"] == "Hallo Ada"
    api.wait_counts(planned.push_ids()[0], delivered=1)


def test_an_earlier_version_says_how_to_go_back_and_it_works(
    start_server: StartServer, wire: Wire, tmp_path: Path
) -> None:
    """The version before is this one: the ledger says that a later one has migrated it."""
    revision = revisions()[-2]
    old = released(revision, tmp_path / "data")
    server = start_server(*KEEP_OLD, data_dir=old.data_dir)
    lost = server.api.push("away", data="accepted since")
    server.stop()
    with closing(sqlite3.connect(old.data_dir / "fleetpush.db")) as ledger:
        ledger.execute("UPDATE alembic_version SET version_num = '9999'")
        ledger.commit()
    with pytest.raises(StartFailed) as refusal:
        server.start()
    assert refusal.value.exit_code == 2
    last = refusal.value.output.strip().splitlines()[-1]
    command = re.search(r"`fleetpush (restore [^`]+)`", last)
    assert command is not None, last
    done = fleetpush(*command[1].split())
    assert done.returncode == 0, done.stderr
    server.start()
    away: WireDevice = wire(server, enrolled(old, "away"))
    assert not away.connect().session_present, "it may have gone on since"
    assert away.subscribe() == 1
    away.wait_received(3)
    pushes = old.facts["pushes"]
    assert away.push_ids() == [pushes["urgent"], pushes["news"], pushes["late"]]
    assert server.api.request("GET", f"/v1/pushes/{lost}").status_code == 404


class Returns:
    """When each device went and came back."""

    def __init__(self) -> None:
        self.times: dict[int, list[tuple[float, bool]]] = {}
        self.violations: list[tuple[int, int, str]] = []

    def observe(self, _: Worker, seen: Observation) -> None:
        for index, when, _seconds in seen.online:
            self.times.setdefault(index, []).append((when, True))
        for index, when in seen.offline:
            self.times.setdefault(index, []).append((when, False))
        self.violations += seen.violations

    def interruptions(self) -> list[float]:
        """Seconds from each end of a connection to the next one of the same device."""
        found = []
        for times in self.times.values():
            ordered = sorted(times)
            found += [later - sooner for (sooner, was), (later, is_) in pairwise(ordered) if not was and is_]
        return sorted(found)


@pytest.mark.full_only
@pytest.mark.long
@pytest.mark.parametrize("are_kept", [True, False], ids=["sockets kept", "sockets closed"])
async def test_a_restart_interrupts_five_thousand_devices_for_seconds(tmp_path: Path, are_kept: bool) -> None:
    """`sockets kept`: by a service manager, so that who comes back too early waits instead of being refused; that
    server starts warm, as servers of tests do. The other one starts as by hand, which takes a second and a half more.
    """
    with ExitStack() as ending:
        sockets = {name: ending.enter_context(listening()) for name in ("mqtt", "http")} if are_kept else None
        ports = [str(each.getsockname()[1]) for each in (sockets or {}).values()]
        options = ("--mqtt-port", ports[0], "--http-port", ports[1]) if ports else ()
        env = None if are_kept else {"PYTHONHASHSEED": "0"}  # which a warm start cannot have
        server = ending.enter_context(Server(tmp_path / "data", *options, sockets=sockets, env=env))
        fleet = server.api.enrol_many(f"d{number}" for number in range(DEVICES))
        plans = [
            DevicePlan(index, device.client_id, device.token, f"default/devices/{device.id}/", 5 if index % 3 else 4)
            for index, device in enumerate(fleet)
        ]
        returns = Returns()
        pool = WorkerPool(returns.observe, lambda text: pytest.fail(text))
        pool.start(FleetPlan(plans, "127.0.0.1", server.mqtt_port, None, False, 60, NOBODY, 1.0), 1)
        ending.callback(pool.end)
        pool.connect(range(DEVICES), 1_000.0)
        await connected(pool)
        ends: list[Callable[[], object]] = [server.stop, server.kill9]
        for number, end in enumerate(ends):
            returns.times.clear()
            asked = time.monotonic()
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
            ready = time.monotonic()
            push = push_body(number, "silent", "normal", 1, 3_600, 0, None)
            push_id = await asyncio.to_thread(server.api.push, {"all": True}, **push)
            await connected(pool)
            found = returns.interruptions()
            share, median, most = (found[int(part * (DEVICES - 1))] for part in (0.99, 0.5, 1))
            how = f"{'kill -9' if number else 'SIGTERM'}, sockets {'kept' if are_kept else 'closed'}"
            print(
                f"{how}: ready after {ready - asked:.1f} s; {len(found):,} interruptions: {median:.1f} s median,"
                f" {share:.1f} s 99 %, {most:.1f} s at most"
            )
            await asyncio.to_thread(server.api.wait_counts, push_id, 30.0, delivered=DEVICES)
            assert len(found) == DEVICES
            # On a busy machine it takes longer: each device waits as long again at most, and then for its turn.
            assert most < max(INTERRUPTION_SECONDS, 3 * (ready - asked))
        assert returns.violations == []


def listening() -> socket.socket:
    """A socket as a service manager keeps it."""
    return socket.create_server(("127.0.0.1", 0), backlog=4_096)


async def connected(pool: WorkerPool) -> None:
    deadline = time.monotonic() + 60
    while pool.connected < DEVICES or pool.busy:
        assert time.monotonic() < deadline, f"{pool.connected} of {DEVICES}"
        await asyncio.sleep(0.05)
