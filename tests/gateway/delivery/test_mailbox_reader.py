"""Who is read first, and what a storm of connections keeps back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.delivery import mailbox_reader
from gateway.delivery.mailbox_reader import HandOverState
from tests.gateway.delivery.world import World

DEVICES = (1, 2, 3)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(window=8, mailbox_limit=100)
    yield world
    world.close()


@pytest.fixture
def small_storms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_reader, "STORM_CONNECTS", 2)


def waiting(world: World) -> dict[str, str]:
    """A push of each priority to everybody, the least urgent first; their ids."""
    return {
        priority: world.push({"all": True}, priority=priority).push_id
        for priority in ("low", "normal", "high", "critical")
    }


def test_a_mailbox_is_read_by_priority(world: World) -> None:
    ids = waiting(world)
    world.connect(1)
    assert world.received(1) == [ids[priority] for priority in ("critical", "high", "normal", "low")]


def test_a_storm_brings_what_is_critical_to_everybody_first(world: World, small_storms: None) -> None:
    ids = waiting(world)
    world.connect(1)  # one is no storm
    world.connect(2)
    world.connect(3)
    assert world.received(2) == world.received(3) == [ids["critical"]]
    world.now += mailbox_reader.CALM_MS
    world.timers.later_turn()
    world.settle()
    for device_no in DEVICES:
        assert world.received(device_no) == [ids[priority] for priority in ("critical", "high", "normal", "low")]


def test_after_a_storm_each_priority_comes_to_all_before_the_next(
    world: World, small_storms: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_reader, "READ_DEVICES", 1)
    ids = waiting(world)
    order: list[tuple[str, str]] = []
    world.engine.on_hand_over = lambda client_id, hand_over: order.append((client_id, str(hand_over.handle >> 32)))
    for device_no in DEVICES:
        world.connect(device_no)
    world.now += mailbox_reader.CALM_MS
    world.timers.later_turn()
    world.settle()
    numbers = [number for client_id, number in order if client_id != "d1"]
    assert [len(world.received(device_no)) for device_no in DEVICES] == [4, 4, 4]
    assert numbers == sorted(numbers, reverse=True), "the later ones are the more urgent ones"
    assert len(ids) == 4


def test_a_storm_that_does_not_end_keeps_nothing_back_for_ever(world: World, small_storms: None) -> None:
    ids = waiting(world)
    for device_no in (2, 3):
        world.connect(device_no)
    for _ in range(mailbox_reader.STORM_LIMIT_MS // 200 + 2):
        world.now += 200
        world.connect(1)
        world.connect(3)
        world.timers.later_turn()
        world.settle()
    assert ids["low"] in world.received(2)


def test_what_is_urgent_and_new_does_not_wait_in_a_storm(world: World, small_storms: None) -> None:
    ids = waiting(world)
    for device_no in DEVICES:
        world.connect(device_no)
    assert world.received(3) == [ids["critical"]]
    urgent = world.push({"device": "d3"}, priority="critical").push_id
    usual = world.push({"device": "d3"}, priority="normal").push_id
    assert world.received(3) == [ids["critical"], urgent]
    world.now += mailbox_reader.CALM_MS
    world.timers.later_turn()
    world.settle()
    assert world.received(3) == [ids["critical"], urgent, ids["high"], ids["normal"], usual, ids["low"]]


def test_a_device_that_leaves_is_queued_no_more(world: World, small_storms: None) -> None:
    waiting(world)
    for device_no in DEVICES:
        world.connect(device_no)
    device = world.hand_over.devices[3]
    assert device.state is HandOverState.WAITING
    before = world.hand_over.reader.waiting
    world.disconnect(3)
    assert device.state.value == "closed"
    assert world.hand_over.reader.waiting == before - 1


def test_a_deep_mailbox_is_read_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_reader, "READ_ROWS", 2)
    pushes = [world.push({"all": True}).push_id for _ in range(7)]
    for device_no in DEVICES:
        world.connect(device_no)
    for device_no in DEVICES:
        assert world.received(device_no) == pushes


def test_a_full_window_is_refilled_from_the_mailbox(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_reader, "READ_ROWS", 1)
    pushes = [world.push().push_id for _ in range(20)]
    world.connect(1)
    assert world.received(1) == pushes[:8]
    world.acknowledge_all(1)
    assert world.received(1) == pushes


def test_the_next_mailbox_is_read_while_the_last_is_handed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_reader, "READ_DEVICES", 1)
    world.push({"all": True})
    reading: list[bool] = []
    world.engine.on_hand_over = lambda *_: reading.append(bool(world.writer.queue))
    for device_no in DEVICES:
        world.engine.connect(world.identities[device_no], 1)
    world.settle()
    assert reading == [True, True, False]
