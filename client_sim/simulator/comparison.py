"""The record of each push in a simulation, and the result of comparing all of them with the server's ledger."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from client_sim.simulator.simulation_report import Finding

NOT_ARRIVED = 0.0
"""The arrival time of a push that has not arrived; the clock starts above it."""


@dataclass
class Comparison:
    """The result of comparing what devices saw with the server's ledger: counts and findings. Its fields are those of
    the same name in `SimulationReport`."""

    accepted: int = 0
    deliveries: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    late: int = 0
    out_of_order: int = 0
    expired_online: int = 0
    disagreements: int = 0
    violations: int = 0
    unexplained: int = 0
    contradictions: int = 0
    events_wrong: int = 0
    unanswered: int = 0
    redelivered: int = 0
    people_left: int = 0
    campaign_parts: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    server_states: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True when nothing is wrong."""
        return not (
            self.lost
            or self.duplicated
            or self.late
            or self.out_of_order
            or self.expired_online
            or self.disagreements
            or self.violations
            or self.unexplained
            or self.contradictions
            or self.events_wrong
            or self.unanswered
        )

    def fields(self) -> dict[str, Any]:
        """The fields for a `SimulationReport`."""
        return {**vars(self), "ended": dict(self.ended), "server_states": dict(self.server_states)}


class SentPush:
    """The record of a push: what was asked for, which devices had it when, and how the server booked it."""

    __slots__ = (
        "answered",
        "arrivals",
        "channel",
        "collapse_key",
        "ended_after",
        "kind",
        "levels",
        "priority",
        "push_id",
        "qos",
        "read_at",
        "reasons",
        "refused",
        "requested",
        "said",
        "states",
        "targets",
        "ttl",
    )

    def __init__(
        self,
        requested: float,
        targets: Sequence[int],
        ttl: float,
        priority: str,
        collapse_key: str | None,
        qos: int,
        kind: str = "alert",
        channel: str | None = None,
    ) -> None:
        self.requested = requested
        self.answered = inf
        self.push_id: str | None = None
        self.targets = targets
        self.ttl = ttl
        self.priority = priority
        self.collapse_key = collapse_key
        self.qos = qos
        self.kind = kind
        self.channel = channel
        self.refused = ""
        """The server's answer, where it did not accept the push."""
        self.read_at = inf
        """The time at which the server was last asked for its deliveries."""
        self.reasons: dict[int, str] | None = None
        """The reasons of deliveries by place; None: none has one."""
        self.ended_after: dict[int, float] = {}
        """The ends of overflowed deliveries by place, in seconds of the server's clock since the push was accepted."""
        self.arrivals = array("d", (NOT_ARRIVED,)) * len(targets)
        self.levels = bytearray(len(targets))
        self.states = bytearray(len(targets))

    def place(self, index: int) -> int:
        """The place of a device among the targets; -1: it is none."""
        targets = self.targets
        if isinstance(targets, range):
            return index if index in targets else -1
        place = bisect_left(targets, index)
        return place if place < len(targets) and targets[place] == index else -1


def newer_push(pushes: Sequence[SentPush], numbers: Sequence[int], number: int, index: int) -> SentPush | None:
    """The first later push to this device that the server has, among the `numbers` of its collapse key."""
    push = pushes[number]
    for later in numbers[bisect_left(numbers, number) + 1 :]:
        other = pushes[later]
        if other.push_id is not None and other.place(index) >= 0:
            return other
    # Two that were under way at a time may have been accepted the other way round.
    for earlier in numbers[: bisect_left(numbers, number)]:
        other = pushes[earlier]
        if other.push_id is not None and other.answered > push.requested and other.place(index) >= 0:
            return other
    return None


def was_listening(spans: Sequence[float], begin: float, end: float, enough: float) -> bool:
    """Whether a device heard all the while, or for so many seconds that it must have been given what waited.

    `spans`: the times at which it began and ceased to listen.
    """
    for start in range(0, len(spans), 2):
        came, went = spans[start], spans[start + 1] if start + 1 < len(spans) else inf
        if came <= begin and end <= went:
            return True
        if min(end, went) - max(begin, came) >= enough:
            return True
    return False
