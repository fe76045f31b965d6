"""Answers of a server that contradict each other, and none of a server that is right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client_sim.gateway_client import ServerDelivery, ServerPush
from client_sim.server_answers import RESULT, contradictions

AT = "2026-12-01T08:30:05.000Z"
COUNTS = {"targeted": 3, "delivered": 1, "dismissed": 0, "acted": 1, "expired": 1}
PUSH = ServerPush(
    targeted=3,
    counts=COUNTS,
    reached={"delivered": 2, "displayed": 1, "opened": 1, "acted": 1},
    sent_at="2026-12-01T08:30:00.000Z",
    expires_at="2026-12-01T08:30:04.000Z",
)
DELIVERIES = [
    ServerDelivery("a", "delivered", None, AT),
    ServerDelivery("b", "acted", None, AT, RESULT),
    ServerDelivery("c", "expired", "ttl", AT),
]


def test_what_agrees_is_not_accused() -> None:
    assert list(contradictions(PUSH, DELIVERIES)) == []
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
    ],
)
def test_a_contradiction_is_named(
    push: ServerPush | None, deliveries: list[ServerDelivery], device_id: str | None, said: str
) -> None:
    assert any(device == device_id and said in what for device, what in contradictions(push, deliveries))


def test_what_moves_between_two_requests_is_no_contradiction() -> None:
    moving = replace(PUSH, counts={**COUNTS, "delivered": 0, "waiting": 1}, reached={**PUSH.reached, "delivered": 1})
    assert list(contradictions(moving, DELIVERIES)) == []
