"""Deliveries of nodes over one PostgreSQL: a second, from request to socket, in bytes (decision 10, M2, M3, M7, M8).

One server over a file, one node, and two nodes among which the devices are divided take turns with the same work. All
requests go to the first node. Nothing is counted before its acknowledgements are stored.

- A *push to all*, alone and in a stream, as `fanout` measures it, and the bytes of WAL that it costs each delivery.
  Neighbours are at different nodes, so that each set of devices is changed by both. With `--registered` there are more
  devices than are connected, so that sets are larger, up to 8 KiB for 65,536 numbers; nothing else is measured then.
- *Single pushes* as fast as the senders of `api` are answered: what each costs in WAL and tables, and what the
  connections of the other node take of PostgreSQL's processors to find out that nothing is for it (less what they take
  when idle).
  PostgreSQL has statistics by then: in the first minute of a database, until autovacuum has gathered some, it reads
  whole tables.
- *From the request to the socket*, at a moderate rate: of the accepting node, and of the other one, which is told by a
  nudge. A second pair of nodes has a relay in front of each that drops all nudges, so that only the look each 250 ms
  finds what is new.

The nodes, PostgreSQL and the load share the machine: what two nodes gain beside one is the processors' that are left.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.api import CONNECTIONS
from tests.benchmarks.fanout import ENVELOPE, PAYLOAD, SENDERS, WARM_UP, is_recorded
from tests.benchmarks.figures import Figure, median
from tests.benchmarks.node_fleet import NodeDatabase, divided, enrolled_for, nodes_over
from tests.benchmarks.postgresql import postgresql
from tests.benchmarks.tools import CannotRun, Fleet, HttpLoad, Latency, enrolled
from tests.end_to_end.harness import Server, wait_for
from tests.nodes import NodeProcess

SUMMARY = "deliveries of one and two nodes over PostgreSQL: a second, until the socket, in bytes"
FEW = 100
"""Devices of each server that get single pushes."""
TELL_SECONDS = 2.0
"""Until nodes have told each other who is connected, twice."""
IDLE_SECONDS = 5.0
FILE, ONE_NODE = "one server over a file", "one node"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--registered", type=int, default=0, help="devices, if more than are connected")
    parser.add_argument("--pushes", type=int, default=5, help="to all, alone: the median counts (%(default)s)")
    parser.add_argument("--stream", type=int, default=200_000, help="deliveries of the stream (%(default)s)")
    parser.add_argument("--singles", type=int, default=10_000, help="pushes to a device each (%(default)s)")
    parser.add_argument("--rate", type=int, default=200, help="pushes a second until the socket (%(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="seconds of those (%(default)s)")


@dataclass(frozen=True)
class PushesToAll:
    single: float
    """Deliveries a second; the median."""
    stream: float
    single_wal: float
    """Bytes for each delivery; the median. 0 over a file."""
    stream_wal: float
    stream_size: float
    """Bytes of tables and indexes for each delivery."""


@dataclass(frozen=True)
class SinglePushes:
    rate: float
    """Pushes a second."""
    wal: float
    """Bytes for each, its delivery and acknowledgement included."""
    size: float
    search: float
    """Microseconds of PostgreSQL for each, of the connections of the node that it is not for."""
    idle: float
    """Percent of a processor that those take while nothing is sent."""
    busy: float
    """The same while it is."""


@dataclass(frozen=True)
class Measured:
    """Of the servers that were given; of PostgreSQL where there is one."""

    to_all: PushesToAll
    singles: SinglePushes | None
    """None, and no latencies, with `--registered`."""
    latencies: list[Latency]
    """Of the devices of each server, of pushes to the first."""


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    options.devices -= options.devices % 2  # as many for each of two nodes
    with Server(directory / "file" / "data") as server:
        file = measured([server], options, directory / "file")
    with postgresql(directory) as address:
        with nodes_over(address, directory / "one-node", 1) as nodes:
            one = measured(nodes, options, directory / "one-node")
        with nodes_over(address, directory / "two-nodes", 2) as nodes:
            two = measured(nodes, options, directory / "two-nodes")
        if file.singles is None or one.singles is None or two.singles is None:
            what = f"push to {options.devices:,} of {options.registered:,}"
            return delivery_figures(what, file.to_all, one.to_all, two.to_all)
        with nodes_over(address, directory / "no-nudges", 2, nudges=False) as nodes:
            untold = latencies(nodes, options, directory / "no-nudges")
    return [
        *delivery_figures(f"push to {options.devices:,}", file.to_all, one.to_all, two.to_all),
        *single_figures(file.singles, one.singles, two.singles),
        *latency_figures(f"at {options.rate:,}/s", file.latencies[0], one.latencies[0], two.latencies, untold),
    ]


def measured(servers: Sequence[Server], options: argparse.Namespace, folder: Path) -> Measured:
    with ExitStack() as ending:
        first = servers[0]
        database = ending.enter_context(NodeDatabase(first)) if isinstance(first, NodeProcess) else None
        to_all = pushes_to_all(servers, database, options, folder)
        if options.registered > options.devices:
            return Measured(to_all, None, [])
        singles = single_pushes(servers, database, options.singles, folder)
        return Measured(to_all, singles, latencies(servers, options, folder))


# -- a push to all -----------------------------------------------------------------------------------------------------


def pushes_to_all(
    servers: Sequence[Server], database: NodeDatabase | None, options: argparse.Namespace, folder: Path
) -> PushesToAll:
    """The first of all, as long as nobody else is registered."""
    devices = options.devices
    batches = [1] * (WARM_UP + options.pushes) + [max(options.stream // devices, 1)]
    rates, wal, size = [], [], 0
    with ExitStack() as ending:
        everybody = enrolled(servers[0], max(options.registered, devices), folder)
        lists = divided(everybody, devices, len(servers))
        fleets = [
            ending.enter_context(Fleet(server.mqtt_port, listed, batches))
            for server, listed in zip(servers, lists, strict=True)
        ]
        time.sleep(TELL_SECONDS)
        for rounds in batches:
            written = database.wal_bytes() if database else 0
            size = database.size_bytes() if database else 0
            rates.append(devices * rounds / seconds_of(servers[0], fleets, rounds, devices))
            wal.append((database.wal_bytes() - written) / devices / rounds if database else 0.0)
        size = database.size_bytes() - size if database else 0
    alone = slice(WARM_UP, -1)
    return PushesToAll(median(rates[alone]), rates[-1], median(wal[alone]), wal[-1], size / devices / batches[-1])


def seconds_of(server: Server, fleets: Sequence[Fleet], rounds: int, devices: int) -> float:
    """Time until so many pushes to all are acknowledged, and the ledger says so."""
    start = time.perf_counter()
    body = json.dumps({"target": {"all": True}, "data": "x" * (PAYLOAD - ENVELOPE)})
    options = ["--requests", str(rounds), "--connections", str(min(rounds, SENDERS))]
    sent = HttpLoad(server.http_port, "/v1/pushes", body, *options, key=server.admin_key)
    for fleet in fleets:
        fleet.batch()
    sent.result()
    wait_for(lambda: is_recorded(server.api, rounds, devices), what="the ledger")
    return time.perf_counter() - start


# -- pushes to a device each -------------------------------------------------------------------------------------------


def single_pushes(servers: Sequence[Server], database: NodeDatabase | None, count: int, folder: Path) -> SinglePushes:
    """To the first server's devices, while those of the others are connected as well; the second time counts."""
    first = servers[0]
    rounds = max(count // FEW, 1)
    data = "x" * (PAYLOAD - ENVELOPE)
    with ExitStack() as ending:
        lists = enrolled_for(servers, FEW * len(servers), folder, "single")
        fleets = [
            ending.enter_context(Fleet(server.mqtt_port, listed, [rounds, rounds]))
            for server, listed in zip(servers, lists, strict=True)
        ]
        send(first, "single0", FEW * rounds, data, "--connections", CONNECTIONS)
        fleets[0].batch()
        if database:
            database.analyze()
        time.sleep(TELL_SECONDS)
        idle = idle_share(database) if database and len(servers) > 1 else 0.0
        before = taken(database)
        start = time.perf_counter()
        send(first, "single0", FEW * rounds, data, "--connections", CONNECTIONS)
        fleets[0].batch()
        wait_for(lambda: is_recorded(first.api, FEW * rounds, 1), what="the ledger")
        seconds = time.perf_counter() - start
        after = taken(database)
    pushes = FEW * rounds
    wal, size, processor = (later - earlier for earlier, later in zip(before, after, strict=True))
    search = (processor - idle * seconds) / pushes * 1e6
    return SinglePushes(pushes / seconds, wal / pushes, size / pushes, search, idle * 100, processor / seconds * 100)


def taken(database: NodeDatabase | None) -> tuple[int, int, float]:
    """Bytes of WAL, bytes of tables, and what the second node's connections have taken; zeros over a file."""
    if database is None:
        return 0, 0, 0.0
    return database.wal_bytes(), database.size_bytes(), database.processor_seconds(1)


def idle_share(database: NodeDatabase) -> float:
    """Share of a processor that the second node's connections take while nothing is sent."""
    before = database.processor_seconds(1)
    time.sleep(IDLE_SECONDS)
    return (database.processor_seconds(1) - before) / IDLE_SECONDS


def send(server: Server, name: str, count: int, data: str, *options: str) -> None:
    body = json.dumps({"target": {"device": f"{name}-%D"}, "data": data})
    given = ["--devices", str(FEW), "--requests", str(count), *options]
    HttpLoad(server.http_port, "/v1/pushes", body, *given, key=server.admin_key).result()


# -- from the request to the socket ------------------------------------------------------------------------------------


def latencies(servers: Sequence[Server], options: argparse.Namespace, folder: Path) -> list[Latency]:
    """Of pushes to the first server, to devices of each server in turn."""
    rounds = max(options.rate * options.seconds // FEW, 1)
    rate = ("--rate", str(options.rate), "--connections", CONNECTIONS)
    lists = enrolled_for(servers, FEW * len(servers), folder, "rated")
    found = []
    with ExitStack() as ending:
        fleets = [
            ending.enter_context(Fleet(server.mqtt_port, listed, [1, rounds]))
            for server, listed in zip(servers, lists, strict=True)
        ]
        time.sleep(TELL_SECONDS)
        for number, fleet in enumerate(fleets):
            send(servers[0], f"rated{number}", FEW, "%T", *rate)
            fleet.batch()
            send(servers[0], f"rated{number}", FEW * rounds, "%T", *rate)
            latency = fleet.batch().latency
            if latency is None:
                raise CannotRun("pushes came without their stamps")
            found.append(latency)
    return found


# -- figures -----------------------------------------------------------------------------------------------------------


def delivery_figures(what: str, file: PushesToAll, one: PushesToAll, two: PushesToAll) -> list[Figure]:
    unit = "deliveries/s"
    return [
        Figure(f"{what} over PostgreSQL, alone", unit, one.single, FILE, file.single),
        Figure(f"{what} over PostgreSQL, stream", unit, one.stream, FILE, file.stream),
        Figure(f"{what} on two nodes, alone", unit, two.single, ONE_NODE, one.single),
        Figure(f"{what} on two nodes, stream", unit, two.stream, ONE_NODE, one.stream),
        Figure(f"WAL of a delivery, {what} on two nodes, alone", "bytes", two.single_wal, ONE_NODE, one.single_wal),
        Figure(f"WAL of a delivery, {what} on two nodes, stream", "bytes", two.stream_wal, ONE_NODE, one.stream_wal),
        Figure(f"tables of a delivery, {what} on two nodes, stream", "bytes", two.stream_size, "WAL", two.stream_wal),
    ]


def single_figures(file: SinglePushes, one: SinglePushes, two: SinglePushes) -> list[Figure]:
    return [
        Figure("single pushes until stored, over PostgreSQL", "pushes/s", one.rate, FILE, file.rate),
        Figure("single pushes until stored, of two nodes to one", "pushes/s", two.rate, ONE_NODE, one.rate),
        Figure("WAL of a single push on two nodes", "bytes", two.wal, ONE_NODE, one.wal),
        Figure("tables of a single push on two nodes", "bytes", two.size, "WAL", two.wal),
        Figure("PostgreSQL, for a node that a push is not for", "µs", two.search, "assumed", 20.0),
        Figure("PostgreSQL, for an idle node", "%", two.idle, "while others get pushes", two.busy),
    ]


def latency_figures(
    what: str, file: Latency, one: Latency, two: Sequence[Latency], untold: Sequence[Latency]
) -> list[Figure]:
    figures = []
    for part in ("p50", "p99"):
        title = f"request to device socket {what}, {part}"
        same, other = (getattr(latency, part) for latency in two)
        alone, late = getattr(one, part), getattr(untold[1], part)
        figures += [
            Figure(f"{title}, over PostgreSQL", "ms", alone, FILE, getattr(file, part)),
            Figure(f"{title}, one of two nodes", "ms", same, ONE_NODE, alone),
            Figure(f"{title}, of another node", "ms", other, "the accepting node", same),
            Figure(f"{title}, of another node without nudges", "ms", late, "with them", other),
        ]
    return figures
