from __future__ import annotations

import asyncio

import pytest

from gateway.periodic import repeat


async def test_what_fails_is_told_of_and_keeps_no_other_from_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0
    enough = asyncio.Event()

    def fail() -> None:
        raise ZeroDivisionError

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            enough.set()

    task = asyncio.create_task(repeat(0, fail, count))
    await asyncio.wait_for(enough.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.exc_info is not None for record in caplog.records[:3]] == [True] * 3
