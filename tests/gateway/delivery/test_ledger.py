"""The sweep; what else the ledger promises is held up by `test_ledger_machine` and the tests of its neighbours."""

from __future__ import annotations

import asyncio

import pytest

from gateway.delivery import ledger
from gateway.store.deliveries import ledger_statements
from tests.gateway.delivery.world import APP, World


@pytest.mark.parametrize(("qos", "state"), [(0, "sent"), (1, "delivered")])
def test_the_sweep_leaves_ttl_zero_alone_until_it_was_offered(world: World, qos: int, state: str) -> None:
    world.connect()
    world.ledger.expects_expiry(world.now)  # something else is due
    task = world.loop.create_task(world.acceptance.accept(APP, world.request(ttl=0, qos=qos)))
    world.loop.run_until_complete(asyncio.sleep(0))
    world.timers.turn()  # the push is on its way to the disk
    world.ledger.sweep()
    world.writer.commit_group()
    world.settle()
    world.loop.run_until_complete(task)
    if qos:
        world.acknowledge()
    assert world.state(task.result().push_id) == (state, None)


def test_what_hangs_in_flight_does_not_keep_others_from_expiring(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_statements, "SWEEP_PUSHES", 3)
    world.connect(1)
    flying = [world.push(ttl=1).push_id for _ in range(3)]
    waiting = world.push({"device": "d2"}, ttl=2).push_id
    world.passes(5)
    assert world.state(waiting, 2) == ("expired", "ttl")
    assert [world.state(push_id)[0] for push_id in flying] == ["sent"] * 3
    world.acknowledge()
    world.disconnect()
    world.passes(1)
    assert [world.state(push_id)[0] for push_id in flying] == ["delivered", "expired", "expired"]
    assert world.row("SELECT count(*) FROM push WHERE closed_at IS NULL") == (0,)


def test_one_sweep_ends_all_that_is_due_slice_by_slice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_statements, "SWEEP_PUSHES", 2)
    pushes = [world.push(ttl=1).push_id for _ in range(5)]
    world.passes(2)
    assert [world.state(push_id) for push_id in pushes] == [("expired", "ttl")] * 5


def acknowledge(world: World, count: int = 1) -> None:
    """So many devices have answered, and nothing has moved since."""
    for _ in range(count):
        world.engine.settle(world.identities[1].client_id, 0)


def accept(world: World) -> None:
    """A push is handed to the writer."""
    world.loop.create_task(world.acceptance.accept(APP, world.request()))
    world.loop.run_until_complete(asyncio.sleep(0))


def test_an_acknowledgement_leaves_with_the_pushes_that_are_stored_next(world: World) -> None:
    world.connect()
    push_id = world.push().push_id
    acknowledge(world)
    world.timers.turn()
    accept(world)
    assert len(world.writer.queue) == 1, "it has not gathered for long enough"
    world.timers.turn()
    assert len(world.writer.queue) == 1, "it will not be long until the next push"
    world.writer.commit_group()
    accept(world)
    assert len(world.writer.queue) == 2, "one for the push, and one for the acknowledgement"
    world.settle()
    assert world.state(push_id)[0] == "delivered"


@pytest.mark.parametrize("form", ["rows"], indirect=True)  # rows are counted
def test_an_acknowledgement_leaves_alone_when_nothing_is_stored(world: World) -> None:
    world.connect()
    push_id = world.push().push_id
    world.timers.turn()
    acknowledge(world)
    for _ in range(ledger.DUE_CHECKS):
        assert world.writer.queue == []
        world.timers.turn()
    world.writer.commit_group()
    assert world.row("SELECT count(*) FROM delivery WHERE state = 10") == (1,)
    world.settle()
    assert world.state(push_id)[0] == "delivered"


def test_many_acknowledgements_wait_for_no_push(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MANY_OUTCOMES", 2)
    world.connect()
    for _ in range(2):
        world.push()
    acknowledge(world, 2)
    world.timers.turn()
    accept(world)
    assert len(world.writer.queue) == 1
    world.timers.turn()
    assert len(world.writer.queue) == 2
    world.settle()


@pytest.mark.parametrize("form", ["rows"], indirect=True)  # rows are counted
def test_acknowledgements_leave_when_the_ones_before_have_been_recorded(world: World) -> None:
    world.connect()
    for _ in range(3):
        world.push()
    acknowledge(world)
    world.ledger.flush()
    acknowledge(world, 2)
    for _ in range(ledger.MAX_CHECKS):
        world.timers.turn()
    assert len(world.writer.queue) == 1, "one flush at a time"
    world.writer.commit_group()
    world.writer.call_back()
    assert len(world.writer.queue) == 1
    world.writer.commit_group()
    assert world.row("SELECT count(*) FROM delivery WHERE state = 10") == (3,)
    world.settle()
