"""Devices that connect to nodes, and the memory that their sessions take there (decision 10, M4, M5).

*Connects*: all devices at once, at a server that has just been started. A node claims each device and loads its session
from PostgreSQL in the group that answers it; a server over a file has all sessions in memory. Then the same devices at
the same node, and at the other one.

*Memory*: all devices have a session, half of them are connected, the other half to the other node, and the servers have
been started anew meanwhile. They are processes of their own for it, and not forked as those of tests are: those share
memory with each other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.benchmarks.memory import SETTLE
from tests.benchmarks.node_fleet import enrolled_for, nodes_over
from tests.benchmarks.postgresql import postgresql
from tests.benchmarks.tools import Fleet, Storm, resident, storm
from tests.end_to_end.harness import Server

SUMMARY = "devices that connect to a node, and the memory of their sessions"
FILE = "one server over a file"
CONNECTING = 500
"""Devices that wait for their CONNACK at once: a node answers them in groups, after a commit, so that fewer would
measure how long that takes."""
UNSHARED = {"PYTHONHASHSEED": "0"}
"""A variable that no forked process could have: see `warm_start.can_start`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")


@dataclass(frozen=True)
class Sessions:
    storms: Sequence[Storm]
    """At the first server, there again, and at the last one."""
    bare: float
    """Bytes of a server without devices."""
    waiting: float
    """Of one that has been started anew, before anybody is back."""
    connected: float
    """The same when its part of the devices is."""


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices // 2 * 2
    with Server(directory / "file" / "data", env=UNSHARED) as server:
        file = measured([server], devices, directory / "file")
    with postgresql(directory) as address, nodes_over(address, directory / "nodes", 2, env=UNSHARED) as nodes:
        node = measured(nodes, devices, directory / "nodes")
    what = f"connects of {devices:,} authenticated devices"
    half = f"{devices // 2:,} of {devices:,} devices"
    first, again, other = (one.rate for one in node.storms)
    each = devices / 2 * 1024
    sessions_of_others = (file.waiting - file.bare) / 2  # a node has none of them in memory
    return [
        Figure(f"{what}, at a node", "connects/s", first, FILE, file.storms[0].rate),
        Figure(f"{what}, at a node again", "connects/s", again, FILE, file.storms[1].rate),
        Figure(f"{what}, at the other node", "connects/s", other, "at the same again", again),
        Figure("processor of a node for a connect", "µs", node.storms[0].cost, FILE, file.storms[0].cost),
        Figure("memory of a node without devices", "MiB", node.bare / 2**20, FILE, file.bare / 2**20),
        Figure(
            f"memory of a node, {devices:,} sessions", "MiB", node.waiting / 2**20, FILE, file.waiting / 2**20
        ),
        Figure(
            f"memory of a node, {half} connected", "MiB", node.connected / 2**20, FILE, file.connected / 2**20
        ),
        Figure(
            "memory of an idle device on a node", "KiB", (node.connected - node.bare) / each,
            FILE, (file.connected - file.bare - sessions_of_others) / each,
        ),
    ]  # fmt: skip


def measured(servers: Sequence[Server], devices: int, folder: Path) -> Sessions:
    """Of the first server, or of its part of the devices."""
    first, last = servers[0], servers[-1]
    first.restart()
    time.sleep(SETTLE)
    bare = resident(first.pid)
    halves = [path for number in (0, 1) for path in enrolled_for([first], devices // 2, folder, f"half{number}-")]
    everybody = folder / "everybody.devices"
    everybody.write_text("".join(path.read_text() for path in halves))
    first.restart()  # no cache is warm, as after a power cut
    storms = [
        storm(server.mqtt_port, server.pid, everybody, devices, connecting=CONNECTING)
        for server in (first, first, last)
    ]
    connect_halves(servers, halves)
    for server in servers:
        server.restart()
    time.sleep(SETTLE)
    waiting = resident(first.pid)
    with ExitStack() as ending:
        for server, listed in zip(servers, halves, strict=False):  # one server has the first half
            ending.enter_context(Fleet(server.mqtt_port, listed, [], "--resume"))
        time.sleep(SETTLE)
        return Sessions(storms, bare, waiting, resident(first.pid))


def connect_halves(servers: Sequence[Server], halves: Sequence[Path]) -> None:
    """Connect and subscribe each half to a server, both to the only one; they hang up."""
    with ExitStack() as ending:
        for number, listed in enumerate(halves):
            ending.enter_context(Fleet(servers[number % len(servers)].mqtt_port, listed, []))
