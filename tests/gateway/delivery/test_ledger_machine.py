"""The conservation law and the arrows of a delivery's life, under any order of events.

Real ledger, mailbox, acceptance and receipts on a real SQLite database; the writer, the clock, the timers and the
engine move by hand, so that every interleaving of commit, callback, hand-over and crash can happen. After every step:
the states of each push sum to what was targeted; each row moved along an allowed arrow; first time stamps stayed;
nothing was handed over after its acknowledgement was recorded, its recall or a refusal by its person was answered, or
its ttl. In the end whatever a device has acknowledged, or sent a receipt of, counts as delivered.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.auth import DeviceIdentity
from gateway.delivery import fan_out
from gateway.delivery.engine import Body, Message
from gateway.delivery.push import PushRequest
from gateway.delivery.reports import count_states
from gateway.delivery.submission import AcceptedPush
from gateway.delivery_handles import DEVICE_BITS, DEVICE_MASK
from gateway.delivery_states import RECEIPT_STATES, DeliveryState
from gateway.errors import Problem
from gateway.store.deliveries import delivery_sets
from tests.gateway.delivery.conftest import store_everything_as_sets
from tests.gateway.delivery.machinery import HandOver
from tests.gateway.delivery.world import APP, World

DEVICES = 3
MAILBOX_LIMIT = 5
RECEIPTS = range(10, 15)
EVENTS = list(RECEIPT_STATES)
REVIVED = {20, 21, 22, 23, 24, 30}
STAMPS = "delivered_at, displayed_at, dismissed_at, opened_at, acted_at, ended_at"


def allowed(old: int, new: int, reason: str | None) -> bool:
    """The arrows of docs/contract.md: The life of a delivery."""
    if old == new:
        return True
    if old == 0:
        return True
    if old == 1:
        return new in RECEIPTS
    if old in RECEIPTS:
        return new in RECEIPTS and new > old
    if old in REVIVED:  # 1: of QoS 0, and handed over while it was ended
        return (new in RECEIPTS or new == 1) and reason == f"after_{DeliveryState(old).label}"
    return False


@pytest.fixture(autouse=True)
def _slices_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can happen between two slices of an offer can happen between any two hand-overs."""
    monkeypatch.setattr(fan_out, "SLICE_DELIVERIES", 1)


