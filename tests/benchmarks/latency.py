"""From the HTTP request to the device's socket, at a fixed rate that does not wait for anybody (open loop).

A request's clock starts when it was due, not when it could be sent, and stops when the device has read the PUBLISH.
The ledger's fsync is in it: `202` and the hand-over come after the commit. So the goal is 5 ms plus the disk's own p99.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.benchmarks.figures import Figure, loss
from tests.benchmarks.tools import Fleet, HttpLoad, Latency, anonymous_devices, enrolled, fsync_milliseconds, mosquitto
from tests.end_to_end.harness import Server

SUMMARY = "from HTTP request to device socket at a fixed rate"
UNIT = "ms"
OWN_P99 = 5.0
"""Milliseconds, without the disk's."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--rate", type=int, default=1_000, help="pushes per second (%(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices, rate = options.devices, options.rate
    rounds = max(rate * options.seconds // devices, 1)
    with (
        Server(directory / "data") as server,
        Fleet(server.mqtt_port, enrolled(server, devices, directory), [1, rounds]) as fleet,
    ):
        send(server, devices, devices, rate)
        fleet.batch()
        before = fsync_milliseconds(directory)
        send(server, devices, devices * rounds, rate)
        ours = fleet.batch().latency
        after = fsync_milliseconds(directory)
    theirs, lost = mosquitto_latency(devices, rounds, rate, directory)
    assert ours is not None, "every push carries a stamp"
    fsync_p99 = (before[1] + after[1]) / 2
    what = f"request to device socket at {rate:,}/s"
    return [
        Figure(f"{what}, p99", UNIT, ours.p99, f"{OWN_P99:g} ms + fsync p99", OWN_P99 + fsync_p99, at_most=1.0),
        Figure(f"{what}, p50", UNIT, ours.p50, "fsync p50", (before[0] + after[0]) / 2),
        Figure(
            f"{what}, p99", UNIT, ours.p99, "Mosquitto, MQTT to MQTT, not durable", theirs.p99,
            incomplete=loss(lost, devices * rounds),
        ),
    ]  # fmt: skip


def send(server: Server, devices: int, count: int, rate: int) -> None:
    body = json.dumps({"target": {"device": "kiosk-%D"}, "data": "%T"})
    options = ["--devices", str(devices), "--requests", str(count), "--rate", str(rate), "--connections", "64"]
    HttpLoad(server.http_port, "/v1/pushes", body, *options, key=server.admin_key).result()


def mosquitto_latency(devices: int, rounds: int, rate: int, directory: Path) -> tuple[Latency, int]:
    """Latency of the messages that came, and how many did not."""
    listed = anonymous_devices(devices, directory)
    with (
        mosquitto(directory) as (port, _),
        Fleet(port, listed, [1, rounds], "--publish", "--rate", str(rate), may_lose=True) as fleet,
    ):
        fleet.batch()
        batch = fleet.batch()
        assert batch.latency is not None, "every message carries a stamp"
        return batch.latency, batch.lost
