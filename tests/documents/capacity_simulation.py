"""A simulation of the nodes of a cell that take turns at an app's lock, for what `capacity` computes of it.

Work arrives at nodes at random. A node with work asks for the lock; whoever has asked first has it next, and stores all
that its node has collected by then, in one group: the time of an empty group, and that of each operation. Devices of a
broadcast and of a node that died come spread over their time. Nothing is assumed of turns, waiting or groups: that is
what it is asked for.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from tests.documents.capacity import Cell, Costs, lock_work

CHUNK_SECONDS = 0.002
"""What arrives at a node within this time arrives together: a group takes it anyway."""


@dataclass(frozen=True)
class Observed:
    busy: float
    """Share of the time in which the lock is taken by work."""
    turn_seconds: float
    """Mean time between two groups of a node."""
    wait_p99_seconds: float
    """From the arrival of work to its commit."""
    backlog_seconds: float
    """Work that is left at the end."""


def simulate(cell: Cell, costs: Costs, seconds: float, seed: int) -> Observed:
    """Simulate so many seconds of the worst minute, after as many as it takes to get going."""
    dice = random.Random(seed)
    rates = [(rate, cost) for rate, cost in lock_work(cell.fleet, costs, cell.nodes) if rate]
    arrivals = [_arrivals(rates, cell.nodes, dice) for _ in range(cell.nodes)]
    ahead = [(*next(each), node) for node, each in enumerate(arrivals)]
    heapify(ahead)
    pending: Sequence[list[tuple[float, float]]] = [[] for _ in range(cell.nodes)]
    asked: deque[int] = deque()
    now = worked = 0.0
    groups = 0
    waits: list[float] = []
    warm = seconds / 4
    while now < seconds:
        while ahead and (ahead[0][0] <= now or not asked):
            at, work, node = heappop(ahead)
            now = max(now, at) if not asked else now
            if not pending[node]:
                asked.append(node)
            pending[node].append((at, work))
            heappush(ahead, (*next(arrivals[node]), node))
        node = asked.popleft()
        group, pending[node][:] = pending[node][:], []
        time_of_work = sum(work for _, work in group)
        now += costs.group + time_of_work
        if now > warm:
            groups += 1
            worked += time_of_work
            waits += [now - at for at, _ in group]
    length = now - warm
    left = sum(work for each in pending for at, work in each)
    return Observed(worked / length, cell.nodes * length / groups, sorted(waits)[int(len(waits) * 0.99)], left)


def _arrivals(rates: Sequence[tuple[float, float]], nodes: int, dice: random.Random) -> Iterator[tuple[float, float]]:
    """When something comes to a node, and how long it takes to store; in the order of time."""
    total = sum(rate for rate, _ in rates) / nodes
    mean = sum(rate * cost for rate, cost in rates) / sum(rate for rate, _ in rates)
    at = 0.0
    chunk = max(CHUNK_SECONDS, 1 / total)
    count = total * chunk
    while True:
        at += dice.expovariate(1 / chunk)
        yield at, count * mean
