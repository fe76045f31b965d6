from __future__ import annotations

import asyncio

import pytest

from gateway.periodic import ServerTimers, repeat


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


async def test_what_was_to_be_tried_again_later_is_not_when_the_server_has_ended() -> None:
    loop = asyncio.get_running_loop()
    timers = ServerTimers(loop)
    called = []
    timers.call_later(0, lambda: called.append("in time"))
    await asyncio.sleep(0.01)
    timers.call_later(0, lambda: called.append("too late"))
    timers.end()
    await asyncio.sleep(0.01)
    assert called == ["in time"]
