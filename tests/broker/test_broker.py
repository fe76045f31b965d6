"""The broker as a whole: take-over, fan-out, retained messages, shared subscriptions, what the embedder calls."""

from __future__ import annotations

import pytest

from broker.events import ACKNOWLEDGED, LOST, UNHANDLED
from broker.message import Body, Message
from broker.protocol.packets import (
    V3_1_1,
    V5,
    Connack,
    Connect,
    Disconnect,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsubscribe,
    Will,
)
from broker.protocol.packets import SubscriptionRequest as Request
from broker.settings import BrokerSettings
from tests.fakes import FakeClient, World, message

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])


# -- take-over ---------------------------------------------------------------------------------------------------------


@both_versions
def test_a_second_connection_takes_the_session_over(version: int) -> None:
    """[MQTT-3.1.4-3] of 5.0, [MQTT-3.1.4-2] of 3.1.1"""
    world = World()
    first = world.connect("c", version, clean=False)
    first.subscribe(("a", 1))
    world.broker.deliver("c", message("a"), 7)
    first.received()
    world.events.take()
    world.events.resumable = lambda handles: {h: message("a", b"again") for h in handles}
    second = world.connect("c", version, clean=False)
    assert first.is_closed()
    if version == V5:
        assert first.receive(Disconnect).reason_code == 0x8E
    assert second.connack.session_present
    assert world.events.take() == [
        ("delivery_ended", "c", 7, LOST),
        ("disconnected", "c", "session taken over"),
        ("connected", "c", True),
        ("resume", "c", [7]),
        ("ready", "c", 511),
    ]
    first.drop()
    first.connection.data_received(b"\xc0\x00", world.clock.now)
    assert second.payloads() == [b"again"]
    assert world.broker.is_connected("c")
    assert world.broker.metrics.connections == 1
    assert world.broker.metrics.taken_over == 1


@both_versions
def test_a_clean_take_over_ends_the_old_session(version: int) -> None:
    """[MQTT-3.1.2-4]"""
    world = World()
    world.connect("c", version, clean=False).subscribe(("a", 1))
    second = world.connect("c", version, clean=True)
    assert not second.connack.session_present
    assert not world.store.has_session("c")
    assert world.broker.granted_qos("c", "a") is None
    assert world.broker.metrics.sessions == 1


def test_a_take_over_while_connack_waits_for_the_disk() -> None:
    world = World()
    world.store.blocked = True
    first = world.client()
    first.send(Connect("c", clean_start=False))
    second = world.client()
    second.send(Connect("c", clean_start=False))
    assert first.is_closed()
    world.store.commit()
    assert first.received() == [Connack(False, 3)]
    assert second.receive(Connack).session_present


def test_a_side_connection_leaves_the_device_alone() -> None:
    world = World()
    device = world.connect("kiosk", clean=False)
    device.subscribe(("a", 1))
    side = world.connect("kiosk:r", clean=False)
    side.send(Publish("receipts", b"x", 1, packet_id=1))
    side.receive(Puback)
    side.drop()
    assert not world.store.has_session("kiosk:r")
    assert list(world.broker.sessions) == ["kiosk"]
    assert not device.is_closed()


# -- fan-out -----------------------------------------------------------------------------------------------------------


@both_versions
def test_a_message_reaches_all_subscribers_at_the_lower_qos(version: int) -> None:
    """[MQTT-3.8.4-8] [MQTT-3.3.5-1]"""
    world = World()
    clients: list[FakeClient] = []
    for qos in (0, 1, 2):
        client = world.connect(f"c{qos}", version)
        client.subscribe(("a/+", qos))
        clients.append(client)
    publisher = world.connect("p", version)
    for qos in (0, 1, 2):
        publisher.send(Publish("a/b", b"x", qos, packet_id=9))
        assert [client.receive(Publish).qos for client in clients] == [min(qos, granted) for granted in (0, 1, 2)]
        publisher.send(Pubrel(9))


