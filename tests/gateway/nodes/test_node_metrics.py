"""What Prometheus sees of nodes."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gateway.nodes.membership import LEASE_SECONDS
from tests.gateway.in_process import InProcessGateway
from tests.nodes import gateways_in_process

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
        "fleetpush_nodes_live", "fleetpush_node_lease_seconds", *COUNTERS,
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
