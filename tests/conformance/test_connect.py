"""CONNECT and CONNACK, wills and sessions."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests import wire
from tests.conformance.party import Party
from tests.conformance.standalone import BrokerProcess
from tests.conformance.test_format import MALFORMED, connect_with
from tests.wire import RawClient

SHUTTING_DOWN = 0x8B
HINT = b"\x26" + wire.text("retry-after") + wire.text("1")
SMALL = b"\x27" + struct.pack(">I", 16)
"""A maximum packet size that has no room for it."""


def test_the_reserved_connect_flag_is_zero(party: Party) -> None:
    """[MQTT-3.1.2-3] [3.1.1: MQTT-3.1.2-3]."""
    party.connect_refused(connect_with(party.version, 0x03, wire.text("c")), MALFORMED)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_connect_that_is_not_as_specified_is_not_accepted(party: Party, cut: int) -> None:
    """[MQTT-3.1.4-1] [3.1.1: MQTT-3.1.4-1] [3.1.1: MQTT-3.2.2-6]: 3.1.1 has no code for it, so no CONNACK."""
    body = wire.connect("kiosk", party.version)[2:]
    party.connect_refused(wire.packet(0x10, body[:-cut]), MALFORMED)
    party.connect_refused(wire.packet(0x10, body + b"x"), MALFORMED)


def test_mqtt_3_1_is_spoken_as_3_1_1(raw: Callable[[], RawClient], name: Callable[[], str]) -> None:
    """[3.1.1: MQTT-3.1.2-1]: Paho for Java and Android falls back to it, and would hide the reason why it had to. Its
    CONNACK has no flags, its client identifiers may be longer than 23 characters."""
    topic, kiosk = name(), name() + "x" * 23
    connect = wire.packet(0x10, wire.text("MQIsdp") + b"\x03\x00\x00\x3c" + wire.text(kiosk))
    client = raw()
    client.enter(connect)
    client.send(wire.subscribe(1, (topic, 2)))
    client.expect(wire.suback(1, 2))
    client.close()
    writer = raw()
    writer.enter(wire.connect(name()))
    writer.send(wire.publish(topic, b"waits", 1, 1))
    writer.expect(wire.puback(1))
    client = raw()
    client.enter(connect, present=False)
    client.expect(wire.publish(topic, b"waits", 1, 1))
    client.send(wire.puback(1))
    client.expect_silence()


@pytest.mark.parametrize("limit", [1, 4, 5, 12, 13, 15, 16])
def test_a_connack_is_no_larger_than_the_client_takes(party_5: Party, limit: int) -> None:
    """[MQTT-3.1.2-24]: without topic aliases, if that helps; else refused, if that fits."""
    client = party_5.raw()
    client.send(wire.connect(party_5.name(), party_5.version, properties=b"\x27" + struct.pack(">I", limit)))
    connack = client.read()
    assert len(connack) <= limit
    assert connack[2:4] == (b"\0\0" if limit >= 13 else b"\0\x83" if limit >= 5 else b"")
    if limit >= 13:
        assert len(connack) == (16 if limit >= 16 else 13)
        client.expect_silence()
    else:
        client.expect_end()


def test_a_suback_is_no_larger_than_the_client_takes(party_5: Party) -> None:
    """[MQTT-3.1.2-24]: the end, by the right name."""
    client = party_5.client(SMALL)
    client.send(wire.subscribe(1, *((f"{number}", 0) for number in range(12)), version=party_5.version))
    client.expect_goodbye(0x95, party_5.version)


def test_clean_start_discards_what_was_there(party: Party) -> None:
    """[MQTT-3.1.2-4] [MQTT-3.1.4-4] [3.1.1: MQTT-3.1.2-6] [3.1.1: MQTT-3.1.4-3]: subscriptions and messages."""
    kiosk, topic = party.name(), party.name()
    client = party.durable(kiosk)
    party.subscribe(client, (topic, 1))
    client.close()
    party.say(topic, b"waits")
    client = party.raw()
    client.enter(wire.connect(kiosk, party.version, clean=True), present=False)
    party.say(topic, b"nobody subscribed")
    client.expect_silence()


def test_messages_wait_for_a_session_that_stays(party: Party) -> None:
    """[MQTT-3.1.2-5] [MQTT-3.1.2-23] [MQTT-4.5.0-1] [MQTT-4.1.0-1] [3.1.1: MQTT-3.1.2-5] [3.1.1: MQTT-4.5.0-1]
    [3.1.1: MQTT-4.1.0-1] [3.1.1: MQTT-4.1.0-2]."""
    kiosk, topic = party.name(), party.name()
    client = party.durable(kiosk)
    party.subscribe(client, (topic, 2))
    client.close()
    for qos in (1, 2):
        party.say(topic, b"%d" % qos, qos)
    client = party.durable(kiosk, present=True)
    client.expect(party.publish(topic, b"1", 1, 1), party.publish(topic, b"2", 2, 2))


def test_without_a_session_a_new_one_begins(party: Party) -> None:
    """[MQTT-3.1.2-6] [MQTT-3.2.2-3] [3.1.1: MQTT-3.2.2-3]: session present 0, and the next time 1."""
    kiosk = party.name()
    party.durable(kiosk, present=False).close()
    party.durable(kiosk, present=True)


def test_retained_messages_outlive_the_session_that_brought_them(party: Party) -> None:
    """[3.1.1: MQTT-3.1.2-7]."""
    topic = party.name()
    party.say(topic, b"kept", retain=True)
    party.reader(topic).expect(party.publish(topic, b"kept", retain=True))


def test_a_will_has_a_topic_and_a_payload(party: Party) -> None:
    """[MQTT-3.1.2-9] [3.1.1: MQTT-3.1.2-9]: the flag without the fields is malformed."""
    party.connect_refused(connect_with(party.version, 0x06, wire.text("c")), MALFORMED)


@pytest.mark.parametrize("flags", [0x0A, 0x12])
def test_without_a_will_its_qos_is_zero(party: Party, flags: int) -> None:
    """[MQTT-3.1.2-11] [3.1.1: MQTT-3.1.2-11] [3.1.1: MQTT-3.1.2-13]."""
    party.connect_refused(connect_with(party.version, flags, wire.text("c")), MALFORMED)


def test_without_a_will_retain_is_zero(party: Party) -> None:
    """[MQTT-3.1.2-13] [3.1.1: MQTT-3.1.2-15]."""
    party.connect_refused(connect_with(party.version, 0x22, wire.text("c")), MALFORMED)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_has_qos_0_1_or_2(party: Party, qos: int) -> None:
    """[MQTT-3.1.2-12] [3.1.1: MQTT-3.1.2-14]: and not 3."""
    topic = party.name()
    witness = party.reader(topic, 2)
    client = party.raw()
    client.enter(wire.connect(party.name(), party.version, will=(topic, b"gone", qos, False)))
    client.close()
    witness.expect(party.publish(topic, b"gone", qos, 1))
    will = wire.connect("c", party.version, will=("a", b"x", 3, False))
    party.connect_refused(will, MALFORMED)


@pytest.mark.parametrize("retain", [False, True])
def test_a_will_is_retained_if_it_says_so(party: Party, retain: bool) -> None:
    """[MQTT-3.1.2-14] [MQTT-3.1.2-15] [3.1.1: MQTT-3.1.2-16] [3.1.1: MQTT-3.1.2-17]."""
    topic = party.name()
    witness = party.reader(topic)
    client = party.raw()
    client.enter(wire.connect(party.name(), party.version, will=(topic, b"gone", 0, retain)))
    client.close()
    witness.expect(party.publish(topic, b"gone"))
    newcomer = party.reader(topic)
    if retain:
        newcomer.expect(party.publish(topic, b"gone", retain=True))
    newcomer.expect_silence()


def test_a_will_is_published_once_and_gone(party: Party) -> None:
    """[MQTT-3.1.2-7] [MQTT-3.1.2-10] [3.1.1: MQTT-3.1.2-10] [3.1.1: MQTT-3.1.2-12]: the next connection has none."""
    topic, kiosk = party.name(), party.name()
    witness = party.reader(topic)
    client = party.raw()
    connect = wire.connect(kiosk, party.version, clean=False, will=(topic, b"gone", 0, False), properties=wire.FOR_EVER)
    client.enter(connect)
    client.close()
    witness.expect(party.publish(topic, b"gone"))
    party.durable(kiosk, present=True).close()
    party.durable(kiosk, present=True)  # the loss of the one before has been seen
    witness.expect_silence()


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        pytest.param(0x82, [], id="user name flag, no user name"),
        pytest.param(0x02, [wire.text("user")], id="user name, no flag"),
    ],
)
def test_a_user_name_comes_with_its_flag(party: Party, flags: int, fields: list[bytes]) -> None:
    """[MQTT-3.1.2-16] [MQTT-3.1.2-17] [3.1.1: MQTT-3.1.2-18] [3.1.1: MQTT-3.1.2-19]."""
    party.connect_refused(connect_with(party.version, flags, wire.text("c"), *fields), MALFORMED)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        pytest.param(0xC2, [wire.text("user")], id="password flag, no password"),
        pytest.param(0x82, [wire.text("user"), wire.text("password")], id="password, no flag"),
    ],
)
def test_a_password_comes_with_its_flag(party: Party, flags: int, fields: list[bytes]) -> None:
    """[MQTT-3.1.2-18] [MQTT-3.1.2-19] [3.1.1: MQTT-3.1.2-20] [3.1.1: MQTT-3.1.2-21]."""
    party.connect_refused(connect_with(party.version, flags, wire.text("c"), *fields), MALFORMED)


def test_a_password_without_a_user_name_is_of_5_0_only(party: Party) -> None:
    """[3.1.1: MQTT-3.1.2-22]."""
    connect = connect_with(party.version, 0x42, wire.text(party.name()), wire.text("password"))
    if party.is_5:
        party.raw().enter(connect)
    else:
        party.connect_refused(connect, MALFORMED)


def test_the_payload_of_connect_has_an_order(party: Party) -> None:
    """[MQTT-3.1.3-1] [MQTT-3.1.3-3] [3.1.1: MQTT-3.1.3-1] [3.1.1: MQTT-3.1.3-3]: all fields, each where it belongs."""
    topic, kiosk = party.name(), party.name()
    witness = party.reader(topic)
    older, newer = party.raw(), party.raw()
    for client in (older, newer):
        client.enter(
            wire.connect(kiosk, party.version, will=(topic, b"will", 0, False), username="user", password="secret")
        )
    older.expect_goodbye(0x8E, party.version)  # so `kiosk` was read as the client identifier
    witness.expect(party.publish(topic, b"will"))


def test_the_client_identifier_tells_sessions_apart(party: Party) -> None:
    """[MQTT-3.1.3-2] [3.1.1: MQTT-3.1.3-2]."""
    one, other, topic = party.name(), party.name(), party.name()
    client = party.durable(one)
    party.subscribe(client, (topic, 1))
    client.close()
    stranger = party.durable(other, present=False)
    party.say(topic, b"for one")
    stranger.expect_silence()
    party.durable(one, present=True).expect(party.publish(topic, b"for one", 1, 1))


@pytest.mark.parametrize("client_id", ["0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"])
def test_client_identifiers_of_1_to_23_letters_and_digits_are_allowed(party: Party, client_id: str) -> None:
    """[MQTT-3.1.3-5] [3.1.1: MQTT-3.1.3-5]."""
    party.raw().enter(wire.connect(client_id, party.version))


def test_assigned_client_identifiers_are_unique(party: Party) -> None:
    """[MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16] [3.1.1: MQTT-3.1.3-6]: neither takes the other over."""
    clients = [party.raw() for _ in range(3)]
    connacks = [client.enter(wire.connect("", party.version)) for client in clients]
    for client in clients:
        client.expect_silence()
    if party.is_5:
        assert len(set(connacks)) == 3
        assert all(b"\x12" in connack for connack in connacks)


def test_a_client_identifier_that_is_not_allowed_is_refused(party: Party) -> None:
    """[MQTT-3.1.3-8] [MQTT-4.13.2-1] [3.1.1: MQTT-3.1.3-9]: longer than the limit."""
    client = party.raw()
    client.send(wire.connect("x" * 257, party.version))
    if party.is_5:
        assert client.read()[2:4] == b"\x00\x85"
    else:
        client.expect(wire.connack_4(code=2))
    client.expect_end()


def test_what_follows_a_refused_connect_is_not_processed(party: Party) -> None:
    """[MQTT-3.1.4-6] [3.1.1: MQTT-3.1.4-5]."""
    topic = party.name()
    client = party.raw()
    client.send(wire.connect("x" * 257, party.version), party.publish(topic, b"never", retain=True))
    assert client.read()[0] == 0x20
    client.expect_end()
    party.reader(topic).expect_silence()


def test_there_is_one_connack_and_its_flags_are_zero(party: Party) -> None:
    """[MQTT-3.1.4-5] [MQTT-3.2.0-1] [MQTT-3.2.0-2] [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-4.2-1]
    [3.1.1: MQTT-3.1.4-4] [3.1.1: MQTT-3.2.0-1] [3.1.1: MQTT-3.2.2-1] [3.1.1: MQTT-7.1.1-1]."""
    client = party.raw()
    connack = client.enter(wire.connect(party.name(), party.version))
    assert connack[0] == 0x20
    assert connack[2:4] == b"\x00\x00"
    client.expect_silence()


def test_a_session_ends_when_its_interval_is_over(party_5: Party) -> None:
    """[MQTT-4.1.0-2]: and not before."""
    kiosk, topic = party_5.name(), party_5.name()
    witness = party_5.reader(topic)
    connect = wire.connect(
        kiosk,
        5,
        clean=False,
        properties=b"\x11" + struct.pack(">I", 1),
        will=(topic, b"ended", 0, False),
        will_properties=b"\x18" + struct.pack(">I", 60),
    )
    client = party_5.raw()
    client.enter(connect)
    client.close()
    client = party_5.raw()
    client.enter(connect, present=True)
    client.close()
    # The will does not wait longer than its session (MQTT 5.0, 3.1.3.2.2).
    witness.expect(party_5.publish(topic, b"ended"))
    party_5.raw().enter(connect, present=False)


def test_response_information_is_not_sent_unasked(party_5: Party) -> None:
    """[MQTT-3.1.2-28]."""
    connack = party_5.raw().enter(wire.connect(party_5.name(), 5, properties=b"\x19\x00"))
    assert b"\x1a" not in connack[5:]


def test_problem_information_is_not_sent_where_it_is_not_wanted(party_5: Party) -> None:
    """[MQTT-3.1.2-29]: answers to refused requests are bare; DISCONNECT may say why."""
    client = party_5.client(b"\x17\x00")
    client.send(party_5.publish("$SYS/mine", b"", 1, 7), wire.subscribe(8, ("/" * 200, 0), version=5))
    client.expect(b"\x40\x03\x00\x07\x87", wire.suback(8, 0x8F, version=5))


def test_limits_are_the_servers_to_keep_for_a_client_with_a_small_packet_size(party_5: Party) -> None:
    """[MQTT-3.14.2-3] [MQTT-3.14.4-1] [MQTT-3.14.4-2]: the reason string is left out, then nothing more is said."""
    client = party_5.raw()
    client.enter(wire.connect(party_5.name(), 5, properties=SMALL))
    client.send(b"\xf1\x00", wire.PINGREQ)
    client.expect(b"\xe0\x01\x81")
    client.expect_end()


def test_a_goodbye_has_no_session_expiry_interval(party_5: Party) -> None:
    """[MQTT-3.14.0-1] [MQTT-3.14.2-2]: nor is there one before CONNACK."""
    client = party_5.client()
    client.send(b"\xf1\x00")
    goodbye = client.expect_goodbye(MALFORMED, 5)
    assert goodbye[3] == len(goodbye) - 4
    assert goodbye[4] == 0x1F
    assert struct.unpack(">H", goodbye[5:7])[0] == len(goodbye) - 7, "a reason string and nothing else"
    stranger = party_5.raw()
    stranger.send(wire.PINGREQ)
    stranger.expect_end()


def test_a_broker_that_ends_tells_its_clients_when_to_come_back(own_broker: BrokerProcess) -> None:
    """[MQTT-3.14.2-4]: unless the packet would be too large for one."""
    with RawClient(own_broker.port) as hearing, RawClient(own_broker.port) as small, RawClient(own_broker.port) as old:
        hearing.enter(wire.connect("hearing", 5))
        small.enter(wire.connect("small", 5, properties=SMALL))
        old.enter(wire.connect("old", 4))
        assert own_broker.stop() == 0
        assert HINT in hearing.expect_goodbye(SHUTTING_DOWN, 5)
        small.expect(b"\xe0\x01\x8b")
        small.expect_end()
        old.expect_end()


def until_nobody_listens(port: int) -> None:
    while True:
        try:
            RawClient(port).close()
        except ConnectionResetError:
            continue  # it waited to be accepted when the port was closed
        except ConnectionRefusedError:
            return


def test_who_comes_while_the_broker_ends_is_told_when_to_come_back(own_broker: BrokerProcess) -> None:
    """[MQTT-3.2.2-20]: unless the packet would be too large for one. It ends when all is acknowledged."""
    with ExitStack() as sockets:
        hearing, small, old, client = (sockets.enter_context(RawClient(own_broker.port)) for _ in range(4))
        client.enter(wire.connect("client", 5))
        messages = [wire.publish("t", b"x", 1, number, 5) for number in (1, 2)]
        client.send(wire.subscribe(1, ("t", 1), version=5), *messages)
        client.expect(wire.suback(1, 1, version=5))
        assert {client.read() for _ in range(4)} == {*messages, wire.puback(1), wire.puback(2)}
        own_broker.begin_to_stop()
        until_nobody_listens(own_broker.port)
        hearing.send(wire.connect("hearing", 5))
        small.send(wire.connect("small", 5, properties=SMALL))
        old.send(wire.connect("old", 4))
        client.send(wire.puback(1))
        hearing.expect(wire.packet(0x20, b"\x00\x89" + bytes([len(HINT)]) + HINT))
        small.expect(b"\x20\x03\x00\x89\x00")
        old.expect(wire.connack_4(code=3))
        for refused in (hearing, small, old):
            refused.expect_end()
        client.send(wire.puback(2))
        client.expect_goodbye(SHUTTING_DOWN, 5)
        assert own_broker.wait() == 0
