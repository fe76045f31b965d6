"""Memory of an idle device: connected, subscribed, nothing waiting. Beside Mosquitto with the same fleet, over TCP also
beside amqtt."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.benchmarks.figures import GOAL, Figure
from tests.benchmarks.tools import (
    Fleet,
    amqtt,
    anonymous_devices,
    enrolled,
    mosquitto,
    resident,
    without_the_impossible,
)
from tests.benchmarks.transports import TRANSPORTS, Endpoint, Transport

SUMMARY = "memory per connected idle device"
UNIT = "KiB"
GOAL_KIB = 8
SETTLE = 2.0
"""Seconds: what is noticed in passing (connected at, last seen) is written and let go."""


AMQTT_DEVICES = 1_000
"""It connects no more than a few hundred a second."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument(
        "--transport", nargs="+", choices=TRANSPORTS, default=TRANSPORTS, help="how devices connect; default: all"
    )


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices
    figures: list[Figure] = []
    for transport in without_the_impossible(options.transport):
        place = directory / transport
        place.mkdir()
        endpoint = Endpoint.of(transport, place)
        what = f"memory of an idle device{endpoint.over}"
        with endpoint.server(place / "data") as server:
            listed = enrolled(server, devices, place)
            server.restart()
            time.sleep(SETTLE)
            ours = per_device(endpoint.port(server), server.pid, listed, devices, transport)
        with mosquitto(place, endpoint=endpoint) as (port, pid):
            theirs = per_device(port, pid, anonymous_devices(devices, place), devices, transport)
        if transport == "tcp":
            figures.append(Figure(what, UNIT, ours, GOAL, GOAL_KIB, at_most=1.0))
        figures.append(Figure(what, UNIT, ours, "Mosquitto, not durable", theirs))
        if transport == "tcp":
            with amqtt() as (port, pid):
                few = min(devices, AMQTT_DEVICES)
                python = per_device(port, pid, anonymous_devices(few, place), few)
            figures.append(Figure(what, UNIT, ours, "amqtt, not durable", python))
    return figures


def per_device(port: int, pid: int, listed: Path, devices: int, transport: Transport = "tcp") -> float:
    bare = resident(pid)
    with Fleet(port, listed, [], transport=transport):
        time.sleep(SETTLE)
        return (resident(pid) - bare) / devices / 1024
