"""Whether the server's own answers about a push agree with each other, whatever the fleet saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from client_sim.figures import ARRIVED, ENDED, OPEN
from client_sim.gateway_client import ServerDelivery, ServerPush

LEVELS = {
    "delivered": ARRIVED,
    "displayed": ARRIVED[1:],
    "opened": ARRIVED[3:],
    "acted": ARRIVED[4:],
}
"""`reached` counts a state and everything that is further."""
RESULT = {"state": "playing"}
"""What every simulated device answers to an action and to a command."""


def contradictions(push: ServerPush | None, deliveries: Sequence[ServerDelivery]) -> Iterator[tuple[str | None, str]]:
    """Device id (None: the push as a whole) and what is wrong, in words."""
    if push is None:
        if deliveries:
            yield None, "the server lists its deliveries and does not know the push"
        return
    counts = {state: count for state, count in push.counts.items() if state != "targeted"}
    if sum(counts.values()) != push.targeted or push.counts.get("targeted") != push.targeted:
        yield None, f"counts sum to {sum(counts.values())}, and it was targeted at {push.targeted}: {push.counts}"
    if len(deliveries) != push.targeted:
        yield None, f"it was targeted at {push.targeted} and lists {len(deliveries)} deliveries"
    listed = Counter(one.state for one in deliveries)
    if not any(listed[state] or counts.get(state) for state in OPEN):  # else it may have moved between two requests
        wrong = {state for state in {*listed, *counts} if listed[state] != counts.get(state, 0)}
        if wrong:
            said = ", ".join(f"{counts.get(state, 0)} {state} and lists {listed[state]}" for state in sorted(wrong))
            yield None, f"it counts {said}"
    for level, states in LEVELS.items():
        expected = sum(counts.get(state, 0) for state in states)
        if push.reached.get(level) != expected:
            yield None, f"reached.{level} is {push.reached.get(level)}, the counts say {expected}"
    expires_at = datetime.fromisoformat(push.expires_at)
    for one in deliveries:
        if one.state in (*ARRIVED, *ENDED) and one.at is None:
            yield one.device_id, f"it is {one.state}, and no time says since when"
        elif one.state == "expired" and one.at is not None and datetime.fromisoformat(one.at) < expires_at:
            yield one.device_id, f"it expired at {one.at}, before its end at {push.expires_at}"
        if one.state == "acted" and one.result != RESULT:
            yield one.device_id, f"the device's result was {RESULT}, the server says {one.result}"