class Life(RuleBasedStateMachine):
    @initialize(form=st.sampled_from(["rows", "sets", "mixed"]))
    def start(self, form: str) -> None:
        """`mixed`: a push to one device is a row, and what one device does makes a row of a set."""
        self.patched = pytest.MonkeyPatch()
        if form != "rows":
            store_everything_as_sets(self.patched)
        if form == "mixed":
            self.patched.setattr(delivery_sets, "SET_DEVICES", 2)
            self.patched.setattr(delivery_sets, "GROUP_DEVICES", 2)
        self.world = World(devices=DEVICES, mailbox_limit=MAILBOX_LIMIT)
        self.accepted: dict[str, int] = {}
        self.recalled: set[int] = set()
        self.rows: dict[tuple[int, int], tuple[Any, ...]] = {}
        self.recorded: set[tuple[int, int]] = set()
        self.proved: set[tuple[int, int]] = set()
        """Acknowledged by its device, or of a receipt that the server has answered."""
        self.refused: dict[int, set[str]] = {}
        """By device: `alert`, or a channel, of which the server has answered that it comes no more."""
        self.saying: dict[int, int] = {}
        """By device: changes of mind that have not been answered."""
        self.tasks: list[asyncio.Task[AcceptedPush]] = []
        self.boot()

    def boot(self) -> None:
        self.last_in_lane: dict[tuple[str, int, int], int] = {}
        """By device, connection and priority: the push handed over last."""
        self.world.boot()
        self.world.engine.on_hand_over = self.handed_over

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.settle_everything()
            self.world.check_events()
        finally:
            self.abandon_requests()
            self.world.close()
            self.patched.undo()

    def abandon_requests(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            self.world.loop.run_until_complete(asyncio.wait(self.tasks))
        self.tasks = []

    def handed_over(self, client_id: str, hand_over: HandOver) -> None:
        push_no, device_no = hand_over.handle >> DEVICE_BITS, hand_over.handle & DEVICE_MASK
        state, ttl, expires_at, priority, kind, channel = self.world.connection.execute(
            "SELECT d.state, p.ttl, p.expires_at, p.priority, p.kind, p.channel FROM whole_delivery d"
            " JOIN push p ON p.no = d.push_no"
            " WHERE d.push_no = ? AND d.device_no = ?",
            (push_no, device_no),
        ).fetchone()
        session = self.world.engine.session(client_id)
        lane = (client_id, session.connection, priority)
        assert self.last_in_lane.get(lane, 0) < push_no, "out of order within its priority"
        self.last_in_lane[lane] = push_no
        assert state not in RECEIPTS or (push_no, device_no) not in self.recorded, "again, although recorded"
        assert push_no not in self.recalled, "handed over after the recall was answered"
        assert ttl == 0 or expires_at > self.world.now, "handed over after its ttl"
        if kind == "alert" and not self.saying.get(device_no):
            unwanted = {"alert", channel} if priority else {"alert"}  # what is critical passes a muted channel
            assert not self.refused.get(device_no, set()) & unwanted, "handed over though nobody wants it"
        twice = [one.handle for one in session.inflight].count(hand_over.handle)
        assert twice <= 1, "in flight twice on one connection"
        wire = json.loads(hand_over.payload)
        assert wire["expires_in"] == (max(1, -(-(expires_at - self.world.now) // 1000)) if ttl else 0)

    def turn_loop(self) -> None:
        self.world.loop.run_until_complete(asyncio.sleep(0))
        self.world.timers.turn()

    def settle_tasks(self) -> None:
        self.world.loop.run_until_complete(asyncio.sleep(0))
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            refusal = task.exception()
            if refusal is None:
                accepted = task.result()
                self.accepted[accepted.push_id] = accepted.targeted
            else:  # its only device was removed meanwhile
                assert isinstance(refusal, Problem), refusal
                assert refusal.code == "device_not_found"

    # -- the world's moves

    @rule(
        whom=st.sampled_from(["one", "some", "all"]),
        device=st.integers(0, 2),
        priority=st.sampled_from(["critical", "normal", "low"]),
        qos=st.sampled_from([0, 1, 1, 2]),
        ttl=st.sampled_from([0, 5, 60, 86_400]),
        collapse_key=st.sampled_from([None, None, "k"]),
        at_once=st.booleans(),
        alert=st.booleans(),
    )
    def accept(
        self,
        whom: str,
        device: int,
        priority: str,
        qos: int,
        ttl: int,
        collapse_key: str | None,
        at_once: bool,
        alert: bool,
    ) -> None:
        ids = [identity.device_id for identity in self.world.identities.values()]
        target: dict[str, Any] = {"all": True}
        if whom == "one":
            target = {"device": ids[device % len(ids)]}
        elif whom == "some":
            target = {"devices": [*ids[:2], ids[0]]}
        body: dict[str, Any] = {"target": target, "priority": priority, "qos": qos, "ttl": ttl, "data": 1}
        if collapse_key is not None:
            body["collapse_key"] = collapse_key
        if alert:
            body["notification"] = {"title": "x"}
            if priority == "low" or (priority == "critical" and ttl):  # muted and now or never: judged at once
                body["channel"] = "offers"
        request = PushRequest.model_validate(body)
        self.tasks.append(self.world.loop.create_task(self.world.acceptance.accept(APP, request)))
        self.world.loop.run_until_complete(asyncio.sleep(0))
        if at_once:
            self.everything_moves()

    @rule()
    def everything_moves(self) -> None:
        """Often enough nothing is pending when the next thing happens."""
        for _ in range(3):
            self.turn_loop()
            self.world.writer.drain()
            self.settle_tasks()
        self.note_what_is_recorded()

    @rule()
    def turn(self) -> None:
        self.turn_loop()

    @rule(size=st.sampled_from([1, 2, None]))
    def commit(self, size: int | None) -> None:
        self.world.writer.commit_group(size)

    @rule()
    def call_back(self) -> None:
        self.world.writer.call_back()
        self.settle_tasks()
        self.note_what_is_recorded()

    def note_what_is_recorded(self) -> None:
        """From here on the server has answered for these: nobody may be handed them again."""
        self.recorded = {
            (push_no, device_no)
            for push_no, device_no in self.world.connection.execute(
                "SELECT push_no, device_no FROM whole_delivery WHERE state BETWEEN 10 AND 14"
            )
        }

    @rule(device=st.integers(0, 2), granted=st.sampled_from([0, 1, 1, 2]))
    def connect(self, device: int, granted: int) -> None:
        self.world.engine.connect(self.identity(device), granted)

    @rule(device=st.integers(0, 2))
    def disconnect(self, device: int) -> None:
        self.world.engine.disconnect_device(self.identity(device).client_id)

    def identity(self, index: int) -> DeviceIdentity:
        identities = list(self.world.identities.values())
        return identities[index % len(identities)]

    def inflight(self, device: int) -> tuple[str, int]:
        client_id = self.identity(device).client_id
        session = self.world.engine.session(client_id)
        return client_id, len(session.inflight) if session.connected and session.resumed else 0

    @rule(device=st.integers(0, 2), index=st.integers(0, 2), outcome=st.sampled_from([0, 0, 0, 0x97]))
    def settle(self, device: int, index: int, outcome: int) -> None:
        client_id, count = self.inflight(device)
        if count:
            handle = self.world.engine.settle(client_id, index % count, outcome).handle
            if not outcome:
                self.proved.add((handle >> DEVICE_BITS, handle & DEVICE_MASK))

    @rule(seconds=st.sampled_from([1, 6, 61]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += seconds * 1000
        self.world.ledger.sweep()

    @precondition(lambda self: self.accepted)
    @rule(index=st.integers(1, 4))
    def recall(self, index: int) -> None:
        push_id = list(self.accepted)[-min(index, len(self.accepted))]
        result = self.world.loop.run_until_complete(self.world.ledger.recalls.recall(1, push_id))
        assert result is not None
        (push_no,) = self.world.connection.execute("SELECT no FROM push WHERE id = ?", (push_id,)).fetchone()
        self.recalled.add(push_no)

    @rule(device=st.integers(0, 2))
    def empty_mailbox(self, device: int) -> None:
        self.world.loop.run_until_complete(self.world.ledger.empty_mailbox(self.identity(device).device_no))

    @rule(device=st.integers(0, 2))
    def remove(self, device: int) -> None:
        device_no = self.identity(device).device_no
        self.world.remove(device_no)
        del self.world.identities[device_no]
        self.world.enrol()

    @precondition(lambda self: self.accepted)
    @rule(
        device=st.integers(0, 2),
        index=st.integers(1, 4),
        event=st.sampled_from(["delivered", "displayed", "dismissed", "opened", "acted"]),
    )
    def receipt(self, device: int, index: int, event: str) -> None:
        identity = self.identity(device)
        push_id = list(self.accepted)[-min(index, len(self.accepted))]
        (push_no,) = self.world.connection.execute("SELECT no FROM push WHERE id = ?", (push_id,)).fetchone()
        self.say(
            identity,
            "receipts",
            {"push_id": push_id, "event": event, "action": "play", "result": {"n": 1}},
            lambda: self.proved.add((push_no, identity.device_no)),
        )

    def say(self, identity: DeviceIdentity, leaf: str, content: dict[str, Any], answered: Callable[[], object]) -> None:
        topic, body = f"default/devices/{identity.device_id}/{leaf}", Body(json.dumps(content).encode())
        receipts = self.world.receipts

        def done(code: int) -> None:
            if receipts is self.world.receipts:  # else it has crashed meanwhile
                answered()

        receipts.published(identity.client_id, identity, Message(topic, body), done)

    @rule(device=st.integers(0, 2), what=st.sampled_from(["alert", "offers"]), wanted=st.booleans())
    def change_mind(self, device: int, what: str, wanted: bool) -> None:
        identity = self.identity(device)
        device_no = identity.device_no
        refused = self.refused.setdefault(device_no, set())
        self.saying[device_no] = self.saying.get(device_no, 0) + 1

        def answered() -> None:
            self.saying[device_no] -= 1
            (refused.discard if wanted else refused.add)(what)

        consent = {"consent": "granted" if wanted else "denied"}
        self.say(identity, "settings", consent if what == "alert" else {"channels": {what: wanted}}, answered)

    @rule()
    def crash(self) -> None:
        self.abandon_requests()
        self.proved &= {key for key, (state, *_) in self.rows_now().items() if state in RECEIPTS}
        for device_no, consent, channels in self.world.connection.execute("SELECT no, consent, channels FROM device"):
            self.refused[device_no] = {"alert"} if consent == "denied" else set()
            self.refused[device_no].update(name for name, wanted in json.loads(channels).items() if not wanted)
        self.saying = {}
        self.boot()
        self.world.run(self.world.connections.recover())

    def rows_now(self) -> dict[tuple[int, int], tuple[Any, ...]]:
        rows = self.world.connection.execute("SELECT push_no, device_no, state FROM whole_delivery")
        return {(push_no, device_no): rest for push_no, device_no, *rest in rows}

    # -- what always holds

    @invariant()
    def states_are_conserved_and_move_along_the_arrows(self) -> None:
        if not hasattr(self, "world"):
            return
        for push_no, push_id, targeted in self.world.connection.execute("SELECT no, id, targeted FROM push").fetchall():
            counts = count_states(self.world.connection, push_no, self.world.ledger.sent_of(push_no))
            assert sum(counts.values()) == targeted, (push_id, counts)
            assert min(counts.values()) >= 0, (push_id, counts)
            stored = count_states(self.world.connection, push_no, ())
            found = {
                DeliveryState(state).label: count
                for state, count in self.world.connection.execute(
                    "SELECT state, count(*) FROM whole_delivery WHERE push_no = ? GROUP BY state", (push_no,)
                )
            }
            assert {label: count for label, count in stored.items() if count} == found, "counted as it is stored"
            assert sum(found.values()) == targeted, "each delivery is in one place"
        for key_push, key_device, state, reason, *stamps in self.world.connection.execute(
            f"SELECT push_no, device_no, state, reason, {STAMPS} FROM whole_delivery"
        ).fetchall():
            key = (key_push, key_device)
            row = (state, *stamps)
            if state >= 20:
                assert reason, "an end without a reason"
            old = self.rows.get(key)
            if old is not None:
                assert allowed(old[0], state, reason), (key, old[0], state, reason)
                assert all(b == a for a, b in zip(old[1:], stamps, strict=True) if a is not None), "a first stamp moved"
            self.rows[key] = row

    @invariant()
    def what_is_in_flight_has_not_expired(self) -> None:
        if not hasattr(self, "world"):
            return
        for session in self.world.engine.sessions.values():
            for hand_over in session.inflight if session.connected and session.resumed else ():
                (state,) = self.world.connection.execute(
                    "SELECT state FROM whole_delivery WHERE push_no = ? AND device_no = ?",
                    (hand_over.handle >> DEVICE_BITS, hand_over.handle & DEVICE_MASK),
                ).fetchone()
                assert state != DeliveryState.EXPIRED, "ended although it may still be acknowledged"

    @invariant()
    def an_accepted_push_is_on_disk(self) -> None:
        if not hasattr(self, "world"):
            return
        stored = {row[0] for row in self.world.connection.execute("SELECT id FROM push")}
        assert set(self.accepted) <= stored

    def settle_everything(self) -> None:
        """Let the world come to rest: whoever is left takes everything, then time ends what nobody took."""
        for identity in self.world.identities.values():
            self.world.engine.connect(identity, 1)
        for _ in range(60):
            self.turn_loop()
            self.world.writer.drain()
            self.settle_tasks()
            for identity in self.world.identities.values():
                client_id = identity.client_id
                while self.world.engine.session(client_id).inflight:
                    self.world.engine.settle(client_id, 0)
        self.states_are_conserved_and_move_along_the_arrows()
        alive = self.world.connection.execute(
            "SELECT count(*) FROM whole_delivery d JOIN push p ON p.no = d.push_no"
            " WHERE d.state = 0 AND p.expires_at > ?",
            (self.world.now,),
        ).fetchone()
        assert alive == (0,), "connected, in time, and never handed over"
        self.world.now += 90_000_000
        for _ in range(6):
            self.world.ledger.sweep()
            self.world.writer.drain()
        self.states_are_conserved_and_move_along_the_arrows()
        assert self.world.connection.execute("SELECT count(*) FROM whole_delivery WHERE state = 0").fetchone() == (0,)
        states = {key: state for key, (state,) in self.rows_now().items()}
        proved = {key: states[key] for key in self.proved if key in states}  # a receipt may be of another's push
        assert not {key: state for key, state in proved.items() if state not in {*RECEIPTS, DeliveryState.REVOKED}}
        assert not self.world.connection.execute(
            "SELECT 1 FROM whole_delivery WHERE state = 14 AND (action IS NULL OR result IS NULL)"
        ).fetchone(), "a result was lost"


Life.TestCase.settings = settings(stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))
TestLife = Life.TestCase


@pytest.mark.parametrize("form", ["rows", "sets", "mixed"])
@pytest.mark.parametrize("seed", range(4))
def test_a_long_life(seed: int, form: str, full: int) -> None:
    """The same machine, driven by dice for longer than hypothesis goes: it finds short stories, dice find busy days."""
    for round_ in range(full):
        life = Life()
        life.start(form)
        try:
            live(life, random.Random(seed + 1000 * round_))
        finally:
            life.teardown()


def live(life: Life, dice: random.Random) -> None:
    moves: list[Callable[[], object]] = [
        lambda: life.accept(
            dice.choice(["one", "some", "all"]),
            dice.randrange(3),
            dice.choice(["critical", "normal", "low"]),
            dice.choice([0, 1, 1, 2]),
            dice.choice([0, 5, 60, 86_400]),
            dice.choice([None, None, "k"]),
            dice.random() < 0.5,
            dice.random() < 0.5,
        ),
        lambda: life.connect(dice.randrange(3), dice.choice([0, 1, 1, 2])),
        lambda: life.settle(dice.randrange(3), dice.randrange(3), dice.choice([0, 0, 0, 0x97])),
        lambda: (
            life.receipt(dice.randrange(3), dice.randint(1, 4), dice.choice(list(RECEIPT_STATES)))
            if life.accepted
            else None
        ),
        lambda: life.change_mind(dice.randrange(3), dice.choice(["alert", "offers"]), dice.random() < 0.6),
        life.turn,
        lambda: life.commit(dice.choice([1, 2, None])),
        life.call_back,
        life.everything_moves,
        lambda: life.time_passes(dice.choice([1, 1, 6, 61])),
        lambda: life.disconnect(dice.randrange(3)),
        lambda: life.accepted and life.recall(dice.randint(1, 4)),
        lambda: life.empty_mailbox(dice.randrange(3)),
        lambda: life.remove(dice.randrange(3)),
        life.crash,
    ]
    weights = [8, 4, 8, 3, 2, 6, 6, 6, 2, 3, 2, 1, 0.3, 0.3, 0.3]
    for _ in range(400):
        dice.choices(moves, weights)[0]()
        life.states_are_conserved_and_move_along_the_arrows()
        life.what_is_in_flight_has_not_expired()
        life.an_accepted_push_is_on_disk()
