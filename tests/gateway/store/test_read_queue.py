from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.errors import RetryableProblem
from gateway.store import read_queue
from gateway.store.read_queue import ReadQueue

BUSY, OTHER = 1, 2
THREADS = 2


class Turns:
    """A queue whose work waits until the test lets it go, one by one, and a clock that moves with it."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(THREADS)
        self.seconds = 0.0
        self.queue = ReadQueue(self.executor, THREADS, asyncio.get_running_loop(), lambda: self.seconds)
        self.order: list[int] = []
        self.gates: list[threading.Event] = []

    def ask(self, app_no: int) -> asyncio.Task[None]:
        gate = threading.Event()
        self.gates.append(gate)

        def work() -> None:
            self.order.append(app_no)
            assert gate.wait(10)

        return asyncio.ensure_future(self.queue.run(app_no, work))


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    turns = Turns()
    yield turns
    for gate in turns.gates:
        gate.set()
    turns.queue.close()
    turns.executor.shutdown()


async def test_one_app_never_has_all_threads(turns: Turns) -> None:
    busy = [turns.ask(BUSY) for _ in range(10)]
    await asyncio.sleep(0)
    other = turns.ask(OTHER)
    turns.gates[-1].set()
    await asyncio.wait_for(other, 5)
    assert not any(task.done() for task in busy)
    assert turns.order.count(BUSY) == 1


async def test_who_has_used_least_comes_next(turns: Turns) -> None:
    first = turns.ask(BUSY)
    others = [turns.ask(BUSY) for _ in range(3)]
    await asyncio.sleep(0)
    turns.seconds = 5.0
    turns.gates[0].set()
    await asyncio.wait_for(first, 5)
    later = turns.ask(OTHER)
    turns.gates[-1].set()
    await asyncio.wait_for(later, 5)
    again = turns.ask(OTHER)
    turns.gates[-1].set()
    await asyncio.wait_for(again, 5)
    assert not any(task.done() for task in others)


async def test_an_app_whose_queue_is_full_is_told_to_come_again(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(read_queue, "WAITING_READS_OF_APP", 3)
    for _ in range(4):
        turns.ask(BUSY)
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(RetryableProblem) as refusal:
            await turns.queue.run(BUSY, lambda: None)
    assert refusal.value.code == "busy"
    assert refusal.value.retry_after > 0
    assert turns.queue.refused["queue_full"] == 2
    assert len(caplog.messages) == 1  # a line for both
    turns.ask(OTHER)
    await asyncio.sleep(0)
    assert turns.queue.waiting == 3


async def test_what_nobody_waits_for_any_more_is_not_done(turns: Turns) -> None:
    first, second, third = (turns.ask(BUSY) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    for gate in turns.gates:
        gate.set()
    await asyncio.gather(first, third)
    assert turns.order == [BUSY, BUSY]
    assert turns.queue.waiting == 0


async def test_the_error_of_a_read_is_its_callers(turns: Turns) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await turns.queue.run(BUSY, fail)
