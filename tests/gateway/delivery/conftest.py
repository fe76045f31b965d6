from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.delivery.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """Three devices d1..d3, a window of 3 inflight messages, mailboxes of 5 deliveries."""
    world = World()
    yield world
    world.close()
