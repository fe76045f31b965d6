"""Connections that come, go, are removed, or are found again after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.delivery.engine import COMPLETED, LOST
from tests.gateway.delivery.world import World


def test_a_removed_device_ends_everything_revoked_also_in_flight(world: World) -> None:
    world.connect()
    push = world.push()
    assert world.remove() == 1
    world.settle()
    assert world.row("SELECT state, reason FROM whole_delivery") == (31, "device_removed")
    assert world.connections.online == 0
    assert world.counts(push.push_id) == {"targeted": 1, "revoked": 1}


def test_a_removal_is_answered_when_the_session_is_gone_from_the_disk_too(world: World) -> None:
    deleted: list[Callable[[], None]] = []
    world.engine.on_removed = deleted.append
    world.connect()
    removal = world.loop.create_task(world.connections.remove_device(1, "d1", lambda connection, now: None))
    world.loop.run_until_complete(asyncio.sleep(0))
    assert deleted
    assert not world.connections.presence(1).online
    assert not removal.done()
    deleted[0]()
    world.loop.run_until_complete(removal)


def test_a_side_connection_has_no_mailbox(world: World) -> None:
    world.connections.connected("d1:r", world.identities[1], False)
    assert not world.connections.presence(1).online
    world.connections.delivery_ended("d1:r", 1 << 32 | 1, LOST)
    world.connections.disconnected("d1:r", "closed")
    assert world.connections.online == 0


def test_after_a_restart_what_the_carrier_holds_past_pubrec_is_not_handed_over_again(world: World) -> None:
    push = world.push(qos=2)
    world.crash()
    world.engine.past_pubrec = lambda: [("d1", 1 << 32 | 1)]  # type: ignore[method-assign]
    world.run(world.connections.recover())
    world.connect(granted=2)
    assert world.received() == []
    world.connections.delivery_ended("d1", 1 << 32 | 1, COMPLETED)
    world.settle()
    assert world.state(push.push_id) == ("delivered", None)
    assert world.engine.forgotten == [1 << 32 | 1]


def test_after_a_restart_what_was_in_flight_is_judged_like_after_any_lost_connection(world: World) -> None:
    world.connect()
    recalled = world.push().push_id
    superseded = world.push(collapse_key="k").push_id
    newer = world.push(collapse_key="k").push_id
    world.run(world.ledger.recalls.recall(1, recalled))
    world.crash()
    world.run(world.connections.recover())
    assert world.state(recalled) == ("cancelled", "recalled")
    assert world.state(superseded) == ("superseded", "collapse_key")
    world.connect()
    assert world.received() == [newer]


def test_a_session_of_a_removed_device_that_a_kill_left_behind_is_removed_at_start(world: World) -> None:
    world.connect(1)
    world.connect(2)
    sessions = world.engine.sessions
    world.connection.execute("UPDATE device SET removed_at = 1 WHERE no = 1")
    world.crash()
    world.engine.sessions.update(sessions)
    world.engine.sessions["shop/d2"] = sessions["d2"]
    for session in sessions.values():
        session.connected = False
    world.run(world.connections.recover())
    assert set(world.engine.sessions) == {"d2"}
