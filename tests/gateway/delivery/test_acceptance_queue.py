"""Which pushes the next operation stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from gateway.delivery.acceptance_queue import BATCH_PUSHES, FEW_DELIVERIES, OPERATION_DELIVERIES, AcceptanceQueue
from gateway.delivery.push import PushRequest
from gateway.delivery.submission import AppRef, PendingPush, Submission, unchecked_push


def pending(devices: int | None = 1, app_no: int = 1, tag: str | None = None) -> PendingPush:
    """A push to so many listed devices; None: to a tag, or to all."""
    target = {"devices": ["x"]} if devices is not None else {"tag": tag} if tag else {"all": True}
    listed = None if devices is None else [f"d{number}" for number in range(devices)]
    pending = unchecked_push(
        AppRef(app_no, f"app-{app_no}"), Submission(PushRequest.model_validate({"target": target}))
    )
    pending.listed = listed
    return pending


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def taken(queue: AcceptanceQueue, held: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """Of each push that the next operation stores the app and the deliveries."""
    batches = queue.next_batches(held)
    queue.called_back(batches)
    return [(batch.pending_pushes[0].app.no, batch.deliveries) for batch in batches]


def test_pushes_to_many_devices_are_stored_a_few_at_a_time(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    for _ in range(5):
        queue.put([pending(2_000)], loop.create_future())
    queue.put([pending(2 * OPERATION_DELIVERIES)], loop.create_future())
    sizes = []
    while queue.has_next():
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
    queue.put([first], loop.create_future())
    batches = queue.next_batches()
    first.push_no, first.targeted = 1, 30
    queue.called_back(batches)
    assert queue.deliveries(pending(None, tag="shop")) == 30
    assert queue.deliveries(pending(None)) == OPERATION_DELIVERIES
    assert queue.deliveries(pending(None, app_no=2, tag="shop")) == OPERATION_DELIVERIES


def test_pushes_to_many_devices_wait_for_those_under_way(loop: asyncio.AbstractEventLoop) -> None:
    queue = AcceptanceQueue()
    for app_no in (1, 2):
        queue.put([pending(OPERATION_DELIVERIES, app_no)], loop.create_future())
    under_way = queue.next_batches()
    assert not queue.has_next()
    assert queue.next_batches() == []
    queue.put([pending()], loop.create_future())
    assert queue.has_next()
    few = queue.next_batches()
    assert [batch.deliveries for batch in few] == [1]
    queue.called_back(few)
    assert not queue.has_next(), "those to few devices say nothing about those to many"
    queue.called_back(under_way)
    assert taken(queue) == [(2, OPERATION_DELIVERIES)]


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("put"), st.integers(1, 3), st.sampled_from([1, FEW_DELIVERIES + 1, OPERATION_DELIVERIES])
            ),
            st.tuples(st.sampled_from(["take", "call back"]), st.sets(st.integers(1, 3)), st.none()),
        ),
        max_size=40,
    )
)
def test_every_push_is_taken_once_and_in_order(moves: list[tuple[str, int | set[int], int | None]]) -> None:
    """Whatever is under way when an operation begins, and in whatever order they end."""
    loop = asyncio.new_event_loop()
    queue = AcceptanceQueue()
    put: list[PendingPush] = []
    under_way: list[list[PendingPush]] = []
    order: list[PendingPush] = []
    operations = []
    for move, argument, devices in [*moves, *[("take", set[int](), None), ("call back", set[int](), None)] * 40]:
        if move == "put":
            assert isinstance(argument, int)
            put.append(pending(devices, argument))
            queue.put([put[-1]], loop.create_future())
        elif move == "take":
            assert isinstance(argument, set)
            can = queue.has_next(argument)
            batches = queue.next_batches(argument)
            pushes = [push for batch in batches for push in batch.pending_pushes]
            assert can == bool(pushes)
            many = [push for push in pushes if len(push.listed or ()) > FEW_DELIVERIES]
            if many:
                assert many == pushes, "one operation stores one kind"
                assert not {push.app.no for push in many} & argument
                assert not any(len(push.listed or ()) > FEW_DELIVERIES for one in under_way for push in one)
            order += pushes
            if batches:
                under_way.append(pushes)
                operations.append(batches)
        elif operations:
            queue.called_back(operations.pop(0))
            under_way.pop(0)
    loop.close()

    def kind(push: PendingPush) -> tuple[bool, int]:
        few = len(push.listed or ()) <= FEW_DELIVERIES
        return few, 0 if few else push.app.no

    def by_kind(pushes: list[PendingPush]) -> dict[tuple[bool, int], list[PendingPush]]:
        return {key: list(group) for key, group in groupby(sorted(pushes, key=kind), kind)}

    assert by_kind(order) == by_kind(put)


def test_few_pushes_of_a_batch_are_prepared_for_one_operation() -> None:
    """Whatever a push to all has counted as lately."""
    queue = AcceptanceQueue()
    one = pending(None)
    queue._selected[1, None, None] = 1
    assert queue.deliveries(one) == 1
    one.is_prepared = False
    assert queue.deliveries(one) * 8 >= OPERATION_DELIVERIES
    one.selection = BitMap([1, 2])
    assert queue.deliveries(one) == 2
