"""Memory of an idle device: connected, subscribed, nothing waiting. Beside Mosquitto and amqtt with the same fleet."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.benchmarks.figures import GOAL, Figure
from tests.benchmarks.tools import Fleet, amqtt, anonymous_devices, enrolled, mosquitto, resident
from tests.end_to_end.harness import Server

SUMMARY = "memory per connected idle device"
UNIT = "KiB"
GOAL_KIB = 8
SETTLE = 2.0
"""Seconds: what is noticed in passing (connected at, last seen) is written and let go."""


AMQTT_DEVICES = 1_000
"""It connects no more than a few hundred a second."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices
    with Server(directory / "data") as server:
        listed = enrolled(server, devices, directory)
        server.restart()
        time.sleep(SETTLE)
        ours = per_device(server.mqtt_port, server.pid, listed, devices)
    with mosquitto(directory) as (port, pid):
        theirs = per_device(port, pid, anonymous_devices(devices, directory), devices)
    with amqtt() as (port, pid):
        few = min(devices, AMQTT_DEVICES)
        python = per_device(port, pid, anonymous_devices(few, directory), few)
    what = "memory of an idle device"
    return [
        Figure(what, UNIT, ours, GOAL, GOAL_KIB, at_most=1.0),
        Figure(what, UNIT, ours, "Mosquitto, not durable", theirs),
        Figure(what, UNIT, ours, "amqtt, not durable", python),
    ]


def per_device(port: int, pid: int, listed: Path, devices: int) -> float:
    bare = resident(pid)
    with Fleet(port, listed, []):
        time.sleep(SETTLE)
        return (resident(pid) - bare) / devices / 1024
