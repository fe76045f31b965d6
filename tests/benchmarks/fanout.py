"""One push to everybody: from `POST /v1/pushes {"all"}` to the last acknowledgement in the ledger on disk.

Three servers take turns under the same fleet of C devices: ours, with its ledger (SQLite, WAL, `synchronous=FULL`);
Mosquitto without persistence, fed by a C publisher; and the floor, a C program that does the system calls and nothing
else. Each is measured twice: single pushes, one at a time (the median), and a stream of pushes sent back to back.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.tools import Batch, CannotRun, Fleet, mosquitto, program
from tests.end_to_end.harness import Api, Server, wait_for

SUMMARY = "one push to N devices, until its last acknowledgement is in the ledger"
PAYLOAD = 200
"""Bytes on the wire, for all three."""
ENVELOPE = 142
"""Bytes of a push's payload that are not its data: push id, kind, times, priority."""
WINDOW = 1_000
"""Unacknowledged messages that Mosquitto's publisher and the floor allow themselves."""
BULK = 10_000
"""Devices per enrolment request (the contract's maximum)."""
WARM_UP = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--pushes", type=int, default=9, help="single pushes, of which the median counts (%(default)s)")
    parser.add_argument("--stream", type=int, default=30, help="pushes of the stream (%(default)s)")


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    batches = [1] * (WARM_UP + options.pushes) + [options.stream]
    contestants: dict[str, Callable[[int, list[int], Path], list[Batch]]] = {
        "floor": measure_floor,
        "mosquitto": measure_mosquitto,
        "fleetpush": measure_fleetpush,
    }
    results = {}
    for name, measure in contestants.items():
        place = directory / name
        place.mkdir()
        results[name] = summary(options.devices, measure(options.devices, batches, place)[WARM_UP:])
    ratios = {
        f"{kind} / {other}": round(results["fleetpush"][kind] / results[other][kind], 3)
        for other in ("floor", "mosquitto")
        for kind in ("single", "stream")
    }
    return {
        "benchmark": "fanout",
        "devices": options.devices,
        "payload_bytes": PAYLOAD,
        "unit": "acknowledged deliveries per second",
        "results": results,
        "ratios": ratios,
    }


def summary(devices: int, batches: list[Batch]) -> dict[str, float]:
    *singles, stream = batches
    single = statistics.median(batch.seconds for batch in singles)
    return {
        "single": round(devices / single),
        "single_ms": round(single * 1000, 2),
        "stream": round(devices * stream.rounds / stream.seconds),
    }


def table(report: dict[str, Any]) -> str:
    ours = report["results"]["fleetpush"]
    lines = [
        f"fan-out to {report['devices']} devices, {report['payload_bytes']} bytes, QoS 1; deliveries/s (ours / it)",
        f"{'':24}{'single push':>24}{'stream':>24}",
    ]
    names = {"floor": "C, system calls only", "mosquitto": "Mosquitto, not durable", "fleetpush": "Fleetpush, durable"}
    for name, title in names.items():
        result = report["results"][name]
        cells = [f"{result[kind]:,} ({ours[kind] / result[kind]:.2f})" for kind in ("single", "stream")]
        lines.append(f"{title:24}{cells[0]:>24}{cells[1]:>24}")
    return "\n".join(lines)


def measure_floor(devices: int, batches: list[int], directory: Path) -> list[Batch]:
    arguments = [str(devices), str(PAYLOAD), str(WINDOW), ",".join(map(str, batches))]
    with subprocess.Popen([program("floor"), *arguments], stdout=subprocess.PIPE, text=True) as floor:
        assert floor.stdout is not None, "opened as a pipe"
        port = int(floor.stdout.readline().split()[1])
        with Fleet(port, anonymous_devices(devices, directory), batches):
            results = []
            for line in floor.stdout:
                _, rounds, seconds = line.split()
                results.append(Batch(int(rounds), float(seconds)))
            if len(results) != len(batches):
                raise CannotRun("The floor gave up; its reason is above.")
            return results


def measure_mosquitto(devices: int, batches: list[int], directory: Path) -> list[Batch]:
    options = ["--publish", "--window", str(WINDOW), "--size", str(PAYLOAD)]
    with (
        mosquitto(directory) as port,
        Fleet(port, anonymous_devices(devices, directory), batches, *options) as fleet,
    ):
        return [fleet.batch() for _ in batches]


def measure_fleetpush(devices: int, batches: list[int], directory: Path) -> list[Batch]:
    with Server(directory / "data") as server:
        api = server.api
        enrolled = []
        for first in range(0, devices, BULK):
            names = (f"kiosk-{number}" for number in range(first, min(first + BULK, devices)))
            enrolled += api.enrol_many(names)
        listed = directory / "devices"
        listed.write_text(
            "".join(f"{one.client_id} {one.client_id} {one.token} {one.topics['push']}\n" for one in enrolled)
        )
        with Fleet(server.mqtt_port, listed, batches) as fleet:
            results = [one_batch(api, fleet, rounds, devices) for rounds in batches]
        if server.stop() != 0:
            raise CannotRun(f"The server did not end well:\n{server.output}")
        return results


def one_batch(api: Api, fleet: Fleet, rounds: int, devices: int) -> Batch:
    """The devices say when they have acknowledged everything; only then is the ledger asked, until it says so too."""
    start = time.perf_counter()
    pushed = [api.push({"all": True}, data="x" * (PAYLOAD - ENVELOPE)) for _ in range(rounds)]
    fleet.batch()
    for push_id in reversed(pushed):
        wait_for(lambda: api.counts(push_id)["delivered"] == devices, what="the ledger")  # noqa: B023 - used at once
    return Batch(rounds, time.perf_counter() - start)


def anonymous_devices(count: int, directory: Path) -> Path:
    """A list of devices without credentials, with topics as long as ours."""
    path = directory / "devices"
    path.write_text("".join(f"kiosk-{n} - - default/devices/kiosk-{n}/push\n" for n in range(count)))
    return path
