"""How many machines a fleet needs: computed from what was measured, for the page docs/operate/capacity.md.

`python -m tests.documents.capacity DEVICES [--pushes PER_DAY] [--slow-disk]` computes it for a fleet of yours.

What limits what:

- A *node* has one core of Python. It is used by deliveries, by single pushes and by devices that connect, and holds so
  many connections that the others can take them when it dies.
- A *primary* of PostgreSQL stores for each app one group at a time (decision 10, 1). The share of the time in which
  that app's lock is taken by work is `busy`. Nodes take turns: with n of them, each of which has something to store, a
  turn costs n groups with nothing in them beside the work that came meanwhile. So it lasts n * GROUP / (1 - busy), and
  a push waits for one to two of them. `test_capacity` has a simulation that agrees.
- Each node looks for news four times a second; what that costs PostgreSQL grows with nodes * pushes, on other cores of
  its.

Where a primary ends, the fleet is divided into *cells*, each with everything of its own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.documents.figures import (
    NODE_BARE,
    NODE_CONNECTS,
    NODE_IDLE,
    NODE_NEWS,
    NODE_SINGLES,
    NODE_STREAM,
    WAL_DELIVERY,
    WAL_SINGLE,
    Values,
    newest,
    values,
)
from tests.documents.markdown import table

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "operate" / "capacity.md"
FLEETS: Final = (100_000, 1_000_000, 100_000_000)
DAY_SECONDS: Final = 86_400
SEGMENT_DEVICES: Final = 65_536
BALANCER_DEVICES: Final = 200_000
"""`maxconn` of examples/cluster/haproxy.cfg; one more balancer is there for one that dies."""
DATABASES: Final = 3
"""Machines of a database that loses one, and still has a synchronous standby."""


@dataclass(frozen=True)
class Fleet:
    """What devices and senders do: assumptions, each of them an argument or a row of the page."""

    devices: int
    pushes_a_day: float = 20.0
    """To a device, alone."""
    receipts: float = 1.0
    """Of each of those, beside its acknowledgement."""
    broadcasts_a_day: float = 4.0
    """Pushes to everybody."""
    broadcast_seconds: float = 60.0
    """Time in which one has to arrive everywhere."""
    connects_a_day: float = 4.0
    """Of a device."""
    peak: float = 3.0
    """The busiest hour, over the mean."""
    storm_seconds: float = 60.0
    """Time in which the devices of a node that died come back to the others."""

    @property
    def pushes_s(self) -> float:
        """Single pushes a second in the busiest hour."""
        return self.devices * self.pushes_a_day / DAY_SECONDS * self.peak

    @property
    def broadcast_s(self) -> float:
        """Deliveries a second while a push to everybody is under way."""
        return self.devices / self.broadcast_seconds if self.broadcasts_a_day else 0.0


@dataclass(frozen=True)
class Costs:
    """Seconds, but for what says otherwise."""

    node_delivery: float
    node_push: float
    """A single push: accepted, handed over, acknowledged."""
    node_connect: float
    device_bytes: float
    process_bytes: float
    group: float
    """A group with hardly anything in it: round trips, and the disk's confirmation."""
    push: float
    """A single push in a group of many."""
    acknowledgement: float
    """Of a single push, or a receipt: a row."""
    set_acknowledgement: float
    """One device of a push to everybody."""
    mailbox: float
    """A device that returns: its page of the mailbox; its credential and its claim are taken to cost as much, each."""
    news: float
    """What a look for news costs for each push that it finds, on a core of PostgreSQL that holds no lock."""
    push_wal: float
    """Bytes of WAL of a single push and its acknowledgement."""
    broadcast_wal: float
    """Bytes of WAL for one device of a push to everybody, in sets that two nodes change."""


@dataclass(frozen=True)
class Limits:
    node_devices: int = 50_000
    """Connections of a node while all nodes are there. It holds 100,000, a balancer has 64,000 ports for it."""
    node_busy: float = 0.5
    """Share of a node's core in the busiest hour."""
    lock_busy: float = 0.5
    """Share of the time in which an app's lock is taken by work."""
    app_pushes: float = 2_000.0
    """Single pushes a second of an app: half of what four nodes stored for one (decision 10, M1). That was on two
    loaded cores for nodes, senders and PostgreSQL together; more of those have not been tried."""
    turn_seconds: float = 0.25
    """Time until every node has had its turn."""
    news_cores: float = 8.0
    """Cores of PostgreSQL that look for news."""


