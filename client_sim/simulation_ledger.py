"""The truth by push and device, and what is wrong with the server's.

Pushes have numbers from 0 and devices indexes from 0; times are seconds of one monotonic clock. The devices say what
took effect and which receipts the server has acknowledged, the sender what it asked for and what it was promised, and
at the end the server what became of each delivery. From these two books:

lost
    Accepted, no effect on the device, and the server does not say that it ended with a reason: it says that it waits,
    or was delivered, or it does not know of it.
duplicated
    An effect beyond the first of one push on one device, be it that a request that was repeated became two pushes.
late
    It took effect after the end of its ttl (counted from the answer, the latest moment at which it can have been
    accepted) and a grace for what is under way.
out of order
    B took effect before A on a device, though both have the same priority and A had been promised before B was asked
    for. Only such pairs have an order.
expired though online
    The server says `expired`, and the device was connected without a break from before the request until the end of the
    ttl, and the scenario let it listen.
disagreement
    An effect that the server does not book, a booking without an effect, or another level (delivered, displayed,
    opened, acted) than the receipts that it has acknowledged to the device. A push that arrived after the server gave
    it up is booked once a receipt proves it; its reason then keeps `after_<end>`.

Two million deliveries take less than a gibibyte: arrivals and levels lie in arrays, one of each per push.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from client_sim.figures import ARRIVED, ENDED, OPEN
from client_sim.people import ACTED, DISPLAYED, OPENED
from client_sim.simulation_report import FINDINGS, Finding, FindingKind

LEVELS = {"delivered": 0, "displayed": DISPLAYED, "dismissed": DISPLAYED, "opened": OPENED, "acted": ACTED}
STATES = ("unknown", *OPEN, *ARRIVED, *ENDED)
"""`unknown`: the server does not list the delivery."""
_CODES = {state: code for code, state in enumerate(STATES)}
_NEVER = 0.0
"""No arrival; the clock starts above it."""


@dataclass
class Judgement:
    """Fields of the same name in `SimulationReport`, and `clean`: nothing is wrong."""

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
    redelivered: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    server_states: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (
            self.lost
            or self.duplicated
            or self.late
            or self.out_of_order
            or self.expired_online
            or self.disagreements
            or self.violations
        )

    def fields(self) -> dict[str, Any]:
        return {**vars(self), "ended": dict(self.ended), "server_states": dict(self.server_states)}


class _Push:
    __slots__ = (
        "answered",
        "arrivals",
        "levels",
        "priority",
        "push_id",
        "requested",
        "said",
        "states",
        "targets",
        "ttl",
    )

    def __init__(self, requested: float, targets: Sequence[int], ttl: float, priority: str) -> None:
        self.requested = requested
        self.answered = inf
        self.push_id: str | None = None
        self.targets = targets
        self.ttl = ttl
        self.priority = priority
        self.arrivals = array("d", (_NEVER,)) * len(targets)
        self.levels = bytearray(len(targets))
        self.states = bytearray(len(targets))

    def place(self, index: int) -> int:
        """Of a device among the targets; -1: it is none."""
        targets = self.targets
        if isinstance(targets, range):
            return index if index in targets else -1
        place = bisect_left(targets, index)
        return place if place < len(targets) and targets[place] == index else -1


class Ledger:
    def __init__(self, ids: Sequence[str], clock_speed: float = 1.0) -> None:
        """`ids`: of the devices. `clock_speed`: of the server, whose seconds a ttl counts."""
        self._ids = ids
        self._speed = clock_speed
        self._everyone = range(len(ids))
        self._pushes: list[_Push] = []
        self._found = Judgement()
        self._kinds: Counter[FindingKind] = Counter()
        self._newest: dict[tuple[int, str], float] = {}
        """Device and priority -> the latest request among those that have arrived."""
        self._online = bytearray(len(ids))
        self._away = bytearray(len(ids))
        self._spans: list[array[float] | None] = [None] * len(ids)
        """When a device was there to hear: begin, end, begin, .."""

    # The sender says

    def sending(self, requested: float, targets: Sequence[int] | None, ttl: float, priority: str) -> int:
        """The first request of a push is about to leave; its number. Targets None: everyone. `ttl` in seconds of the
        server's clock."""
        to = self._everyone if targets is None else tuple(sorted(targets))
        self._pushes.append(_Push(requested, to, ttl / self._speed, priority))
        return len(self._pushes) - 1

    def accepted(self, number: int, push_id: str, answered: float, targeted: int) -> None:
        push = self._pushes[number]
        self._called(number, push, push_id)
        push.push_id = push_id
        push.answered = answered
        if targeted != len(push.targets):
            self._find("lost", number, -1, f"accepted for {targeted} devices; it was for {len(push.targets)}")
            self._found.lost += max(0, len(push.targets) - targeted)

    # Devices say

    def named(self, number: int, push_id: str) -> None:
        """A push with this number arrived under this id, before any `arrived` of it."""
        push = self._pushes[number]
        self._called(number, push, push_id)
        if push.push_id is None:
            push.push_id = push_id

    def _called(self, number: int, push: _Push, push_id: str) -> None:
        if push.push_id is not None and push.push_id != push_id:
            self._found.duplicated += 1
            self._find("duplicated", number, -1, f"one request became two pushes: {push.push_id} and {push_id}")

    def arrived(self, number: int, index: int, when: float) -> None:
        """It took effect on a device, for the first time."""
        push = self._pushes[number]
        place = push.place(index)
        if place < 0:
            self._found.disagreements += 1
            self._find("arrived_without_booking", number, index, "it arrived at a device that it was not for")
            return
        if push.arrivals[place] != _NEVER:
            self.duplicated(number, index, when)
            return
        push.arrivals[place] = when
        key = (index, push.priority)
        newest = self._newest.get(key, 0.0)
        if newest > push.answered:
            self._found.out_of_order += 1
            late = newest - push.answered
            self._find("out_of_order", number, index, f"overtaken by one that was asked for {late:.3f} s after its 202")
        if push.requested > newest:
            self._newest[key] = push.requested

    def duplicated(self, number: int, index: int, when: float) -> None:
        self._found.duplicated += 1
        push = self._pushes[number]
        place = push.place(index)
        after = when - push.arrivals[place] if place >= 0 and push.arrivals[place] != _NEVER else 0.0
        self._find("duplicated", number, index, f"it took effect again {after:.3f} s after the first time")

    def said(self, number: int, index: int, level: int) -> None:
        """The server has acknowledged to the device that somebody went so far."""
        push = self._pushes[number]
        place = push.place(index)
        if place >= 0:
            push.levels[place] = max(push.levels[place], level)

    def redelivered(self, copies: int) -> None:
        self._found.redelivered += copies

    def violation(self, index: int, when: float, what: str) -> None:
        self._found.violations += 1
        self._find("violation", -1, index, what)

    def online(self, index: int, when: float) -> None:
        self._online[index] = 1
        self._hears(index, when)

    def offline(self, index: int, when: float) -> None:
        self._online[index] = 0
        self._hears(index, when)

    def away(self, index: int, when: float) -> None:
        """From now on the scenario keeps it from hearing."""
        self._away[index] = 1
        self._hears(index, when)

    def back(self, index: int, when: float) -> None:
        self._away[index] = 0
        self._hears(index, when)

    def _hears(self, index: int, when: float) -> None:
        spans = self._spans[index]
        if spans is None:
            spans = self._spans[index] = array("d")
        heard = len(spans) % 2 == 1
        if heard != bool(self._online[index] and not self._away[index]):
            spans.append(when)

    # The server says

    def pushes(self) -> list[tuple[int, str]]:
        """Numbers and ids of those that were accepted, or arrived without an answer to their request."""
        return [(number, push.push_id) for number, push in enumerate(self._pushes) if push.push_id is not None]

    def server_says(self, number: int, deliveries: Iterable[tuple[int, str, str | None]]) -> None:
        """Device, state and reason of each delivery, so far; -1 is a device that is none of ours."""
        push = self._pushes[number]
        for index, state, reason in deliveries:
            place = push.place(index)
            if place < 0:
                self._found.disagreements += 1
                self._find(
                    "booked_without_arrival", number, index, f"the server lists it as {state}; it was not for it"
                )
            else:
                push.states[place] = _CODES.get(state, 0)
                if state in ENDED and not reason:
                    self._find("lost", number, index, f"the server says {state} and gives no reason")
                    self._found.lost += 1

    # The judgement

    def judge(self, grace: float) -> Judgement:
        """Once, at the end. `grace`: seconds that a push may be under way after its hand-over."""
        found = self._found
        for number, push in enumerate(self._pushes):
            if push.push_id is None:
                continue
            found.accepted += 1
            found.deliveries += len(push.targets)
            deadline = push.answered + push.ttl + grace
            for place, index in enumerate(push.targets):
                when = push.arrivals[place]
                state = STATES[push.states[place]]
                found.server_states[state] += 1
                if when != _NEVER:
                    self._judge_arrival(number, index, push, state, push.levels[place])
                    if when > deadline:
                        found.late += 1
                        self._find(
                            "late", number, index, f"it took effect {when - deadline + grace:.3f} s after its end"
                        )
                else:
                    self._judge_absence(number, index, push, state)
        return found

    def _judge_arrival(self, number: int, index: int, push: _Push, state: str, level: int) -> None:
        found = self._found
        found.delivered += 1
        booked = LEVELS.get(state)
        if booked is None:
            found.disagreements += 1
            self._find("arrived_without_booking", number, index, f"it took effect; the server says {state}")
        elif booked != level:
            found.disagreements += 1
            kind: FindingKind = "arrived_without_booking" if booked < level else "booked_without_arrival"
            said = next(name for name, value in LEVELS.items() if value == level)
            self._find(kind, number, index, f"the device has said {said}, the server says {state}")

    def _judge_absence(self, number: int, index: int, push: _Push, state: str) -> None:
        found = self._found
        if state in ENDED:
            found.ended[state] += 1
            if state == "expired" and self._heard(index, push.requested, push.answered + push.ttl):
                found.expired_online += 1
                self._find("expired_online", number, index, "it expired, and the device was online all the while")
            return
        found.lost += 1
        if state in ARRIVED:
            found.disagreements += 1
            self._find("booked_without_arrival", number, index, f"the server says {state}; the device never had it")
        else:
            self._find("lost", number, index, f"it never arrived; the server says {state}")

    def _heard(self, index: int, begin: float, end: float) -> bool:
        spans = self._spans[index] or ()
        return any(
            spans[start] <= begin and (start + 1 == len(spans) or end <= spans[start + 1])
            for start in range(0, len(spans), 2)
        )

    def _find(self, kind: FindingKind, number: int, index: int, detail: str) -> None:
        """The first of each kind are written out, so that one kind cannot crowd out another."""
        self._kinds[kind] += 1
        if self._kinds[kind] <= FINDINGS // 8:
            push_id = self._pushes[number].push_id if number >= 0 else None
            device_id = self._ids[index] if index >= 0 else ""
            self._found.findings.append(Finding(kind=kind, push_id=push_id or "", device_id=device_id, detail=detail))
