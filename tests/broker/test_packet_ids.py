"""Each run of a server has packet identifiers of its own."""

from __future__ import annotations

import pytest

from broker.events import ACKNOWLEDGED
from broker.inflight import ABANDONED
from broker.packet_ids import LAST_PACKET_ID, PacketIds, range_size
from broker.protocol.packets import V3_1_1, V5, Puback, Pubcomp, Publish, Pubrec, Pubrel
from broker.settings import BrokerSettings
from tests.fakes import FakeClient, FakeStore, World, message

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])


@pytest.mark.parametrize("max_inflight", [1, 512, 5_000, 16_383, 40_000, 65_535])
def test_two_runs_in_a_row_have_no_identifier_in_common(max_inflight: int) -> None:
    store = FakeStore()
    size = range_size(max_inflight)
    before: set[int] = set()
    for _ in range(100):
        packet_ids = PacketIds(store.claim_packet_ids(size), size)
        run = set(range(packet_ids.first, packet_ids.last + 1))
        assert run <= set(range(1, LAST_PACKET_ID + 1))
        assert run.isdisjoint(before)
        assert min(max_inflight, packet_ids.window) < packet_ids.most_inflight < len(run)
        before = run


def test_thirty_runs_in_a_row_have_none_with_the_usual_window() -> None:
    store, size = FakeStore(), range_size(BrokerSettings().max_inflight)
    firsts = {store.claim_packet_ids(size) for _ in range(LAST_PACKET_ID // size)}
    assert len(firsts) == 31


@both_versions
def test_an_acknowledgement_of_an_earlier_run_is_of_no_delivery_of_this_one(version: int) -> None:
    """However many kills there were, and however far the identifiers of a run have gone round."""
    world = World(BrokerSettings(max_inflight=1_024))
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 1))
    late: list[int] = []
    for run in range(1, 20):
        for handle in range(3_000 if run == 2 else 10):
            assert world.broker.deliver("c", message("a"), handle)
            if handle:  # the first one is not acknowledged in its run
                client.send(Puback(client.publishes()[-1].packet_id))
            else:
                late.append(client.receive(Publish).packet_id)
        world.events.take()
        client.send(*map(Puback, late[:-1]))
        assert world.events.of("delivery_ended") == []
        world = world.crash()
        client = world.connect("c", version, clean=False)
    client.send(*map(Puback, late))
    assert world.events.of("delivery_ended") == []
    assert world.broker.metrics.unsolicited_acknowledgements == len(late)
    assert world.broker.deliver("c", message("a"), 77)
    client.send(Puback(client.receive(Publish).packet_id))
    assert world.events.of("delivery_ended") == [("delivery_ended", "c", 77, ACKNOWLEDGED)]


@both_versions
def test_nothing_is_sent_when_unfinished_handshakes_have_every_identifier(version: int) -> None:
    """The embedder cannot store what is completed: identifiers wait for `forget`, and places in the window do not."""
    world = World(BrokerSettings(max_inflight=100))
    client = world.connect("c", version)
    client.subscribe(("a", 2))
    handle = 0
    while world.broker.deliver("c", message("a", qos=2), handle):
        handle += 1
        packet_id = client.receive(Publish).packet_id
        client.send(Pubrec(packet_id))
        client.receive(Pubrel)
        client.send(Pubcomp(packet_id))
    assert handle == PacketIds(1, range_size(100)).most_inflight
    assert not world.broker.deliver("c", message("a", qos=1), handle), "nor with QoS 1"
    world.broker.publish(message("a", b"ordinary", qos=1))
    assert client.received() == []
    assert world.broker.metrics.out_of_packet_ids == 1
    world.events.take()
    for forgotten in range(60):
        world.broker.forget("c", forgotten)
    (publish,) = client.publishes()
    assert publish.payload == b"ordinary"
    assert world.events.of("ready")
    assert world.broker.deliver("c", message("a", qos=2), handle)


def never_answering(world: World, version: int, connections: int) -> tuple[FakeClient, int]:
    """A client that never answers, and pushes that are over when it returns; so many were delivered."""
    handle = 0
    for _ in range(connections):
        client = world.connect("c", version, clean=False)
        client.subscribe(("a", 2))
        for _ in range(100):
            assert world.broker.deliver("c", message("a", qos=2), handle)
            handle += 1
        client.received()
        client.drop()
    client = world.connect("c", version, clean=False)
    return client, handle


@both_versions
def test_a_session_of_nothing_but_unfinished_handshakes_ends(version: int, caplog: pytest.LogCaptureFixture) -> None:
    """The identifiers would be used up some day. Both sides start again, and nobody loses anything."""
    world = World(BrokerSettings(max_inflight=100))
    _, delivered = never_answering(world, version, 5)
    assert world.broker.metrics.worn_out_sessions == 0
    assert len(world.broker.sessions["c"].inflight) == delivered
    world = world.crash()
    client, _ = never_answering(world, version, 1)
    assert world.broker.metrics.worn_out_sessions == 0, "not before it comes the next time"
    client.send(Publish("b", b"half", 2, packet_id=7))
    client.received()
    client.drop()
    client = world.connect("c", version, clean=False)
    assert world.broker.metrics.worn_out_sessions == 0, "nor while it has something to finish"
    client.send(Pubrel(7))
    client.drop()
    world.events.take()
    client = world.connect("c", version, clean=False)
    assert world.events.of("connected") == [("connected", "c", False)]
    assert "600 handshakes unfinished" in caplog.text
    assert world.store.session("c").outbound == []
    assert world.broker.sessions["c"].inflight == {}


@both_versions
def test_abandoned_identifiers_are_bounded_and_come_back(version: int) -> None:
    world = World(BrokerSettings(max_inflight=1_000))
    handle = 0
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 2))
    client.send(Publish("b", b"half", 2, packet_id=7))  # so that its session does not end
    while True:  # a client that never answers, and pushes that are over when it returns
        before = handle
        while world.broker.deliver("c", message("a", qos=2), handle):
            handle += 1
        if handle == before:
            break
        client.received()
        client.drop()
        client = world.connect("c", version, clean=False)
    session = world.broker.sessions["c"]
    assert len(session.inflight) == world.broker.shared_state.packet_ids.most_inflight
    abandoned = next(packet_id for packet_id, entry in session.inflight.items() if entry.phase == ABANDONED)
    client.send(Pubrec(abandoned))
    client.receive(Pubrel)
    client.send(Pubcomp(abandoned))
    assert world.broker.deliver("c", message("a", qos=2), handle)
    assert client.receive(Publish).qos == 2
    assert not world.broker.deliver("c", message("a", qos=2), handle + 1)


@both_versions
def test_a_take_over_sends_no_qos_2_message_whose_identifier_is_not_stored(version: int) -> None:
    """[MQTT-4.3.3-2]: after a kill the next run would not know that the client may have it."""
    world = World()
    client = world.connect("c", version, clean=False)
    client.subscribe(("a", 2))
    world.events.resumable = lambda handles: {handle: message("a", b"once", qos=2) for handle in handles}
    world.store.blocked = True
    assert world.broker.deliver("c", message("a", b"once", qos=2), 1)
    again = world.connect("c", version, clean=False)
    assert again.publishes() == []
    world.store.commit()
    publish = again.receive(Publish)
    assert (publish.payload, publish.dup) == (b"once", False)
    assert [row.packet_id for row in world.store.session("c").outbound] == [publish.packet_id]
