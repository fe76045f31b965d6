"""AUTH (MQTT 5.0, 4.12), credentials and what is refused: over sockets, against a broker that asks for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests import wire
from tests.broker.network.serving import Client, Serving, serving
from tests.fakes import FakeAuthenticator
from tests.wire import V4, V5

METHOD = b"\x15" + wire.text("MIRROR")
CONTINUE, AGAIN = 0x18, 0x19
"""Reason codes."""
NOT_AUTHORIZED, BAD_USER_NAME_OR_PASSWORD, PROTOCOL_ERROR, BAD_METHOD = 0x87, 0x86, 0x82, 0x8C


def data(value: bytes) -> bytes:
    return b"\x16" + wire.text(value)


def auth(code: int, properties: bytes = METHOD) -> bytes:
    return wire.packet(0xF0, bytes((code,)) + wire.remaining_length(len(properties)) + properties)


CHALLENGE = auth(CONTINUE, METHOD + data(b"nonce"))
ANSWER = auth(CONTINUE, METHOD + data(b"ecnon"))


class Guarded:
    """A broker that asks for credentials; its clients are closed after the test."""

    def __init__(self, server: Serving) -> None:
        self._server = server
        self.clients: list[Client] = []

    async def client(self) -> Client:
        self.clients.append(await self._server.client())
        return self.clients[-1]


@asynccontextmanager
async def guarded() -> AsyncIterator[Guarded]:
    async with serving(authenticator=FakeAuthenticator()) as server:
        broker = Guarded(server)
        yield broker
        for client in broker.clients:
            await client.hang_up()


async def packet(client: Client) -> bytes:
    head = await client.reader.readexactly(2)
    assert head[1] < 0x80, "a short one"
    return head + await client.reader.readexactly(head[1])


async def challenged(server: Guarded, client_id: str = "kiosk") -> Client:
    client = await server.client()
    client.send(wire.connect(client_id, V5, properties=METHOD))
    await client.expect(CHALLENGE)
    return client


async def accepted(server: Guarded) -> Client:
    client = await challenged(server)
    client.send(ANSWER)
    connack = await packet(client)
    assert connack[:1] + connack[2:4] == b"\x20\x00\x00"
    assert METHOD in connack
    return client


async def expect_goodbye(client: Client, code: int) -> None:
    goodbye = await packet(client)
    assert (goodbye[0], goodbye[2]) == (0xE0, code)
    assert await client.rest() == b""


async def test_a_method_is_agreed_on_and_named_in_all_packets() -> None:
    """[MQTT-4.12.0-2] [MQTT-4.12.0-5] [MQTT-3.15.2-1] [MQTT-3.2.0-1]: AUTH 0x18 before CONNACK, which names it too."""
    async with guarded() as server:
        client = await accepted(server)
        client.send(wire.PINGREQ)
        await client.expect(wire.PINGRESP)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (wire.text("jo") + wire.text("wrong"), 4),
        (wire.text("jo") + wire.text("right"), 0),
        (wire.text("jo"), 0),
        (b"", 0),
    ],
    ids=["wrong password", "right password", "no password", "no user name"],
)
async def test_mqtt_3_1_hears_why_it_is_refused(fields: bytes, code: int) -> None:
    """The refusal is not about the version. User name and password may be missing in spite of their flags
    (3.1, chapter 3.1)."""
    async with guarded() as server:
        client = await server.client()
        client.send(wire.packet(0x10, wire.text("MQIsdp") + b"\x03\xc2\x00\x3c" + wire.text("kiosk") + fields))
        await client.expect(wire.connack_4(code=code))


@pytest.mark.parametrize("method", ["OTHER", "mirror", ""])
async def test_an_unknown_method_is_refused(method: str) -> None:
    """[MQTT-4.12.0-1]."""
    async with guarded() as server:
        client = await server.client()
        client.send(wire.connect("kiosk", V5, properties=b"\x15" + wire.text(method)))
        assert (await packet(client))[2:4] == bytes((0, BAD_METHOD))
        assert await client.rest() == b""


async def test_a_challenge_is_no_larger_than_the_client_takes() -> None:
    """[MQTT-3.1.2-24]: refused instead."""
    async with guarded() as server:
        client = await server.client()
        client.send(wire.connect("kiosk", V5, properties=METHOD + b"\x27\x00\x00\x00\x10"))
        assert (await packet(client))[2:4] == b"\x00\x83"
        assert await client.rest() == b""


async def test_an_answer_that_is_wrong_is_refused() -> None:
    """[MQTT-4.12.0-4] [MQTT-3.2.2-6] [MQTT-3.2.2-7]: CONNACK with session present 0, although there is one; the end."""
    async with guarded() as server:
        first = await server.client()
        first.send(wire.connect("kiosk", V5, clean=False, properties=wire.FOR_EVER))
        assert (await packet(first))[3] == 0
        client = await server.client()
        client.send(wire.connect("kiosk", V5, clean=False, properties=wire.FOR_EVER + METHOD))
        await client.expect(CHALLENGE)
        client.send(auth(CONTINUE, METHOD + data(b"guess")))
        assert (await packet(client))[2:4] == bytes((0, NOT_AUTHORIZED))
        assert await client.rest() == b""
        first.send(wire.PINGREQ)
        await first.expect(wire.PINGRESP)


@pytest.mark.parametrize("code", [0x00, AGAIN])
async def test_the_client_goes_on_with_0x18(code: int) -> None:
    """[MQTT-4.12.0-3]."""
    async with guarded() as server:
        client = await challenged(server)
        client.send(auth(code, METHOD + data(b"ecnon")))
        assert (await packet(client))[:4:3] == bytes((0x20, PROTOCOL_ERROR))
        assert await client.rest() == b""


@pytest.mark.parametrize("properties", [b"", b"\x15" + wire.text("OTHER")])
async def test_the_client_stays_with_its_method(properties: bytes) -> None:
    """[MQTT-4.12.0-5] [MQTT-4.12.1-1]: while it connects, and when it authenticates again."""
    async with guarded() as server:
        client = await challenged(server)
        client.send(auth(CONTINUE, properties + data(b"ecnon")))
        assert (await packet(client))[:4:3] == bytes((0x20, PROTOCOL_ERROR))
        assert await client.rest() == b""
        client = await accepted(server)
        client.send(auth(AGAIN, properties))
        await expect_goodbye(client, PROTOCOL_ERROR)


async def test_without_a_method_the_server_says_nothing_of_one() -> None:
    """[MQTT-4.12.0-6]: no AUTH, none in CONNACK."""
    async with guarded() as server:
        client = await server.client()
        client.send(wire.connect("kiosk", V5))
        connack = await packet(client)
        assert connack[0] == 0x20
        assert b"\x15" not in connack[5:]


async def test_without_a_method_the_client_sends_no_auth() -> None:
    """[MQTT-4.12.0-7]: not one with a method either."""
    async with guarded() as server:
        for properties in (b"", METHOD):
            client = await server.client()
            client.send(wire.connect("kiosk", V5))
            assert (await packet(client))[0] == 0x20
            client.send(auth(AGAIN, properties))
            await expect_goodbye(client, PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "early",
    [wire.PINGREQ, wire.publish("a", b"x", version=V5), wire.subscribe(1, ("a", 0), version=V5)],
    ids=["PINGREQ", "PUBLISH", "SUBSCRIBE"],
)
async def test_until_connack_the_client_sends_only_auth_and_disconnect(early: bytes) -> None:
    """[MQTT-3.1.2-30]: with a method."""
    async with guarded() as server:
        client = await challenged(server)
        client.send(early)
        assert (await packet(client))[:4:3] == bytes((0x20, PROTOCOL_ERROR))
        assert await client.rest() == b""
        client = await challenged(server)
        client.send(wire.DISCONNECT)
        assert await client.rest() == b""


async def test_a_client_may_authenticate_again() -> None:
    """[MQTT-4.12.1-1] [MQTT-3.15.2-1]: everything else goes on meanwhile; the last AUTH says success."""
    async with guarded() as server:
        client = await accepted(server)
        client.send(auth(AGAIN), wire.PINGREQ)
        await client.expect(CHALLENGE, wire.PINGRESP)
        client.send(ANSWER)
        last = await packet(client)
        assert last[0] == 0xF0
        assert last[2] == 0
        assert METHOD in last
        client.send(wire.PINGREQ)
        await client.expect(wire.PINGRESP)


async def test_failing_to_authenticate_again_ends_the_connection() -> None:
    """[MQTT-4.12.1-2]."""
    async with guarded() as server:
        client = await accepted(server)
        client.send(auth(AGAIN))
        await client.expect(CHALLENGE)
        client.send(auth(CONTINUE, METHOD + data(b"guess")))
        await expect_goodbye(client, NOT_AUTHORIZED)


@pytest.mark.parametrize("version", [V4, V5])
async def test_wrong_credentials_are_refused(version: int) -> None:
    """[MQTT-3.1.4-2] [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.2.2-8] [3.1.1: MQTT-3.2.2-4] [3.1.1: MQTT-3.2.2-5]: with the
    reason, session present 0, although there is one; then the end. The one who is connected does not notice."""
    async with guarded() as server:
        first = await server.client()
        first.send(wire.connect("kiosk", version, clean=False, properties=wire.FOR_EVER))
        assert (await packet(first))[3] == 0
        client = await server.client()
        wrong = wire.connect(
            "kiosk", version, clean=False, username="kiosk", password="wrong", properties=wire.FOR_EVER
        )
        client.send(wrong)
        assert (await packet(client))[2:4] == bytes((0, BAD_USER_NAME_OR_PASSWORD if version == V5 else 4))
        assert await client.rest() == b""
        first.send(wire.PINGREQ)
        await asyncio.wait_for(first.expect(wire.PINGRESP), wire.SECONDS)
