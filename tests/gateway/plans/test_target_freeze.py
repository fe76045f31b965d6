from __future__ import annotations

import asyncio

from gateway.plans.target_freeze import FreezeTurns

AGAIN_MS = 1_000


async def test_an_app_with_many_campaigns_waits_behind_the_others_after_each() -> None:
    now = [0]
    turns = FreezeTurns(lambda: now[0], AGAIN_MS)
    frozen = []
    assert turns.is_turn_of(1)
    await turns.lock.acquire()
    for app_no in (1, 1, 2, 1, 3):
        assert not turns.is_turn_of(app_no)
    for _ in range(6):
        turns.lock.release()
        now[0] += AGAIN_MS
        for app_no in (1, 1, 3, 1, 2):  # in whichever order they ask again
            if turns.is_turn_of(app_no):
                frozen.append(app_no)
                await turns.lock.acquire()
    assert frozen == [1, 2, 3, 1, 2, 1], "the last of them asked again before the third did"


async def test_who_does_not_come_back_holds_up_nobody() -> None:
    now = [0]
    turns = FreezeTurns(lambda: now[0], AGAIN_MS)
    async with turns.lock:
        assert not turns.is_turn_of(1)
        assert not turns.is_turn_of(2)
    await asyncio.sleep(0)
    assert not turns.is_turn_of(2), "it is the turn of another"
    now[0] += 6 * AGAIN_MS
    assert turns.is_turn_of(2)
