"""Whether the server's own answers about a push agree with each other, whatever the fleet saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from client_sim.simulator.gateway_client import ServerDelivery, ServerPush
from client_sim.simulator.human_behaviour import SHOWN
from client_sim.simulator.report_terms import ARRIVED, ENDED, OPEN
from client_sim.simulator.simulated_push import result_of

LEVELS = {
    "delivered": ARRIVED,
    "displayed": ARRIVED[1:],
    "opened": ARRIVED[3:],
    "acted": ARRIVED[4:],
}
"""`reached` counts a state and everything that is further."""


def sum_contradiction(push: ServerPush) -> str | None:
    """The mistake in a push's counts alone, which must sum up at every moment; None: there is none."""
    total = sum(count for state, count in push.counts.items() if state != "targeted")
    if total != push.targeted or push.counts.get("targeted") != push.targeted:
        return f"counts sum to {total}, and it was targeted at {push.targeted}: {push.counts}"
    return None


def funnel_contradictions(push: ServerPush, funnel: Mapping[str, Any]) -> Iterator[str]:
    """The differences between the analytics of a push that has ended and its counts."""
    stages = {**push.reached, "targeted": push.targeted}
    if push.kind not in SHOWN:  # analytics have nothing that is seen of those
        stages = {stage: count for stage, count in stages.items() if stage not in ("displayed", "opened")}
    for stage, count in stages.items():
        if funnel.get(stage) != count:
            yield f"analytics say {funnel.get(stage)} {stage}, the counts say {count}"


def contradictions(
    push: ServerPush | None, deliveries: Sequence[ServerDelivery], ttl: float | None = None, qos: int = 1
) -> Iterator[tuple[str | None, str]]:
    """Device id (None: the push as a whole) and what is wrong, in words. `deliveries` were read before `push`; `ttl` in
    seconds and `qos` are as it was sent."""
    if push is None:
        if deliveries:
            yield None, "the server lists its deliveries and does not know the push"
        return
    counts = {state: count for state, count in push.counts.items() if state != "targeted"}
    if wrong_sum := sum_contradiction(push):
        yield None, wrong_sum
    if len(deliveries) != push.targeted:
        yield None, f"it was targeted at {push.targeted} and lists {len(deliveries)} deliveries"
    listed = Counter(one.state for one in deliveries)
    if not any(listed[state] for state in OPEN):  # else it may have moved between two requests
        wrong = {state for state in {*listed, *counts} if listed[state] != counts.get(state, 0)}
        if wrong:
            said = ", ".join(f"{counts.get(state, 0)} {state} and lists {listed[state]}" for state in sorted(wrong))
            yield None, f"it counts {said}"
    for level, states in LEVELS.items():
        expected = sum(counts.get(state, 0) for state in states)
        if push.reached.get(level) != expected:
            yield None, f"reached.{level} is {push.reached.get(level)}, the counts say {expected}"
    expires_at = datetime.fromisoformat(push.expires_at)
    lives = (expires_at - datetime.fromisoformat(push.sent_at)).total_seconds()
    if ttl is not None and lives != ttl:
        yield None, f"it lives for {lives:g} s, and was sent with a ttl of {ttl:g}"
    for one in deliveries:
        if mistake := _contradiction(one, push.push_id, qos):
            yield one.device_id, mistake
        if one.state in (*ARRIVED, *ENDED) and one.at is None:
            yield one.device_id, f"it is {one.state}, and no time says since when"
        elif one.state == "expired" and one.at is not None and datetime.fromisoformat(one.at) < expires_at:
            yield one.device_id, f"it expired at {one.at}, before its end at {push.expires_at}"


def _contradiction(one: ServerDelivery, push_id: str, qos: int) -> str | None:
    """The facts of a delivery that exclude each other, in words."""
    if one.state not in ARRIVED:
        return None
    times = [one.times[stage] for stage in ARRIVED if stage in one.times]
    if "delivered" not in one.times or times != sorted(times):
        return f"it is {one.state}, with the times {one.times}"
    if one.qos not in (None, qos):  # a receipt says nothing of it
        return f"it was sent with QoS {qos}, the server says {one.qos}"
    if one.state == "acted" and one.result != result_of(push_id, one.device_id or ""):
        return f"the device's result was {result_of(push_id, one.device_id or '')}, the server says {one.result}"
    return None
