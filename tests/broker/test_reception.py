"""Inbound QoS 2 and wills over kills: two files, a kill between any two commits, and everything is there once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.message import Message
from broker.protocol.packets import (
    V3_1_1,
    V5,
    Connack,
    Connect,
    Packet,
    Properties,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Will,
)
from tests.fakes import FakeClient, FakePermissions, World

both_versions = pytest.mark.parametrize("version", [V3_1_1, V5])


@both_versions
def test_a_repetition_takes_over_the_answer_of_the_first(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    world.events.blocked = True
    client.send(Publish("a", b"x", 2, packet_id=9))
    again = world.connect("c", version, clean=False)
    again.send(Publish("a", b"x", 2, dup=True, packet_id=9))
    assert again.received() == []
    assert len(world.events.published_messages) == 1, "the embedder is asked once in a run"
    (done,) = world.events.dones
    done(0)
    assert again.receive(Pubrec) == Pubrec(9)
    again.send(Publish("a", b"x", 2, dup=True, packet_id=9))
    assert again.receive(Pubrec) == Pubrec(9)


@both_versions
def test_pubcomp_waits_until_the_embedder_has_let_go(version: int) -> None:
    world = World()
    client = world.connect("c", version, clean=False)
    client.send(Publish("a", b"x", 2, packet_id=9))
    client.receive(Pubrec)
    world.events.blocked_releases = []
    client.send(Pubrel(9))
    assert client.received() == []
    for done in world.events.blocked_releases:
        done()
    assert client.receive(Pubcomp) == Pubcomp(9)
    assert world.events.identifiers == set()


@both_versions
def test_of_a_session_that_ends_with_its_connection_nothing_is_remembered(version: int) -> None:
    world = World()
    client = world.connect("c", version)
    client.send(Publish("a", b"x", 2, packet_id=9))
    client.receive(Pubrec)
    assert world.events.identifiers == set()
    client.send(Pubrel(9))
    assert client.receive(Pubcomp) == Pubcomp(9)


@pytest.mark.parametrize("topic", ["a", "denied"])
def test_a_refusal_ends_the_handshake_before_it_is_said(topic: str) -> None:
    """[MQTT-4.3.3-9]: after a kill the identifier may come with another message."""
    permissions = FakePermissions()
    permissions.no_publish.add("denied")
    world = World(permissions=permissions)
    client = world.connect("c", V5, clean=False)
    world.events.reason_code = 0x99
    client.send(Publish(topic, b"x", 2, packet_id=9))
    assert client.receive(Pubrec).reason_code >= 0x80
    assert world.store.session("c").received == []
    world = world.crash()
    client = world.connect("c", V5, clean=False)
    client.send(Publish("a", b"y", 2, packet_id=9))
    assert client.receive(Pubrec).reason_code == 0
    assert [message.body.payload for message in world.events.published_messages] == [b"y"]


def test_a_permission_that_was_taken_away_ends_what_an_earlier_run_has_stored() -> None:
    world = World()
    client = world.connect("c", V5, clean=False)
    client.send(Publish("a", b"x", 2, packet_id=9))
    client.receive(Pubrec)
    world = world.crash()
    permissions = FakePermissions()
    permissions.no_publish.add("a")
    world.authenticator.permissions = permissions
    client = world.connect("c", V5, clean=False)
    client.send(Publish("a", b"x", 2, dup=True, packet_id=9))
    assert client.receive(Pubrec).reason_code == 0x87
    assert world.events.identifiers == set()
    client.send(Publish("b", b"y", 2, packet_id=9))
    assert client.receive(Pubrec).reason_code == 0
    assert [message.body.payload for message in world.events.published_messages] == [b"y"]


@both_versions
def test_leftovers_of_a_dead_session_match_nothing(version: int) -> None:
    """The session has ended here; the embedder still had its identifiers when the server was killed."""
    world = World()
    client = world.connect("c", version, clean=False)
    client.send(Publish("a", b"x", 2, packet_id=9))
    client.receive(Pubrec)
    left = set(world.events.identifiers)
    client.drop()
    world.connect("c", version, clean=True).drop()
    world.events.identifiers = left
    world.clock.now += 0.001
    world = world.crash()
    client = world.connect("c", version, clean=False)
    client.send(Publish("a", b"y", 2, packet_id=9))
    client.receive(Pubrec)
    assert [message.body.payload for message in world.events.published_messages] == [b"y"]
    assert not {identifier >> 16 for identifier in left} & world.broker.numbers()


# -- kills between any two commits -------------------------------------------------------------------------------------


@dataclass
class Embedder:
    """The disk of an embedder. What it is told waits until a test has it committed, in order."""

    contents: list[bytes] = field(default_factory=list)
    identifiers: set[int] = field(default_factory=set)
    pending: list[Callable[[], Callable[[], None]]] = field(default_factory=list)
    """Each a commit, which returns what is called back after it."""

    def published(
        self, client_id: str, message: Message, done: Callable[[int], None], identifier: int | None = None
    ) -> None:
        payload = message.body.payload

        def commit() -> Callable[[], None]:
            if identifier is None or identifier not in self.identifiers:
                self.contents.append(payload)
                if identifier is not None:
                    self.identifiers.add(identifier)
            return lambda: done(0)

        self.pending.append(commit)

    def released(self, client_id: str, identifiers: Sequence[int], done: Callable[[], None]) -> None:
        def commit() -> Callable[[], None]:
            self.identifiers.difference_update(identifiers)
            return done

        self.pending.append(commit)


class Kills(RuleBasedStateMachine):
    """A client that publishes with QoS 2, and one that is away and subscribed; a server that is killed."""

    @initialize(version=st.sampled_from([V3_1_1, V5]))
    def begins(self, version: int) -> None:
        self.version = version
        self.embedder = Embedder()
        self.world = World()
        self.listen()
        self.world.store.blocked = False
        away = self.world.connect("away", version, clean=False)
        away.subscribe(("a", 2))
        away.drop()
        self.world.store.blocked = True
        self.client: FakeClient | None = None
        self.outstanding: dict[int, tuple[bytes, bool]] = {}
        """By packet identifier: the payload, and whether PUBREC has come."""
        self.acknowledged: set[bytes] = set()
        self.unknown: set[bytes] = set()
        """Given up by the client: they may be there, once."""
        self.wills: list[bytes] = []
        self.count = 0
        self.will = 0
        self.ending = False

    def listen(self) -> None:
        self.world.events.published = self.embedder.published  # type: ignore[method-assign]
        self.world.events.released = self.embedder.released  # type: ignore[method-assign]
        self.world.store.blocked = True

    # -- the client

    @rule(qos=st.sampled_from([0, 1, 2]), clean=st.booleans())
    def connects(self, qos: int, clean: bool) -> None:
        """QoS of its will; 0: without one."""
        self.drops()
        clean = clean and self.count % 5 == 0  # seldom
        self.client = self.world.client(self.version)
        will = None
        if qos:
            self.will += 1
            self.wills.append(b"will %d" % self.will)
            will = Will("w", self.wills[-1], qos)
        properties = Properties(session_expiry_interval=3_600) if self.version == V5 else None
        self.client.send(Connect("c", self.version, clean, will=will, properties=properties))
        self.world.store.commit()
        connack, *others = self.client.received()
        assert isinstance(connack, Connack)
        if clean and self.version == V3_1_1:  # its session ends with its connection
            self.give_up()
            self.unknown.update(self.wills[-1:] if qos else [])  # nothing of it is on disk before it ends
            self.client.drop()
            self.client = None
            return
        if not connack.session_present:
            self.give_up()
        for packet_id, (payload, received) in self.outstanding.items():
            self.client.send(Pubrel(packet_id) if received else Publish("a", payload, 2, dup=True, packet_id=packet_id))
        self.take(others)

    def give_up(self) -> None:
        self.unknown |= {payload for payload, received in self.outstanding.values() if not received}
        self.outstanding = {}

    @rule(packet_id=st.integers(1, 2))
    def publishes(self, packet_id: int) -> None:
        if self.client is not None and packet_id not in self.outstanding:
            self.count += 1
            payload = b"%d" % self.count
            self.outstanding[packet_id] = payload, False
            self.client.send(Publish("a", payload, 2, packet_id=packet_id))

    @rule(packet_id=st.integers(1, 2))
    def repeats(self, packet_id: int) -> None:
        """PUBREL: some clients repeat it on the same connection."""
        if self.client is not None and self.outstanding.get(packet_id, (b"", False))[1]:
            self.client.send(Pubrel(packet_id))

    @rule()
    def reads(self) -> None:
        """Read, do at once what is next, then send something new under a free identifier."""
        if self.client is not None:
            self.take(self.client.received())
            if not self.ending:
                self.publishes(1)

    def take(self, packets: Sequence[Packet]) -> None:
        assert self.client is not None
        for packet in packets:
            if isinstance(packet, Pubrec):
                payload, _ = self.outstanding[packet.packet_id]
                self.acknowledged.add(payload)
                self.outstanding[packet.packet_id] = payload, True
                self.client.send(Pubrel(packet.packet_id))
            elif isinstance(packet, Pubcomp):
                self.outstanding.pop(packet.packet_id, None)

    @rule()
    def drops(self) -> None:
        if self.client is not None:
            self.client.drop()
            self.client = None

    # -- the server

    @rule(barriers=st.sampled_from([1, 2, None]))
    def broker_commits(self, barriers: int | None) -> None:
        self.world.store.commit(barriers)

    @precondition(lambda self: self.embedder.pending)
    @rule(count=st.integers(1, 3))
    def embedder_commits(self, count: int) -> None:
        for commit in self.embedder.pending[:count]:
            self.embedder.pending.remove(commit)
            commit()()

    @rule(written=st.integers(0, 3), committed=st.integers(0, 3))
    def is_killed(self, written: int, committed: int) -> None:
        """Kill the server after so many groups of the one file and commits of the other, before any callback."""
        for commit in self.embedder.pending[:committed]:
            commit()
        self.embedder.pending.clear()
        self.world.store.write_groups(written)
        self.world.clock.now += 0.001
        self.world = self.world.crash()
        self.client = None
        self.listen()
        self.world.advance(1)  # wills are due

    @invariant()
    def a_call_stack_is_one_group(self) -> None:
        self.world.store.mark_group()

    # -- what always holds

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        contents = self.embedder.contents
        assert len(contents) == len(set(contents)), contents

    @invariant()
    def what_is_acknowledged_is_stored_on_both_sides(self) -> None:
        assert self.acknowledged <= set(self.embedder.contents)
        assert self.acknowledged <= set(self.queued())

    def queued(self) -> list[bytes]:
        """Return the messages on disk for the client that is away."""
        store = self.world.store
        rows = store.session("away").outbound
        return [store.state.messages[row.message_key].body.payload for row in rows if row.message_key is not None]

    def teardown(self) -> None:
        if not hasattr(self, "embedder"):
            return
        self.ending = True
        self.connects(0, False)
        for _ in range(20):
            self.world.store.commit()
            while self.embedder.pending:
                self.embedder.pending.pop(0)()()
            self.reads()
        assert self.outstanding == {}
        published = {b"%d" % number for number in range(1, self.count + 1)}
        expected = published | set(self.wills)
        assert set(self.embedder.contents) >= expected - self.unknown
        assert len(self.embedder.contents) == len(set(self.embedder.contents))
        queued = self.queued()
        assert len(queued) == len(set(queued))
        assert set(queued) >= published - self.unknown
        numbers = self.world.broker.numbers()
        assert not {identifier for identifier in self.embedder.identifiers if identifier >> 16 in numbers}
        self.world.store.blocked = False


TestKills = Kills.TestCase
TestKills.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
