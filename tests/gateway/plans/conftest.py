from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.timestamps import wall_time
from tests.gateway.plans.world import PlanWorld


@pytest.fixture
def world() -> Iterator[PlanWorld]:
    """The components of delivery and of plans around hand-driven parts, with six devices."""
    offsets = wall_time.offsets()
    world = PlanWorld(devices=6, mailbox_limit=100)
    yield world
    world.close()
    wall_time.set_offsets(offsets)
