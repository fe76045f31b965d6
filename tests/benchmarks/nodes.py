"""Pushes that one, two and four nodes store over one PostgreSQL: of one app, of eight, and of some that each has for
itself (decision 10, M1).

Each node is a process with the gateway in it and no sockets (`node_load`), so what is measured is storing: groups that
take the locks of their apps, outcomes among them. PostgreSQL waits before each sync, as a disk does that takes that
long. On a machine with two cores the nodes share those with PostgreSQL: what four of them lose is the processor's more
than the locks'; the time that a group waits for its locks, and what eight apps gain, tell them apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.benchmarks.figures import Figure
from tests.benchmarks.postgresql import postgresql
from tests.benchmarks.tools import CannotRun

SUMMARY = "pushes stored by nodes over one PostgreSQL, which lock the apps that they write"
NODES = (1, 2, 4)
KINDS = ((1, True), (8, True), (8, False))
"""How many apps, and whether every node sends for all of them, or each for its part."""
ROOT = Path(__file__).resolve().parents[2]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each measurement; default: %(default)s")
    parser.add_argument("--disk-ms", type=int, default=4, help="milliseconds of a sync; default: %(default)s")
    parser.add_argument("--group-ms", type=float, default=20.0, help="milliseconds of a group; default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    figures: list[Figure] = []
    with postgresql(directory) as address:
        for apps, is_shared in KINDS:
            alone = 0.0
            for nodes in NODES:
                name = f"nodes_{nodes}_{apps}_{'shared' if is_shared else 'own'}"
                with psycopg.connect(address, autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name}")
                slow = quote(f"-c commit_delay={options.disk_ms * 1000} -c commit_siblings=0")
                own = f"{address.rpartition('/')[0]}/{name}?options={slow}"
                found = measured(directory / name, own, nodes, apps, apps if is_shared else apps // nodes, options)
                pushes = sum(one["pushes"] for one in found)
                alone = alone or pushes
                what = f"{_count(nodes, 'node')}, {_count(apps, 'app')}{'' if is_shared else ' divided'}"
                figures.append(Figure(what, "pushes/s", pushes, "one node", alone, detail=_told(found)))
    return figures


def measured(
    directory: Path, address: str, nodes: int, apps: int, apps_of_node: int, options: argparse.Namespace
) -> list[dict[str, float]]:
    """What each of so many nodes has measured, all at the same time."""
    directory.mkdir()
    processes: list[subprocess.Popen[str]] = []
    try:
        for number in range(nodes):
            arguments = [directory / f"node-{number}", address, number, apps, apps_of_node, options.seconds]
            command = [sys.executable, "-m", "tests.benchmarks.node_load", *map(str, arguments), str(options.group_ms)]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdout is not None, "a pipe"
            if process.stdout.readline() != "ready\n":
                raise CannotRun("a node did not start")
        for process in processes:
            assert process.stdin is not None, "a pipe"
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate()[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _told(found: list[dict[str, float]]) -> str:
    groups = sum(one["groups"] for one in found)
    return (
        f"{groups:.0f} groups a second; a group waits {_mean(found, 'locked_ms'):.1f} ms for its locks, a push"
        f" {_mean(found, 'answered_ms'):.0f} ms for its answer ({max(one['answered_p99_ms'] for one in found):.0f} ms"
        " p99)"
    )


def _mean(found: list[dict[str, float]], name: str) -> float:
    return sum(one[name] for one in found) / len(found)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