@both_versions
def test_overlapping_subscriptions_deliver_once_at_the_highest_qos(version: int) -> None:
    world = World()
    client = world.connect("c", version)
    client.subscribe(("a", 0))
    client.subscribe(("+", 2))
    client.subscribe(("#", 1))
    world.broker.publish(message("a", qos=2))
    assert client.receive(Publish).qos == 2


def test_identifiers_of_all_matching_subscriptions_go_along() -> None:
    """[MQTT-3.3.4-3] [MQTT-3.3.4-4]"""
    world = World()
    client = world.connect("c", V5)
    client.subscribe(("a", 0), identifier=1)
    client.subscribe(("+", 2), identifier=2)
    client.subscribe(("#", 1))
    world.broker.publish(message("a"))
    properties = client.receive(Publish).properties
    assert properties is not None
    assert sorted(properties.subscription_identifiers) == [1, 2]


def test_no_local_and_retain_as_published() -> None:
    """[MQTT-3.8.3-3] [MQTT-3.3.1-12] [MQTT-3.3.1-13]"""
    world = World()
    client = world.connect("c", V5)
    other = world.connect("d", V5)
    client.subscribe(Request("a", 1, no_local=True))
    other.subscribe(Request("a", 1, retain_as_published=True))
    client.send(Publish("a", b"x", retain=True))
    assert client.received() == []
    assert other.receive(Publish).retain
    other.send(Publish("a", b"x", retain=True))
    assert not client.receive(Publish).retain
    client.subscribe(Request("+", 0, retain_handling=2))
    client.send(Publish("a", b"x"))
    assert client.receive(Publish).qos == 0, "the other filter has no such wish"


def test_request_and_response_pass_through() -> None:
    """Response topic and correlation data (MQTT 5.0, 4.10). [MQTT-3.3.2-15] [MQTT-3.3.2-16]"""
    world = World()
    responder, requester = world.connect("s", V5), world.connect("r", V5)
    responder.subscribe(("requests", 1))
    requester.subscribe(("answers/r", 1))
    asked = Properties(
        response_topic="answers/r", correlation_data=b"\x00\x01", user_properties=[("a", "1"), ("a", "2")]
    )
    requester.send(Publish("requests", b"?", properties=asked))
    properties = responder.receive(Publish).properties
    assert properties == asked
    assert properties is not None
    assert properties.response_topic is not None
    answer = Properties(correlation_data=properties.correlation_data)
    responder.send(Publish(properties.response_topic, b"!", properties=answer))
    assert requester.receive(Publish).properties == answer


@both_versions
def test_deliveries_do_not_fan_out_and_messages_of_clients_are_told(version: int) -> None:
    world = World()
    client = world.connect("c", version)
    client.subscribe(("#", 1))
    world.connect("d", version).subscribe(("#", 1))
    assert world.broker.deliver("d", message("a"), 1)
    assert client.received() == []
    world.broker.publish(message("b"))
    assert not world.events.of("published")
    client.send(Publish("own", b"x"))
    assert world.events.of("published") == [("published", "c", "own", b"x")]


@both_versions
def test_qos_2_in_is_qos_2_out(version: int) -> None:
    """[MQTT-4.3.3-2] ff., both directions"""
    world = World()
    client = world.connect("c", version)
    client.subscribe(("a", 2))
    publisher = world.connect("p", version)
    publisher.send(Publish("a", b"x", 2, packet_id=3))
    publisher.receive(Pubrec)
    publish = client.receive(Publish)
    publisher.send(Publish("a", b"x", 2, dup=True, packet_id=3), Pubrel(3))
    assert publisher.received() == [Pubrec(3), Pubcomp(3)]
    client.send(Pubrec(publish.packet_id))
    assert client.receive(Pubrel) == Pubrel(publish.packet_id)
    client.send(Pubcomp(publish.packet_id))
    assert client.received() == []
    assert not world.broker.sessions["c"].inflight


# -- retained ----------------------------------------------------------------------------------------------------------


