"""The gateway over a real database and a real broker without sockets: requests go straight into its application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.in_process import InProcessGateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    gateway = await InProcessGateway.build(tmp_path, asyncio.get_running_loop())
    yield gateway
    await gateway.close()
