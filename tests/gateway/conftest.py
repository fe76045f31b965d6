"""The gateway over a real database and a real broker without sockets: requests go straight into its application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.api.house import House


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = await House.build(tmp_path, asyncio.get_running_loop())
    yield house
    await house.close()
