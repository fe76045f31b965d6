"""The register grows, the cost of a push does not: a million devices are enrolled, a thousand of them are online.

The same pushes, to the thousand by their tag and one by one, on a register of a thousand and on one of a million.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.fanout import PAYLOAD, WARM_UP
from tests.benchmarks.figures import Figure, median
from tests.benchmarks.tools import BULK, Fleet, device_list
from tests.end_to_end.harness import Server, wait_for

SUMMARY = "the cost of a push when a million devices are registered and a thousand online"
UNIT = "ms"
GOAL = 1.3
"""Times the cost on the small register; as for the fan-out itself (docs/contract.md: Speed)."""
TAG = "online"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--online", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--registered", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--pushes", type=int, default=15, help="of each kind (%(default)s)")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    costs: list[tuple[float, float, float]] = []
    for registered in (options.online, options.registered):
        place = directory / str(registered)
        place.mkdir()
        costs.append(measure(registered, options.online, options.pushes, place))
    (small, small_single, small_start), (large, large_single, large_start) = costs
    beside = f"{options.online:,} registered"
    what = f"{options.registered:,} registered"
    return [
        Figure(f"push to {options.online:,} by tag, {what}", UNIT, large, beside, small, at_most=GOAL),
        Figure(f"push to one device, {what}", UNIT, large_single, beside, small_single, at_most=GOAL),
        Figure(f"start, {what}", "s", large_start, beside, small_start),
    ]


def measure(registered: int, online: int, pushes: int, directory: Path) -> tuple[float, float, float]:
    """Milliseconds of a push to the tag, of one to a single device; seconds of a start."""
    with Server(directory / "data") as server:
        api = server.api
        fleet_devices = api.enrol_many((f"kiosk-{number}" for number in range(online)), tags=[TAG])
        for names in shelves(online, registered):
            api.enrol_many(names)
        listed = device_list(directory / "devices", fleet_devices)
        server.stop(60)
        begun = time.perf_counter()
        server.start()
        start = time.perf_counter() - begun
        with Fleet(server.mqtt_port, listed, [1] * (WARM_UP + pushes)) as fleet:
            many = []
            for _ in range(WARM_UP + pushes):
                begun = time.perf_counter()
                push_id = api.push({"tag": TAG}, data="x" * (PAYLOAD - 142))
                fleet.batch()
                wait_for(lambda: api.counts(push_id)["delivered"] == online, what="the ledger")  # noqa: B023
                many.append((time.perf_counter() - begun) * 1000)
            single = []
            for number in range(WARM_UP + pushes * 10):
                begun = time.perf_counter()
                api.push(f"kiosk-{number % online}")
                single.append((time.perf_counter() - begun) * 1000)
        server.stop(60)
    return median(many[WARM_UP:]), median(single[WARM_UP:]), start


def shelves(first: int, last: int) -> Iterator[list[str]]:
    """Names of devices that are registered and not connected, as many at a time as one request may have."""
    for start in range(first, last, BULK):
        yield [f"shelf-{number}" for number in range(start, min(start + BULK, last))]