@both_versions
def test_retained_messages_reach_new_subscriptions_after_suback(version: int) -> None:
    """[MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8]"""
    world = World()
    publisher = world.connect("p", version)
    publisher.send(Publish("a/1", b"one", 1, retain=True, packet_id=1), Publish("a/2", b"two", retain=True))
    publisher.send(Publish("a/3", b"three", retain=True), Publish("a/3", b"", retain=True))
    client = world.connect("c", version)
    client.send(Subscribe(1, [Request("a/+", 2)]))
    suback, *publishes = client.received()
    assert isinstance(suback, Suback)
    got = sorted((p.payload, p.qos, p.retain) for p in publishes if isinstance(p, Publish))
    assert got == [(b"one", 1, True), (b"two", 0, True)]
    publisher.send(Publish("a/1", b"new", retain=True))
    assert not client.receive(Publish).retain
    assert world.broker.metrics.retained == 2


def test_retain_handling_decides_when_they_are_sent() -> None:
    """[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]"""
    world = World()
    world.broker.publish(Message("a", Body(b"x"), 0, retain=True))
    client = world.connect("c", V5)
    for handling, new, again in ((0, 1, 1), (1, 1, 0), (2, 0, 0)):
        for expected in (new, again):
            client.send(Subscribe(1, [Request("a", 0, retain_handling=handling)]))
            assert len(client.received()) == 1 + expected
        client.send(Unsubscribe(2, ["a"]))
        client.received()
    client.send(Subscribe(1, [Request("$share/g/a", 0)]))
    client.receive(Suback)


@both_versions
def test_more_retained_messages_than_the_window_or_the_socket_take_all_arrive(version: int) -> None:
    world = World(BrokerSettings(max_inflight=3, max_queued_messages=5))
    for number in range(20):
        world.broker.publish(Message(f"a/{number}", Body(b"%d" % number), 1, retain=True))
    client = world.connect("c", version, clean=False)
    client.send(Subscribe(1, [Request("a/#", 1)]))
    got = []
    packets = client.received()[1:]
    while packets:
        assert len(packets) <= 3
        publishes = [packet for packet in packets if isinstance(packet, Publish)]
        got += [publish.payload for publish in publishes]
        client.send(*(Puback(publish.packet_id) for publish in publishes))
        packets = client.received()
    assert len(set(got)) == len(got) == 20
    assert not world.store.state.messages


def test_retained_messages_survive_a_crash_and_expire() -> None:
    """[MQTT-3.3.2-5]"""
    world = World()
    world.broker.publish(Message("a", Body(b"x", expires_at=world.clock.now + 10), 0, retain=True))
    world.broker.publish(Message("b", Body(b"y"), 0, retain=True))
    world = world.crash()
    assert world.broker.metrics.retained == 2
    world.clock.now += 11
    world.broker.tick(world.clock.now)
    client = world.connect("c")
    client.send(Subscribe(1, [Request("#", 0)]))
    assert [packet.topic for packet in client.received() if isinstance(packet, Publish)] == ["b"]
    world = world.crash()
    assert [m.topic for m in world.store.state.retained] == ["b"]


def test_retained_messages_are_bounded_and_the_newest_is_only_delivered() -> None:
    world = World(BrokerSettings(max_retained_messages=1))
    client = world.connect("c")
    client.subscribe(("#", 0))
    world.broker.publish(Message("a", Body(b"x", expires_at=world.clock.now + 10), 0, retain=True))
    world.broker.publish(Message("b", Body(b"y"), 0, retain=True))
    assert client.payloads() == [b"x", b"y"]
    assert world.broker.metrics.dropped_not_retained == 1
    world.clock.now += 11
    world.broker.publish(Message("b", Body(b"y"), 0, retain=True))
    assert [m.topic for m in world.store.state.retained] == ["b"], "what has expired makes room"


@both_versions
def test_a_subscription_answered_after_a_crash_of_the_connection_sends_nothing(version: int) -> None:
    world = World()
    world.broker.publish(Message("a", Body(b"x"), 1, retain=True))
    client = world.connect("c", version, clean=False)
    world.store.blocked = True
    client.send(Subscribe(1, [Request("a", 1)]))
    client.drop()
    world.store.blocked = False
    world.store.commit()
    assert client.received() == []
    assert world.connect("c", version, clean=False).received() == []


