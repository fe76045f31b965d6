"""Answers of a server that contradict each other, and none of a server that is right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client_sim.simulator.contradictions import contradictions, funnel_contradictions, sum_contradiction
from client_sim.simulator.gateway_client import ServerDelivery, ServerPush
from client_sim.simulator.simulated_push import result_of

AT = "2026-12-01T08:30:05.000Z"
COUNTS = {"targeted": 3, "delivered": 1, "dismissed": 0, "acted": 1, "expired": 1}
PUSH = ServerPush(
    push_id="p",
    kind="alert",
    targeted=3,
    counts=COUNTS,
    reached={"delivered": 2, "displayed": 1, "opened": 1, "acted": 1},
    sent_at="2026-12-01T08:30:00.000Z",
    expires_at="2026-12-01T08:30:04.000Z",
)
DELIVERIES = [
    ServerDelivery("a", "delivered", None, AT, qos=1, times={"delivered": AT}),
    ServerDelivery("b", "acted", None, AT, result_of("p", "b"), 1, {"delivered": AT, "opened": AT, "acted": AT}),
    ServerDelivery("c", "expired", "ttl", AT),
]


def test_what_agrees_is_not_accused() -> None:
    assert list(contradictions(PUSH, DELIVERIES, 4)) == []
    assert sum_contradiction(PUSH) is None
    assert list(funnel_contradictions(PUSH, {"targeted": 3, "eligible": 3, **PUSH.reached})) == []
    assert list(contradictions(None, [])) == []


@pytest.mark.parametrize(
    ("push", "deliveries", "device_id", "said"),
    [
        (None, DELIVERIES, None, "does not know the push"),
        (replace(PUSH, counts={**COUNTS, "delivered": 0}), DELIVERIES, None, "counts sum to 2"),
        (PUSH, DELIVERIES[:2], None, "lists 2 deliveries"),
        (replace(PUSH, counts={**COUNTS, "delivered": 2, "acted": 0}), DELIVERIES, None, "it counts 0 acted"),
        (replace(PUSH, reached={**PUSH.reached, "opened": 0}), DELIVERIES, None, "reached.opened is 0"),
        (PUSH, [replace(DELIVERIES[0], at=None), *DELIVERIES[1:]], "a", "no time says since when"),
        (PUSH, [DELIVERIES[0], replace(DELIVERIES[1], result=None), DELIVERIES[2]], "b", "the server says None"),
        (PUSH, [*DELIVERIES[:2], replace(DELIVERIES[2], at=PUSH.sent_at)], "c", "before its end"),
        (PUSH, [replace(DELIVERIES[0], qos=2), *DELIVERIES[1:]], "a", "the server says 2"),
        (PUSH, [replace(DELIVERIES[0], times={}), *DELIVERIES[1:]], "a", "with the times"),
        (PUSH, [DELIVERIES[0], replace(DELIVERIES[1], result=result_of("p", "a")), DELIVERIES[2]], "b", "result was"),
        (replace(PUSH, sent_at=AT), DELIVERIES, None, "sent with a ttl of 4"),
    ],
)
def test_a_contradiction_is_named(
    push: ServerPush | None, deliveries: list[ServerDelivery], device_id: str | None, said: str
) -> None:
    assert any(device == device_id and said in what for device, what in contradictions(push, deliveries, 4))


def test_what_moves_between_two_requests_is_no_contradiction() -> None:
    listed_first = [ServerDelivery("a", "waiting", None), *DELIVERIES[1:]]
    assert list(contradictions(PUSH, listed_first)) == []


def test_what_is_open_behind_a_list_without_is_a_contradiction() -> None:
    stale = replace(PUSH, counts={**COUNTS, "delivered": 0, "waiting": 1}, reached={**PUSH.reached, "delivered": 1})
    (said,) = (what for _, what in contradictions(stale, DELIVERIES))
    assert said == "it counts 0 delivered and lists 1, 1 waiting and lists 0"


def test_analytics_must_say_what_the_counts_say() -> None:
    (said,) = funnel_contradictions(PUSH, {"targeted": 3, **PUSH.reached, "delivered": 3})
    assert said == "analytics say 3 delivered, the counts say 2"
    command = {"targeted": 3, **PUSH.reached, "displayed": 0, "opened": 0}
    assert list(funnel_contradictions(replace(PUSH, kind="command"), command)) == []
