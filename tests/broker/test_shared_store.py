"""Two brokers over one store: a session that moves between them, with all that is in flight."""

from __future__ import annotations

import pytest

from broker.events import LOST
from broker.protocol.packets import V3_1_1, V5, Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Will
from broker.reception import PACKET_ID_BITS
from tests.fakes import FakeSharedStore, World, message

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])


def two_brokers() -> tuple[World, World, FakeSharedStore]:
    store = FakeSharedStore()
    return World(store=store), World(store=store), store


def released(world: World, client_id: str) -> list[str]:
    """What has been called back by now."""
    called: list[str] = []
    world.broker.release(client_id, lambda: called.append(client_id))
    return called


@both_versions
def test_a_session_moves_with_its_identifiers_in_their_order(version: int) -> None:
    first, second, store = two_brokers()
    client = first.connect("c", version, clean=False)
    client.subscribe(("a", 2))
    for handle, qos in ((1, 1), (2, 2), (3, 1)):
        assert first.broker.deliver("c", message("a", b"%d" % handle, qos), handle)
    before = [(publish.packet_id, publish.payload) for publish in client.publishes()]
    first.events.take()
    assert released(first, "c") == ["c"]
    if version == V5:
        goodbye = client.receive(Disconnect)
        assert goodbye.reason_code == 0x8E
        assert goodbye.properties is not None
        assert goodbye.properties.reason_string == "session taken over"
    assert first.events.of("delivery_ended") == [("delivery_ended", "c", handle, LOST) for handle in (1, 2, 3)]
    assert not first.broker.sessions
    second.events.resumable = lambda handles: {h: message("a", b"%d" % h, 2 - h % 2) for h in handles}
    again = second.connect("c", version, clean=False)
    assert again.connack.session_present
    publishes = again.publishes()
    assert [(publish.packet_id, publish.payload) for publish in publishes] == before
    assert all(publish.dup for publish in publishes)
    for packet_id, payload in before:
        again.send(Pubrec(packet_id) if payload == b"2" else Puback(packet_id))
    again.send(Pubcomp(again.receive(Pubrel).packet_id))
    second.broker.forget("c", 2)
    assert not store.session("c").outbound


@both_versions
def test_packet_identifiers_of_two_brokers_differ(version: int) -> None:
    first, second, _ = two_brokers()
    sent = []
    for world in (first, second):
        client = world.connect("c", version, clean=False)
        client.subscribe(("a", 1))
        world.broker.deliver("c", message("a"), 1)
        sent.append(client.receive(Publish).packet_id)
        client.drop()
    assert sent[0] != sent[1]


@both_versions
def test_numbers_of_two_brokers_differ(version: int) -> None:
    """They name QoS 2 messages: under an equal one, a new message would be taken for one that is stored."""
    first, second, _ = two_brokers()
    for world, client_id in ((first, "c"), (second, "d")):
        world.connect(client_id, version, clean=False, will=Will("gone", b"w"))
    assert not first.broker.numbers() & second.broker.numbers()
    assert len(first.broker.numbers() | second.broker.numbers()) == 4


@both_versions
def test_what_a_client_has_said_moves_with_it(version: int) -> None:
    """The embedder at the other broker is asked again, under the same identifier."""
    first, second, store = two_brokers()
    client = first.connect("c", version, clean=False)
    first.events.blocked = True
    client.send(Publish("b", b"said", 2, packet_id=7))
    assert released(first, "c") == [], "the embedder may be storing it"
    assert "c" in first.broker.sessions
    first.events.blocked = False
    for done in first.events.dones:
        done(0)
    first.advance(1)
    assert not first.broker.sessions
    second.events.identifiers = {store.session("c").number << PACKET_ID_BITS | 7}
    again = second.connect("c", version, clean=False)
    again.send(Publish("b", b"said", 2, dup=True, packet_id=7))
    assert again.receive(Pubrec).packet_id == 7
    assert not second.events.published_messages, "it has the content"


@both_versions
def test_a_release_calls_back_when_everything_is_stored(version: int) -> None:
    first, _, store = two_brokers()
    first.connect("c", version, clean=False).subscribe(("a", 1))
    store.blocked = True
    called = released(first, "c")
    assert not called
    store.commit()
    assert called == ["c"]
    assert store.held == set()
    store.blocked = False
    assert released(first, "nobody") == ["nobody"]


def test_a_release_waits_until_an_acknowledgement_is_stored() -> None:
    first, second, store = two_brokers()
    client = first.connect("c", clean=False)
    client.subscribe(("a", 2))
    first.broker.deliver("c", message("a", qos=2), 5)
    packet_id = client.receive(Publish).packet_id
    client.send(Pubrec(packet_id), Pubcomp(packet_id))
    called = released(first, "c")
    first.advance(1)
    assert not called, "the other broker would hand it over again"
    first.broker.forget("c", 5)
    first.advance(1)
    assert called == ["c"]
    assert not store.session("c").outbound
    assert second.connect("c", clean=False).connack.session_present


@both_versions
def test_a_will_and_an_expiry_are_carried_out_by_whoever_finds_them(version: int) -> None:
    first, second, store = two_brokers()
    client = first.connect("c", version, clean=False, expiry=10, will=Will("gone", b"w"))
    client.drop()
    assert first.events.of("published") == [("published", "c", "gone", b"w")]
    assert not first.broker.sessions
    if version == V5:
        second.advance(11)
        assert not store.has_session("c")


def test_a_removed_session_that_is_away_goes() -> None:
    first, second, store = two_brokers()
    first.connect("c", clean=False).drop()
    second.broker.remove_session("c")
    assert not store.has_session("c")
