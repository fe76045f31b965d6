"""Checks of the server's mailboxes: a device that is away must find what was sent, and evictions must be in order.

Only devices that have sent a DISCONNECT are checked: to a connection that has died unseen something may have been
handed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf

from client_sim.simulator.comparison import NOT_ARRIVED, SentPush

PRIORITIES = ("critical", "high", "normal", "low")
DISCONNECT_SECONDS = 1.0
"""The most time from the command to disconnect until the server has read the DISCONNECT."""


def wrong_evictions(
    pushes: Sequence[SentPush], index: int, absences: Sequence[tuple[float, float]]
) -> Iterator[tuple[int, str]]:
    """Number and what is wrong, of what overflowed although something of less value was waiting, and stayed."""
    there = [(number, push, place) for number, push in enumerate(pushes) if (place := push.place(index)) >= 0]
    for went, returned in absences:
        settled = went + DISCONNECT_SECONDS
        stayed = dict.fromkeys(PRIORITIES, inf)
        """The acceptance of the first push of each priority that waited all the while."""
        for _, push, place in there:
            if push.requested > settled and push.answered < returned < push.arrivals[place]:
                stayed[push.priority] = min(stayed[push.priority], push.answered)
        for number, push, place in there:
            after = push.ended_after.get(place)
            if after is None or push.requested + after < settled or push.answered + after > returned:
                continue
            evicted = push.requested + after
            rank = PRIORITIES.index(push.priority)
            if stayed[push.priority] < push.requested:
                yield number, "it overflowed, and an older one of its priority stayed in the mailbox"
            elif any(stayed[lower] < evicted for lower in PRIORITIES[rank + 1 :]):
                yield number, "it overflowed, and a less urgent one stayed in the mailbox"


def mailbox_mistakes(
    pushes: Sequence[SentPush],
    numbers: Mapping[str, int],
    index: int,
    listed: Sequence[str],
    went: float,
    asked: tuple[float, float],
    may_overflow: bool,
) -> Iterator[tuple[int, str]]:
    """Compare a mailbox as the server lists it with what must wait in it; number of a push and what is wrong with it.
    `listed`: push ids in order; those of others are passed over. `went`: when the device disconnected; `asked`:
    start and end of the request."""
    begin, end = asked
    ours = [numbers[push_id] for push_id in listed if push_id in numbers]
    found = set(ours)
    for number, push in enumerate(pushes):
        place = push.place(index)
        due = (
            push.requested > went + DISCONNECT_SECONDS and push.answered < begin and push.requested + push.ttl > end + 1
        )
        if place < 0 or not due or push.collapse_key is not None or may_overflow:
            continue
        if number not in found and push.arrivals[place] == NOT_ARRIVED:
            yield number, "it waits for the device, and the server's list of what waits leaves it out"
    for one, other in pairwise(ours):
        first, second = pushes[one], pushes[other]
        ranks = PRIORITIES.index(first.priority), PRIORITIES.index(second.priority)
        if ranks[0] > ranks[1] or (ranks[0] == ranks[1] and second.answered < first.requested):
            yield other, f"it waits for the device, and is listed behind push {first.push_id}"
