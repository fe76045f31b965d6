"""Everything at once and for long, with retention set to seconds: what grows although nothing should?

`traffic.py` is what happens to the server. In the first half it is restarted every few minutes, in turn by SIGTERM and
SIGKILL; in the second half the server is left alone, so that what one process accumulates can be seen. Samples are
taken from outside: /proc, the database files (read only), /metrics.

Compared are medians of two stretches of the same length under the same load: what the process has, early and late in
the second half; what is stored, early and late in the whole soak. With each sample, so after each restart too, those
pushes are looked for that were accepted lately. At the end the ledger is audited: every push that is left conserves,
nothing waits for who is connected. And none of the alert rules that we ship has fired in the second half: somebody
would have been woken for nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.alerts.timeline import Scrape, firing_over
from tests.alerts.timeline import samples as samples_of
from tests.benchmarks.figures import Figure, median
from tests.benchmarks.tools import CannotRun, open_files, resident
from tests.benchmarks.traffic import Traffic
from tests.end_to_end.harness import STATES, Api, Server, wait_for

SUMMARY = "everything at once for 20 minutes: does anything grow?"
KEEP = 10
"""Seconds that deliveries, idempotency keys and uplink are kept; final counts twice as long, tombstones as long again.
So the row of a push is there for four times as long at least."""
SETTINGS = {
    "FLEETPUSH_RETENTION_DAYS": str(KEEP / 86_400),
    "FLEETPUSH_COUNTS_DAYS": str(2 * KEEP / 86_400),
    "FLEETPUSH_IDEMPOTENCY_HOURS": str(KEEP / 3_600),
    "FLEETPUSH_UPLINK_DAYS": str(KEEP / 86_400),
    "FLEETPUSH_MAILBOX_DELIVERIES": "100",
    "FLEETPUSH_ACK_TIMEOUT": "20",
}
RESTARTS = 4
"""In the first half."""
WARM_UP = 0.15
"""Of the whole soak, and of the second half: not judged. Tables fill, caches and the allocator find their size."""
LATELY = 3.0 * KEEP
"""Seconds for which an accepted push is looked for; that leaves KEEP for an answer that came late."""
SETTLE = 60.0
"""Seconds at the end for what waits to reach who is connected."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=20.0, help="default: %(default)s")
    parser.add_argument("--devices", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--rate", type=int, default=100, help="HTTP requests per second (%(default)s)")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    seconds = options.minutes * 60
    with Server(directory / "data", env=SETTINGS) as server, closing(Api(server.url, server.admin_key)) as api:
        traffic = Traffic(server, options.devices, options.rate, directory)
        traffic.start()
        try:
            samples, missing = watch(server, api, traffic, seconds)
            fired = alerts_over(directory, samples)
            traffic.stop_sending()
            audit = Audit.of(server, api, traffic)
        finally:
            traffic.stop()
        exit_code = server.stop(60)
        errors = [line for line in server.errors.splitlines() if " ERROR " in line or line.startswith("Traceback")]
    for line in [
        *errors[:20],
        *(f"alert: {name}" for name in sorted(fired)),
        *(f"{count} x {what}" for what, count in traffic.surprises.most_common(20)),
    ]:
        print(line, file=sys.stderr)
    what = f"soak, {options.minutes:g} minutes"
    wrong = {
        "accepted pushes that are missing": len(missing),
        "pushes that do not conserve": audit.broken,
        "deliveries that wait for who is connected": audit.waiting,
        "answers that surprise": traffic.surprises.total(),
        "errors in the log": len(errors),
        "alerts that fired": len(fired),
        "exit code at the end": exit_code,
    }
    accepted = len(traffic.accepted)
    return [
        *growth(what, samples),
        *(
            Figure(f"{what}: {name}", "", found, "pushes accepted", accepted, at_most=0.0)
            for name, found in wrong.items()
        ),
    ]


def watch(server: Server, api: Api, traffic: Traffic, seconds: float) -> tuple[list[Sample], set[str]]:
    """Restart the server when it is due; a sample every few seconds. And the pushes that are missing."""
    samples: list[Sample] = []
    missing: set[str] = set()
    looks: deque[tuple[float, int]] = deque()
    """When it was looked, and how many pushes had been accepted."""
    due = [seconds / 2 * (number + 1) / RESTARTS for number in range(RESTARTS)]
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds:
        if due and passed >= due[0]:
            del due[0]
            traffic.restart(kill=len(due) % 2 == 0)
        text = api.request("GET", "/metrics").text
        samples.append(Sample(passed / seconds, not due, look(server, text), time.monotonic(), samples_of(text)))
        accepted = list(traffic.accepted)
        looks.append((time.monotonic(), len(accepted)))
        while looks[0][0] < time.monotonic() - LATELY:
            looks.popleft()
        missing |= set(accepted[looks[0][1] :]) - stored_pushes(server)
        if len(samples) % 10 == 0:
            values = samples[-1].values
            shown = f"{values['memory']:.0f} MiB, {values['descriptors']:.0f} descriptors besides devices"
            pushes, deliveries = (values[f"rows of fleetpush.{table}"] for table in ("push", "delivery"))
            rows = f"{pushes:,.0f} pushes, {deliveries:,.0f} deliveries"
            print(f"soak: {passed / 60:.1f} minutes, {shown}, {rows}", file=sys.stderr, flush=True)
        time.sleep(min(5.0, seconds / 120))
    return samples, missing


# -- what is seen ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    at: float
    """Part of the soak that was over."""
    undisturbed: bool
    """After the last restart."""
    values: dict[str, float]
    """By series; the first word of its name is its kind."""
    taken_at: float
    """Seconds of a monotonic clock."""
    scraped: Scrape
    """What alert rules watch."""


@dataclass(frozen=True)
class Kind:
    """A kind of series, and what is still flat."""

    unit: str
    factor: float
    slack: float
    """Or so much more, for what is small: the numbers go up and down with retention and chance."""
    of_process: bool
    """Judged after the last restart only."""


KINDS = {
    "memory": Kind("MiB", 1.1, 0.0, True),
    "descriptors": Kind("", 1.05, 8.0, True),  # those of connected devices left out: they come and go
    "metric": Kind("", 1.2, 20.0, True),
    "rows": Kind("", 1.2, 20.0, False),
    "MiB": Kind("MiB", 1.2, 1.0, False),
    "WAL": Kind("MiB", 1.2, 16.0, False),  # it keeps the size it once had, up to `journal_size_limit`: 4,000 pages
}
METRICS = (
    "pushes_in_memory",
    "deliveries_in_flight",
    "broker_sessions",
    "broker_subscriptions",
    "broker_queued_messages",
    "broker_retained_messages",
)


def look(server: Server, metrics: str) -> dict[str, float]:
    values = {"memory": resident(server.pid) / 2**20, "descriptors": float(open_files(server.pid))}
    for path in sorted(server.data_dir.glob("*.db")):
        for kind, file in (("MiB", path), ("WAL", path.with_name(path.name + "-wal"))):
            values[f"{kind} of {file.name}"] = file.stat().st_size / 2**20 if file.exists() else 0.0
        with reading(path) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                (values[f"rows of {path.stem}.{table}"],) = database.execute(
                    f'SELECT count(*) FROM "{table}"'
                ).fetchone()
    for line in metrics.splitlines():
        name, _, value = line.removeprefix("fleetpush_").partition(" ")
        if name in METRICS:
            values[f"metric {name}"] = float(value)
        elif name == "broker_connections":
            values["descriptors"] -= float(value)
    return values


def alerts_over(directory: Path, samples: Sequence[Sample]) -> set[str]:
    """The alerts that fired after the last restart; none without promtool."""
    if shutil.which("promtool") is None:
        print("soak: without promtool (Debian: prometheus) nobody evaluates the alert rules", file=sys.stderr)
        return set()
    undisturbed = [one for one in samples if one.undisturbed]
    interval = (undisturbed[-1].taken_at - undisturbed[0].taken_at) / max(len(undisturbed) - 1, 1)
    return firing_over(directory, [one.scraped for one in undisturbed], max(round(interval), 1))


def stored_pushes(server: Server) -> set[str]:
    with reading(server.data_dir / "fleetpush.db") as ledger:
        return {push_id for (push_id,) in ledger.execute("SELECT id FROM push")}


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def growth(what: str, samples: Sequence[Sample]) -> list[Figure]:
    """Every series that moved: late beside early."""
    figures = []
    for name in samples[-1].values:
        kind = KINDS[name.split()[0]]
        stretch = [one for one in samples if one.undisturbed] if kind.of_process else samples
        values = [one.values[name] for one in stretch]
        values = values[int(len(values) * WARM_UP) :]
        third = len(values) // 3
        if not third:
            raise CannotRun("The soak was too short to compare anything.")
        early, late = median(values[:third]) or 1.0, median(values[-third:])
        if max(values) == min(values):
            continue
        most = max(kind.factor, 1 + kind.slack / early)
        figures.append(Figure(f"{what}: {name}", kind.unit, late, "early", early, at_most=most))
    return figures


# -- what is true at the end -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    broken: int
    waiting: int

    @classmethod
    def of(cls, server: Server, api: Api, traffic: Traffic) -> Audit:
        """Give what waits the time to arrive, then look at every push that is left."""
        ledger = server.data_dir / "fleetpush.db"
        try:
            wait_for(lambda: traffic.is_connected, timeout=SETTLE, what="the fleet")
            wait_for(lambda: not _waiting(ledger, traffic), timeout=SETTLE, what="the mailboxes to drain")
        except AssertionError as late:
            print(f"soak: {late}", file=sys.stderr)
        broken = 0
        for push in api.items("/v1/pushes"):
            counts = push["counts"]
            promised = traffic.accepted.get(push["push_id"]) or counts["targeted"]
            broken += not sum(counts[state] for state in STATES) == counts["targeted"] == promised
        return cls(broken, _waiting(ledger, traffic))


def _waiting(ledger: Path, traffic: Traffic) -> int:
    """Deliveries that wait although their device is connected and takes what it gets."""
    with reading(ledger) as connection:
        rows = connection.execute(
            "SELECT v.id, count(*) FROM delivery AS d JOIN device AS v ON v.no = d.device_no"
            " WHERE d.state = 0 GROUP BY v.id"
        ).fetchall()
    return sum(count for device_id, count in rows if device_id not in traffic.unready)
