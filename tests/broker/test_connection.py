"""One connection: legality, CONNECT, answers in order and when stored, limits, timeouts, the end."""

from __future__ import annotations

import logging

import pytest

from broker.message import Body, Message
from broker.protocol.codec import encode
from broker.protocol.packets import (
    V3_1_1,
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    ReasonCode,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.protocol.packets import SubscriptionRequest as Request
from broker.settings import BrokerSettings
from tests.fakes import FakeClient, FakePermissions, World, message

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])


def refused(world: World, connect: Connect) -> int:
    client = world.client(connect.protocol_version)
    client.send(connect)
    connack = client.receive(Connack)
    assert client.is_closed()
    assert not connack.session_present
    return connack.reason_code


# -- admission ---------------------------------------------------------------------------------------------------------


@both_versions
def test_one_handshake_too_many_is_told_to_come_back(version: int) -> None:
    world = World(BrokerSettings(max_handshakes=2))
    world.authenticator.blocked = True
    waiting = [world.client(version) for _ in range(2)]
    for number, client in enumerate(waiting):
        client.send(Connect(f"c{number}", version))
    late = world.client(version)
    late.send(Connect("late", version))
    connack = late.receive(Connack)
    assert late.is_closed()
    assert connack.reason_code == (0x89 if version == V5 else 3)
    if version == V5:
        assert connack.properties is not None
        assert connack.properties.user_properties == [("retry-after", "1")]
    assert world.broker.metrics.refused == {"server_busy": 1}
    assert len(world.authenticator.asked) == 2

    for _, decide in world.authenticator.asked:
        decide()
    assert [client.receive(Connack).reason_code for client in waiting] == [0, 0]
    world.authenticator.blocked = False
    world.connect("late", version)


@both_versions
def test_a_handshake_is_over_when_connack_has_left_or_the_client_has(version: int) -> None:
    world = World()
    metrics = world.broker.metrics
    world.store.blocked = True
    client = world.client(version)
    assert metrics.handshakes == 0, "nobody yet: a socket is no handshake"
    properties = Properties(session_expiry_interval=60) if version == V5 else None
    client.send(Connect("c", version, clean_start=False, properties=properties))
    assert metrics.handshakes == 1, "the new session is not on disk"
    world.store.commit()
    assert metrics.handshakes == 0
    client.drop()
    assert metrics.handshakes == 0

    world.authenticator.blocked = True
    gone, wrong, overdue = (world.client(version) for _ in range(3))
    for other in (gone, wrong, overdue):
        other.send(Connect("d", version, username="d", password=b"wrong"))
    assert metrics.handshakes == 3
    gone.drop()
    world.authenticator.asked[-2][1]()
    assert wrong.is_closed()
    assert metrics.handshakes == 1
    world.advance(11.0)
    assert overdue.is_closed()
    assert metrics.handshakes == 0
    stranger = world.client(version)
    stranger.send(Pingreq())
    assert stranger.is_closed()
    assert metrics.handshakes == 0


# -- CONNECT -----------------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize(
    "packet", [Pingreq(), Publish("a", b""), Puback(1), Subscribe(1, [Request("a")]), Disconnect()], ids=repr
)
def test_anything_before_connect_ends_the_connection_without_an_answer(version: int, packet: Packet) -> None:
    """[MQTT-3.1.0-1]"""
    world = World()
    client = world.client(version)
    client.send_bytes(encode(packet, V3_1_1))
    assert client.is_closed()
    assert client.received() == []
    assert not world.events.log


@both_versions
def test_a_second_connect_is_a_protocol_error(version: int) -> None:
    """[MQTT-3.1.0-2]"""
    world = World()
    client = world.connect("c", version)
    client.send(Connect("c", version))
    assert client.is_closed()
    received = client.received()
    assert received == [] if version == V3_1_1 else isinstance(received[0], Disconnect)
    assert world.events.of("disconnected")


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\x10\xff\xff\xff\xff\x7f", b"\0\0"]
)
def test_garbage_is_closed_without_an_answer(data: bytes) -> None:
    world = World()
    client = world.client()
    client.send_bytes(data)
    assert client.is_closed()
    assert client.received() == []
    assert sum(world.broker.metrics.refused.values()) == 1


