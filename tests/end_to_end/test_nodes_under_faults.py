"""Nodes behind a balancer while one of them, or the primary of the database, is killed again and again.

A few devices and the death of one node in every run; with `--full` three nodes, 3,000 devices and ten minutes of each
fault (issue: many machines). One server whose primary dies is in every run, too: `tests/deploy/test_cluster.py`. What
is demanded is in `journalled_fleet`: lost 0, the ledger is what the journals say, order, and no repetition of what was
booked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import ServedConnections
from tests.end_to_end.harness import Device
from tests.end_to_end.journalled_fleet import JournalledFleet, Verdict, decoded_set, is_explained
from tests.end_to_end.journalling_devices import Arrival, Connection, JournallingDevice
from tests.end_to_end.nodes_behind_balancer import CuttableNetwork, NodesBehindBalancer, Outage, befall, ends_of
from tests.preloaded import preload_environment

DAY_SECONDS = 86_400
EXIT_LEASE_LOST, EXIT_UNCONFIRMED, EXIT_LATER, KILLED = 69, 74, 75, -9


CUT_SECONDS = 8.0
"""Longer than a lease, and than others wait until they declare an end."""


AWAY_SECONDS = 10.0
"""Within which every device is served again after a fault, and every sender answered."""
P99_SECONDS = 1.0


def run(
    nodes: NodesBehindBalancer,
    fault: str,
    devices: int,
    seconds: float,
    pause_s: float,
    faults: Sequence[Callable[[], None]] = (),
) -> Verdict:
    """A fleet while a fault happens every `pause_s`: `faults` in turns, or the death of a node or the primary."""
    fleet = JournalledFleet(nodes.api, nodes.balancer.ports["mqtt"], nodes.url, devices)
    fleet.start()
    kills = [node.kill for node in nodes.nodes] if fault == "node" else [nodes.fail_over]
    happened = befall(seconds, pause_s, faults or kills, lambda: fleet.note_recorded(nodes.api))
    nodes.wait_ready()
    fleet.finish(nodes.database.url())
    judge = partial(fleet.judge, nodes.api, nodes.database.url(), nodes.balancer.served)
    verdict = judge(nodes.outages)
    ends = ends_of(nodes.nodes)
    print(f"{happened} times {fault}: {verdict}, ends {ends}")
    some = next(device for device in fleet.devices if device.journal)
    some.journal.append(replace(some.journal[-1], dup=False))  # what is wrong would have been seen
    with pytest.raises(AssertionError, match="again on one connection"):
        judge(nodes.outages)
    some.journal.clear()
    with pytest.raises(AssertionError, match="lost"):
        judge(nodes.outages)
    assert set(ends) <= {KILLED, EXIT_LEASE_LOST, EXIT_UNCONFIRMED, EXIT_LATER}, ends
    return verdict


def check_times(verdict: Verdict) -> None:
    assert verdict.unavailable_s < AWAY_SECONDS, verdict
    assert verdict.away_s < AWAY_SECONDS, verdict


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("count", "fault"), [pytest.param(1, "primary", marks=pytest.mark.full_only), (3, "node")])
def test_a_few_devices_lose_nothing(tmp_path: Path, count: int, fault: str, full: int) -> None:
    with NodesBehindBalancer(tmp_path, count) as nodes:
        run(nodes, fault, devices=60, seconds=1 if full == 1 else 9, pause_s=2)


@pytest.mark.full_only
@pytest.mark.timeout(120)  # times ten
@pytest.mark.parametrize("fault", ["node", "primary"])
def test_three_nodes_lose_nothing(tmp_path: Path, fault: str) -> None:
    with NodesBehindBalancer(tmp_path, 3) as nodes:
        check_times(run(nodes, fault, devices=3_000, seconds=600, pause_s=10 if fault == "node" else 60))


@pytest.mark.full_only
@pytest.mark.timeout(120)
def test_three_nodes_whose_nudges_are_all_dropped(tmp_path: Path) -> None:
    with NodesBehindBalancer(tmp_path, 3, nudges=False) as nodes:
        verdict = run(nodes, "node", devices=3_000, seconds=600, pause_s=60)
    check_times(verdict)
    assert verdict.p99_s <= P99_SECONDS, verdict


@pytest.mark.full_only
@pytest.mark.timeout(120)
def test_three_nodes_whose_clocks_are_a_day_apart(tmp_path: Path) -> None:
    environments = {}
    for number in (1, 2):
        ahead = tmp_path / f"clock-{number}"
        ahead.write_text(f"{number * DAY_SECONDS} {number * DAY_SECONDS} 0")
        environments[number] = {**preload_environment(), "CLOCK_SHIM": str(ahead)}
    with NodesBehindBalancer(tmp_path, 3, environments=environments) as nodes:
        check_times(run(nodes, "node", devices=3_000, seconds=600, pause_s=10))


@pytest.mark.full_only
@pytest.mark.timeout(120)
def test_three_nodes_of_which_one_is_cut_off(tmp_path: Path) -> None:
    """Neither it nor anybody else is told: packets end. It is there again after CUT_SECONDS."""
    with CuttableNetwork(3) as network, NodesBehindBalancer(tmp_path, 3, network=network) as nodes:
        cuts = [partial(nodes.cut_off, node, CUT_SECONDS) for node in range(3)]
        check_times(run(nodes, "cut", 3_000, 600, 20, cuts))


def test_the_judge_reads_sets_as_the_format_has_them() -> None:
    """Examples by hand: a list, runs, and bits."""
    listed = bytes.fromhex("3a300000 01000000 0000 0200 10000000 0100 0200 0500".replace(" ", ""))
    assert list(decoded_set(listed)) == [1, 2, 5]
    runs = bytes.fromhex("3b300000 01 0100 0600 0200 0300 0200 0900 0300".replace(" ", ""))
    assert list(decoded_set(runs)) == [65536 + n for n in (3, 4, 5, 9, 10, 11, 12)]
    bits = bytes.fromhex("3a300000 01000000 0000 ff1f 10000000".replace(" ", "")) + b"\x55" * 2_048 + bytes(6_144)
    assert list(decoded_set(bits))[:3] == [0, 2, 4]


def test_the_judge_explains_repetitions_by_what_befell_the_node() -> None:
    """A device was connected to the first node, then to the second; the second log line of a port is another's."""
    log = "device 4001 at {:.3f} node node1\ndevice 4001 at {:.3f} node node3\ndevice 4002 at {:.3f} node node2\n"
    now, wall = time.monotonic(), time.time()
    served = ServedConnections(log.format(wall - 50, wall, wall - 30))
    enrolled = Device({"device_id": "kiosk", "token": "", "mqtt": {"client_id": "kiosk", "topics": {}}})
    device = JournallingDevice(enrolled, connections=[Connection(4001, now - 50), Connection(4002, now - 30)])
    before, again = Arrival("push", now - 35, False, 0), Arrival("push", now - 29, False, 1)

    def explains(node: int, since: float) -> bool:
        return is_explained(device, before, again, served, [Outage(node, since)])

    assert explains(0, now - 32)
    assert explains(0, now - 40)  # what it had sent was read later
    assert not explains(0, now - 51)  # the device was not there yet
    assert not explains(0, now - 29.5)  # or not any more
    assert not explains(1, now - 32)
    assert not explains(1, now - 29.5)  # has the connection on which it came again
    assert not explains(2, now - 32)
