"""Two nodes over one database, under any order of commits, snapshots, callbacks, hand-overs and moves of devices.

Each node is the whole of the delivery components; writers take turns, as the lock of an app makes them, and nothing
nudges. A device that moves is disconnected by its old node, whose outcomes are stored before the new one loads its
session (`nodes/takeover`). What must hold: the states of each push sum to what was targeted; a device gets the pushes
of a priority in the order of their numbers, and none is left out; nothing comes again after its acknowledgement was
recorded; and whoever is connected gets all that waits, without connecting again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.delivery import fan_out, new_pushes
from gateway.delivery.submission import AcceptedPush
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK
from gateway.delivery_states import DeliveryState
from gateway.store.deliveries import delivery_sets
from gateway.store.nodes import new_pushes as store
from tests.gateway.delivery.conftest import store_everything_as_sets
from tests.gateway.delivery.machinery import HandOver
from tests.gateway.delivery.world import APP, World

DEVICES = 3
NODES = st.integers(0, 1)
NUMBERS = st.integers(1, DEVICES)
RECEIPTS = range(DeliveryState.DELIVERED, DeliveryState.ACTED + 1)


class TwoNodes(RuleBasedStateMachine):
    @initialize(form=st.sampled_from(["rows", "sets", "mixed"]), small=st.booleans(), window=st.sampled_from([3, 40]))
    def start(self, form: str, small: bool, window: int) -> None:
        """`small`: a read finds little and loads little, so that it takes several; `window`: room of a device."""
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(fan_out, "SLICE_DELIVERIES", 1)
        if form != "rows":
            store_everything_as_sets(self.patched)
        if form == "mixed":
            self.patched.setattr(delivery_sets, "SET_DEVICES", 2)
            self.patched.setattr(delivery_sets, "GROUP_DEVICES", 2)
        if small:
            self.patched.setattr(store, "READ_PUSHES", 2)
            self.patched.setattr(store, "READ_ROWS", 2)
            self.patched.setattr(new_pushes, "LOADED_BYTES", 1)
        first = World(devices=DEVICES, window=window, mailbox_limit=50, has_nodes=True)
        self.nodes = [first, World(beside=first, window=window, mailbox_limit=50)]
        self.at: dict[int, int] = {}
        """The node that a device is connected to, or was last."""
        self.last_in_lane: dict[tuple[int, int, int, int], int] = {}
        """By device, node, connection there and priority: the push handed over last."""
        self.handed: dict[tuple[int, int, int], set[int]] = {}
        """By device, node and connection there: the pushes handed over."""
        self.recorded: set[tuple[int, int]] = set()
        self.tasks: list[asyncio.Task[AcceptedPush]] = []
        for number, node in enumerate(self.nodes):
            node.engine.on_hand_over = partial(self.handed_over, number)

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        try:
            self.settle_everything()
        finally:
            for task in self.tasks:
                task.cancel()
            for node in self.nodes:
                node.loop.run_until_complete(asyncio.sleep(0))
            self.nodes[1].loop.close()
            self.nodes[0].close()
            self.patched.undo()

    def handed_over(self, number: int, client_id: str, hand_over: HandOver) -> None:
        push_no, device_no = hand_over.handle >> DEVICE_BITS, hand_over.handle & DEVICE_MASK
        ttl, expires_at, priority = self.one("SELECT ttl, expires_at, priority FROM push WHERE no = ?", push_no)
        session = self.nodes[number].engine.session(client_id)
        lane = (device_no, number, session.connection, priority)
        assert self.last_in_lane.get(lane, 0) < push_no, "out of order within its priority"
        self.last_in_lane[lane] = push_no
        had = self.handed.setdefault(lane[:3], set())
        had.add(push_no)
        left_out = self.nodes[0].connection.execute(
            "SELECT p.no FROM whole_delivery AS d JOIN push AS p ON p.no = d.push_no WHERE d.device_no = ?"
            " AND d.state = 0 AND p.no < ? AND p.priority = ? AND p.ttl > 0 AND p.expires_at > ?",
            (device_no, push_no, priority, self.nodes[0].now),
        )
        assert {no for (no,) in left_out.fetchall()} <= had, "it has overtaken one that waits"
        assert (push_no, device_no) not in self.recorded, "again, although recorded"
        assert ttl == 0 or expires_at > self.nodes[0].now, "handed over after its ttl"
        assert [one.handle for one in session.inflight].count(hand_over.handle) <= 1, "in flight twice"

    def one(self, statement: str, *values: Any) -> Any:
        return self.nodes[0].connection.execute(statement, values).fetchone()

    # -- moves

    @rule(
        at=NODES,
        device=st.sampled_from([None, None, 1, 2, 3]),
        priority=st.sampled_from(["critical", "normal"]),
        qos=st.sampled_from([0, 1, 1]),
        ttl=st.sampled_from([0, 60, 86_400, 86_400]),
        collapse_key=st.sampled_from([None, None, None, "k"]),
        at_once=st.booleans(),
    )
    def accept(
        self,
        at: int,
        device: int | None,
        priority: str,
        qos: int,
        ttl: int,
        collapse_key: str | None,
        at_once: bool,
    ) -> None:
        node = self.nodes[at]
        target = {"all": True} if device is None else {"device": f"d{device}"}
        extra = {} if collapse_key is None else {"collapse_key": collapse_key}
        request = node.request(target, priority=priority, qos=qos, ttl=ttl, **extra)
        self.tasks.append(node.loop.create_task(node.acceptance.accept(APP, request)))
        node.loop.run_until_complete(asyncio.sleep(0))
        if at_once:
            self.work_through(at)

    @rule(at=NODES)
    def work_through(self, at: int) -> None:
        """Often enough nothing but reads is pending on a node when the next thing happens."""
        for _ in range(3):
            self.turn(at)
            self.commit(at, None)
            self.call_back(at)

    @rule(at=NODES)
    def read(self, at: int) -> None:
        """A whole read, unless the writer has to do something for it."""
        self.tick(at)
        for _ in range(3):
            self.take_snapshot(at)
            self.answer(at)
        self.turn(at)

    @rule(at=NODES)
    def turn(self, at: int) -> None:
        node = self.nodes[at]
        node.loop.run_until_complete(asyncio.sleep(0))
        node.timers.turn()

    @rule(at=NODES, size=st.sampled_from([1, 2, None]))
    def commit(self, at: int, size: int | None) -> None:
        self.nodes[at].writer.commit_group(size)

    @rule(at=NODES)
    def call_back(self, at: int) -> None:
        self.nodes[at].writer.call_back()
        self.note_what_is_recorded()

    @rule(at=NODES)
    def tick(self, at: int) -> None:
        found = self.nodes[at].new_pushes
        assert found is not None
        found.tick()

    @rule(at=NODES)
    def take_snapshot(self, at: int) -> None:
        self.nodes[at].writer.take_snapshots()

    @rule(at=NODES)
    def answer(self, at: int) -> None:
        self.nodes[at].writer.answer()

    @rule(device=NUMBERS, at=NODES, granted=st.sampled_from([0, 1, 1]))
    def connect(self, device: int, at: int, granted: int) -> None:
        identity = self.nodes[at].identities[device]
        before = self.at.get(device)
        if before is not None and before != at:
            old = self.nodes[before]
            old.engine.disconnect_device(identity.client_id)
            old.ledger.flush()
            old.writer.commit_group()  # behind everything that was submitted: the yield is stored after it
            self.nodes[at].engine.sessions[identity.client_id] = old.engine.sessions.pop(identity.client_id)
        self.at[device] = at
        self.nodes[at].engine.connect(identity, granted)

    @rule(at=NODES)
    def exchange(self, at: int) -> None:
        """A node tells the other who is connected to it."""
        self.nodes[1 - at].elsewhere = self.nodes[at].connections.connected_here()

    @rule(device=NUMBERS, at=NODES, is_read=st.booleans())
    def return_slowly(self, device: int, at: int, is_read: bool) -> None:
        """A device connects, and what is read of its mailbox is called back later than what is stored after that."""
        self.work_through(at)
        self.connect(device, at, 1)
        self.turn(at)
        self.commit(at, None)
        self.accept(1 - at, None, "normal", 1, 86_400, None, True)
        if is_read:
            self.read(at)

    @rule(device=NUMBERS)
    def disconnect(self, device: int) -> None:
        if device in self.at:
            node = self.nodes[self.at[device]]
            node.engine.disconnect_device(node.identities[device].client_id)

    @rule(device=NUMBERS, index=st.integers(0, 2))
    def acknowledge(self, device: int, index: int) -> None:
        if device in self.at:
            node = self.nodes[self.at[device]]
            session = node.engine.session(node.identities[device].client_id)
            if session.connected and session.resumed and session.inflight:
                node.engine.settle(node.identities[device].client_id, index % len(session.inflight))

    @rule(seconds=st.sampled_from([0.25, 1, 3, 61]))
    def time_passes(self, seconds: float) -> None:
        for node in self.nodes:
            node.now += int(seconds * 1000)
        self.nodes[0].ledger.sweep()

    def note_what_is_recorded(self) -> None:
        self.recorded = {
            (push_no, device_no)
            for push_no, device_no in self.nodes[0].connection.execute(
                "SELECT push_no, device_no FROM whole_delivery WHERE state BETWEEN ? AND ?",
                (int(RECEIPTS[0]), int(RECEIPTS[-1])),
            )
        }

    # -- what always holds

    @invariant()
    def states_are_conserved(self) -> None:
        if hasattr(self, "nodes"):
            rows = self.nodes[0].connection.execute(
                "SELECT p.id, p.targeted, (SELECT count(*) FROM whole_delivery AS d WHERE d.push_no = p.no)"
                " FROM push AS p"
            )
            for push_id, targeted, stored in rows.fetchall():
                assert stored == targeted, push_id

    def settle_everything(self) -> None:
        """Let the nodes come to rest: whoever is connected takes everything, and nobody connects again."""
        for _ in range(60):
            for node in self.nodes:
                node.loop.run_until_complete(asyncio.sleep(0))
                node.timers.turn()
                assert node.new_pushes is not None
                node.new_pushes.tick()
                node.writer.drain()
                self.note_what_is_recorded()
                for session_of, session in list(node.engine.sessions.items()):
                    while session.connected and session.resumed and session.inflight:
                        node.engine.settle(session_of, 0)
        self.states_are_conserved()
        for device, at in self.at.items():
            node = self.nodes[at]
            if not node.engine.session(node.identities[device].client_id).connected:
                continue
            waiting = node.connection.execute(
                "SELECT p.no FROM whole_delivery AS d JOIN push AS p ON p.no = d.push_no"
                " WHERE d.device_no = ? AND d.state = 0 AND p.expires_at > ?",
                (device, node.now),
            ).fetchall()
            assert not waiting, f"d{device} is connected, and never got these"
        for node in self.nodes:
            node.now += 90_000_000
        for _ in range(10):
            self.nodes[0].ledger.sweep()
            for node in self.nodes:
                node.settle()
        assert self.one("SELECT count(*) FROM whole_delivery WHERE state = 0") == (0,), "everything ends"


TwoNodes.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTwoNodes = TwoNodes.TestCase


@pytest.mark.parametrize("form", ["rows", "sets", "mixed"])
@pytest.mark.parametrize("seed", range(4))
def test_a_busy_day(seed: int, form: str, full: int) -> None:
    """The same machine, driven by dice for longer than hypothesis goes."""
    for round_ in range(full):
        machine = TwoNodes()
        dice = random.Random(seed + 1000 * round_)
        machine.start(form, small=dice.random() < 0.5, window=dice.choice([3, 40, 40]))
        try:
            live(machine, dice)
        finally:
            machine.teardown()


def live(machine: TwoNodes, dice: random.Random) -> None:
    def at() -> int:
        return dice.randrange(2)

    def device() -> int:
        return dice.randint(1, DEVICES)

    moves: list[Callable[[], object]] = [
        lambda: machine.accept(
            at(),
            dice.choice([None, None, 1, 2, 3]),
            dice.choice(["critical", "normal"]),
            dice.choice([0, 1, 1]),
            dice.choice([0, 60, 86_400, 86_400]),
            dice.choice([None, None, None, "k"]),
            dice.random() < 0.5,
        ),
        lambda: machine.acknowledge(device(), dice.randrange(3)),
        lambda: machine.turn(at()),
        lambda: machine.commit(at(), dice.choice([1, 2, None])),
        lambda: machine.call_back(at()),
        lambda: machine.work_through(at()),
        lambda: machine.tick(at()),
        lambda: machine.take_snapshot(at()),
        lambda: machine.answer(at()),
        lambda: machine.read(at()),
        lambda: machine.connect(device(), at(), dice.choice([0, 1, 1])),
        lambda: machine.return_slowly(device(), at(), dice.random() < 0.5),
        lambda: machine.disconnect(device()),
        lambda: machine.exchange(at()),
        lambda: machine.time_passes(dice.choice([0.25, 1, 3])),
    ]
    weights = [10, 12, 6, 5, 5, 4, 5, 6, 6, 5, 2, 2, 1, 2, 1]
    for _ in range(500):
        dice.choices(moves, weights)[0]()
        machine.states_are_conserved()