# -- shared subscriptions ----------------------------------------------------------------------------------------------


@both_versions
def test_members_of_a_group_share_the_messages(version: int) -> None:
    """[MQTT-4.8.2-4]"""
    world = World()
    members = [world.connect(f"m{number}", version) for number in range(3)]
    for member in members:
        member.subscribe(("$share/g/a", 1), ("$share/h/a", 0))
    single = world.connect("s", version)
    single.subscribe(("a", 1))
    for number in range(6):
        world.broker.publish(Message("a", Body(b"%d" % number), 1))
    assert len(single.publishes()) == 6
    got = [sorted((publish.payload, publish.qos) for publish in member.publishes()) for member in members]
    assert [len(each) for each in got] == [4, 4, 4]
    assert sorted(pair for each in got for pair in each) == [(b"%d" % n, qos) for n in range(6) for qos in (0, 1)]


def test_a_member_that_can_take_it_now_is_preferred() -> None:
    """[MQTT-4.8.2-5]"""
    world = World(BrokerSettings(max_inflight=1))
    away, busy, free = (world.connect(name, clean=False) for name in ("away", "busy", "free"))
    for member in (away, busy, free):
        member.subscribe(("$share/g/a", 1))
    away.drop()
    busy.subscribe(("b", 1))
    world.broker.publish(message("b"))
    for _ in range(3):
        world.broker.publish(message("a"))
        free.send(Puback(free.receive(Publish).packet_id))
    free.drop()
    world.broker.publish(message("a"))
    assert len(busy.publishes()) == 1, "connected, and it waits in its queue"
    busy.drop()
    world.broker.publish(message("a"))
    assert sum(len(session.queue or ()) for session in world.broker.sessions.values()) == 2


# -- what the embedder calls -------------------------------------------------------------------------------------------


