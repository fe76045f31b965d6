"""One push to everybody: from `POST /v1/pushes {"all"}` to the last acknowledgement in the ledger on disk.

The servers take turns under the same fleet of C devices: ours, with its ledger (SQLite, WAL, `synchronous=FULL`);
Mosquitto and amqtt without persistence, fed by a C publisher; and the floor, a C program that does the system calls and
nothing else. amqtt looks at every subscription for every message, so it gets fewer messages, and no fleet of more than
a thousand. Each is measured twice: single pushes, one at a time (the median), and a stream of pushes from a few
senders, each of which sends its next when the last was accepted.

A yardstick that loses messages is measured by those that came, and its figure is marked as incomplete. If ours loses
one, that is a failure.

Then the same over TLS, WebSocket and both, beside Mosquitto alone. There the sender speaks it too: Mosquitto's
publisher to the same port, ours HTTP, or HTTPS if devices use TLS.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import Figure, loss, median
from tests.benchmarks.tools import (
    Batch,
    CannotRun,
    Fleet,
    HttpLoad,
    amqtt,
    anonymous_devices,
    enrolled,
    floor,
    mosquitto,
    without_the_impossible,
)
from tests.benchmarks.transports import TRANSPORTS, Endpoint, Transport
from tests.end_to_end.harness import Api, Server, wait_for

SUMMARY = "one push to N devices, until its last acknowledgement is in the ledger"
PAYLOAD = 200
"""Bytes on the wire, for all of them."""
ENVELOPE = 142
"""Bytes of a push's payload that are not its data: push id, kind, times, priority."""
WINDOW = 1_000
"""Unacknowledged messages that Mosquitto's publisher and the floor allow themselves."""
AMQTT_DEVICES = 1_000
AMQTT_WINDOW = 100
AMQTT_SINGLES = 3
AMQTT_STREAM = 2_000
"""Deliveries; it takes a few seconds for them."""
SENDERS = 4
"""Requests under way at once in a stream."""
WARM_UP = 1
UNIT = "deliveries/s"
FLEETS = [100, 1_000, 10_000]
OTHER_FLEETS = [1_000]
"""Over something else than TCP."""
FLOOR, MOSQUITTO, AMQTT = "floor (C, system calls only)", "Mosquitto, not durable", "amqtt, not durable"
GOALS = {FLOOR: 0.5, MOSQUITTO: 1.5}


def add_options(parser: argparse.ArgumentParser) -> None:
    fleets = ", ".join(map(str, FLEETS))
    parser.add_argument(
        "--devices", type=int, nargs="+", metavar="N", help=f"default: {fleets} over TCP, {OTHER_FLEETS[0]} over others"
    )
    parser.add_argument(
        "--transport", nargs="+", choices=TRANSPORTS, default=TRANSPORTS, help="how devices connect; default: all"
    )
    parser.add_argument("--pushes", type=int, default=9, help="single pushes, of which the median counts (%(default)s)")
    parser.add_argument("--stream", type=int, default=200_000, help="deliveries of the stream (%(default)s)")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    figures: list[Figure] = []
    for transport in without_the_impossible(options.transport):
        place = directory / transport
        place.mkdir()
        fleets = options.devices or (FLEETS if transport == "tcp" else OTHER_FLEETS)
        figures += compare(Endpoint.of(transport, place), fleets, options.pushes, options.stream, place)
    return figures


