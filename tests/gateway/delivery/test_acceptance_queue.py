"""Which pushes the next operation stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gateway.delivery.acceptance_queue import BATCH_PUSHES, FEW_DELIVERIES, OPERATION_DELIVERIES, AcceptanceQueue
from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AppRef, PendingPush, Submission


def pending(devices: int | None = 1, app_no: int = 1, tag: str | None = None) -> PendingPush:
    """A push to so many listed devices; None: to a tag, or to all."""
    target = {"devices": ["x"]} if devices is not None else {"tag": tag} if tag else {"all": True}
    listed = None if devices is None else [f"d{number}" for number in range(devices)]
    request = PushRequest.model_validate({"target": target})
    return PendingPush(AppRef(app_no, f"app-{app_no}"), Submission(request), "{}", 2, listed, 2)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def taken(queue: AcceptanceQueue, held: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """Of each push that the next operation stores the app and the deliveries."""
    return [(batch.pending_pushes[0].app.no, batch.deliveries) for batch in queue.next_batches(held)]


def test_pushes_to_many_devices_are_stored_a_few_at_a_time(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    for _ in range(5):
        queue.put([pending(2_000)], loop.create_future())
    queue.put([pending(2 * OPERATION_DELIVERIES)], loop.create_future())
    sizes = []
    while queue:
        sizes.append([deliveries for _, deliveries in taken(queue)])
    assert sizes == [[2_000, 2_000], [2_000, 2_000], [2_000], [2 * OPERATION_DELIVERIES]]
    assert queue.divided == 3


def test_pushes_to_few_devices_come_between(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    for _ in range(3):
        queue.put([pending(OPERATION_DELIVERIES)], loop.create_future())
    queue.put([pending()], loop.create_future())
    assert taken(queue) == [(1, 1)]
    assert taken(queue) == [(1, OPERATION_DELIVERIES)]
    queue.put([pending(FEW_DELIVERIES)], loop.create_future())
    assert taken(queue) == [(1, FEW_DELIVERIES)]


def test_pushes_to_few_devices_are_bounded_together(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    for _ in range(BATCH_PUSHES + 1):
        queue.put([pending()], loop.create_future())
    assert len(queue.next_batches()) == BATCH_PUSHES
    for _ in range(BATCH_PUSHES):
        queue.put([pending(FEW_DELIVERIES)], loop.create_future())
    assert sum(batch.deliveries for batch in queue.next_batches()) <= OPERATION_DELIVERIES + FEW_DELIVERIES


def test_apps_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    for app_no in (1, 1, 1, 2, 3):
        queue.put([pending(OPERATION_DELIVERIES, app_no)], loop.create_future())
    assert [taken(queue)[0][0] for _ in range(5)] == [1, 2, 3, 1, 1]


def test_an_app_that_is_held_keeps_no_other_waiting(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    for app_no in (1, 2):
        queue.put([pending(OPERATION_DELIVERIES, app_no)], loop.create_future())
    assert taken(queue, held=(1,)) == [(2, OPERATION_DELIVERIES)]
    assert taken(queue, held=(1,)) == []
    queue.put([pending(1)], loop.create_future())
    assert taken(queue, held=(1,)) == [(1, 1)]
    assert taken(queue) == [(1, OPERATION_DELIVERIES)]


def test_what_a_selection_comes_to_is_learnt(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    first = pending(None, tag="shop")
    assert queue.deliveries(first) == OPERATION_DELIVERIES
    first.push_no, first.targeted = 1, 30
    queue.stored([first])
    assert queue.deliveries(pending(None, tag="shop")) == 30
    assert queue.deliveries(pending(None)) == OPERATION_DELIVERIES
    assert queue.deliveries(pending(None, app_no=2, tag="shop")) == OPERATION_DELIVERIES