@pytest.mark.parametrize(
    "connect",
    [
        b"\x10\x0e\x00\x06MQIsdp\x04\x02\x00\x00\x00\x00",
        b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x00\x00\x00",
        b"\x10\x0c\x00\x04MQTT\x84\x02\x00\x00\x00\x00",
        b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x00\x00\x00",
        b"\x10\x0c\x00\x04MQTT\x85\x02\x00\x00\x00\x00",
    ],
    ids=["MQIsdp 4", "level 3", "mosquitto's bridge of 3.1.1", "level 6", "mosquitto's bridge of 5.0"],
)
def test_a_version_we_do_not_speak_is_refused_by_its_number(connect: bytes) -> None:
    """[MQTT-3.1.2-2]: from 5 on in the words of 5.0."""
    world = World()
    client = world.client()
    client.send_bytes(connect)
    is_later = b"MQTT" in connect and connect[8] & 0x7F >= 5
    assert bytes(client.transport.written) == (b"\x20\x03\x00\x84\x00" if is_later else b"\x20\x02\x00\x01")
    assert client.is_closed()
    assert world.broker.metrics.refused == {"unsupported_protocol_version": 1}


def test_a_malformed_5_0_connect_is_told_so() -> None:
    world = World()
    client = world.client(V5)
    client.send_bytes(b"\x10\x0d\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00")
    assert client.receive(Connack).reason_code == 0x81
    assert client.is_closed()


@both_versions
def test_a_wrong_password_changes_nothing(version: int) -> None:
    """Authentication comes before any look at sessions: no take-over, no clean start, no subscription is touched."""
    world = World()
    victim = world.connect("c", V3_1_1, clean=False)
    victim.subscribe(("a", 1))
    world.broker.deliver("c", message("a"), 1)
    victim.received()
    session = world.broker.sessions["c"]
    world.events.take()
    world.store.log.clear()
    for clean in (True, False):
        for name in ("c", "stranger"):
            code = refused(
                world, Connect(name, version, clean, username="u", password=b"wrong", will=Will("a", b"w", 1))
            )
            assert code == (0x86 if version == V5 else 4)
    assert not victim.is_closed()
    assert victim.received() == []
    assert world.broker.sessions == {"c": session}
    assert len(session.inflight) == 1
    assert world.events.log == []
    assert world.store.log == []
    victim.drop()
    refused(world, Connect("c", version, True, username="u", password=b"wrong"))
    assert world.connect("c", V3_1_1, clean=False).connack.session_present


@both_versions
def test_an_authenticator_may_answer_later_and_nothing_happens_before(version: int) -> None:
    world = World()
    world.authenticator.blocked = True
    client = world.client(version)
    connect = Connect("c", version, True, will=Will("gone", b"w"))
    client.send(connect, Subscribe(1, [Request("a", 1)]), Publish("a", b"early", 1, packet_id=5), Pingreq())
    client.send_bytes(encode(Pingreq(), version)[:1])
    assert client.received() == []
    assert not world.broker.sessions
    assert not world.events.log
    world.authenticator.asked[0][1]()
    kinds = [type(packet) for packet in client.received()]
    assert kinds == [Connack, Suback, Publish, Puback, Pingresp]
    client.send_bytes(encode(Pingreq(), version)[1:])
    client.receive(Pingresp)


def test_an_answer_for_a_client_that_has_gone_is_ignored() -> None:
    world = World()
    world.authenticator.blocked = True
    client = world.client()
    client.send(Connect("c"))
    client.drop()
    world.authenticator.asked[0][1]()
    assert not world.events.log
    assert not world.broker.sessions


