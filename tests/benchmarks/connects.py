"""A storm of connections with credentials: the whole fleet connects at once, and each device is authenticated.

Beside Mosquitto with a password file of the same names, amqtt with a thousand devices and no check, and the floor,
which answers every CONNECT with a constant.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from tests.benchmarks.figures import GOAL, Figure
from tests.benchmarks.tools import Fleet, Storm, amqtt, anonymous_devices, enrolled, floor, mosquitto, storm, tool
from tests.benchmarks.transports import TCP_ENDPOINT, Endpoint
from tests.end_to_end.harness import Server

SUMMARY = "how many authenticated devices per second can connect"
UNIT = "connects/s"
GOAL_RATE = 10_000
AMQTT_DEVICES = 1_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices
    with Server(directory / "data") as server:
        listed = enrolled(server, devices, directory)
        server.restart()  # no cache is warm, as after a power cut
        ours = storm(server.mqtt_port, server.pid, listed, devices).rate
        again = storm(server.mqtt_port, server.pid, listed, devices).rate
    theirs = mosquitto_storm(TCP_ENDPOINT, listed, devices, directory).rate
    seconds, _ = floor(devices, 200, 1_000, [1], directory)
    few = min(devices, AMQTT_DEVICES)
    with amqtt() as (port, _), Fleet(port, anonymous_devices(few, directory), [], "--resume") as fleet:
        python = few / fleet.connected_seconds
    what = f"connects of {devices:,} authenticated devices"
    return [
        Figure(what, UNIT, ours, GOAL, GOAL_RATE, at_least=1.0),
        Figure(what, UNIT, ours, "Mosquitto, password file", theirs, at_least=1.0),
        Figure(what, UNIT, ours, f"amqtt, {few:,} without a check", python),
        Figure(what, UNIT, ours, "floor (C, no check)", devices / seconds),
        Figure("the same devices again within the hour", UNIT, again, GOAL, GOAL_RATE),
    ]


def mosquitto_storm(endpoint: Endpoint, listed: Path, devices: int, directory: Path) -> Storm:
    passwords = directory / "passwords"
    names = [line.split()[1:3] for line in listed.read_text().splitlines()]
    passwords.write_text("".join(f"{name}:{password}\n" for name, password in names))
    subprocess.run([tool("mosquitto_passwd"), "-U", str(passwords)], check=True)
    with mosquitto(directory, "allow_anonymous false", f"password_file {passwords}", endpoint=endpoint) as (port, pid):
        return storm(port, pid, listed, devices, endpoint.transport)
