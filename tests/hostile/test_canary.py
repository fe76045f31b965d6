"""The canary itself: it is quiet beside a server that nobody attacks, and it notices one that stands still."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.conformance.standalone import BrokerProcess
from tests.end_to_end.harness import Server
from tests.hostile.canary import Canary


def test_nothing_is_late_while_nobody_attacks(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server, Canary(server) as canary:
        time.sleep(1)  # what is measured is a time
    assert canary.report.pushes >= 15
    assert canary.report.connects >= 4


def test_a_server_that_stands_still_is_noticed(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        with Canary(server, judge=False) as canary:
            server.signal(signal.SIGSTOP)
            time.sleep(3)  # what is measured is a time
            server.signal(signal.SIGCONT)
        broken = canary.report.broken_bounds()
    assert any("push was" in line for line in broken), broken
    assert any("CONNECT took" in line for line in broken), broken


@pytest.mark.timeout(60)
def test_a_broker_alone_can_have_a_canary() -> None:
    with BrokerProcess(None) as broker, Canary(broker) as canary:
        time.sleep(0.5)  # what is measured is a time
    assert canary.report.pushes >= 5
