"""A device that reads nothing gets 100,000 pushes, while a hundred others work.

What it costs the server in memory, and what the others notice: their latency from request to socket meanwhile, beside
their latency alone.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.benchmarks.tools import Fleet, HttpLoad, Latency, device_list, enrolled, resident
from tests.end_to_end.harness import Server

SUMMARY = "100,000 pushes to a device that reads nothing, while 100 others work"
OTHERS = 100
BATCH = 1_000
"""Pushes of one request to the deaf device: what a sender in a loop would do, not a bulk import."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pushes", type=int, default=100_000, help="to the deaf device (%(default)s)")
    parser.add_argument("--rate", type=int, default=300, help="pushes per second to the others (%(default)s)")
    parser.add_argument("--seconds", type=int, default=20, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    rounds = options.rate * options.seconds // OTHERS
    with Server(directory / "data") as server:
        others = enrolled(server, OTHERS, directory)
        (deaf,) = server.api.enrol_many(["deaf"])
        alone = device_list(directory / "deaf", [deaf])
        with (
            Fleet(server.mqtt_port, others, [rounds, rounds]) as fleet,
            Fleet(server.mqtt_port, alone, [], "--deaf"),
        ):
            idle = latency(server, fleet, rounds, options.rate)
            before = resident(server.pid)
            flood = threading.Thread(target=push_to, args=(server, deaf.id, options.pushes))
            flood.start()
            busy = latency(server, fleet, rounds, options.rate)
            flood.join()
            after = resident(server.pid)
            ended = server.api.request("GET", f"/v1/devices/{deaf.id}/mailbox?limit=1").status_code
    assert ended == 200, "the API answers"
    what = f"{options.pushes:,} pushes to a deaf device"
    return [
        Figure(f"{what}: memory", "MiB", max(after - before, 0) / 2**20, "64 MiB", 64.0, at_most=1.0),
        Figure(f"{what}: p99 of {OTHERS} others", "ms", busy.p99, "alone", idle.p99, at_most=2.0),
        Figure(f"{what}: p50 of {OTHERS} others", "ms", busy.p50, "alone", idle.p50),
    ]


def latency(server: Server, fleet: Fleet, rounds: int, rate: int) -> Latency:
    body = json.dumps({"target": {"device": "kiosk-%D"}, "data": "%T"})
    options = ["--devices", str(OTHERS), "--requests", str(rounds * OTHERS), "--rate", str(rate), "--connections", "16"]
    HttpLoad(server.http_port, "/v1/pushes", body, *options, key=server.admin_key).result()
    found = fleet.batch().latency
    assert found is not None, "every push carries a stamp"
    return found


def push_to(server: Server, device_id: str, count: int) -> None:
    push = {"target": {"device": device_id}, "data": "x" * 100}
    for _ in range(count // BATCH):
        server.api.push_batch([push] * BATCH)
