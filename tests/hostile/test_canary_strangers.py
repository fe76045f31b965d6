"""Strangers without a credential, from the canary's own address: its device is neither late nor locked out."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import wire
from tests.end_to_end.harness import Server
from tests.hostile.canary import Canary
from tests.hostile.peer import connect_silently

SECONDS = 1.0


def guess(server: Server, until: float, thread: int) -> None:
    """Another wrong token each time, as fast as it is refused."""
    number = 0
    while time.monotonic() < until:
        number += 1
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.mqtt_port), timeout=5) as raw:
            raw.sendall(wire.connect("x", username="x", password=f"wrong {thread} {number}" + "\n" * 100))
            raw.recv(4)


def guess_at_once(server: Server, seconds: float, threads: int = 4) -> None:
    until = time.monotonic() + seconds
    guessing = [threading.Thread(target=guess, args=(server, until, number)) for number in range(threads)]
    for thread in guessing:
        thread.start()
    for thread in guessing:
        thread.join()


@pytest.fixture
def unread_log(tmp_path: Path) -> Iterator[None]:
    """The server's standard error is a pipe that nobody reads, and that is almost full."""
    pipe = tmp_path / "data.stderr"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4_096))
    yield
    os.close(writing)
    os.close(reading)


@pytest.mark.timeout(60)
def test_a_log_that_nobody_reads_stops_nobody(tmp_path: Path, unread_log: None, full: int) -> None:
    with Server(tmp_path / "data", "--log-level", "debug") as server:
        with Canary(server):
            guess_at_once(server, SECONDS * full)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10


@pytest.mark.timeout(60)
def test_guesses_lock_nobody_out_and_fill_no_log(tmp_path: Path, full: int) -> None:
    with Server(tmp_path / "data", "--log-level", "debug") as server:
        with Canary(server):
            guess_at_once(server, SECONDS * full, threads=50)
        assert "fleetpush_broker_late_refusals_total 0.0" not in server.api.request("GET", "/metrics").text
        assert server.stop() == 0
        refused = [line for line in server.errors.splitlines() if " is refused: " in line]
        assert 1 <= len(refused) < 20 * (1 + SECONDS * full / 60)
        assert re.search(r"more lines about 127\.0\.0\.1 were left out: \S+: %s: CONNECT of", server.errors)


@pytest.mark.full_only
@pytest.mark.timeout(60)
def test_who_only_waits_keeps_nobody_out(tmp_path: Path, full: int) -> None:
    """More silent connections than there are descriptors, made anew when they are cut off."""
    with contextlib.ExitStack() as ending, Server(tmp_path / "data", open_files=256) as server:
        with Canary(server):
            connect_silently(ending, ("127.0.0.1", server.mqtt_port), SECONDS * full, 400)
        text = server.api.request("GET", "/metrics").text
        assert 'fleetpush_broker_refused_connections_total{reason="evicted_stranger"}' in text
