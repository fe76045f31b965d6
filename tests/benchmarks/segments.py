"""Segments of a million devices, and pushes to a tenth of them: what a selection takes, and what others wait meanwhile.

Ten expressions as people write them (docs/segments.md), some of which select a few devices and others most of them, are
counted by `POST /v1/segments/preview`: once after a start, and then the median of three. How SQLite finds the devices
is explained beside each figure, in the file that `--json` writes.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.audience.segment_language.segment import compile_expression
from gateway.store.set_functions import add_set_functions
from tests.benchmarks.broadcast import written
from tests.benchmarks.figures import GOAL, Figure, median
from tests.benchmarks.registered_fleet import APP_NO, MODEL, PUSH_ID, register
from tests.benchmarks.tools import Fleet, HttpLoad, device_list
from tests.end_to_end.harness import Server

SUMMARY = "ten segments of a million devices, pushes to a tenth of them, and what others wait meanwhile"
SELECTIVE_MS = 500.0
"""The goal for expressions with a condition that leaves few devices: well under a second."""
READ_MS = 2_000.0
"""The goal for the others: what a read may take (docs/limits.md)."""
COUNTS = 3
STORED = "device|device_attribute|delivery|push|[acdmops]"
"""Tables of the ledger, as the segment language names them: of these a scan would be news."""
PUSHES = 5
"""Pushes to a tenth, one after the other, alone; as many again beside the single pushes of others."""
SINGLE_RATE = 200
SINGLE_PUSHES = 2_000
ACCEPTED_MS = 1_000.0
WRITTEN_MIB = 1.0
OTHERS_MS = 50.0
TENTH = {"where": f"attributes.model == '{MODEL}'"}


@dataclass(frozen=True)
class Typical:
    """An expression that is measured: what it is for, in words."""

    what: str
    text: str
    is_selective: bool = True


SEGMENTS = (
    Typical("an attribute, one value of a thousand", "attributes.store == 417"),
    Typical("a tag of a thousand, and a model", "'store-417' in tags && attributes.model == 'K2'"),
    Typical(
        "tag, model, version, last seen, not opened",
        "'store-7' in tags && attributes.model in ['K2', 'K3'] && version(attributes.version) < version('2.3')"
        f" && last_seen > now - duration('7d') && !opened('{PUSH_ID}')",
    ),
    Typical("connected, and a model", f"online && attributes.model == '{MODEL}'"),
    Typical(
        "receipts: delivered and not opened, of one floor",
        f"delivered('{PUSH_ID}') && !opened('{PUSH_ID}') && attributes.floor == 3",
    ),
    Typical("topics: in one and not in another", "'news' in topics && !('offers' in topics)"),
    Typical("an old version", "version(attributes.version) < version('2.3')", is_selective=False),
    Typical("seen within a week", "last_seen > now - duration('7d')", is_selective=False),
    Typical("not this model, and consent", "attributes.model != 'K1' && consent == 'granted'", is_selective=False),
    Typical("a topic, and a language", "'news' in topics && locale.startsWith('de')", is_selective=False),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000_000, help="registered (%(default)s)")
    parser.add_argument("--online", type=int, default=1_000, help="default: %(default)s")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices, online = options.devices, min(options.online, options.devices)
    with Server(directory / "data") as server:
        connected = server.api.enrol_many(f"kiosk-{number}" for number in range(online))
        server.stop(60)
        ledger = server.data_dir / "fleetpush.db"
        register(ledger, devices, online)
        server.start()
        listed = device_list(directory / "devices", connected)
        # Of the pushes: alone, and beside the single ones; and the single ones, alone and beside.
        singles = max(SINGLE_PUSHES // online, 1)
        with Fleet(server.mqtt_port, listed, [1] * PUSHES + [singles, singles + PUSHES]) as fleet:
            counted(server, "online")  # what any first request of a server takes
            figures = [figure for one in SEGMENTS for figure in selection(server, ledger, one, devices)]
            figures += pushes_to_a_tenth(server, fleet, devices, online, singles)
    return figures


# -- selections --------------------------------------------------------------------------------------------------------


def selection(server: Server, ledger: Path, segment: Typical, devices: int) -> list[Figure]:
    """The milliseconds that counting the devices of a segment takes, after a start and later."""
    first, _ = counted(server, segment.text)
    later = []
    for _ in range(COUNTS):
        taken, found = counted(server, segment.text)
        later.append(taken)
    what = f"segment of {devices:,}: {segment.what}"
    goal = SELECTIVE_MS if segment.is_selective else READ_MS
    late = "took longer than a read may, and was answered 503" if found is None else None
    detail = f"{segment.text}: {found} devices; {found_by(ledger, segment.text)}"
    return [
        Figure(what, "ms", median(later), GOAL, goal, at_most=1.0, incomplete=late, detail=detail),
        Figure(what, "ms", median(later), "the first time", first, incomplete=late),
    ]


def counted(server: Server, expression: str) -> tuple[float, int | None]:
    """Milliseconds that it takes to count the devices of an expression, and how many; None: it took too long."""
    begun = time.perf_counter()
    answer = server.api.request("POST", "/v1/segments/preview", json={"expression": expression})
    taken = (time.perf_counter() - begun) * 1000
    if answer.status_code == 503:
        return taken, None
    assert answer.status_code == 200, answer.text
    return taken, int(answer.json()["devices"])


class Recorder(sqlite3.Connection):
    """A connection that remembers its statements and their parameters."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.statements: list[tuple[str, Any]] = []

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self.statements.append((sql, parameters))
        return super().execute(sql, parameters)