def test_bytes_before_the_authenticators_answer_are_bounded() -> None:
    world = World(BrokerSettings(connect_buffer=100))
    world.authenticator.blocked = True
    client = world.client()
    client.send(Connect("c"))
    client.send_bytes(encode(Publish("a", b"x" * 90), V3_1_1))
    assert not client.is_closed()
    client.send_bytes(b"\xc0\x00" * 10)
    assert client.is_closed()
    assert client.receive(Connack).reason_code == 3
    big = world.client()
    big.send_bytes(b"\x10\xff\x7f")
    assert big.is_closed(), "a stranger's claim is refused at the header"


def test_bytes_before_connack_are_bounded() -> None:
    world = World(BrokerSettings(connect_buffer=100))
    world.store.blocked = True
    client = world.client()
    client.send(Connect("c", clean_start=False))
    client.send_bytes(b"\xc0\x00" * 50)
    assert not client.is_closed()
    client.send_bytes(b"\xc0\x00")
    assert client.receive(Connack).reason_code == 3
    assert client.is_closed()
    world.store.commit()
    assert not client.received()


def test_an_ack_timeout_shorter_than_the_connect_timeout_holds() -> None:
    world = World(BrokerSettings(ack_timeout=2.0))
    client = world.connect("c", keep_alive=0)
    client.subscribe(("a", 1))
    assert world.broker.deliver("c", message("a"), 1)
    world.advance(2.5)
    assert client.is_closed()


@both_versions
def test_the_packet_size_is_checked_at_the_header(version: int) -> None:
    """[MQTT-3.2.2-15]"""
    world = World(BrokerSettings(maximum_packet_size=1000))
    client = world.connect("c", version)
    if version == V5:
        assert client.connack.properties is not None
        assert client.connack.properties.maximum_packet_size == 1000
    client.send_bytes(b"\x30\x80\x10")
    assert client.is_closed()
    if version == V5:
        assert client.receive(Disconnect).reason_code == 0x95


def test_an_empty_client_identifier_needs_a_clean_session_in_3_1_1() -> None:
    """[MQTT-3.1.3-7] [MQTT-3.1.3-8] of 3.1.1"""
    world = World()
    assert refused(world, Connect("", V3_1_1, clean_start=False)) == 2
    client = world.client()
    client.send(Connect("", V3_1_1))
    assert client.receive(Connack).reason_code == 0
    assert len(world.broker.sessions) == 1


def test_a_5_0_client_is_told_the_identifier_it_was_given() -> None:
    """[MQTT-3.2.2-16]"""
    world = World()
    client = world.connect("", V5, clean=False)
    assert client.connack.properties is not None
    assert client.connack.properties.assigned_client_identifier in world.broker.sessions


@both_versions
def test_an_identifier_that_is_too_long_is_refused(version: int) -> None:
    world = World(BrokerSettings(max_client_id_length=10))
    assert refused(world, Connect("x" * 11, version)) == (0x85 if version == V5 else 2)


def test_enhanced_authentication_is_refused() -> None:
    """[MQTT-4.12.0-1]"""
    world = World()
    connect = Connect("c", V5, properties=Properties(authentication_method="SCRAM-SHA-1"))
    assert refused(world, connect) == 0x8C
    client = world.connect("c", V5)
    client.send(Auth(0x18, Properties(authentication_method="x")))
    assert client.receive(Disconnect).reason_code == 0x82


@both_versions
def test_one_connection_too_many_is_refused_but_a_return_is_not(version: int) -> None:
    world = World(BrokerSettings(max_connections=1))
    first = world.connect("c", version)
    assert refused(world, Connect("d", version)) == (0x97 if version == V5 else 3)
    world.connect("c", version)
    assert first.is_closed()


@both_versions
def test_one_session_too_many_is_refused(version: int) -> None:
    world = World(BrokerSettings(max_sessions=1))
    world.connect("c", version, clean=False).drop()
    assert refused(world, Connect("d", version)) == (0x97 if version == V5 else 3)
    world.connect("c", version, clean=False)


