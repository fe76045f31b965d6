"""Segments of a million devices, and pushes, texts and campaigns for a tenth of them: what each takes, and what others
wait meanwhile.

Ten expressions as people write them (docs/segments.md), some of which select a few devices and others most of them, are
counted by `POST /v1/segments/preview`: once after a start, and then the median of three. How SQLite finds the devices
is explained beside each figure, in the file that `--json` writes.

Then the devices of one model, a tenth, get a push, the same in five languages, and a campaign in three groups. All of
the connected devices are among them, and acknowledge everything. What others wait is the 99th percentile of single
pushes at a fixed rate, beside such pushes and alone.
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
from tests.benchmarks.tools import Fleet, HttpLoad, device_list, resident
from tests.end_to_end.harness import Server, wait_for

SUMMARY = "ten segments of a million devices, pushes, texts and campaigns for a tenth of them, and what others wait"
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
HANDED_OVER_SECONDS = 10.0
"""Three groups, each of which is looked after once a second."""
TEXTS_RATIO = 2.0
"""Five texts instead of one: at most so many times the time and the bytes."""
TENTH = {"where": f"attributes.model == '{MODEL}'"}
PUSH = {"target": TENTH, "notification": {"title": f"New for {MODEL}", "body": "x" * 50}, "ttl": 86_400}
TITLES = {"de": "Neu für", "en": "New for", "es": "Nuevo para", "fr": "Du nouveau pour", "it": "Novità per"}
FIVE_TEXTS = PUSH | {
    "render": "liquid",
    "texts": {locale: {"title": f"{title} {{{{ device.attributes.model }}}}"} for locale, title in TITLES.items()},
}
CAMPAIGN = {
    "name": "In three groups",
    "push": PUSH,
    "canary": "1%",
    "rollout": ["10%", "rest"],
    "go_on": ["waiting + delivered >= 1"],
}
"""It goes on whatever becomes of it: what is measured is the server, not the devices."""


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
        singles = max(SINGLE_PUSHES // online, 1)
        with Fleet(server.mqtt_port, listed, batches(singles)) as fleet:
            counted(server, "online")  # what any first request of a server takes
            figures = [figure for one in SEGMENTS for figure in selection(server, ledger, one, devices)]
            bench = PushBenchmark(server, fleet, devices, online, singles)
            figures += [*bench.one_text(), *bench.five_texts(), *bench.campaign()]
    return figures


def batches(singles: int) -> list[int]:
    """What every connected device gets, in the order of `PushBenchmark`."""
    return [*[1] * PUSHES, singles, singles + PUSHES, *[1] * PUSHES, 1, singles + 1]


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
    selected = "not counted in time" if found is None else f"{found} devices"
    detail = f"{segment.text}: {selected}; {found_by(ledger, segment.text)}"
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


@dataclass
class PushBenchmark:
    """Pushes to the devices of one model, of which all connected ones are."""

    server: Server
    fleet: Fleet
    devices: int
    online: int
    singles: int
    """Single pushes to each connected device, at a time."""
    targeted: int = 0
    one_text_ms: float = 0.0
    one_text_mib: float = 0.0
    alone_ms: float = 0.0
    """What single pushes wait with nothing beside them, p99."""

    def one_text(self) -> list[Figure]:
        self.one_text_ms, self.one_text_mib = self._cost(PUSH)
        self.alone_ms = self._others().result().latency.p99
        self.fleet.batch()
        others = self._others()
        for _ in range(PUSHES):
            self._accepted(PUSH)
        beside = others.result().latency.p99
        self.fleet.batch()
        what = f"push to {self.targeted:,} of {self.devices:,} by an expression"
        return [
            Figure(f"{what}: accepted", "ms", self.one_text_ms, GOAL, ACCEPTED_MS, at_most=1.0),
            Figure(f"{what}: written", "MiB", self.one_text_mib, GOAL, WRITTEN_MIB, at_most=1.0),
            *self._waited(what, beside),
        ]

    def five_texts(self) -> list[Figure]:
        taken, size = self._cost(FIVE_TEXTS)
        what = f"push to {self.targeted:,} of {self.devices:,} in five languages"
        return [
            Figure(f"{what}: accepted", "ms", taken, "one text", self.one_text_ms, at_most=TEXTS_RATIO),
            Figure(f"{what}: written", "MiB", size, "one text", self.one_text_mib, at_most=TEXTS_RATIO),
        ]

    def campaign(self) -> list[Figure]:
        memory = resident(self.server.pid)
        begun = time.perf_counter()
        campaign_id = self._created()
        accepted = (time.perf_counter() - begun) * 1000
        self.fleet.batch()
        handed_over = time.perf_counter() - begun
        self._wait_until_completed(campaign_id)
        memory_after = resident(self.server.pid)
        others = self._others()
        campaign_id = self._created()
        self._wait_until_completed(campaign_id)
        beside = others.result().latency.p99
        self.fleet.batch()
        what = f"campaign to {self.targeted:,} of {self.devices:,} in three groups"
        return [
            Figure(f"{what}: accepted", "ms", accepted, GOAL, ACCEPTED_MS, at_most=1.0),
            Figure(f"{what}: at {self.online:,} connected", "s", handed_over, GOAL, HANDED_OVER_SECONDS, at_most=1.0),
            Figure(f"{what}: memory after it", "MiB", memory_after / 2**20, "before", memory / 2**20),
            *self._waited(what, beside),
        ]

    def _waited(self, what: str, beside_ms: float) -> list[Figure]:
        what = f"{what}: single pushes of others, p99"
        return [
            Figure(what, "ms", beside_ms, GOAL, OTHERS_MS, at_most=1.0),
            Figure(what, "ms", beside_ms, "alone", self.alone_ms),
        ]

    def _cost(self, push: dict[str, Any]) -> tuple[float, float]:
        """Medians over some pushes, each of which is through before the next: milliseconds to 202, MiB written."""
        taken, sizes = [], []
        for _ in range(PUSHES):
            before = written(self.server)
            taken.append(self._accepted(push))
            self.fleet.batch()
            sizes.append((written(self.server) - before) / 2**20)
        return median(taken), median(sizes)

    def _accepted(self, push: dict[str, Any]) -> float:
        begun = time.perf_counter()
        self.targeted = self.server.api.accept(**push)["targeted"]
        return (time.perf_counter() - begun) * 1000

    def _created(self) -> str:
        campaign = self.server.api.call("POST", "/v1/campaigns", 201, json=CAMPAIGN)
        assert campaign["targeted"] == self.targeted, campaign
        return str(campaign["campaign_id"])

    def _wait_until_completed(self, campaign_id: str) -> None:
        def state() -> bool:
            found = self.server.api.call("GET", f"/v1/campaigns/{campaign_id}", 200)
            assert found["state"] in ("running", "completed"), found
            return bool(found["state"] == "completed")

        wait_for(state, timeout=120, what="the end of the campaign")

    def _others(self) -> HttpLoad:
        """Pushes to one connected device each, at a fixed rate: so many to every one."""
        count, body = str(self.online * self.singles), '{"target":{"device":"kiosk-%D"}}'
        options = ["--devices", str(self.online), "--requests", count, "--rate", str(SINGLE_RATE)]
        key = self.server.admin_key
        return HttpLoad(self.server.http_port, "/v1/pushes", body, *options, "--connections", "16", key=key)
