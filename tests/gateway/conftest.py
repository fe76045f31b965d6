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

MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 1 << 30
"""Free memory that the tests' folders may take a part of. Those of four processes at once take some megabytes; what a
container has by default, 64 MiB, is too little."""


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
def declared_apps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What operations declare of the apps whose rows they write is true (decision 10)."""
    note_databases(monkeypatch)
    complaints.clear()
    yield
    assert sorted(set(complaints)) == []


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    yield gateway
    await gateway.close()
