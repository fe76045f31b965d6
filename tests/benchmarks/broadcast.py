"""One push to a million registered devices, of which a thousand are connected: accepted, kept over `kill -9`, and
fetched once by those that come back.

Meanwhile somebody else sends single pushes at a fixed rate. Those that return come in waves, each of as many as the
file descriptors of this machine allow; all have been away since they were enrolled.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from tests.benchmarks.figures import GOAL, Figure, median
from tests.benchmarks.growth import shelves
from tests.benchmarks.tools import Fleet, HttpLoad, device_list
from tests.end_to_end.harness import Server, wait_for

SUMMARY = "one push to a million devices, a thousand of them connected; a hundred thousand come back"
BROADCASTS = 5
WAVE_DEVICES = 8_000
SINGLE_RATE = 200
SINGLE_PUSHES = 2_000
ACCEPTED_MS = 300.0
DISK_MIB = 1.0
OTHERS_MS = 50.0
RESTART_SECONDS = 3.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--registered", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--online", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--returning", type=int, default=100_000, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    registered, online, returning = options.registered, options.online, options.returning
    what = f"push to {registered:,}, {online:,} connected"
    with Server(directory / "data") as server:
        connected = server.api.enrol_many(f"kiosk-{number}" for number in range(online))
        away = [device for names in shelves(0, returning) for device in server.api.enrol_many(names)]
        for names in shelves(returning, registered - online):
            server.api.enrol_many(names)
        rounds = SINGLE_PUSHES // online
        batches = [1] * BROADCASTS + [rounds, rounds + 1]
        with Fleet(server.mqtt_port, device_list(directory / "online", connected), batches) as fleet:
            costs, sizes, pushes = [], [], []
            for _ in range(BROADCASTS):
                before = written(server)
                begun = time.perf_counter()
                pushes.append(server.api.push({"all": True}, data="x" * 50, ttl=86_400))
                costs.append((time.perf_counter() - begun) * 1000)
                fleet.batch()
                wait_for(lambda: server.api.counts(pushes[-1])["delivered"] == online, what="the ledger")
                sizes.append((written(server) - before) / 2**20)
            alone = single_pushes(server, online).result().latency.p99
            fleet.batch()
            others = single_pushes(server, online)
            time.sleep(SINGLE_PUSHES / SINGLE_RATE / 2)
            pushes.append(server.api.push({"all": True}, data="x" * 50, ttl=86_400))
            beside = others.result().latency.p99
            fleet.batch()
            wait_for(lambda: server.api.counts(pushes[-1])["delivered"] == online, what="the ledger")
        server.kill9()
        begun = time.perf_counter()
        server.start()
        restart = time.perf_counter() - begun
        for first in range(0, returning, WAVE_DEVICES):
            wave = away[first : first + WAVE_DEVICES]
            with Fleet(server.mqtt_port, device_list(directory / "wave", wave), [len(pushes)]) as fleet:
                fleet.batch()
                reached = online + first + len(wave)
                wait_for(
                    lambda: all(server.api.counts(push_id)["delivered"] == reached for push_id in pushes),  # noqa: B023
                    timeout=60, what="the ledger",
                )  # fmt: skip
        sent = sent_packets(server)
    return [
        Figure(f"{what}: accepted", "ms", median(costs), GOAL, ACCEPTED_MS, at_most=1.0),
        Figure(f"{what}: written", "MiB", median(sizes), GOAL, DISK_MIB, at_most=1.0),
        Figure(f"{what}: single pushes of others, p99", "ms", beside, GOAL, OTHERS_MS, at_most=1.0),
        Figure(f"{what}: single pushes of others, p99", "ms", beside, "alone", alone),
        Figure(f"{what}: start after kill -9", "s", restart, GOAL, RESTART_SECONDS, at_most=1.0),
        Figure(
            f"{returning:,} come back to {len(pushes)} pushes: sent", "messages", sent,
            "one of each push to each", len(pushes) * returning, at_most=1.0,
        ),
    ]  # fmt: skip


def single_pushes(server: Server, devices: int) -> HttpLoad:
    count = SINGLE_PUSHES // devices * devices
    options = ["--devices", str(devices), "--requests", str(count), "--rate", str(SINGLE_RATE), "--connections", "16"]
    return HttpLoad(server.http_port, "/v1/pushes", '{"target":{"device":"kiosk-%D"}}', *options, key=server.admin_key)


def written(server: Server) -> int:
    """Bytes that the process has had written to disks (proc(5): `write_bytes`)."""
    text = Path(f"/proc/{server.pid}/io").read_text()
    found = re.search(r"^write_bytes: (\d+)$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def sent_packets(server: Server) -> int:
    text = server.api.request("GET", "/metrics").text
    found = re.search(r"^fleetpush_broker_publishes_out_total (\S+)$", text, re.MULTILINE)
    assert found is not None, "docs/reference/metrics.md"
    return int(float(found[1]))