@both_versions
def test_a_will_that_may_not_be_published_is_refused_at_connect(version: int) -> None:
    permissions = FakePermissions()
    permissions.no_publish.add("secret")
    world = World(permissions=permissions)
    assert refused(world, Connect("c", version, will=Will("secret", b"w"))) == (0x87 if version == V5 else 5)
    assert not world.broker.sessions


@both_versions
def test_connack_waits_for_the_disk_when_a_session_is_stored(version: int) -> None:
    world = World()
    world.store.blocked = True
    client = world.client(version)
    properties = Properties(session_expiry_interval=10) if version == V5 else None
    client.send(Connect("c", version, False, properties=properties), Pingreq())
    assert client.received() == [], "CONNACK is the first of all answers [MQTT-3.2.0-1]"
    assert not world.broker.deliver("c", message("a"), 1)
    world.store.commit()
    assert [type(packet) for packet in client.received()] == [Connack, Pingresp]
    clean = world.client(version)
    clean.send(Connect("d", version, True))
    clean.receive(Connack)
    clean = world.client(version)
    clean.send(Connect("c", version, True))
    assert clean.received() == [], "the end of the old session is not on disk"
    world.store.commit()
    clean.receive(Connack)


# -- answers -----------------------------------------------------------------------------------------------------------


@both_versions
def test_acknowledgements_leave_when_stored_and_in_order(version: int) -> None:
    """[MQTT-4.6.0-2] [MQTT-4.6.0-3]"""
    world = World()
    client = world.connect("c", version, clean=False)
    world.store.blocked = True
    world.events.blocked = True
    client.send(
        Subscribe(1, [Request("z", 1)]),
        Publish("a", b"1", 1, packet_id=2),
        Publish("a", b"2", 2, packet_id=3),
        Unsubscribe(4, ["z"]),
        Publish("a", b"3", 1, packet_id=5),
    )
    assert client.received() == []
    world.events.dones[1](0)
    world.store.commit(1)
    assert [type(packet) for packet in client.received()] == [Suback]
    world.store.commit(1)
    assert client.received() == [], "stored, but the embedder is not done"
    world.events.dones[0](0)
    assert [type(packet) for packet in client.received()] == [Puback]
    world.store.commit()
    assert [type(packet) for packet in client.received()] == [Pubrec, Unsuback]
    world.events.dones[2](0)
    assert client.receive(Puback).packet_id == 5