QUICK_GROUP, SLOW_GROUP = 0.75e-3, 4.0e-3
"""The first row of decision 9: on a disk that confirms at once, and on one that takes 4 ms."""


def measured_costs(found: Values, group: float = QUICK_GROUP) -> Costs:
    """Those of a node from the newest results, those of PostgreSQL from these and the table of decision 9."""
    return Costs(
        node_delivery=1 / found[NODE_STREAM],
        node_push=1 / found[NODE_SINGLES],
        node_connect=1 / found[NODE_CONNECTS],
        device_bytes=found[NODE_IDLE] * 2**10,
        process_bytes=found[NODE_BARE] * 2**20,
        group=group,
        push=1 / 26_000,  # "one writer stored 26,000 pushes a second for one app under the lock"
        acknowledgement=7.3e-3 / 667,
        set_acknowledgement=1.06e-3 / 667,
        mailbox=2.1e-3 / 100,
        news=found[NODE_NEWS] / 1e6,
        push_wal=found[WAL_SINGLE],
        broadcast_wal=found[WAL_DELIVERY],
    )


@dataclass(frozen=True)
class Cell:
    """A primary and its nodes."""

    fleet: Fleet
    nodes: int
    """Those that are needed, and one more."""
    node_busy: float
    node_bytes: float
    lock_busy: float
    turn_seconds: float
    news_cores: float
    wal_bytes_s: float
    """In the worst minute."""

    def fits(self, limits: Limits) -> bool:
        within_time = self.lock_busy <= limits.lock_busy and self.turn_seconds <= limits.turn_seconds
        within_work = self.fleet.pushes_s <= limits.app_pushes and self.news_cores <= limits.news_cores
        return within_time and within_work


def cell_for(fleet: Fleet, costs: Costs, limits: Limits) -> Cell:
    """One primary for a fleet, whether it can carry it or not."""
    core = (
        fleet.pushes_s * costs.node_push
        + fleet.pushes_s * fleet.receipts * costs.node_delivery
        + fleet.broadcast_s * costs.node_delivery
        + connects_s(fleet) * costs.node_connect
    )
    needed = max(math.ceil(fleet.devices / limits.node_devices), math.ceil(core / limits.node_busy))
    nodes = needed + 1
    returning = fleet.devices / nodes / fleet.storm_seconds
    storm = returning * costs.node_connect / max(nodes - 1, 1)
    busy = sum(rate * cost for rate, cost in lock_work(fleet, costs, nodes))
    return Cell(
        fleet,
        nodes,
        core / nodes + storm,
        costs.process_bytes + fleet.devices / (nodes - 1) * costs.device_bytes,
        busy,
        nodes * costs.group / (1 - busy) if busy < 1 else math.inf,
        nodes * fleet.pushes_s * costs.news,
        fleet.pushes_s * costs.push_wal + fleet.broadcast_s * costs.broadcast_wal,
    )


def connects_s(fleet: Fleet) -> float:
    return fleet.devices * fleet.connects_a_day / DAY_SECONDS * fleet.peak


def lock_work(fleet: Fleet, costs: Costs, nodes: int) -> Iterator[tuple[float, float]]:
    """What is done under an app's lock in the worst minute of the busiest hour: a broadcast is under way, and a node
    has died. (How many a second, seconds each.)"""
    yield fleet.pushes_s, costs.push
    yield fleet.pushes_s * (1 + fleet.receipts), costs.acknowledgement
    yield fleet.broadcast_s, costs.set_acknowledgement
    yield math.ceil(fleet.devices / SEGMENT_DEVICES) / fleet.broadcast_seconds, costs.group
    yield connects_s(fleet) + fleet.devices / nodes / fleet.storm_seconds, 3 * costs.mailbox


@dataclass(frozen=True)
class Plan:
    cells: int
    cell: Cell


