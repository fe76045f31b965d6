"""Recalls, emptied mailboxes and removed devices: a part at a time; the next start finishes what a kill leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from gateway.errors import problem
from gateway.store.deliveries import ledger_statements
from gateway.store.errors import OutcomeUnknown, StorageFull
from tests.gateway.delivery.world import APP, World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Parts of two deliveries; five devices, mailboxes of fifty."""
    for name in (
        "gateway.delivery.ledger",
        "gateway.store.deliveries.ledger_statements",
        "gateway.delivery.device_connections",
    ):
        monkeypatch.setattr(f"{name}.ENDED_DELIVERIES", 2)
    monkeypatch.setattr(ledger_statements, "RECALLED_DELIVERIES", 2)
    world = World(devices=5, mailbox_limit=50)
    yield world
    world.close()


def ended(world: World) -> int:
    return int(world.row("SELECT count(*) FROM whole_delivery WHERE state <> 0")[0])


def until_some_ended(world: World, operation: Coroutine[Any, Any, Any]) -> None:
    """A kill comes when some have ended and others not."""
    writer: Any = world.writer
    write, killed = writer.write, asyncio.Event()

    async def write_until_killed(*arguments: Any, **declared: Any) -> Any:
        if ended(world):
            killed.set()
            await asyncio.Event().wait()
        return await write(*arguments, **declared)

    writer.write = write_until_killed
    task = world.loop.create_task(operation)
    world.loop.run_until_complete(asyncio.wait_for(killed.wait(), 5))
    task.cancel()
    world.crash()


def test_a_recall_counts_all_its_parts(world: World) -> None:
    world.connect(2)
    world.connect(3)
    recalled = world.push({"all": True}).push_id
    world.acknowledge(3)
    other = world.push({"all": True}).push_id
    result = world.run(world.ledger.recalls.recall(APP.no, recalled))
    assert result == {"cancelled": 3, "in_flight": 1, "too_late": 1}
    assert world.counts(recalled) == {"targeted": 5, "cancelled": 3, "sent": 1, "delivered": 1}
    assert "cancelled" not in world.counts(other)
    world.check_events()


@pytest.mark.parametrize("form", ["rows"], indirect=True)  # a set is recalled in one piece
def test_a_recall_that_a_kill_interrupts_is_finished(world: World) -> None:
    recalled = world.push({"all": True}).push_id
    until_some_ended(world, world.ledger.recalls.recall(APP.no, recalled))
    assert 0 < ended(world) < 5
    world.run(world.connections.recover())
    assert world.counts(recalled) == {"targeted": 5, "cancelled": 5}
    world.check_events()


def refuse(world: World, monkeypatch: pytest.MonkeyPatch, write_no: int, error: Exception, meanwhile: Any) -> None:
    """The database refuses what is written as this number from now on, after something else has happened."""
    write, count = world.writer.write, 0

    async def write_or_refuse(*arguments: Any, **declared: Any) -> Any:
        nonlocal count
        count += 1
        if count == write_no:
            meanwhile()
            world.settle()
            raise error
        return await write(*arguments, **declared)

    monkeypatch.setattr(world.writer, "write", write_or_refuse)


@pytest.mark.parametrize("error", [StorageFull("no room"), problem("busy", "too many changes of this app wait")])
def test_a_push_goes_on_when_its_recall_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It was withheld from devices until the next start, though its sender was told that nothing was stored."""
    push_id = world.push({"all": True}).push_id
    refuse(world, monkeypatch, 2, error, lambda: world.connect(2))
    with pytest.raises(type(error)):
        world.run(world.ledger.recalls.recall(APP.no, push_id))
    world.settle()
    assert world.received(2) == [push_id]
    world.connect(3)
    assert world.received(3) == [push_id]
    world.acknowledge(3)
    assert world.run(world.ledger.recalls.recall(APP.no, push_id)) == {"cancelled": 3, "in_flight": 1, "too_late": 1}
    world.connect(4)
    assert world.received(4) == []


def test_a_recall_whose_outcome_is_unknown_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on disk; the process ends, and the next start knows."""
    push_id = world.push({"all": True}).push_id
    refuse(world, monkeypatch, 2, OutcomeUnknown("no answer"), lambda: None)
    with pytest.raises(OutcomeUnknown):
        world.run(world.ledger.recalls.recall(APP.no, push_id))
    world.settle()
    world.connect(2)
    assert world.received(2) == []


@pytest.mark.parametrize("form", ["rows"], indirect=True)  # a set is recalled in one piece
def test_what_is_left_of_a_recall_is_taken_back_when_it_can_be_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_id = world.push({"all": True}).push_id
    refuse(world, monkeypatch, 4, StorageFull("no room"), lambda: None)
    with pytest.raises(StorageFull):
        world.run(world.ledger.recalls.recall(APP.no, push_id))
    world.settle()
    assert world.counts(push_id) == {"targeted": 5, "cancelled": 5}
    world.check_events()


def test_what_is_stored_while_a_mailbox_is_emptied_stays(world: World) -> None:
    for _ in range(5):
        world.push()
    writer: Any = world.writer
    write = writer.write
    pushed = []

    async def write_and_push(*arguments: Any, **declared: Any) -> Any:
        result = await write(*arguments, **declared)
        writer.write = write
        pushed.append(await world.acceptance.accept(APP, world.request()))
        return result

    writer.write = write_and_push
    assert world.run(world.ledger.empty_mailbox(1)) == 5
    assert world.state(pushed[0].push_id) == ("waiting", None)
    world.check_events()


def test_the_removal_of_a_device_that_a_kill_interrupts_is_finished(world: World) -> None:
    for _ in range(5):
        world.push({"devices": ["d1", "d2"]})

    def forget(connection: Any, now: int) -> None:
        connection.execute("UPDATE device SET removed_at = ? WHERE no = 1", (now,))

    until_some_ended(world, world.connections.remove_device(1, "d1", forget))
    world.run(world.connections.recover())
    assert world.row("SELECT count(*) FROM whole_delivery WHERE device_no = 1 AND reason = 'device_removed'") == (5,)
    assert world.row("SELECT count(*) FROM whole_delivery WHERE device_no = 2 AND state = 0") == (5,)
    world.check_events()


def test_a_removed_device_has_nothing_waiting(world: World) -> None:
    for _ in range(5):
        world.push()
    assert world.remove(1) == 5
