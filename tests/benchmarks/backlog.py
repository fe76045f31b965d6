"""The whole fleet returns at once, and every device has pushes waiting: the morning after a site's power cut.

Ten waiting pushes each, one in ten critical, the others of the lower priorities. Measured: how long until all are
connected, until everything is delivered (beside the floor, which connects and sends as much), how many low ones were
delivered before the last critical one, what the API's callers notice meanwhile, and what it takes of memory.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from tests.benchmarks.figures import GOAL, Figure
from tests.benchmarks.tools import Fleet, HttpLoad, enrolled, floor, resident
from tests.end_to_end.harness import Server, wait_for

SUMMARY = "the backlog of a fleet that returns at once, critical first"
WAITING = ("low", "low", "low", "low", "normal", "normal", "normal", "high", "high", "critical")
"""Priorities of the waiting pushes, in the order in which they were sent."""
API_RATE = 50
"""Requests per second that the API answers meanwhile."""
API_SECONDS = 8
CONNECTED_WITHIN = 30.0
API_P99 = 100.0
MEMORY = 64.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices
    deliveries = devices * len(WAITING)
    floor_connects, floored = floor(devices, 200, 1_000, [len(WAITING)], directory)
    with Server(directory / "data") as server:
        listed = enrolled(server, devices, directory)
        with Fleet(server.mqtt_port, listed, []):
            pass  # everybody subscribes, once for all
        (bystander,) = server.api.enrol_many(["bystander"])
        pushes = [server.api.push({"all": True}, data="x" * 50, priority=priority) for priority in WAITING]
        server.restart()
        time.sleep(1.0)
        before = resident(server.pid)
        body = json.dumps({"target": {"device": bystander.id}, "data": "%T", "ttl": 0})
        limits = ["--requests", str(API_RATE * API_SECONDS), "--rate", str(API_RATE), "--connections", "8"]
        callers = HttpLoad(server.http_port, "/v1/pushes", body, *limits, key=server.admin_key)
        with Fleet(server.mqtt_port, listed, [len(WAITING)], "--resume") as fleet:
            drained = fleet.batch()
            after = resident(server.pid)
            for push_id in pushes:
                wait_for(lambda: server.api.counts(push_id)["delivered"] == devices, what="the ledger")  # noqa: B023
            answered = callers.result()
    critical = drained.classes["critical"]
    low = drained.classes["low"]
    what = f"{devices:,} devices return to {len(WAITING)} pushes each"
    floor_seconds = floor_connects + floored[0].seconds
    drain_seconds = drained.seconds - fleet.connected_seconds
    return [
        Figure(f"{what}: all connected", "s", fleet.connected_seconds, GOAL, CONNECTED_WITHIN, at_most=1.0),
        Figure(f"{what}: drain after that", "deliveries/s", deliveries / drain_seconds, "floor (C, system calls only)",
               deliveries / floored[0].seconds, at_least=0.5),
        Figure(f"{what}: connect and drain", "deliveries/s", deliveries / drained.seconds,
               "floor (C, system calls only)", deliveries / floor_seconds),
        Figure(f"{what}: low ones before the last critical", "deliveries", critical.low_before, "1 % of the low",
               low.count / 100, at_most=1.0),
        Figure(f"{what}: API p99 meanwhile", "ms", answered.latency.p99, GOAL, API_P99, at_most=1.0),
        Figure(f"{what}: memory", "MiB", (after - before) / 2**20, "64 MiB and 8 KiB per device",
               MEMORY + devices * 8 / 1024, at_most=1.0),
    ]  # fmt: skip
