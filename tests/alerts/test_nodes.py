"""Several nodes of one fleet: no alert fires while they are restarted one after the other, and each fires by its fault.

What a server says is the beginning, for each of three nodes; what becomes of their figures in a restart or a fault is
put in by hand, sample by sample. Each fault has a fleet of its own, a job, and Prometheus sees all of them together.
The figures that a fault moves are tested where they are made (`gateway/nodes/test_node_metrics`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.alerts.timeline import DURABLE, Scrape, firing_by_job, firing_over, samples
from tests.gateway.in_process import InProcessGateway

DEVICES = 40
"""Devices of each node."""
CALM_MINUTES = 12
SCRAPE_SECONDS = 15
JOB = 'job="fleetpush"'
COUNTED = re.compile(r"_(total|bucket|count|sum){")

Nodes = list[Scrape]
"""What each node says at a time."""
Fault = Callable[[Nodes, int], None]
"""Changes what the nodes say, so many samples after the fault began."""


@pytest.fixture
async def nodes(gateway: InProcessGateway) -> Nodes:
    """What three nodes say, with their devices."""
    text = gateway.components.metrics.text().decode()
    found = [samples(text, f"node{number}:8080") for number in (1, 2, 3)]
    for node in found:
        put(node, "fleetpush_devices_online", DEVICES)
        put(node, "fleetpush_nodes_live", 3)
        put(node, "fleetpush_node_lease_seconds", 2.8)
        put(node, "fleetpush_node_behind_seconds", 0.1)
    return found


def series(node: Scrape, name: str, *labels: str) -> list[str]:
    """The samples of a name that have these labels (`label="value"`)."""
    found = [key for key in node if key.startswith(f"{name}{{") and all(label in key for label in labels)]
    assert found, name
    return found


def put(node: Scrape, name: str, value: float, *labels: str) -> None:
    node.update(dict.fromkeys(series(node, name, *labels), value))


def add(node: Scrape, name: str, more: float, *labels: str) -> None:
    for key in series(node, name, *labels):
        node[key] += more


def go(node: Scrape) -> None:
    """The node does not answer Prometheus."""
    (up,) = series(node, "up")
    node.clear()
    node[up] = 0.0


def of_another_version(node: Scrape) -> None:
    (build,) = series(node, "fleetpush_build_info")
    node[re.sub(r'version="[^"]*"', 'version="9.9.9"', build)] = node.pop(build)


def merged(nodes: Nodes) -> Scrape:
    return {key: value for node in nodes for key, value in node.items()}


def after_calm(nodes: Nodes, fault: Fault, count: int) -> list[Scrape]:
    """A calm fleet, and then so many samples of a fault."""
    timeline = [merged(nodes)] * CALM_MINUTES
    for number in range(count):
        changed = [dict(node) for node in nodes]
        fault(changed, number)
        timeline.append(merged(changed))
    return timeline


def side_by_side(timelines: Mapping[str, Sequence[Scrape]]) -> list[Scrape]:
    """One timeline of several fleets, by their job; who has ended stays as it is. Counters that stand still are left
    out, since they take most of the time."""
    together: list[Scrape] = [{} for _ in range(max(map(len, timelines.values())))]
    for job, timeline in timelines.items():
        first = timeline[0]
        moving = {
            key for one in timeline for key, value in one.items() if value != first.get(key) or not COUNTED.search(key)
        }
        for number, scrape in enumerate(together):
            one = timeline[min(number, len(timeline) - 1)]
            scrape.update((key.replace(JOB, f'job="{job}"'), value) for key, value in one.items() if key in moving)
    return together


# -- calm --------------------------------------------------------------------------------------------------------------


class RollingRestart:
    """An upgrade of three nodes, one after the other: what Prometheus sees each fifteen seconds."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = [dict(node) for node in nodes]
        self.timeline = [merged(nodes)] * (CALM_MINUTES * 60 // SCRAPE_SECONDS)

    def pass_seconds(self, seconds: int) -> None:
        self.timeline += [merged(self.nodes)] * (seconds // SCRAPE_SECONDS)

    def devices(self, *counts: float) -> None:
        for node, count in zip(self.nodes, counts, strict=True):
            if len(node) > 1:
                put(node, "fleetpush_devices_online", count)

    @contextmanager
    def away(self, number: int) -> Iterator[None]:
        """The node is not there; then it begins anew, with another version."""
        before = self.nodes[number]
        self.nodes[number] = dict(before)
        go(self.nodes[number])
        others = [node for node in self.nodes if len(node) > 1]
        for node in others:
            put(node, "fleetpush_nodes_live", 2)
            add(node, "fleetpush_node_questions_total", 5, 'outcome="failed"')
        yield
        for node in others:
            put(node, "fleetpush_nodes_live", 3)
        node = self.nodes[number] = {key: 0 if "_total{" in key else value for key, value in before.items()}
        add(node, "process_start_time_seconds", 1_000)
        put(node, "fleetpush_devices_online", 0)
        of_another_version(node)


def restarted(nodes: Nodes, away_seconds: int) -> RollingRestart:
    """Restart each node; its devices go to the others, and are seen at both for one scrape."""
    rolling = RollingRestart(nodes)
    counts = [float(DEVICES)] * 3
    for number in range(3):
        others = [other for other in range(3) if other != number]
        moving = counts[number]
        for other in others:
            counts[other] += moving / 2
        rolling.devices(*counts)  # the one that goes was scraped before
        rolling.pass_seconds(SCRAPE_SECONDS)
        counts[number] = 0.0
        rolling.devices(*counts)
        rolling.pass_seconds(SCRAPE_SECONDS)
        with rolling.away(number):
            rolling.pass_seconds(away_seconds)
        rolling.pass_seconds(120)
    rolling.pass_seconds(CALM_MINUTES * 60)
    return rolling


def moved_at_once(nodes: Nodes) -> RollingRestart:
    """Restart one node of two: half of the devices move at once, and are seen twice for one scrape."""
    rolling = RollingRestart(nodes[:2])
    rolling.devices(DEVICES, 2 * DEVICES)
    rolling.pass_seconds(SCRAPE_SECONDS)
    rolling.devices(0, 2 * DEVICES)
    with rolling.away(0):
        rolling.pass_seconds(120)
    of_another_version(rolling.nodes[1])
    rolling.pass_seconds(CALM_MINUTES * 60)
    return rolling


async def test_nothing_fires_while_nodes_are_restarted_one_after_the_other(nodes: Nodes, tmp_path: Path) -> None:
    timelines = {
        "fleetpush-quick": restarted(nodes, 30).timeline,
        "fleetpush-slow": restarted(nodes, 300).timeline,
        "fleetpush-pair": moved_at_once(nodes).timeline,
        "fleetpush-away": after_calm(nodes, database_is_away, 2),  # and then it is as it was for a long time
    }
    timelines["fleetpush-away"][-2:] = [timelines["fleetpush-away"][-1], merged(nodes)]
    found = firing_by_job(tmp_path, side_by_side(timelines), SCRAPE_SECONDS)
    assert found == {job: set() for job in timelines}


# -- faults ------------------------------------------------------------------------------------------------------------


def node_is_gone(nodes: Nodes, _: int) -> None:
    go(nodes[0])
    for node in nodes[1:]:
        put(node, "fleetpush_devices_online", DEVICES * 1.5)
        put(node, "fleetpush_nodes_live", 2)


def all_are_gone(nodes: Nodes, _: int) -> None:
    for node in nodes:
        go(node)


def devices_do_not_come_back(nodes: Nodes, _: int) -> None:
    for node in nodes:
        put(node, "fleetpush_devices_online", DEVICES * 0.6)


def lease_is_short(nodes: Nodes, _: int) -> None:
    put(nodes[0], "fleetpush_node_lease_seconds", 1.6)


def nodes_are_declared_ended(nodes: Nodes, number: int) -> None:
    add(nodes[0], "fleetpush_node_ends_declared_total", 1)
    add(nodes[1], "fleetpush_node_ends_declared_total", min(number // 5, 1))


def peer_does_not_answer(nodes: Nodes, number: int) -> None:
    add(nodes[2], "fleetpush_node_questions_total", 6 * number, 'outcome="failed"')


def new_pushes_are_not_read(nodes: Nodes, number: int) -> None:
    put(nodes[1], "fleetpush_node_behind_seconds", 60 * number, 'of="pushes"')


def changes_are_not_read(nodes: Nodes, number: int) -> None:
    put(nodes[1], "fleetpush_node_behind_seconds", 6 if number < 20 else 0, 'of="changes"')


def changes_wait(nodes: Nodes, number: int) -> None:
    for bound in ("5", "10", "+Inf"):
        add(nodes[0], "fleetpush_node_confirmation_seconds_bucket", 3 * number, f'le="{bound}"')


def database_may_lose_something(nodes: Nodes, _: int) -> None:
    put(nodes[2], DURABLE, 0)


def versions_are_mixed(nodes: Nodes, _: int) -> None:
    of_another_version(nodes[1])


def deliveries_end(nodes: Nodes, number: int, share: float) -> None:
    """A hundred deliveries a minute; each node counts all ends, and a third of the pushes."""
    for node in nodes:
        add(node, "fleetpush_deliveries_targeted_total", 100 * number / 3)
        add(node, "fleetpush_deliveries_ended_total", share * 100 * number, 'state="expired"')


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "a node is gone": (node_is_gone, {"FleetpushNodeDown"}),
    "all nodes are gone": (all_are_gone, {"FleetpushDown"}),
    "devices do not come back": (devices_do_not_come_back, {"FleetpushDevicesLost"}),
    "a lease is short": (lease_is_short, {"FleetpushNodeLeaseShort"}),
    "nodes are declared ended": (nodes_are_declared_ended, {"FleetpushNodesEnd"}),
    "a peer does not answer": (peer_does_not_answer, {"FleetpushPeerSilent"}),
    "new pushes are not read": (new_pushes_are_not_read, {"FleetpushNodeBehind"}),
    "changes are not read": (changes_are_not_read, {"FleetpushNodeBehind"}),
    "changes wait": (changes_wait, {"FleetpushChangesWait"}),
    "a database may lose something": (database_may_lose_something, {"FleetpushDatabaseNotDurable"}),
    "versions are mixed": (versions_are_mixed, {"FleetpushVersionsMixed"}),
    "a fifth of all expires": (lambda nodes, number: deliveries_end(nodes, number, 0.2), set()),
    "a half of all expires": (lambda nodes, number: deliveries_end(nodes, number, 0.5), {"FleetpushUndelivered"}),
}


async def test_each_alert_of_nodes_is_raised_by_its_fault(nodes: Nodes, tmp_path: Path) -> None:
    """Forty minutes of each."""
    timelines = {f"fleetpush-{name}": after_calm(nodes, fault, 40) for name, (fault, _) in FAULTS.items()}
    found = firing_by_job(tmp_path, side_by_side(timelines), 60)
    assert found == {f"fleetpush-{name}": expected for name, (_, expected) in FAULTS.items()}


def database_is_away(nodes: Nodes, number: int) -> None:
    for node in nodes:
        put(node, "fleetpush_node_lease_seconds", 0)
        put(node, "fleetpush_node_behind_seconds", SCRAPE_SECONDS * number)
        put(node, "fleetpush_ready", 0)


async def test_a_database_that_is_away_is_one_alert(nodes: Nodes, tmp_path: Path) -> None:
    """After 45 seconds, while the nodes wait for it."""
    timeline = side_by_side({"fleetpush": after_calm(nodes, database_is_away, 3)})
    assert firing_over(tmp_path, timeline, SCRAPE_SECONDS) == {"FleetpushDatabaseAway"}