@both_versions
def test_ready_is_said_after_connect_subscribe_and_unsubscribe(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    assert not world.events.of("ready"), "nothing is subscribed"
    client.subscribe(("a", 1))
    client.subscribe(("b", 1))
    assert world.events.of("ready") == [("ready", "c", 512)] * 2
    client.send(Unsubscribe(5, ["a"]))
    client.received()
    assert len(world.events.of("ready")) == 3
    client.send(Unsubscribe(5, ["b"]))
    client.received()
    assert len(world.events.of("ready")) == 3
    client.subscribe(("a", 1))
    client.drop()
    world.events.take()
    world.connect("c", version, clean=False)
    assert world.events.log == [("connected", "c", True), ("ready", "c", 512)]


@both_versions
def test_a_removed_session_is_gone_at_once(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False, will=Will("gone", b"w"))
    client.subscribe(("a", 2))
    world.broker.deliver("c", message("a", qos=2), 1)
    packet_id = client.receive(Publish).packet_id
    client.send(Pubrec(packet_id))
    client.received()
    world.broker.deliver("c", message("a"), 2)
    client.received()
    world.events.take()
    world.broker.remove_session("c")
    assert client.is_closed()
    if version == V5:
        assert client.receive(Disconnect).reason_code == 0x98
    assert world.events.take() == [
        ("delivery_ended", "c", 2, LOST),
        ("disconnected", "c", "session removed"),
        ("published", "c", "gone", b"w"),
        ("delivery_ended", "c", 1, LOST),
    ]
    assert not world.store.has_session("c")
    assert not world.broker.deliver("c", message("a"), 3)
    world.broker.remove_session("c")
    world.broker.publish(message("a"))
    assert not world.store.state.messages
    assert not world.connect("c", version, clean=False).connack.session_present


@both_versions
def test_all_connections_of_a_credential_are_closed(version: int) -> None:
    world = World()
    clients = [world.connect(name, version, clean=False) for name in ("kiosk", "kiosk:a", "kiosk:b", "other")]
    assert world.broker.disconnect_principal("kiosk", 0x87) == 3
    assert [client.is_closed() for client in clients] == [True, True, True, False]
    if version == V5:
        assert clients[0].receive(Disconnect).reason_code == 0x87
    assert list(world.broker.sessions) == ["kiosk", "other"]
    assert world.broker.disconnect_principal("kiosk", 0x87) == 0


@both_versions
def test_shutdown_says_goodbye_to_all(version: int) -> None:
    world = World()
    clients = [world.connect(f"c{number}", version) for number in range(3)]
    world.broker.shutdown()
    assert all(client.is_closed() for client in clients)
    if version == V5:
        assert [client.receive(Disconnect).reason_code for client in clients] == [0x8B] * 3
    assert world.broker.metrics.connections == 0


def test_goodbyes_may_be_spread() -> None:
    world = World()
    clients = [world.connect(f"c{number}", V5) for number in range(5)]
    assert world.broker.shutdown(2)
    assert [client.is_closed() for client in clients] == [True, True, False, False, False]
    assert world.broker.shutdown(2)
    assert not world.broker.shutdown(2)
    assert all(client.is_closed() for client in clients)


def test_the_fleet_that_is_sent_away_stays_as_large_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last to be told must not hear of an empty house, and all come back at once."""
    monkeypatch.setattr("broker.retry_hint.RETURNS_PER_SECOND", 1)
    monkeypatch.setattr("broker.retry_hint.randbelow", lambda end: end - 1)
    world = World()
    clients = [world.connect(f"c{number}", V5) for number in range(3)]
    world.broker.drain()
    while world.broker.shutdown(1):
        pass
    for client in clients:
        properties = client.receive(Disconnect).properties
        assert properties is not None
        assert properties.user_properties == [("retry-after", "4")]


@both_versions
def test_nothing_more_begins_to_be_sent_while_the_broker_drains(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 1))
    assert world.broker.deliver("c", message("a", b"before"), 1)
    world.broker.publish(message("a", b"ordinary"))
    ordinary, queued = client.publishes()
    world.events.take()

    world.broker.drain()
    assert not world.broker.deliver("c", message("a", b"late"), 2)
    world.broker.publish(message("a", b"queued"))
    assert world.broker.has_pending_acks()
    client.send(Puback(ordinary.packet_id), Puback(queued.packet_id))
    assert not world.broker.has_pending_acks()
    client.connection.pause_writing()
    client.connection.resume_writing(world.clock.now)
    assert client.subscribe(("b", 1)) == [1], "what clients ask is answered"
    assert client.received() == []
    assert world.events.of("delivery_ended", "ready") == [("delivery_ended", "c", 1, ACKNOWLEDGED)]

    again = world.crash().connect("c", version, clean=False)
    assert again.connack.session_present
    assert [publish.payload for publish in again.unread if isinstance(publish, Publish)] == [b"queued"]


@both_versions
def test_an_answer_that_waits_for_the_disk_is_under_way(version: int) -> None:
    world = World()
    client = world.connect("c", version)
    world.events.blocked = True
    client.send(Publish("a", b"said", 1, packet_id=7))
    assert world.broker.has_pending_acks()
    world.events.dones[0](0)
    assert not world.broker.has_pending_acks()


@both_versions
def test_a_closed_broker_serves_its_clients_and_lets_nobody_in(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 1))
    world.broker.close()
    late = world.client(version)
    late.send(Connect("late", version))
    assert late.receive(Connack).reason_code == (0x89 if version == V5 else 3)
    world.broker.publish(message("a", b"still here", qos=1))
    assert client.receive(Publish).payload == b"still here"
    assert not world.broker.shutdown(1)
    assert client.is_closed()


@both_versions
def test_nobody_is_let_in_while_the_broker_drains(version: int) -> None:
    """Clients that are being authenticated are refused, too."""
    world = World()
    early, late = world.client(version), world.client(version)
    world.authenticator.blocked = True
    early.send(Connect("early", version))
    world.broker.drain()
    late.send(Connect("late", version))
    _, decide = world.authenticator.asked.pop()
    decide()
    assert not world.authenticator.asked, "the late one was not looked at"
    for client in (early, late):
        assert client.receive(Connack).reason_code == (0x89 if version == V5 else 3)
        assert client.is_closed()
    assert not world.broker.sessions
    assert world.broker.metrics.refused == {"server_busy": 2}


@both_versions
def test_a_listener_may_remove_the_session_from_within(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 1))
    world.broker.deliver("c", message("a"), 1)
    client.received()
    world.events.on_delivery_ended = lambda client_id, handle, outcome: world.broker.remove_session(client_id)
    client.drop()
    assert world.events.of("delivery_ended", "disconnected") == [
        ("delivery_ended", "c", 1, UNHANDLED),
        ("disconnected", "c", "connection lost"),
    ]
    assert world.broker.sessions == {}
    assert not world.store.has_session("c")


@both_versions
def test_a_listener_may_close_the_connection_from_within(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 1))
    world.broker.deliver("c", message("a"), 1)
    packet_id = client.receive(Publish).packet_id
    world.events.on_delivery_ended = lambda *_: world.broker.remove_session("c")
    client.send(Puback(packet_id), Publish("late", b""))
    assert client.is_closed()
    assert world.events.of("delivery_ended") == [("delivery_ended", "c", 1, ACKNOWLEDGED)]
    assert not world.events.of("published")
    world.events.on_delivery_ended = None
    world.events.on_ready = lambda *_: world.broker.remove_session("c")
    client = world.client(version)
    client.send(Connect("c", version, False), Subscribe(1, [Request("a", 1)]), Publish("late", b""))
    assert client.is_closed()
    assert not world.events.of("published")


def test_the_hot_path_allocates_and_does_no_more_than_it_must() -> None:
    """One write per delivery, and no store, no barrier, no encoding of what is shared."""
    world = World()
    client = world.connect("c", V5, clean=False)
    client.subscribe(("a", 1))
    world.store.log.clear()
    shared = Body(b"x", Properties(content_type="application/json"))
    before = client.transport.writes
    for handle in range(100):
        assert world.broker.deliver("c", Message("a", shared, 1), handle)
    assert client.transport.writes - before == 100
    client.send(*(Puback(publish.packet_id) for publish in client.publishes()))
    assert len(world.events.of("delivery_ended")) == 100
    assert world.store.log == []
    assert world.broker.metrics.publishes_out == world.broker.metrics.acknowledged == 100


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_the_connections_of_a_user_are_bounded_and_its_own_has_a_place(version: int) -> None:
    world = World(BrokerSettings(max_connections_per_user=3))
    sides = [world.connect(f"kiosk-1:{number}", version) for number in range(3)]
    refused = world.client(version)
    refused.send(Connect("kiosk-1:x", version))
    assert refused.receive(Connack).reason_code == (0x97 if version == V5 else 3)
    assert world.broker.metrics.refused["too_many_connections_of_a_user"] == 1
    world.connect("kiosk-1", version)
    world.connect("kiosk-1:1", version)  # it takes its own place over
    world.connect("kiosk-2:1", version)
    sides[0].drop()
    sides[2].drop()
    world.connect("kiosk-1:x", version)


@pytest.mark.parametrize("version", [V3_1_1, V5])
def test_the_connections_of_an_address_are_bounded(version: int) -> None:
    world = World(BrokerSettings(max_connections_per_address=2))
    first = world.connect("kiosk-1", version)
    world.connect("kiosk-2", version)
    refused = world.client(version)
    refused.send(Connect("kiosk-3", version))
    assert refused.receive(Connack).reason_code == (0x97 if version == V5 else 3)
    world.connect("kiosk-2", version)
    elsewhere = world.client(version)
    elsewhere.connection.peer = "192.0.2.9:1"
    elsewhere.send(Connect("kiosk-4", version))
    assert elsewhere.receive(Connack).reason_code == 0
    first.drop()
    world.connect("kiosk-3", version)
    assert world.broker._by_address == {"192.0.2.1": 2, "192.0.2.9": 1}
