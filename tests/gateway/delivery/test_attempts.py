"""A push that its device does not take ends with a reason instead of being sent for ever."""

from __future__ import annotations

from typing import Any

from gateway.delivery.engine import UNHANDLED
from gateway.delivery.ledger import MAX_ATTEMPTS
from tests.gateway.delivery.world import APP, World, items


def fail(world: World, device_no: int = 1) -> None:
    """What is in flight first is not taken, and the connection ends."""
    session = world.engine.session(world.identities[device_no].client_id)
    handle = session.inflight[0].handle
    world.connections.delivery_ended(session_id(world, device_no), handle, UNHANDLED)
    world.disconnect(device_no)


def session_id(world: World, device_no: int) -> str:
    return world.identities[device_no].client_id


def attempts(world: World, push_id: str) -> int:
    page = items(world.run(world.reports.deliveries(APP.no, push_id, 10, None)))
    return int(page[0]["attempts"])


def test_a_push_that_is_not_taken_ends_refused(world: World) -> None:
    accepted = world.push()
    for attempt in range(MAX_ATTEMPTS):
        assert world.state(accepted.push_id) == ("waiting", None)
        assert attempts(world, accepted.push_id) == attempt
        world.connect()
        fail(world)
    assert world.state(accepted.push_id) == ("refused", "not_acknowledged")
    assert attempts(world, accepted.push_id) == MAX_ATTEMPTS
    assert world.counts(accepted.push_id) == {"targeted": 1, "refused": 1}
    handed_over = len(world.received())
    world.connect()
    assert len(world.received()) == handed_over
    world.check_events()
    assert world.ledger.failed_attempts == MAX_ATTEMPTS


def test_attempts_are_counted_across_crashes_of_the_server(world: World) -> None:
    accepted = world.push()
    for _ in range(MAX_ATTEMPTS):
        world.connect()
        fail(world)
        world.crash()
    assert world.state(accepted.push_id) == ("refused", "not_acknowledged")


def test_what_is_lost_or_in_flight_at_a_crash_is_no_failed_attempt(world: World) -> None:
    accepted = world.push()
    for _ in range(MAX_ATTEMPTS + 1):
        world.connect()
        world.disconnect()
        world.connect()
        world.crash()
    assert world.state(accepted.push_id) == ("waiting", None)
    assert attempts(world, accepted.push_id) == 0
    assert world.row("SELECT count(*) FROM failed_attempt") == (0,)


def test_the_next_push_is_not_held_up_for_ever(world: World) -> None:
    first, second = world.push(), world.push()
    for _ in range(MAX_ATTEMPTS):
        world.connect()
        fail(world)
    world.connect()
    world.acknowledge_all()
    assert world.state(first.push_id) == ("refused", "not_acknowledged")
    assert world.state(second.push_id)[0] == "delivered"
    assert attempts(world, second.push_id) == 0


def test_a_receipt_proves_that_it_arrived_after_all(world: World) -> None:
    accepted = world.push()
    for _ in range(MAX_ATTEMPTS):
        world.connect()
        fail(world)
    world.connect()
    world.says("receipts", {"push_id": accepted.push_id, "event": "displayed"})
    assert world.state(accepted.push_id) == ("displayed", "after_refused")


def test_the_mailbox_shows_attempts(world: World) -> None:
    world.push()
    world.connect()
    fail(world)
    page: dict[str, Any] = world.run(world.reports.mailbox(1, 10, None))
    assert [item["attempts"] for item in page["items"]] == [1]