@both_versions
def test_pubcomp_waits_until_the_identifier_is_free_on_disk(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    client.send(Publish("a", b"x", 2, packet_id=7))
    client.receive(Pubrec)
    world.store.blocked = True
    client.send(Pubrel(7))
    assert client.received() == []
    world.store.commit()
    assert client.receive(Pubcomp) == Pubcomp(7)
    client.send(Pubrel(7))
    assert client.receive(Pubcomp) == Pubcomp(7, 0x92 if version == V5 else 0)


@both_versions
def test_the_embedders_verdict_is_told_to_5_0_and_swallowed_in_3_1_1(version: int) -> None:
    """[MQTT-3.3.5-2] of 3.1.1"""
    world = World()
    world.events.reason_code = 0x99
    client = world.connect("c", version)
    client.send(Publish("a", b"x", 1, packet_id=1), Publish("a", b"x", 2, packet_id=2), Publish("a", b"x"))
    code = 0x99 if version == V5 else 0
    assert client.received() == [Puback(1, code), Pubrec(2, code)]
    client.send(Publish("a", b"again", 2, packet_id=2))
    assert client.receive(Pubrec).packet_id == 2
    # A refused message's identifier is free; in 3.1.1 it was accepted, and this is a repetition.
    assert len(world.events.of("published")) == (4 if version == V5 else 3)


def test_a_message_nobody_wants_is_answered_with_0x10_unless_somebody_listens() -> None:
    world = World(events=False)
    client = world.connect("c", V5)
    client.send(Publish("a", b"x", 1, packet_id=1))
    assert client.receive(Puback).reason_code == 0x10
    client.subscribe(("a", 0))
    client.send(Publish("a", b"x", 1, packet_id=1))
    assert Puback(1) in client.received()
    client = World().connect("c", V5)
    client.send(Publish("a", b"x", 1, packet_id=1))
    assert client.receive(Puback).reason_code == 0


@both_versions
def test_denied_messages_are_dropped_and_denied_filters_refused(version: int) -> None:
    permissions = FakePermissions()
    permissions.no_publish.add("secret")
    permissions.no_subscribe.add("secret")
    world = World(permissions=permissions)
    client = world.connect("c", version)
    assert client.subscribe(("secret", 1), ("open", 2)) == [0x87 if version == V5 else 0x80, 2]
    client.send(
        Publish("secret", b"x", 1, packet_id=1), Publish("secret", b"x"), Publish("$SYS/x", b"", 2, packet_id=2)
    )
    code = 0x87 if version == V5 else 0
    assert client.received() == [Puback(1, code), Pubrec(2, code)]
    assert not world.events.of("published")
    assert world.broker.metrics.dropped_not_permitted == 3


@both_versions
def test_topics_and_subscriptions_have_their_limits(version: int) -> None:
    world = World(BrokerSettings(max_topic_levels=3, max_subscriptions=2))
    client = world.connect("c", version)
    five = version == V5
    assert client.subscribe(("a/b/c/d", 1)) == [0x8F if five else 0x80]
    assert client.subscribe(("a", 1), ("b", 1), ("c", 1)) == [1, 1, 0x97 if five else 0x80]
    assert client.subscribe(("a", 0)) == [0]
    client.send(Publish("a/b/c/d", b"", 1, packet_id=1))
    assert client.receive(Puback) == Puback(1, 0x90 if five else 0)


def test_more_unacknowledged_messages_than_announced_end_the_connection() -> None:
    """[MQTT-3.3.4-9] for the client; MQTT 5.0, 3.3.4"""
    world = World(BrokerSettings(receive_maximum=2))
    client = world.connect("c", V5)
    assert client.connack.properties is not None
    assert client.connack.properties.receive_maximum == 2
    for packet_id in range(1, 6):
        client.send(Publish("a", b"", 1, packet_id=packet_id))
    assert len(client.received()) == 5, "acknowledged ones do not count"
    client.send(Publish("a", b"", 2, packet_id=1), Publish("a", b"", 2, packet_id=2))
    client.send(Publish("a", b"", 2, dup=True, packet_id=2))
    assert len(client.received()) == 3
    client.send(Pubrel(1), Publish("a", b"", 2, packet_id=3))
    assert not client.is_closed()
    client.received()
    client.send(Publish("a", b"", 1, packet_id=4))
    assert client.receive(Disconnect).reason_code == 0x93


def test_pending_acknowledgements_are_bounded_for_3_1_1_too() -> None:
    world = World(BrokerSettings(max_pending_answers=3))
    client = world.connect("c")
    world.events.blocked = True
    for packet_id in range(1, 4):
        client.send(Publish("a", b"", 1, packet_id=packet_id))
    assert not client.is_closed()
    client.send(Publish("a", b"", 1, packet_id=4))
    assert client.is_closed()
    for done in world.events.dones:
        done(0)
    assert client.received() == []


def test_topic_aliases_are_the_connections_own() -> None:
    """[MQTT-3.3.2-7] [MQTT-3.3.2-8] [MQTT-3.3.2-9]"""
    world = World(BrokerSettings(topic_alias_maximum=2))
    client = world.connect("c", V5, clean=False)
    assert client.connack.properties is not None
    assert client.connack.properties.topic_alias_maximum == 2
    client.send(Publish("a", b"1", properties=Properties(topic_alias=1)))
    client.send(Publish("", b"2", properties=Properties(topic_alias=1)))
    client.send(Publish("b", b"3", properties=Properties(topic_alias=1)))
    client.send(Publish("", b"4", properties=Properties(topic_alias=1)))
    assert [entry[2:] for entry in world.events.of("published")] == [("a", b"1"), ("a", b"2"), ("b", b"3"), ("b", b"4")]
    client.drop()
    for alias, code in ((1, 0x94), (3, 0x94)):
        client = world.connect("c", V5, clean=False)
        client.send(Publish("", b"x", properties=Properties(topic_alias=alias)))
        disconnect = client.receive(Disconnect)
        assert disconnect.reason_code in (code, 0x82)
        assert client.is_closed()


# -- timeouts and ends -------------------------------------------------------------------------------------------------


@both_versions
def test_silence_of_one_and_a_half_keep_alives_ends_the_connection(version: int) -> None:
    """[MQTT-3.1.2-22] of 5.0, [MQTT-3.1.2-24] of 3.1.1"""
    world = World()
    client = world.connect("c", version, keep_alive=10)
    for _ in range(5):
        world.advance(14)
        client.send(Pingreq())
        client.receive(Pingresp)
    world.advance(14.5)
    assert not client.is_closed()
    world.advance(1)
    assert client.is_closed()
    if version == V5:
        assert client.receive(Disconnect).reason_code == 0x8D
    assert world.events.of("disconnected") == [("disconnected", "c", "keep alive timeout")]
    quiet = world.connect("d", version, keep_alive=0)
    world.advance(100_000)
    assert not quiet.is_closed()


def test_the_servers_keep_alive_is_told_and_enforced() -> None:
    """[MQTT-3.1.2-21]"""
    world = World(BrokerSettings(server_keep_alive=4))
    client = world.connect("c", V5, keep_alive=1000)
    assert client.connack.properties is not None
    assert client.connack.properties.server_keep_alive == 4
    world.advance(7)
    assert client.is_closed()


def test_connect_must_be_finished_in_time() -> None:
    """A reasonable time: MQTT 5.0, 3.1.4."""
    world = World()
    silent = world.client()
    world.authenticator.blocked = True
    waiting = world.client()
    waiting.send(Connect("c"))
    world.advance(9)
    assert not silent.is_closed()
    world.advance(1.5)
    assert silent.is_closed()
    assert waiting.is_closed()
    assert silent.received() == []
    assert waiting.receive(Connack).reason_code == 3


@both_versions
def test_a_client_that_never_acknowledges_is_closed(version: int) -> None:
    world = World(BrokerSettings(ack_timeout=300))
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 2))
    world.advance(1000)
    for handle, qos in ((1, 1), (2, 2), (3, 1)):
        world.broker.deliver("c", message("a", qos=qos), handle)
        world.advance(99)
    assert not client.is_closed()
    first = client.publishes()[0]
    client.send(Puback(first.packet_id))
    world.advance(101)
    assert not client.is_closed()
    world.advance(2)
    assert client.is_closed()
    assert world.events.of("disconnected") == [("disconnected", "c", "ack timeout")]


