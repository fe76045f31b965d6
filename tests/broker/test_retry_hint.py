"""The hint when to come back: its reasons, and its spread."""

from __future__ import annotations

from broker.protocol.packets import ReasonCode
from broker.retry_hint import RETURNS_PER_SECOND, retry_hint


def drawn(clients: int) -> set[int]:
    hints = [retry_hint(ReasonCode.SERVER_SHUTTING_DOWN, clients) for _ in range(2_000)]
    assert {name for ((name, _),) in hints} == {"retry-after"}
    return {int(value) for ((_, value),) in hints}


def test_the_range_grows_with_the_number_of_clients() -> None:
    assert drawn(0) == drawn(RETURNS_PER_SECOND - 1) == {1}
    assert drawn(RETURNS_PER_SECOND) == {1, 2}
    assert drawn(10 * RETURNS_PER_SECOND) == set(range(1, 12))


def test_only_what_passes_by_itself_has_a_hint() -> None:
    told = {code for code in ReasonCode if retry_hint(code, 1)}
    assert told == {ReasonCode.SERVER_UNAVAILABLE, ReasonCode.SERVER_BUSY, ReasonCode.SERVER_SHUTTING_DOWN}
