"""The order and the size of what is taken from the queue of fan-outs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.delivery import fan_out
from gateway.delivery.fan_out import FanOutQueue
from gateway.delivery.push import ActivePush
from tests.gateway.delivery.world import APP, World


@pytest.fixture(autouse=True)
def _slices_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_out, "SLICE_DELIVERIES", 3)


def a_push(no: int, priority: int = 2, ttl: int = 60) -> ActivePush:
    return ActivePush(
        no=no, app_no=1, push_id=f"p{no}", kind="silent", priority=priority, qos=1, ttl=ttl, collapse_key=None,
        channel=None, content="{}", accepted_at=0, expires_at=ttl * 1000,
    )  # fmt: skip


def taken(queue: FanOutQueue) -> list[tuple[int, Sequence[int]]]:
    return [(push.no, list(devices)) for pushes, devices, _ in queue.next_slice() for push in pushes]


def test_a_large_offer_is_taken_in_slices() -> None:
    queue = FanOutQueue()
    queue.add(a_push(1), range(7))
    assert taken(queue) == [(1, [0, 1, 2])]
    assert taken(queue) == [(1, [3, 4, 5])]
    assert queue
    assert taken(queue) == [(1, [6])]
    assert not queue
    assert taken(queue) == []


def test_the_most_urgent_and_then_the_small_ones_come_first() -> None:
    queue = FanOutQueue()
    queue.add(a_push(1, priority=2), range(4))
    queue.add(a_push(2, priority=2), [1])
    queue.add(a_push(3, priority=0), range(4))
    queue.add(a_push(4, priority=3), [1])
    order = []
    while queue:
        order += [number for number, _ in taken(queue)]
    assert list(dict.fromkeys(order)) == [3, 2, 1, 4]


def test_what_is_small_and_later_is_given_after_what_it_overtakes() -> None:
    queue = FanOutQueue()
    queue.add(large := a_push(1), range(9))
    queue.add(small := a_push(2), [8])
    slice_ = queue.next_slice()
    assert next(slice_) == ([small], [8], True)
    assert queue.overtaken(small, 8) == [large]
    assert queue.overtaken(small, 8) == [], "it is given once"
    assert [device for _ in range(3) for _, some in taken(queue) for device in some] == list(range(8))


def test_less_urgent_ones_are_overtaken_without_more_ado() -> None:
    queue = FanOutQueue()
    queue.add(a_push(1, priority=3), range(9))
    queue.add(urgent := a_push(2, priority=0), [8])
    assert next(queue.next_slice()) == ([urgent], [8], False)
    assert queue.overtaken(urgent, 8) == []


def test_who_is_withdrawn_is_not_taken() -> None:
    queue = FanOutQueue()
    queue.add(a_push(1), range(5))
    queue.withdraw([(1, 0), (1, 4), (2, 3)])
    assert [device for _ in range(2) for _, devices in taken(queue) for device in devices] == [1, 2, 3]
    assert not queue


def test_those_that_act_now_are_named() -> None:
    queue = FanOutQueue()
    queue.add(a_push(1, ttl=0), range(5))
    queue.add(a_push(2), range(5))
    assert queue.act_now() == [1]


def test_a_delivery_that_was_superseded_before_its_slice_is_not_handed_over() -> None:
    world = World(devices=5)
    try:
        for device_no in range(1, 6):
            world.connect(device_no)
        request = world.request({"all": True}, collapse_key="k")
        first = world.loop.create_task(world.acceptance.accept(APP, request))
        world.loop.run_until_complete(asyncio.sleep(0))
        world.timers.turn()
        second = world.loop.create_task(world.acceptance.accept(APP, request))
        world.loop.run_until_complete(asyncio.sleep(0))
        world.writer.drain()  # both are stored before the loop comes to the second slice of the first
        world.loop.run_until_complete(asyncio.wait([first, second]))
        world.settle()
        older, newer = first.result().push_id, second.result().push_id
        assert [world.received(device_no) for device_no in (1, 5)] == [[older, newer], [newer]]
        assert world.state(older, 5) == ("superseded", "collapse_key")
    finally:
        world.close()


def test_what_gathers_for_the_same_devices_is_walked_through_together() -> None:
    queue = FanOutQueue()
    queue.add(a_push(1), range(4))
    queue.add(a_push(2), range(4))
    queue.add(a_push(3), range(5))  # other devices
    assert taken(queue) == [(1, [0]), (2, [0]), (1, [1]), (2, [1])]
    queue.add(a_push(4), range(4))  # the first bundle is under way
    order = []
    while queue:
        order += taken(queue)
    assert order[:4] == [(1, [2]), (2, [2]), (1, [3]), (2, [3])]
    assert [number for number, _ in order[4:]] == [3, 3, 4, 4]


def test_what_has_ended_of_one_of_a_bundle_is_offered_of_the_others() -> None:
    queue = FanOutQueue()
    queue.add(a_push(1), range(4))
    queue.add(a_push(2), range(4))
    queue.withdraw([(1, 0), (2, 3)])
    found: dict[int, list[int]] = {1: [], 2: []}
    while queue:
        for number, devices in taken(queue):
            found[number] += devices
    assert found == {1: [1, 2, 3], 2: [0, 1, 2]}


@pytest.mark.parametrize("unfit", [a_push(2, ttl=0), a_push(2, priority=1)])
def test_now_or_never_and_other_priorities_go_by_themselves(unfit: ActivePush) -> None:
    queue = FanOutQueue()
    queue.add(a_push(1), range(4))
    queue.add(unfit, range(4))
    assert len({push.no for pushes, _, _ in queue.next_slice() for push in pushes}) == 1


def test_a_bundle_leaves_with_one_system_call_per_device_and_in_order() -> None:
    world = World(devices=5, window=9, mailbox_limit=100)
    for device_no in range(1, 6):
        world.connect(device_no)
    # Accepted together: all of them wait to be handed over when the first is.
    requests = [world.request({"all": True}) for _ in range(4)]
    tasks = [world.loop.create_task(world.acceptance.accept(APP, request)) for request in requests]
    world.loop.run_until_complete(asyncio.sleep(0))
    world.settle()
    world.loop.run_until_complete(asyncio.wait(tasks))
    expected = [task.result().push_id for task in tasks]
    for device_no in range(1, 6):
        assert world.received(device_no) == expected
    assert world.engine.gathered == 5
    world.close()
