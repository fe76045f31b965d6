"""Requests that are begun some at a time, and shares in turn."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from gateway.api.request_turns import REQUESTS_PER_TURN, SLICE_SECONDS, RequestTurns


async def test_no_more_than_some_requests_are_begun_in_a_turn_of_the_loop() -> None:
    turns = RequestTurns(asyncio.get_running_loop())
    begun: list[int] = []
    for number in range(3 * REQUESTS_PER_TURN):
        turns.begin(lambda: "one", lambda number=number: begun.append(number))  # type: ignore[misc]
    assert len(begun) == REQUESTS_PER_TURN
    assert turns.waiting == turns.waited == 2 * REQUESTS_PER_TURN
    await asyncio.sleep(0)
    assert len(begun) == 2 * REQUESTS_PER_TURN
    await asyncio.sleep(0)
    assert begun == list(range(3 * REQUESTS_PER_TURN))
    assert turns.waiting == 0


async def test_shares_take_turns() -> None:
    turns = RequestTurns(asyncio.get_running_loop())
    begun: list[str] = []
    for share in ["flood"] * 20 + ["other"] * 2:
        turns.begin(lambda share=share: share, lambda share=share: begun.append(share))  # type: ignore[misc]
    await asyncio.sleep(0)
    assert begun[REQUESTS_PER_TURN:] == ["flood", "other", "flood", "other"]


async def test_who_comes_while_others_wait_waits_behind_them() -> None:
    turns = RequestTurns(asyncio.get_running_loop())
    begun: list[int] = []

    def begin(number: int) -> None:
        turns.begin(lambda: "one", lambda: begun.append(number))

    for number in range(2 * REQUESTS_PER_TURN + 1):
        begin(number)
    await asyncio.sleep(0)
    begin(100)
    await asyncio.sleep(0)
    assert begun[-2:] == [2 * REQUESTS_PER_TURN, 100]


async def test_a_large_body_is_parsed_in_a_turn_of_its_own() -> None:
    turns = RequestTurns(asyncio.get_running_loop())
    bodies = [asyncio.ensure_future(turns.wait_for_large_body("one")) for _ in range(3)]
    given_up = asyncio.ensure_future(turns.wait_for_large_body("two"))
    done = []
    for number in range(8):
        if number == 1:
            given_up.cancel()
        await asyncio.sleep(0)
        done.append(sum(body.done() for body in bodies))
    assert all(later - earlier <= 1 for earlier, later in pairwise(done))
    assert done[-1] == 3


async def test_slices_of_long_work_leave_half_of_the_time_to_others() -> None:
    """However many requests do some."""
    loop = asyncio.get_running_loop()
    turns = RequestTurns(loop)
    began = loop.time()

    async def work() -> None:
        for _ in range(5):
            await turns.next_slice()

    await asyncio.gather(work(), work(), work())
    assert loop.time() - began >= 15 * SLICE_SECONDS
