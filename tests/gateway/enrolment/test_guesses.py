"""Wrong codes cost time, in bounded memory."""

from __future__ import annotations

import asyncio

import pytest

from gateway.enrolment import guesses
from gateway.enrolment.guesses import GuessLimiter
from gateway.errors import RetryableProblem
from tests.fakes import FakeClock


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that were asked for; none is waited for."""
    found: list[float] = []
    plain_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        found.append(seconds)
        await plain_sleep(0)

    monkeypatch.setattr("gateway.enrolment.guesses.asyncio.sleep", sleep)
    return found


async def test_each_wrong_code_of_an_address_costs_twice_as_much_until_it_is_forgotten(waits: list[float]) -> None:
    clock = FakeClock()
    limiter = GuessLimiter(clock, lambda host: host)
    for _ in range(5):
        await limiter.delay("10.0.0.1")
    assert waits == [0.25, 0.5, 1.0, 2.0, 2.0]
    await limiter.delay("10.0.0.2")
    assert waits[-1] == 0.25, "another address has not guessed"
    clock.now += guesses.FORGIVEN_SECONDS * guesses.MAX_WRONG_CODES
    await limiter.delay("10.0.0.1")
    assert waits[-1] == 0.25


async def test_so_many_answers_are_late_at_a_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "LATE_ANSWERS", 6)
    limiter = GuessLimiter(FakeClock(), lambda host: host.partition(":")[0])

    async def guess(host: str) -> bool:
        """Whether the answer was late."""
        try:
            await limiter.delay(host)
        except RetryableProblem as refusal:
            return refusal.code != "too_many_attempts" or refusal.retry_after <= 0
        return True

    hosts = [f"a:{number}" for number in range(5)] + [f"b:{number}" for number in range(3)]
    late = await asyncio.gather(*(guess(host) for host in hosts))
    assert late == [True] * 4 + [False] + [True] * 2 + [False], "four of an address, six of all"
    assert limiter.sent_away == 2
    assert limiter._late == {}, "nothing is remembered of who waits no more"


async def test_memory_of_addresses_is_bounded(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "REMEMBERED_ADDRESSES", 3)
    limiter = GuessLimiter(FakeClock(), lambda host: host)
    for host in ("a", "b", "c", "a", "d"):
        await limiter.delay(host)
    assert list(limiter._wrong) == ["c", "a", "d"]
