from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.store.deliveries import delivery_sets
from tests.gateway.delivery.machinery import ManualWriter
from tests.gateway.delivery.world import World

ALWAYS_IN_BOTH = {
    "test_acceptance",
    "test_alert_limiter",
    "test_hand_over",
    "test_mailbox_reader",
    "test_missed_pushes",
    "test_receipts",
    "test_reports",
    "test_retention",
    "test_withdrawals",
}
"""Modules whose tests run in both forms without --full too: what they test is stored otherwise."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test twice, unless it says in which form; state machines choose themselves."""
    chosen = any("form" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "form" in metafunc.fixturenames and metafunc.cls is None and not chosen:
        with_sets = metafunc.module.__name__.rpartition(".")[2] in ALWAYS_IN_BOTH
        sets = pytest.param("sets", marks=[] if with_sets else pytest.mark.full_only)
        metafunc.parametrize("form", ["rows", sets], indirect=True)


@pytest.fixture(autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How pushes to so few devices are stored: as rows, as they would be, or all as sets; those by a node of several,
    whose operations are asked for their apps before they run."""
    chosen = getattr(request, "param", "rows")
    if chosen == "sets":
        store_everything_as_sets(monkeypatch)
        monkeypatch.setattr(ManualWriter, "is_of_a_node", True)
    return str(chosen)


def store_everything_as_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower every threshold: a push to one device is a set, and so is its acknowledgement; a mailbox with one row is
    deep."""
    monkeypatch.setattr(delivery_sets, "SET_DEVICES", 1)
    monkeypatch.setattr(delivery_sets, "GROUP_DEVICES", 1)
    monkeypatch.setattr(delivery_sets, "DEEP_DELIVERIES", 1)
    monkeypatch.setattr(delivery_sets, "DEEP_BYTES", 1)
    monkeypatch.setattr(delivery_sets, "SHARE_OF_MAILBOX", 1)


@pytest.fixture
def world(form: str) -> Iterator[World]:
    """Three devices d1..d3, a window of 3 inflight messages, mailboxes of 5 deliveries."""
    world = World()
    yield world
    world.close()
