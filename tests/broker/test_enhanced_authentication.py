"""Enhanced authentication by the fakes' method `MIRROR`; on the wire it is in `conformance`."""

from __future__ import annotations

import gc

import pytest

from broker.enhanced_authentication import EnhancedAuthentication
from broker.protocol.packets import (
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
    ReasonCode,
)
from tests.fakes import FakeClient, FakePermissions, World

CONTINUE, AGAIN = ReasonCode.CONTINUE_AUTHENTICATION, ReasonCode.REAUTHENTICATE


def auth(code: int, data: bytes | None = None, method: str | None = "MIRROR") -> Auth:
    return Auth(code, Properties(authentication_method=method, authentication_data=data))


def begun(world: World, client_id: str = "c") -> FakeClient:
    """A client that has been challenged."""
    client = world.client(V5)
    client.send(Connect(client_id, V5, properties=Properties(authentication_method="MIRROR")))
    assert client.receive(Auth) == auth(CONTINUE, b"nonce")
    return client


def accepted(world: World) -> FakeClient:
    client = begun(world)
    client.send(auth(CONTINUE, b"ecnon"))
    connack = client.receive(Connack)
    assert connack.reason_code == 0
    assert connack.properties is not None
    assert connack.properties.authentication_method == "MIRROR"
    assert connack.properties.authentication_data == b"welcome"
    return client


def refused(client: FakeClient, kind: type[Connack] | type[Disconnect]) -> int:
    packet = client.receive(kind)
    assert client.is_closed()
    return packet.reason_code


def test_a_challenge_that_is_met_ends_in_a_session() -> None:
    world = World()
    client = accepted(world)
    assert world.broker.is_connected("c")
    client.send(Pingreq())
    client.receive(Pingresp)


def test_nothing_is_touched_before_the_exchange_has_ended() -> None:
    world = World()
    there = world.connect("c", V5, clean=False)
    client = begun(world)
    assert not there.is_closed()
    client.send(auth(CONTINUE, b"wrong"))
    assert refused(client, Connack) == ReasonCode.NOT_AUTHORIZED
    assert not there.is_closed()


def test_an_unknown_method_is_refused() -> None:
    client = World().client(V5)
    client.send(Connect("c", V5, properties=Properties(authentication_method="SCRAM-SHA-1")))
    assert refused(client, Connack) == ReasonCode.BAD_AUTHENTICATION_METHOD


def test_only_auth_and_disconnect_may_come_before_connack() -> None:
    world = World()
    wrong: list[Packet] = [Pingreq(), auth(CONTINUE, b"ecnon", "OTHER"), auth(AGAIN), Publish("a", b"")]
    for packet in wrong:
        client = begun(world)
        client.send(packet)
        assert refused(client, Connack) == ReasonCode.PROTOCOL_ERROR
    client = begun(world)
    client.send(Disconnect())
    assert client.is_closed()
    assert not client.received()


def test_a_client_authenticates_again_while_everything_goes_on() -> None:
    world = World(permissions=FakePermissions())
    client = accepted(world)
    client.send(auth(AGAIN))
    assert client.receive(Auth) == auth(CONTINUE, b"nonce")
    client.send(Pingreq())
    client.receive(Pingresp)
    client.send(auth(CONTINUE, b"ecnon"))
    assert client.receive(Auth) == auth(ReasonCode.SUCCESS, b"welcome")
    assert world.events.of("connected") == [("connected", "c", False)]
    assert not world.events.of("disconnected")


def test_who_fails_to_authenticate_again_is_disconnected() -> None:
    client = accepted(World())
    client.send(auth(AGAIN))
    client.received()
    client.send(auth(CONTINUE, b"wrong"))
    assert refused(client, Disconnect) == ReasonCode.NOT_AUTHORIZED


def test_auth_out_of_turn_or_of_another_method_is_an_error() -> None:
    for packet in (auth(CONTINUE, b"ecnon"), auth(AGAIN, None, "OTHER"), Auth(AGAIN)):
        client = accepted(World())
        client.send(packet)
        assert refused(client, Disconnect) == ReasonCode.PROTOCOL_ERROR
    plain = World().connect("plain", V5)
    plain.send(auth(AGAIN))
    assert refused(plain, Disconnect) == ReasonCode.PROTOCOL_ERROR


def test_an_exchange_ends_with_the_connect_timeout() -> None:
    world = World()
    client = begun(world)
    world.advance(world.broker.settings.connect_timeout + 1)
    assert client.is_closed()


def test_a_session_belongs_to_who_began_it() -> None:
    world = World()
    world.connect("mine:1", V5, clean=False)
    world.broker.sessions["mine:1"].principal = "somebody else"
    client = world.client(V5)
    client.send(Connect("mine:1", V5))
    assert refused(client, Connack) == ReasonCode.CLIENT_IDENTIFIER_NOT_VALID


@pytest.mark.usefixtures("no_collector")
def test_a_connection_that_has_ended_forgets_its_method() -> None:
    """Connection and method refer to each other, and the collector seldom runs."""
    world = World()
    there, stranger = accepted(world), begun(world)
    there.send(Disconnect())
    stranger.send(auth(CONTINUE, b"wrong"))
    assert there.is_closed()
    assert stranger.is_closed()
    assert not any(isinstance(one, EnhancedAuthentication) for one in gc.get_objects())
