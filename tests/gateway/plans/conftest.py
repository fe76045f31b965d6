from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.delivery.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """The components of delivery around hand-driven parts, with six devices."""
    world = World(devices=6)
    yield world
    world.close()
