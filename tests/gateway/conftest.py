"""The gateway over a real database and a real broker without sockets: requests go straight into its application."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests import postgresql
from tests.gateway.in_process import InProcessGateway
from tests.gateway.written_apps import complaints, note_databases
from tests.postgresql import URL_VARIABLE, Postgresql

MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 1 << 30
"""Free memory that the tests' folders may take a part of. Those of four processes at once take some megabytes; what a
container has by default, 64 MiB, is too little."""


OVER_BOTH: Final = frozenset(
    {
        "api.test_audit",
        "api.test_campaigns",
        "api.test_device_history",
        "delivery.test_adaptive_caps",
        "delivery.test_attempts",
        "delivery.test_delivery_sets",
        "delivery.test_device_activity",
        "delivery.test_device_connections",
        "delivery.test_device_history",
        "delivery.test_escalations",
        "delivery.test_forecast",
        "delivery.test_heartbeats",
        "delivery.test_idempotency_quota",
        "delivery.test_ledger",
        "delivery.test_push_texts",
        "delivery.test_retention",
        "delivery.test_segments",
        "delivery.test_uplink",
        "delivery.test_uplink_quota",
        "delivery.test_withdrawals",
        "enrolment.test_token_lifetimes",
        "plans.test_schedule_windows",
        "store.audience.test_devices",
        "store.deliveries.test_app_slices",
        "store.deliveries.test_conditions",
        "test_bulk_changes",
        "test_presence",
    }
)
"""Modules whose tests run over PostgreSQL without `--database postgresql`, too. Of 900 statements of the store that all
tests have they carry out 700, in the least time; the rest waits for a run over PostgreSQL alone."""


def _is_over_both(module: str) -> bool:
    return module.removeprefix("tests.gateway.") in OVER_BOTH


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of those modules twice, unless all run over PostgreSQL or it is about a file."""
    is_chosen = _is_over_both(metafunc.module.__name__) and metafunc.cls is None
    if is_chosen and not postgresql.is_used() and metafunc.definition.get_closest_marker("sqlite") is None:
        metafunc.parametrize("database_of_test", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def worker_server() -> Iterator[Postgresql]:
    """A PostgreSQL of this worker, which its tests over both databases share."""
    yield postgresql.server_of_process()
    postgresql.schema_pool().close()
    postgresql.schema_pool.cache_clear()


@pytest.fixture(autouse=True)
def database_of_test(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the ledgers of a test are kept."""
    if getattr(request, "param", None) != "postgresql":
        yield "postgresql" if postgresql.is_used() else "sqlite"
        return
    os.environ[URL_VARIABLE] = request.getfixturevalue("worker_server").url
    yield "postgresql"
    del os.environ[URL_VARIABLE]


@pytest.fixture
def tmp_path(tmp_path: Path, full: int) -> Iterator[Path]:
    """A folder in memory where there is one: every commit is synced, and waiting for the disk takes longer than the
    rest of most tests. With --full, and in the tests of `end_to_end`, the disk is a real one."""
    if full > 1 or not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM_BYTES:
        yield tmp_path
    else:
        with TemporaryDirectory(prefix="fleetpush-test-", dir=MEMORY) as folder:
            tmp_path = Path(folder)
            yield tmp_path
    if postgresql.is_used():
        postgresql.schema_pool().give_back(tmp_path)


@pytest.fixture(autouse=True)
def declared_apps(
    database_of_test: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, full: int
) -> Iterator[None]:
    """What operations declare of the apps whose rows they write is true (decision 10): in the modules that carry out
    most statements, and with --full in all. To note it takes 4 ms of each ledger that is opened."""
    if full > 1 or _is_over_both(request.module.__name__):
        note_databases(monkeypatch)
    complaints.clear()
    yield
    assert sorted(set(complaints)) == []


@pytest.fixture
async def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[InProcessGateway]:
    """A gateway; with `--nodes` one of two, and who answers a request is left to chance."""
    if request.config.getoption("--nodes"):
        if request.node.get_closest_marker("of_one_server"):
            pytest.skip("about one server")
        from tests.nodes import gateways_in_process

        async with gateways_in_process(tmp_path, 2, run=True) as (first, second):
            first.share_requests(second)
            yield first
        return
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    yield gateway
    await gateway.close()