def plan(fleet: Fleet, costs: Costs, limits: Limits) -> Plan:
    """The fewest cells, each with an equal part of the devices."""
    cells = 1
    while not (cell := cell_for(replace(fleet, devices=math.ceil(fleet.devices / cells)), costs, limits)).fits(limits):
        cells += max(1, cells // 50)
        assert cells < fleet.devices, "a device of its own would be too much for a cell"
    return Plan(cells, cell)


def largest_cell(fleet: Fleet, costs: Costs, limits: Limits) -> int:
    """Devices that one primary carries, of a fleet that behaves like this, in two digits."""
    devices = 10_000
    while cell_for(replace(fleet, devices=devices), costs, limits).fits(limits):
        devices = int(devices * 1.02)
    fits = int(devices / 1.02)
    digits: int = 10 ** (len(str(fits)) - 2)
    return fits // digits * digits


HEAD: Final = (
    "devices", "cells", "nodes", "balancers", "PostgreSQL", "machines", "of a cell: pushes a second", "node's core",
    "node's memory", "lock", "turn", "news", "WAL",
)  # fmt: skip


def row_of(found: Plan) -> Sequence[str]:
    cell = found.cell
    devices = cell.fleet.devices * found.cells
    balancers = found.cells * (math.ceil(cell.fleet.devices / BALANCER_DEVICES) + 1)
    databases = DATABASES * found.cells
    nodes = cell.nodes * found.cells
    return (
        f"{_rounded(devices):,}",
        f"{found.cells:,}",
        f"{nodes:,}",
        f"{balancers:,}",
        f"{databases:,}",
        f"{nodes + balancers + databases:,}",
        f"{cell.fleet.pushes_s:,.0f}",
        f"{cell.node_busy:.0%}",
        f"{cell.node_bytes / 2**20:,.0f} MiB",
        f"{cell.lock_busy:.0%}",
        f"{cell.turn_seconds * 1000:,.0f} ms",
        f"{cell.news_cores:.1f} cores",
        f"{cell.wal_bytes_s / 1e6:,.1f} MB/s",
    )


def tables(found: Values) -> dict[str, str]:
    """The tables of the page, by the word that marks each."""
    limits = Limits()
    made = {}
    for mark, group in (("quick", QUICK_GROUP), ("slow", SLOW_GROUP)):
        costs = measured_costs(found, group)
        made[mark] = table(HEAD, [row_of(plan(Fleet(devices), costs, limits)) for devices in FLEETS])
    quick = measured_costs(found)
    fleets = {
        "as above": Fleet(1),
        "100 pushes to a device a day": Fleet(1, pushes_a_day=100),
        "1 push to a device a day": Fleet(1, pushes_a_day=1),
        "a broadcast arrives in ten minutes": Fleet(1, broadcast_seconds=600),
        "no receipts": Fleet(1, receipts=0),
    }
    rows = []
    for name, fleet in fleets.items():
        slow = largest_cell(fleet, measured_costs(found, SLOW_GROUP), limits)
        rows.append((name, f"{largest_cell(fleet, quick, limits):,}", f"{slow:,}"))
    made["cells"] = table(("a fleet", "devices of a cell", "on a disk that takes 4 ms"), rows)
    return made


def written(text: str, found: Values) -> str:
    """The page with its tables: each stands behind a comment with its mark, up to the next empty line."""
    for mark, made in tables(found).items():
        head, marker, rest = text.partition(f"<!-- {mark} -->\n\n")
        assert marker, f"{PAGE.name} has no place for {mark}"
        text = head + marker + made + "\n" + rest[rest.index("\n\n") + 1 :]
    return text


def write(found: Values) -> Iterator[Path]:
    """Write the page if its tables are others now; yield it."""
    text = written(PAGE.read_text(), found)
    if text != PAGE.read_text():
        PAGE.write_text(text)
        yield PAGE


def _rounded(number: float) -> int:
    return int(float(f"{number:.3g}"))


def main() -> None:
    parser = argparse.ArgumentParser(description="How many machines a fleet needs.")
    parser.add_argument("devices", type=int)
    parser.add_argument("--pushes", type=float, default=Fleet.pushes_a_day, help="to a device in a day")
    parser.add_argument("--slow-disk", action="store_true", help="a commit takes 4 ms")
    given = parser.parse_args()
    costs = measured_costs(values(newest()), SLOW_GROUP if given.slow_disk else QUICK_GROUP)
    print(table(HEAD, [row_of(plan(Fleet(given.devices, pushes_a_day=given.pushes), costs, Limits()))]))


if __name__ == "__main__":
    main()
