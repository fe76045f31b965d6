"""Nodes behind a balancer while one of them, or the primary of the database, is killed again and again.

A few devices for seconds in every run; with `--full` three nodes, 3,000 devices and ten minutes of each fault (issue:
many machines). What is demanded is in `journalled_fleet`: lost 0, the ledger is what the journals say, order, and no
repetition of what was booked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.journalled_fleet import JournalledFleet, decoded_set
from tests.end_to_end.nodes_behind_balancer import CuttableNetwork, NodesBehindBalancer, befall, ends_of
from tests.preloaded import preload_environment

DAY_SECONDS = 86_400
EXIT_LEASE_LOST, EXIT_UNCONFIRMED, EXIT_LATER, KILLED = 69, 74, 75, -9


CUT_SECONDS = 8.0
"""Longer than a lease, and than others wait until they declare an end."""


def run(
    nodes: NodesBehindBalancer,
    fault: str,
    devices: int,
    seconds: float,
    pause_s: float,
    faults: Sequence[Callable[[], None]] = (),
) -> None:
    """A fleet while a fault happens every `pause_s`: `faults` in turns, or the death of a node or the primary."""
    fleet = JournalledFleet(nodes.api, nodes.balancer.ports["mqtt"], nodes.url, devices)
    fleet.start()
    kills = [node.kill for node in nodes.nodes] if fault == "node" else [nodes.fail_over]
    happened = befall(seconds, pause_s, faults or kills, lambda: fleet.note_recorded(nodes.api))
    nodes.wait_ready()
    fleet.finish(nodes.api)
    verdict = fleet.judge(nodes.api, nodes.database.url())
    next(device for device in fleet.devices if device.journal).journal.clear()
    with pytest.raises(AssertionError, match="lost"):  # so it would have been seen
        fleet.judge(nodes.api, nodes.database.url())
    ends = ends_of(nodes.nodes)
    print(f"{happened} times {fault}: {verdict}, ends {ends}")
    assert set(ends) <= {KILLED, EXIT_LEASE_LOST, EXIT_UNCONFIRMED, EXIT_LATER}, ends


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("count", "fault"), [(1, "primary"), (3, "node")])
def test_a_few_devices_lose_nothing(tmp_path: Path, count: int, fault: str) -> None:
    with NodesBehindBalancer(tmp_path, count) as nodes:
        run(nodes, fault, devices=60, seconds=9, pause_s=3)


@pytest.mark.full_only
@pytest.mark.timeout(120)  # times ten
@pytest.mark.parametrize("fault", ["node", "primary"])
def test_three_nodes_lose_nothing(tmp_path: Path, fault: str) -> None:
    with NodesBehindBalancer(tmp_path, 3) as nodes:
        run(nodes, fault, devices=3_000, seconds=600, pause_s=10 if fault == "node" else 60)


@pytest.mark.full_only
@pytest.mark.timeout(120)
def test_three_nodes_whose_nudges_are_all_dropped(tmp_path: Path) -> None:
    with NodesBehindBalancer(tmp_path, 3, nudges=False) as nodes:
        run(nodes, "node", devices=3_000, seconds=600, pause_s=60)


@pytest.mark.full_only
@pytest.mark.timeout(120)
def test_three_nodes_whose_clocks_are_a_day_apart(tmp_path: Path) -> None:
    environments = {}
    for number in (1, 2):
        ahead = tmp_path / f"clock-{number}"
        ahead.write_text(f"{number * DAY_SECONDS} {number * DAY_SECONDS} 0")
        environments[number] = {**preload_environment(), "CLOCK_SHIM": str(ahead)}
    with NodesBehindBalancer(tmp_path, 3, environments=environments) as nodes:
        run(nodes, "node", devices=3_000, seconds=600, pause_s=10)


@pytest.mark.full_only
@pytest.mark.timeout(120)
def test_three_nodes_of_which_one_is_cut_off(tmp_path: Path) -> None:
    """Neither it nor anybody else is told: packets end. It is there again after CUT_SECONDS."""
    with CuttableNetwork(3) as network, NodesBehindBalancer(tmp_path, 3, network=network) as nodes:

        def cut_off(node: int) -> None:
            network.cut(node)
            time.sleep(CUT_SECONDS)
            network.mend(node)

        run(nodes, "cut", 3_000, 600, 20, [partial(cut_off, node) for node in range(3)])


def test_the_judge_reads_sets_as_the_format_has_them() -> None:
    """Examples by hand: a list, runs, and bits."""
    listed = bytes.fromhex("3a300000 01000000 0000 0200 10000000 0100 0200 0500".replace(" ", ""))
    assert list(decoded_set(listed)) == [1, 2, 5]
    runs = bytes.fromhex("3b300000 01 0100 0600 0200 0300 0200 0900 0300".replace(" ", ""))
    assert list(decoded_set(runs)) == [65536 + n for n in (3, 4, 5, 9, 10, 11, 12)]
    bits = bytes.fromhex("3a300000 01000000 0000 ff1f 10000000".replace(" ", "")) + b"\x55" * 2_048 + bytes(6_144)
    assert list(decoded_set(bits))[:3] == [0, 2, 4]
