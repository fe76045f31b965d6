"""What people who look cost the fleet: a stream to 10,000 devices and single pushes, with and without open consoles.

A console asks the public API for what is on its screen, and again every few seconds. Here each of them is a session
that asks what its screen asks, as often as it does: half of them look at the overview, half at the push that was sent
last. Alone and watched take turns; the medians count.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.broadcast import SINGLE_PUSHES, single_pushes
from tests.benchmarks.fanout import one_batch
from tests.benchmarks.figures import Figure, median
from tests.benchmarks.tools import CannotRun, Fleet, enrolled
from tests.benchmarks.transports import TCP_ENDPOINT
from tests.end_to_end.harness import Server

SUMMARY = "a stream to 10,000 devices and single pushes, with and without twenty open consoles"
TURNS = 3
SLOWER = 1.1
"""What may be lost to all consoles together."""
SCREENS: Sequence[tuple[float, Sequence[str]]] = (
    (3.0, ("/v1/stats?minutes=60", "/v1/pushes?limit=6")),
    (2.0, ("/v1/pushes/{push}", "/v1/pushes/{push}/reasons")),
)
"""Seconds between two looks of the screens, and what a look asks: overview, push."""
REST_FACTOR = 20
"""A look rests so many times as long as its answers took (`gateway/console/live.js`)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--consoles", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--stream", type=int, default=200_000, help="deliveries of a stream (%(default)s)")


def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    devices = options.devices
    rounds = max(options.stream // devices, 1)
    singles = SINGLE_PUSHES // devices or 1
    rates: dict[bool, list[float]] = {False: [], True: []}
    latencies: dict[bool, list[float]] = {False: [], True: []}
    with Server(directory / "data") as server:
        listed = enrolled(server, devices, directory)
        consoles = [_Console(server) for _ in range(options.consoles)]  # signed in once: there is a limit
        with Fleet(server.mqtt_port, listed, [1, *([rounds] * 2 * TURNS)]) as fleet:
            one_batch(server, TCP_ENDPOINT, fleet, 1, devices)
            for watched in (False, True) * TURNS:
                with opened(consoles if watched else []):
                    batch = one_batch(server, TCP_ENDPOINT, fleet, rounds, devices)
                    rates[watched].append(devices * rounds / batch.seconds)
        some = min(devices, SINGLE_PUSHES)
        few = directory / "few"
        few.write_text("".join(listed.read_text().splitlines(keepends=True)[:some]))
        with Fleet(server.mqtt_port, few, [singles] * 2 * TURNS) as fleet:
            for watched in (False, True) * TURNS:
                with opened(consoles if watched else []):
                    latencies[watched].append(single_pushes(server, some).result().latency.p99)
                    fleet.batch()
    what = f"with {options.consoles} consoles"
    return [
        Figure(
            f"stream to {devices:,} {what}", "deliveries/s", median(rates[True]), "without", median(rates[False]),
            at_least=1 / SLOWER,
        ),
        Figure(
            f"single pushes {what}, p99", "ms", median(latencies[True]), "without", median(latencies[False]),
            at_most=SLOWER,
        ),
    ]  # fmt: skip


@contextlib.contextmanager
def opened(consoles: Sequence[_Console]) -> Iterator[None]:
    """These consoles are open; the block begins when each has had its first answer. Raises CannotRun."""
    count = len(consoles)
    ended = threading.Event()
    ready = threading.Barrier(count + 1)
    failures: list[str] = []

    def look(seconds: float, paths: Sequence[str], number: int, console: _Console) -> None:
        try:
            push = console.ask("/v1/pushes?limit=1")["items"][0]["push_id"]
            ready.wait(30)
            pause = seconds * number / count  # not all in the same moment: people open them one after the other
            while not ended.wait(pause):
                began = time.monotonic()
                for path in paths:
                    console.ask(path.format(push=push))
                pause = max(seconds, REST_FACTOR * (time.monotonic() - began))
        except (OSError, http.client.HTTPException, CannotRun) as error:
            failures.append(repr(error))
            ready.abort()

    threads = [
        threading.Thread(target=look, args=(*SCREENS[number % len(SCREENS)], number, console))
        for number, console in enumerate(consoles)
    ]
    for thread in threads:
        thread.start()
    try:
        with contextlib.suppress(threading.BrokenBarrierError):
            ready.wait(30)
        if not failures:
            yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    if failures:
        raise CannotRun(f"A console failed: {failures[0]}")


class _Console:
    """A browser that is signed in, as far as the server is concerned."""

    def __init__(self, server: Server) -> None:
        self._origin = f"http://127.0.0.1:{server.http_port}"
        self._connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
        answer = self._request("POST", "/v1/session", json.dumps({"key": server.admin_key}))
        self._cookie = answer.headers["Set-Cookie"].partition(";")[0]
        answer.read()

    def ask(self, path: str) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = json.load(self._request("GET", path, cookie=self._cookie))
        return found

    def _request(self, method: str, path: str, body: str | None = None, cookie: str = "") -> http.client.HTTPResponse:
        headers = {
            "Fleetpush-Console": "1",
            "Content-Type": "application/json",
            "Origin": self._origin,
            "Cookie": cookie,
        }
        self._connection.request(method, path, body, {name: value for name, value in headers.items() if value})
        answer = self._connection.getresponse()
        if answer.status >= 300:
            raise CannotRun(f"{method} {path}: {answer.status} {answer.read()[:200]!r}")
        return answer
