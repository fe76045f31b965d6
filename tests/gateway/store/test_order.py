"""Within an app numbers rise in the order of commits: no reader that goes on from a position skips one (decision 10).

Four processes write to two apps, with pauses where it hurts, take some of it back and are killed in the middle of it.
Readers follow each app from its position; one walks over both as far as a horizon, behind which nothing comes that is
smaller. Each must have seen, at the end, exactly what is stored.

One of the ways to break the order is tried in every run, the one that is seen most surely; the others with `--full`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
import pytest

from gateway.audit_chain import ChainBroken
from gateway.store.access.apps import add_app
from gateway.store.app_locks import EVERY_APP, NO_APP
from gateway.store.audit_entries import stored_chain, verify
from gateway.store.deliveries.event_log import newest_entries
from gateway.store.numbers import last_number
from gateway.store.transaction import Transaction
from tests.gateway.store.order_writer import APPS, EVENT, Beginning, OrderServer, order_server
from tests.postgresql import Postgresql

WRITERS = 4
TRANSACTIONS = 80
"""Of each writer: some 250 commits."""
pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgresql]:
    with Postgresql() as server:
        yield server


@dataclass
class Followed:
    """What one reader has seen."""

    name: str
    apps: tuple[int, ...]
    seen: list[int] = field(default_factory=list)

    def complaints(self, stored: dict[int, list[int]]) -> Iterator[str]:
        expected = sorted(no for app_no in self.apps for no in stored[app_no])
        if self.seen != sorted(set(self.seen)):
            yield f"{self.name} does not rise"
        if missed := len(set(expected).difference(self.seen)):
            yield f"{self.name} has skipped {missed} of {len(expected)}"
        if set(self.seen).difference(expected):
            yield f"{self.name} has seen what was taken back"


def numbers(transaction: Transaction, apps: tuple[int, ...], after: int, to: int) -> list[int]:
    listed = ", ".join(map(str, apps))
    return [
        no
        for (no,) in transaction.execute(
            f"SELECT no FROM event WHERE type = ? AND app_no IN ({listed}) AND no > ? AND no <= ? ORDER BY no",
            (EVENT, after, to),
        )
    ]


class Run:
    """Writers and readers of a schema, once."""

    def __init__(self, url: str, schema: str, beginning: Beginning, followed_apps: tuple[tuple[int, ...], ...]) -> None:
        OrderServer.open(url, schema, has_nodes=True)
        self._server = order_server(url, schema, beginning)
        with closing(self._server.connect_writer()) as connection:
            for app_no in APPS:
                add_app(connection, f"app-{app_no}", 0)
        self._arguments = [url, schema, beginning.value]
        self._over = threading.Event()
        self._followers = [Followed(f"who follows {apps}", apps) for apps in followed_apps]
        self._walker = Followed("who walks to the horizon", APPS)

    def complaints(self) -> list[str]:
        """What was broken."""
        readers: list[Callable[[], None]] = [self._walk, *(partial(self._follow, one) for one in self._followers)]
        with ThreadPoolExecutor(len(readers)) as threads:
            reading = [threads.submit(reader) for reader in readers]
            try:
                refused = self._write()
            finally:
                self._over.set()
            for one in reading:
                one.result()
        with closing(self._server.connect_reader(for_apps=False)) as connection:
            stored = {app_no: numbers(connection, (app_no,), 0, 1 << 60) for app_no in APPS}
            assert all(len(nos) > TRANSACTIONS // 2 for nos in stored.values()), "nothing was tested"
            found = [text for one in (*self._followers, self._walker) for text in one.complaints(stored)]
            if refused:
                found.append(f"{refused} transactions had read what another was changing")
            for app_no in APPS:
                try:
                    verify(connection, app_no)
                except ChainBroken as error:
                    found.append(f"the chain is broken: {error}")
                else:
                    assert stored_chain(connection, app_no).head.seq == len(stored[app_no]), "they were stored together"
        return found

    def _write(self) -> int:
        command = [sys.executable, "-m", "tests.gateway.store.order_writer", *self._arguments]
        writers = [
            subprocess.Popen([*command, str(seed), str(TRANSACTIONS)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for seed in range(WRITERS)
        ]
        answers = [writer.communicate()[0] for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * WRITERS
        return sum(map(int, answers))

    def _until_over(self, read: Callable[[], None]) -> None:
        while not self._over.is_set():
            read()
        read()  # and what came last

    def _follow(self, followed: Followed) -> None:
        """Read on from the last number that was seen, as who has a position does."""

        def read() -> None:
            self._server.begin_snapshot(connection)
            after = followed.seen[-1] if followed.seen else 0
            newest = max(newest_entries(connection, followed.apps).values(), default=0)
            followed.seen += numbers(connection, followed.apps, after, newest)
            self._server.roll_back(connection)
            self._over.wait(0.001)  # the writers are to have the processor

        with closing(self._server.connect_reader(for_apps=True)) as connection:
            self._until_over(read)

    def _walk(self) -> None:
        """Read over all apps as far as the last number that was drawn, when nobody is between that and the commit."""
        horizon = 0

        def read() -> None:
            nonlocal horizon
            self._server.begin(connection, EVERY_APP, NO_APP)
            before, horizon = horizon, last_number(connection, "event")
            self._walker.seen += numbers(connection, APPS, before, horizon)
            self._server.commit(connection)
            self._over.wait(0.005)  # or nobody else would come to anything

        with closing(self._server.connect_writer()) as connection:
            self._until_over(read)


def run(server: Postgresql, name: str, beginning: Beginning, *followed_apps: tuple[int, ...]) -> list[str]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    return Run(server.url, name, beginning, followed_apps).complaints()


def test_no_reader_skips_what_another_node_has_stored(postgresql: Postgresql, full: int) -> None:
    for _ in range(full):
        assert run(postgresql, "locked", Beginning.LOCKED, *((app_no,) for app_no in APPS)) == []


@pytest.mark.full_only
def test_without_the_locks_they_do(postgresql: Postgresql) -> None:
    found = run(postgresql, "unlocked", Beginning.UNLOCKED, *((app_no,) for app_no in APPS))
    assert any("who follows" in text and "skipped" in text for text in found), found
    assert any("horizon has skipped" in text for text in found), found


def test_with_a_snapshot_that_is_older_than_the_locks_they_do(postgresql: Postgresql) -> None:
    found = run(postgresql, "snapshot_first", Beginning.SNAPSHOT_FIRST, *((app_no,) for app_no in APPS))
    assert any("horizon has skipped" in text for text in found), found
    assert any("had read what another was changing" in text for text in found), found


@pytest.mark.full_only
def test_with_one_position_for_two_apps_they_do(postgresql: Postgresql) -> None:
    found = run(postgresql, "one_position", Beginning.LOCKED, APPS)
    assert any("who follows" in text and "skipped" in text for text in found), found
    assert not any("horizon" in text for text in found), found
