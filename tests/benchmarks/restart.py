"""A server that is killed with a million waiting deliveries: how long until it serves again, and what it takes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.benchmarks.tools import enrolled, resident
from tests.end_to_end.harness import Server

SUMMARY = "restart after kill -9 with a million waiting deliveries"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="deliveries (%(default)s)")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices
    with Server(directory / "data") as server:
        server.restart()
        empty, bare = restarted(server)
        enrolled(server, devices, directory)
        for _ in range(options.waiting // devices):
            server.api.push({"all": True}, data="x" * 50)
        full, loaded = restarted(server)
    waiting = f"{options.waiting:,} waiting"
    return [
        Figure(f"restart after kill -9, {waiting}", "s", full, "empty data directory", empty, at_most=2.0),
        Figure(f"memory after it, {waiting}", "MiB", loaded / 2**20, "empty data directory", bare / 2**20, at_most=2.0),
    ]


def restarted(server: Server) -> tuple[float, int]:
    """Kill it: seconds until it is ready again, bytes that it then takes."""
    server.kill9()
    begun = time.perf_counter()
    server.start()
    return time.perf_counter() - begun, resident(server.pid)