@both_versions
def test_a_client_that_asks_without_reading_is_closed(version: int) -> None:
    world = World(BrokerSettings(max_unread_bytes=10))
    client = world.connect("c", version)
    client.connection.pause_writing()
    client.send(*[Pingreq()] * 5)
    assert not client.is_closed()
    client.send(Pingreq())
    assert client.is_closed()
    assert world.broker.metrics.refused == {"slow_consumer": 1}


@both_versions
@pytest.mark.parametrize(("reason", "will"), [(0, False), (4, True), (None, True)])
def test_the_will_follows_every_end_but_a_plain_disconnect(version: int, reason: int | None, will: bool) -> None:
    """[MQTT-3.1.2-8] [MQTT-3.14.4-3]"""
    world = World()
    watcher = world.connect("w", V5)
    watcher.subscribe(("gone", 1))
    client = world.connect("c", version, will=Will("gone", b"w", 1, retain=True))
    if reason is None:
        client.drop()
    else:
        client.send(Disconnect(reason))
        assert client.is_closed()
        will = will and version == V5
    assert watcher.payloads() == ([b"w"] if will else [])
    assert len(world.events.of("published")) == will
    assert world.broker.metrics.retained == will
    client.drop()
    assert len(world.events.of("disconnected")) == 1


@both_versions
def test_a_fault_of_ours_ends_one_connection_and_raises_nothing(version: int, caplog: pytest.LogCaptureFixture) -> None:
    class FaultyPermissions(FakePermissions):
        def may_publish(self, topic: str, retain: bool) -> bool:
            return bool(1 / 0)

    world = World(permissions=FaultyPermissions())
    client, other = world.connect("c", version), world.connect("d", version)
    with caplog.at_level(logging.ERROR):
        client.send(Publish("a", b""))
    assert "ZeroDivisionError" in caplog.text
    assert client.is_closed()
    assert not other.is_closed()
    assert world.broker.metrics.refused == {"internal_error": 1}


