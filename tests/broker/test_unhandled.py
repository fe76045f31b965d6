"""Messages that a client does not handle are told apart from lost ones."""

from __future__ import annotations

import pytest

from broker.events import LOST, UNHANDLED
from broker.protocol.packets import V3_1_1, V5, Disconnect, Puback, ReasonCode
from broker.settings import BrokerSettings
from broker.unhandled import RIGHT_AFTER_SECONDS, TAKE_OVER_SECONDS
from tests.fakes import FakeClient, World, message

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])
ACK_TIMEOUT = 30.0


def given(version: int, *handles: int) -> tuple[World, FakeClient]:
    world = World(BrokerSettings(ack_timeout=ACK_TIMEOUT))
    world.events.resumable = lambda asked: {handle: message("a") for handle in asked}
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 1))
    for handle in handles:
        assert world.broker.deliver("c", message("a"), handle)
    return world, client


def outcomes(world: World) -> dict[int, int]:
    found = {handle: outcome for _, _, handle, outcome in world.events.of("delivery_ended")}
    world.events.take()
    return found


@both_versions
def test_the_oldest_was_not_taken_when_it_is_not_acknowledged_in_time(version: int) -> None:
    world, client = given(version, 1, 2, 3)
    world.advance(ACK_TIMEOUT + 1)
    assert client.is_closed()
    assert outcomes(world) == {1: UNHANDLED, 2: LOST, 3: LOST}, "it may take nothing at all for now"


@both_versions
def test_overtaken_messages_are_unhandled_too(version: int) -> None:
    """The client acknowledges later messages: its buffer is too small for these."""
    world, client = given(version, 1, 2, 3, 4, 5)
    sent = client.publishes()
    for place in (1, 3):
        client.send(Puback(sent[place].packet_id))
    outcomes(world)
    world.advance(ACK_TIMEOUT + 1)
    assert outcomes(world) == {1: UNHANDLED, 3: UNHANDLED, 5: LOST}


@both_versions
def test_what_was_overtaken_a_moment_ago_may_still_be_taken(version: int) -> None:
    world, client = given(version, 1)
    world.advance(ACK_TIMEOUT - 5)
    for handle in (2, 3):
        assert world.broker.deliver("c", message("a"), handle)
    client.send(Puback(client.publishes()[2].packet_id))
    outcomes(world)
    world.advance(6)
    assert outcomes(world) == {1: UNHANDLED, 2: LOST}


@both_versions
@pytest.mark.parametrize("end", ["lost", "disconnect", "malformed"])
def test_the_oldest_was_not_taken_when_the_client_ends_right_after_it(version: int, end: str) -> None:
    for seconds, expected in ((0.0, UNHANDLED), (RIGHT_AFTER_SECONDS - 1, UNHANDLED), (RIGHT_AFTER_SECONDS + 1, LOST)):
        world, client = given(version, 1, 2)
        world.broker.shared_state.settings = BrokerSettings()
        world.advance(seconds)
        if end == "lost":
            client.drop()
        elif end == "disconnect":
            client.send(Disconnect())
        else:
            client.send_bytes(b"\0\0")
        assert outcomes(world) == {1: expected, 2: LOST}


@both_versions
def test_a_device_that_restarts_takes_its_own_connection_over(version: int) -> None:
    for seconds, expected in ((0.0, LOST), (TAKE_OVER_SECONDS, UNHANDLED)):
        world, _ = given(version, 1)
        world.advance(seconds)
        world.connect("c", version, clean=False)
        assert outcomes(world) == {1: expected}


@both_versions
def test_what_is_not_the_clients_doing_shows_nothing(version: int) -> None:
    world, _ = given(version, 1)
    world.broker.disconnect_principal("c", ReasonCode.NOT_AUTHORIZED)
    assert outcomes(world) == {1: LOST}
    world, _ = given(version, 1)
    world.broker.shutdown()
    assert outcomes(world) == {1: LOST}


@both_versions
def test_what_waits_to_be_sent_again_was_not_sent(version: int) -> None:
    world, client = given(version, 1, 2)
    client.drop()
    assert outcomes(world) == {1: UNHANDLED, 2: LOST}
    world.events.resumable = None
    again = world.connect("c", version, clean=False)
    again.drop()
    assert outcomes(world) == {}, "nothing was given to that connection"
    world.events.resumable = lambda asked: {handle: message("a") for handle in asked}
    third = world.connect("c", version, clean=False)
    third.drop()
    assert outcomes(world) == {1: UNHANDLED, 2: LOST}
