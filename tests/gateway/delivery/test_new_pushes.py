"""Two nodes over one database: what one stores is handed out by the other, once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyroaring import BitMap

from gateway.delivery import new_pushes as module
from gateway.delivery.mailbox_reader import HandOverState
from gateway.delivery.new_pushes import OFFER_MS
from gateway.store.nodes import new_pushes as store
from gateway.store.nodes.new_pushes import read_new_pushes
from tests.gateway.delivery.world import APP, World


class Nodes:
    """Two nodes; nothing but their own ticks makes them look for what is new."""

    def __init__(self) -> None:
        self.here = World(devices=4, window=100, mailbox_limit=3_000, has_nodes=True)
        self.there = World(beside=self.here, window=100, mailbox_limit=3_000)

    def close(self) -> None:
        self.here.close()
        self.there.loop.close()

    def tick(self, seconds: float = 0.25) -> None:
        for node in (self.here, self.there):
            node.now += int(seconds * 1000)
        for node in (self.here, self.there):
            assert node.new_pushes is not None
            node.new_pushes.tick()
            node.settle()

    def reads(self) -> int:
        assert self.here.new_pushes is not None
        return self.here.new_pushes.reads


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    two = Nodes()
    yield two
    two.close()


def test_what_another_node_stores_comes_with_the_next_read(nodes: Nodes) -> None:
    nodes.here.connect(1)
    to_one, to_all = nodes.there.push(), nodes.there.push({"all": True})
    assert nodes.here.received(1) == []
    nodes.tick()
    assert nodes.here.received(1) == [to_one.push_id, to_all.push_id]
    assert nodes.here.state(to_all.push_id) == ("sent", None)
    nodes.here.acknowledge_all(1)
    for _ in range(3):
        nodes.tick()
    assert nodes.here.received(1) == [to_one.push_id, to_all.push_id], "once"
    assert nodes.there.state(to_one.push_id) == ("delivered", None)


def test_an_own_push_goes_to_the_socket_at_once_if_nothing_came_between(nodes: Nodes) -> None:
    nodes.here.connect(1)
    reads = nodes.reads()
    pushes = [nodes.here.push().push_id for _ in range(3)]
    assert nodes.here.received(1) == pushes
    assert nodes.reads() == reads, "none was needed"
    nodes.here.acknowledge_all(1)
    nodes.tick()
    assert nodes.here.received(1) == pushes, "nor does the next one bring them again"


def test_an_own_push_does_not_overtake_one_of_another_node(nodes: Nodes) -> None:
    nodes.here.connect(1)
    pushes = [
        node.push().push_id for node in (nodes.here, nodes.there, nodes.here, nodes.there, nodes.there, nodes.here)
    ]
    nodes.tick()
    assert nodes.here.received(1) == pushes


def test_an_own_push_that_was_read_before_its_commit_was_called_back_comes_once(nodes: Nodes) -> None:
    nodes.here.connect(1)
    here = nodes.here
    other = nodes.there.push().push_id
    own = here.loop.create_task(here.acceptance.accept(APP, here.request()))
    here.loop.run_until_complete(_turn())
    here.writer.commit_group()
    assert here.new_pushes is not None
    here.new_pushes.tick()
    here.writer.take_snapshots()
    here.writer.answer()  # both, before the loop knows of its own
    while here.writer.new_reads:
        here.writer.take_snapshots()
        here.writer.answer()
    assert len(here.received(1)) == 2
    here.acknowledge_all(1)
    here.settle()
    accepted = here.run(_result(own))
    here.settle()
    nodes.tick()
    assert here.received(1) == [other, accepted.push_id]


def test_an_own_push_that_is_called_back_while_it_is_being_loaded_comes_once(nodes: Nodes) -> None:
    nodes.here.connect(1)
    here = nodes.here
    own = here.loop.create_task(here.acceptance.accept(APP, here.request()))
    here.loop.run_until_complete(_turn())
    here.writer.commit_group()
    assert here.new_pushes is not None
    here.new_pushes.tick()
    here.writer.take_snapshots()
    here.writer.answer()
    (load,) = here.writer.new_reads
    here.writer.new_reads = []
    here.writer.call_back()
    here.acknowledge_all(1)
    here.ledger.flush()
    here.settle()  # what was acknowledged is recorded, and in flight no more
    here.writer.new_reads = [load]
    here.settle()
    accepted = here.run(_result(own))
    assert here.received(1) == [accepted.push_id]


async def _turn() -> None:
    return None


async def _result(task: Any) -> Any:
    return await task


def test_who_connects_while_a_read_is_under_way_gets_everything_once(nodes: Nodes) -> None:
    here = nodes.here
    here.connect(2)  # so that the app is followed
    first = nodes.there.push({"all": True}).push_id
    assert here.new_pushes is not None
    here.new_pushes.tick()
    here.writer.take_snapshots()
    second = nodes.there.push({"all": True}).push_id
    here.engine.connect(here.identities[1], 1)
    here.timers.turn()
    here.writer.commit_group()
    here.writer.call_back()  # the mailbox, with both
    here.writer.answer()  # the read, with the first
    here.settle()
    nodes.tick()
    assert here.received(1) == [first, second]
    assert here.received(2) == [first, second]


def test_a_mailbox_that_is_called_back_after_a_later_push_was_handed_out_is_read_again(nodes: Nodes) -> None:
    """The two come by different threads: the later of both reads may be back first."""
    here = nodes.here
    here.connect(2)
    here.engine.connect(here.identities[1], 1)
    here.timers.turn()
    here.writer.commit_group()  # its mailbox, with nothing in it
    push = nodes.there.push({"all": True}).push_id
    assert here.new_pushes is not None
    here.new_pushes.tick()
    while here.writer.new_reads:
        here.writer.take_snapshots()
        here.writer.answer()
    assert here.received(2) == [push]
    assert here.received(1) == []
    here.settle()
    assert here.received(1) == [push]
    nodes.tick()
    assert here.received(1) == [push]


def test_what_ends_while_it_is_being_read_is_not_handed_out(nodes: Nodes) -> None:
    here = nodes.here
    here.connect(1)
    nodes.there.push(collapse_key="price")
    assert here.new_pushes is not None
    here.new_pushes.tick()
    here.writer.take_snapshots()
    here.push(collapse_key="price")
    here.settle()
    nodes.tick()
    assert len(here.received(1)) == 1


def test_now_or_never_reaches_devices_of_other_nodes_while_it_is_now(nodes: Nodes) -> None:
    nodes.here.connect(1)
    nodes.there.connect(3)
    nodes.there.elsewhere = BitMap([1, 2])  # 2 has left since
    push = nodes.there.push({"all": True}, ttl=0)
    assert nodes.there.received(3) == [push.push_id]
    nodes.there.passes(0.1)
    assert nodes.there.counts(push.push_id) == {"targeted": 4, "waiting": 2, "sent": 1, "expired": 1}
    assert nodes.there.state(push.push_id, 4) == ("expired", "ttl"), "it is nowhere"
    nodes.tick()
    assert nodes.here.received(1) == [push.push_id]
    nodes.here.acknowledge_all(1)
    nodes.there.acknowledge_all(3)
    nodes.there.passes(OFFER_MS / 1000)
    assert nodes.there.state(push.push_id, 2) == ("expired", "ttl")
    assert nodes.there.counts(push.push_id) == {"targeted": 4, "delivered": 2, "expired": 2}


def test_now_or_never_is_not_handed_out_late(nodes: Nodes) -> None:
    nodes.here.connect(1)
    nodes.there.elsewhere = BitMap([1])
    nodes.there.push(ttl=0)
    nodes.tick(OFFER_MS / 1000)
    assert nodes.here.received(1) == []


def test_now_or_never_ends_where_there_is_no_room(nodes: Nodes) -> None:
    nodes.here.connect(1)
    nodes.here.engine.session(nodes.here.identities[1].client_id).window = 0
    nodes.there.elsewhere = BitMap([1])
    push = nodes.there.push(ttl=0)
    assert nodes.there.state(push.push_id) == ("waiting", None)
    nodes.tick()
    assert nodes.there.state(push.push_id) == ("expired", "ttl")


def test_rules_of_people_hold_for_what_another_node_has_stored(nodes: Nodes) -> None:
    nodes.there.set_policy(caps={"limits": [{"count": 1, "per": "day"}], "excess": "defer"})
    nodes.here.run(nodes.here.policies.load())
    nodes.here.connect(1)
    first, second = nodes.there.alert(), nodes.there.alert()
    nodes.tick()
    assert nodes.here.received(1) == [first]
    assert nodes.here.state(second)[0] in ("waiting", "suppressed")


def test_a_muted_critical_push_keeps_its_place(nodes: Nodes) -> None:
    nodes.here.connect(1)
    nodes.here.says("settings", {"channels": {"offers": False}})
    pushes = [
        nodes.there.alert(priority="critical"),
        nodes.there.alert(priority="critical", channel="offers"),
        nodes.there.alert(priority="critical"),
    ]
    nodes.tick()
    nodes.tick()
    assert nodes.here.received(1) == pushes


def test_beats_reach_devices_of_other_nodes(nodes: Nodes) -> None:
    nodes.here.connect(1)
    nodes.there.connect(3)
    before = len(nodes.here.received(1))
    nodes.there.connection.execute("UPDATE push SET app_no = 0")  # none yet: whatever comes next is the server's own
    push = nodes.there.push()
    nodes.there.connection.execute("UPDATE push SET app_no = 0")
    nodes.tick()
    assert nodes.here.received(1)[before:] == [push.push_id]


def test_reads_are_bounded_and_go_on(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "READ_PUSHES", 4)
    monkeypatch.setattr(store, "READ_ROWS", 3)
    monkeypatch.setattr(module, "LOADED_BYTES", 200)
    nodes.here.connect(1)
    nodes.here.connect(2)
    pushes = [nodes.there.push({"all": True} if number % 3 == 0 else None).push_id for number in range(20)]
    page = read_new_pushes(nodes.here.connection, {APP.no: 0})
    assert page.more
    assert len(page.pushes) <= 4
    nodes.tick()
    assert nodes.here.received(1) == pushes
    assert nodes.here.received(2) == pushes[::3]


def test_what_is_for_nobody_here_is_not_loaded(nodes: Nodes) -> None:
    nodes.here.connect(1)
    for _ in range(5):
        nodes.there.push({"device": "d2"})
    nodes.tick()
    assert len(nodes.here.ledger.pushes) == 0
    mine = nodes.here.push()
    assert nodes.here.received(1) == [mine.push_id], "and what was looked at counts: nothing is between"


def test_a_nudge_has_it_read_at_once(nodes: Nodes) -> None:
    nodes.here.connect(1)
    push = nodes.there.push()
    assert nodes.here.new_pushes is not None
    nodes.here.new_pushes.told(APP.no, 1, [1])
    nodes.here.settle()
    assert nodes.here.received(1) == [push.push_id]
    reads = nodes.reads()
    nodes.here.new_pushes.told(APP.no, 1, [1])
    nodes.here.new_pushes.told(APP.no + 1, 9, [])
    assert nodes.reads() == reads, "it knows that, and has nobody of the other app"


def test_an_app_without_devices_here_is_not_read(nodes: Nodes) -> None:
    nodes.tick()
    assert nodes.reads() == 0
    nodes.here.connect(1)
    nodes.tick()
    assert nodes.reads() == 1
    nodes.here.disconnect(1)
    nodes.tick()
    assert nodes.reads() == 1
    push = nodes.there.push()
    nodes.here.connect(1)
    assert nodes.here.received(1) == [push.push_id], "out of its mailbox"
    nodes.tick()
    assert nodes.here.received(1) == [push.push_id]


def test_a_read_that_fails_is_made_again(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.here.connect(1)
    push = nodes.there.push()
    here = nodes.here
    assert here.new_pushes is not None
    here.new_pushes.tick()
    (read,) = here.writer.new_reads
    here.writer.new_reads.clear()
    read.on_error(RuntimeError("the database has gone"))
    assert here.received(1) == []
    nodes.tick()
    assert here.received(1) == [push.push_id]


def test_a_push_that_cannot_be_handed_out_keeps_no_other_from_its_devices(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = nodes.here
    here.connect(1)
    pushes = [nodes.there.push() for _ in range(3)]
    known = here.ledger.pushes.get
    (poisonous,) = here.row("SELECT no FROM push WHERE id = ?", pushes[1].push_id)

    def get(push_no: int) -> Any:
        if push_no == poisonous:
            raise ValueError("its content")
        return known(push_no)

    with monkeypatch.context() as patched:
        patched.setattr(here.ledger.pushes, "get", get)
        for _ in range(3):
            nodes.tick()
    assert here.received(1) == [pushes[0].push_id, pushes[2].push_id]
    assert caplog.text.count("cannot be handed out here") == 1
    here.acknowledge_all(1)
    here.disconnect(1)
    here.connect(1)
    here.settle()
    assert here.received(1)[-1] == pushes[1].push_id, "its mailbox has it"


def test_now_or_never_does_not_outlive_a_lease_that_was_away(nodes: Nodes) -> None:
    """The node that sweeps has ended it meanwhile, and it is not now any more."""
    here = nodes.here
    has_lease = True
    here.may_serve = lambda: has_lease
    here.boot()
    here.connect(1)
    nodes.there.elsewhere = BitMap([1])
    has_lease = False
    theirs = nodes.there.push(ttl=0)
    own = here.push(ttl=0)
    lasting = here.push()
    nodes.tick(0.1)
    nodes.there.passes(OFFER_MS / 1000)
    here.now += OFFER_MS
    assert nodes.there.state(theirs.push_id) == nodes.there.state(own.push_id) == ("expired", "ttl")
    has_lease = True
    here.timers.later_turn()
    here.settle()
    assert here.received(1) == [lasting.push_id]
    assert here.state(theirs.push_id) == here.state(own.push_id) == ("expired", "ttl")


@pytest.mark.parametrize("app_no", [APP.no, 0])
def test_a_mailbox_is_read_once_when_the_last_push_has_left(nodes: Nodes, app_no: int) -> None:
    """Beats leave minutes after their lifetime, and others by retention: the newest number sinks."""
    here = nodes.here
    here.connect(1)
    nodes.there.push()
    nodes.there.connection.execute("UPDATE push SET app_no = ?", (app_no,))
    nodes.tick()
    assert len(here.received(1)) == 1
    here.acknowledge_all(1)
    here.connection.execute("DELETE FROM delivery")
    here.connection.execute("DELETE FROM push")
    here.engine.connect(here.identities[2], 1)
    for _ in range(20):
        here.turn()
    assert here.hand_over.devices[2].state is HandOverState.OPEN
    nodes.tick()
    push = here.push({"device": "d2"})
    nodes.tick()
    assert here.received(2) == [push.push_id]