def compare(endpoint: Endpoint, fleets: Sequence[int], pushes: int, stream: int, directory: Path) -> list[Figure]:
    plain = endpoint.transport == "tcp"
    figures: list[Figure] = []
    costs: dict[int, float] = {}
    for devices in fleets:
        place = directory / str(devices)
        place.mkdir()
        batches = [1] * (WARM_UP + pushes) + [max(stream // devices, 1)]
        others: dict[str, Rates] = {}
        if plain:
            others[FLOOR] = Rates.of(devices, floor(devices, PAYLOAD, WINDOW, batches, place)[1])
        others[MOSQUITTO] = Rates.of(devices, measure_mosquitto(endpoint, devices, batches, place))
        if plain and devices <= AMQTT_DEVICES:
            others[AMQTT] = Rates.of(devices, measure_amqtt(devices, place))
        ours = Rates.of(devices, measure_fleetpush(endpoint, devices, batches, place))
        costs[devices] = 1e6 / ours.stream.rate
        for kind in ("single push", "stream"):
            for name, theirs in others.items():
                counts = plain and kind == "stream" and devices >= 1_000  # what docs/contract.md sets a goal for
                title = f"fan-out to {devices:,}{endpoint.over}, {kind}"
                goal = GOALS.get(name) if counts else None
                it = theirs.of_kind(kind)
                if it.loss is not None:
                    print(f"{title}: {name} {it.loss}, so its figure is incomplete", file=sys.stderr)
                figures.append(Figure(title, UNIT, ours.of_kind(kind).rate, name, it.rate, goal, incomplete=it.loss))
    smallest, largest = min(costs), max(costs)
    if largest > smallest:
        title = f"cost of a delivery to {largest:,} devices{endpoint.over}"
        figures.append(Figure(title, "µs", costs[largest], f"to {smallest:,} devices", costs[smallest], at_most=1.3))
    return figures


@dataclass(frozen=True)
class Rate:
    rate: float
    """Deliveries per second."""
    loss: str | None
    """What did not come, in words."""

    @classmethod
    def of(cls, devices: int, batches: Sequence[Batch]) -> Rate:
        """The median of the batches."""
        messages = [devices * batch.rounds for batch in batches]
        rates = [(sent - batch.lost) / batch.seconds for sent, batch in zip(messages, batches, strict=True)]
        return cls(median(rates), loss(sum(batch.lost for batch in batches), sum(messages)))


@dataclass(frozen=True)
class Rates:
    single: Rate
    stream: Rate

    @classmethod
    def of(cls, devices: int, batches: Sequence[Batch]) -> Rates:
        *singles, stream = batches[WARM_UP:]
        return cls(Rate.of(devices, singles), Rate.of(devices, [stream]))

    def of_kind(self, kind: str) -> Rate:
        return self.stream if kind == "stream" else self.single


def measure_mosquitto(endpoint: Endpoint, devices: int, batches: list[int], directory: Path) -> list[Batch]:
    with mosquitto(directory, endpoint=endpoint) as (port, _):
        return published(port, devices, batches, WINDOW, directory, endpoint.transport)


def measure_amqtt(devices: int, directory: Path) -> list[Batch]:
    batches = [1] * (WARM_UP + AMQTT_SINGLES) + [max(AMQTT_STREAM // devices, 1)]
    with amqtt() as (port, _):
        return published(port, devices, batches, AMQTT_WINDOW, directory)


def published(
    port: int, devices: int, batches: list[int], window: int, directory: Path, transport: Transport = "tcp"
) -> list[Batch]:
    """The fleet's own publisher at a broker that lets everybody in."""
    options = ["--publish", "--window", str(window), "--size", str(PAYLOAD)]
    listed = anonymous_devices(devices, directory)
    with Fleet(port, listed, batches, *options, transport=transport, may_lose=True) as fleet:
        return [fleet.batch() for _ in batches]


def measure_fleetpush(endpoint: Endpoint, devices: int, batches: list[int], directory: Path) -> list[Batch]:
    with endpoint.server(directory / "data") as server:
        listed = enrolled(server, devices, directory)
        with Fleet(endpoint.port(server), listed, batches, transport=endpoint.transport) as fleet:
            results = [one_batch(server, endpoint, fleet, rounds, devices) for rounds in batches]
        if server.stop() != 0:
            raise CannotRun(f"The server did not end well:\n{server.output}")
        return results


def one_batch(server: Server, endpoint: Endpoint, fleet: Fleet, rounds: int, devices: int) -> Batch:
    """The devices say when they have acknowledged everything; only then is the ledger asked, until it says so too."""
    start = time.perf_counter()
    body = json.dumps({"target": {"all": True}, "data": "x" * (PAYLOAD - ENVELOPE)})
    options = ["--requests", str(rounds), "--connections", str(min(rounds, SENDERS))]
    sent = HttpLoad(server.http_port, "/v1/pushes", body, *options, key=server.admin_key, transport=endpoint.http)
    fleet.batch()
    sent.result()
    wait_for(lambda: is_recorded(server.api, rounds, devices), what="the ledger")
    return Batch(rounds, time.perf_counter() - start)


def is_recorded(api: Api, rounds: int, devices: int) -> bool:
    """Whether the ledger says of the last pushes that everybody has them."""
    newest = api.call("GET", f"/v1/pushes?limit={min(rounds, 1_000)}", 200)["items"]
    return all(push["counts"]["delivered"] == devices for push in newest)