def found_by(ledger: Path, expression: str) -> str:
    """How SQLite finds the devices of an expression, in short: the indexes that it searches, and what it scans."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, factory=Recorder)) as connection:
        add_set_functions(connection)
        compile_expression(expression).devices(connection, APP_NO, int(time.time() * 1000))
        steps: dict[str, None] = {}
        for sql, parameters in list(connection.statements):
            for *_, line in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters):
                if re.match(rf"SEARCH|SCAN ({STORED})\b", line):
                    steps[line] = None
    return "; ".join(steps)


# -- pushes ------------------------------------------------------------------------------------------------------------


def pushes_to_a_tenth(server: Server, fleet: Fleet, devices: int, online: int, singles: int) -> list[Figure]:
    """What pushes to the devices of one model take, of which all connected ones are, and what others wait beside."""
    costs, sizes = [], []
    for _ in range(PUSHES):
        before = written(server)
        taken, targeted = accepted(server, TENTH)
        costs.append(taken)
        fleet.batch()
        sizes.append((written(server) - before) / 2**20)
    alone = single_pushes(server, online, singles).result().latency.p99
    fleet.batch()
    others = single_pushes(server, online, singles)
    for _ in range(PUSHES):
        accepted(server, TENTH)
    beside = others.result().latency.p99
    fleet.batch()
    what = f"push to {targeted:,} of {devices:,} by an expression"
    return [
        Figure(f"{what}: accepted", "ms", median(costs), GOAL, ACCEPTED_MS, at_most=1.0),
        Figure(f"{what}: written", "MiB", median(sizes), GOAL, WRITTEN_MIB, at_most=1.0),
        Figure(f"{what}: single pushes of others, p99", "ms", beside, GOAL, OTHERS_MS, at_most=1.0),
        Figure(f"{what}: single pushes of others, p99", "ms", beside, "alone", alone),
    ]


def accepted(server: Server, target: dict[str, Any]) -> tuple[float, int]:
    """Send a push: the milliseconds until it is accepted, and for how many devices it is."""
    begun = time.perf_counter()
    answer = server.api.accept(target, data="x" * 50, ttl=86_400)
    return (time.perf_counter() - begun) * 1000, answer["targeted"]


def single_pushes(server: Server, online: int, rounds: int) -> HttpLoad:
    """Pushes to one connected device each, at a fixed rate: so many to every one."""
    options = ["--devices", str(online), "--requests", str(online * rounds), "--rate", str(SINGLE_RATE)]
    body = '{"target":{"device":"kiosk-%D"}}'
    return HttpLoad(server.http_port, "/v1/pushes", body, *options, "--connections", "16", key=server.admin_key)
