"""What Prometheus sees of nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gateway.latency import LatencyHistogram
from gateway.nodes.membership import LEASE_SECONDS
from gateway.store.nodes.new_pushes import NewPushesPage
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process

BUCKETS = {f"fleetpush_node_confirmation_seconds_bucket{{{bound}}}" for bound, _ in LatencyHistogram().buckets()}
COUNTERS = ("fleetpush_node_nudges", "fleetpush_node_questions", "fleetpush_node_takeovers")


def samples(gateway: InProcessGateway) -> dict[str, float]:
    """`name{outcome}` -> value, of what is said of nodes."""
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(gateway.components.metrics.text().decode())
        for sample in family.samples
        if family.name.startswith("fleetpush_node")
    }


async def test_a_server_by_itself_has_no_nodes(gateway: InProcessGateway) -> None:
    found = samples(gateway)
    assert {name.partition("_total")[0] for name in found} == {
        "fleetpush_nodes_live", "fleetpush_node_lease_seconds", "fleetpush_node_ends_declared",
        "fleetpush_node_behind_seconds{pushes}", "fleetpush_node_behind_seconds{changes}",
        "fleetpush_node_changes_waiting", "fleetpush_node_confirmation_seconds_count",
        "fleetpush_node_confirmation_seconds_sum", *BUCKETS, *COUNTERS,
    }  # fmt: skip
    assert not any(found.values())


async def test_nodes_and_what_they_tell_each_other(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path) as gateways:
        peers = gateways[1].components.peers
        assert peers is not None
        peers.nudges.lost += 1
        second = samples(gateways[1])
        assert second["fleetpush_nodes_live"] == 2
        assert 0 < second["fleetpush_node_lease_seconds"] <= LEASE_SECONDS
        assert second["fleetpush_node_nudges_total{lost}"] == 1


async def test_what_a_node_does_not_read_and_what_waits_for_it(tmp_path: Path) -> None:
    async with gateways_in_process(tmp_path) as gateways:
        first, second = gateways
        assert second.components.nodes is not None
        new_pushes = second.components.delivery.new_pushes
        assert new_pushes is not None
        read = second.components.nodes.invalidations.read
        await read()
        assert 0 <= samples(second)["fleetpush_node_behind_seconds{changes}"] < 5
        assert samples(second)["fleetpush_node_behind_seconds{pushes}"] == 0

        new_pushes.begin({1: 0}, {})
        first.database.read_new = second.database.read_new = lambda *asked: None  # type: ignore[method-assign]
        new_pushes.nudge()
        second.clock.milliseconds += 7_000
        assert samples(second)["fleetpush_node_behind_seconds{pushes}"] == 7
        new_pushes._on_error(OSError("the database is away"))
        assert samples(second)["fleetpush_node_behind_seconds{pushes}"] == 7, "nothing has come back"
        new_pushes.nudge()
        new_pushes._on_read(NewPushesPage([], {}, more=False))
        assert samples(second)["fleetpush_node_behind_seconds{pushes}"] == 0

        await asyncio.gather(second.components.nodes.invalidations.confirm(), first_reads(first))
        confirmed = samples(second)
        assert confirmed["fleetpush_node_confirmation_seconds_count"] == 1
        assert confirmed["fleetpush_node_changes_waiting"] == 0


async def first_reads(gateway: InProcessGateway) -> None:
    assert gateway.components.nodes is not None
    await gateway.components.nodes.invalidations.read()