def test_the_reason_is_left_out_where_it_does_not_fit() -> None:
    """[MQTT-3.14.2-3]"""
    world = World()
    for size, told in ((16, None), (200, "session removed")):
        client = world.connect("c", V5, properties=Properties(maximum_packet_size=size))
        world.broker.remove_session("c")
        properties = client.receive(Disconnect).properties
        assert (properties.reason_string if properties else None) == told


def test_bytes_after_the_end_are_ignored() -> None:
    world = World()
    client = world.connect("c")
    client.send(Disconnect(), Publish("a", b"late"))
    client.send(Publish("a", b"later"))
    client.connection.pause_writing()
    client.connection.resume_writing(world.clock.now)
    assert not world.events.of("published")


def test_bytes_in_are_counted() -> None:
    world = World()
    client = world.connect("c")
    before = world.broker.metrics.bytes_in
    client.send(Pingreq())
    assert world.broker.metrics.bytes_in == before + 2
    world.broker.publish(Message("a", Body(b"")))


def is_paused(client: FakeClient) -> bool:
    return client.transport.reading_paused


@both_versions
def test_who_says_more_than_can_be_stored_is_not_read_until_it_is(version: int) -> None:
    world = World(BrokerSettings(max_unstored_bytes=10, ack_timeout=100.0))
    client = world.connect("c", version, keep_alive=10)
    world.store.blocked = True
    client.send(Publish("a", b"12345", 1, packet_id=1), Publish("a", b"12345", 1, packet_id=2))
    assert not is_paused(client)
    client.send(Publish("a", b"1", 1, packet_id=3))
    assert is_paused(client)
    world.advance(20.0)
    assert not client.is_closed(), "it cannot be heard, so it is not silent"
    world.store.commit()
    assert not is_paused(client)
    assert len(client.received()) == 3
    world.advance(14.0)
    assert not client.is_closed()
    world.advance(2.0)
    assert client.is_closed(), "silent again"
    assert world.broker.metrics.held_publishers == 1


def test_as_many_acknowledgements_as_the_receive_maximum_pause_a_3_1_1_client() -> None:
    world = World(BrokerSettings(receive_maximum=3))
    client = world.connect("c")
    world.store.blocked = True
    for packet_id in (1, 2, 3):
        assert not is_paused(client)
        client.send(Publish("a", b"", 1, packet_id=packet_id))
    assert is_paused(client)
    world.store.commit()
    assert not is_paused(client)


def test_a_client_that_waits_for_the_disk_takes_a_place_no_longer_than_the_connect_timeout() -> None:
    world = World(BrokerSettings(max_handshakes=1))
    world.store.blocked = True
    waiting = world.client(V5)
    waiting.send(Connect("new", V5, clean_start=False, properties=Properties(session_expiry_interval=60)))
    busy = world.client(V5)
    busy.send(Connect("back", V5, clean_start=True))
    assert busy.receive(Connack).reason_code == ReasonCode.SERVER_BUSY
    world.advance(world.broker.settings.connect_timeout + 1)
    assert waiting.receive(Connack).reason_code == ReasonCode.UNSPECIFIED_ERROR
    served = world.client(V5)
    served.send(Connect("back", V5, clean_start=True))
    assert served.receive(Connack).reason_code == ReasonCode.SUCCESS
