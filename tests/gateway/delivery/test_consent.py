"""Consent and muted channels: judged at acceptance and whenever somebody changes their mind; nothing muted is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.audience.policy import ChannelFields, ConsentPolicy, NewChannel, Policy, WhenDenied
from gateway.delivery.engine import Body, Message
from gateway.delivery.submission import AcceptedPush
from gateway.store.audience.topics import topics_of
from tests import postgresql
from tests.gateway.delivery.world import ALERT, APP, World


@contextmanager
def full_disk(world: World) -> Iterator[None]:
    """For deliveries."""
    if postgresql.is_used():
        world.connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE disk_full; END'"
        )
        refuse, drop = "EXECUTE FUNCTION refuse()", "DROP FUNCTION refuse CASCADE"
    else:
        refuse = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        drop = "DROP TRIGGER full_of_rows; DROP TRIGGER full_of_sets"
    world.connection.execute(f"CREATE TRIGGER full_of_rows BEFORE UPDATE ON delivery {refuse}")
    world.connection.execute(f"CREATE TRIGGER full_of_sets BEFORE INSERT ON outcome_set {refuse}")
    yield
    for statement in drop.split("; "):
        world.connection.execute(statement)


def test_a_denied_device_gets_no_alert(world: World) -> None:
    world.connect()
    assert world.says("settings", {"consent": "denied"}) == 0
    accepted = world.push(notification=ALERT)
    assert (accepted.targeted, accepted.suppressed) == (1, 1)
    assert world.state(accepted.push_id) == ("suppressed", "no_consent")
    assert world.counts(accepted.push_id) == {"targeted": 1, "suppressed": 1}
    for kind in ("in_app", "silent", "command"):
        assert world.push(kind=kind, notification=ALERT).suppressed == 0
    assert len(world.received()) == 3


def test_what_waits_ends_when_consent_is_withdrawn(world: World) -> None:
    first, other = world.alert(), world.push().push_id
    world.connect(2)
    world.says("settings", {"consent": "denied"}, device_no=1)
    assert world.state(first) == ("suppressed", "no_consent")
    assert world.state(other) == ("waiting", None)
    world.says("settings", {"consent": "granted"}, device_no=1)
    again = world.alert()
    world.connect()
    assert world.received() == [other, again]


def test_new_rules_hold_for_all_that_waits_though_the_server_is_killed_meanwhile(world: World) -> None:
    waiting = [world.alert() for _ in range(3)]
    world.loop.run_until_complete(world.policies.set_policy(APP.no, Policy(consent=ConsentPolicy(unknown="suppress"))))
    world.crash()  # the rules are on disk, and nothing has been judged by them
    world.connect()
    assert world.received() == []
    assert [world.state(push_id) for push_id in waiting] == [("suppressed", "no_consent")] * 3


def test_new_rules_hold_for_what_waits_behind_what_is_in_flight(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.consent.SLICE_DELIVERIES", 2)
    world.connect()
    sent = [world.alert() for _ in range(3)]
    assert world.received() == sent
    waiting = [world.alert({"device": "d2"}) for _ in range(3)]
    world.set_policy(consent={"unknown": "suppress"})
    assert [world.state(push_id, 2) for push_id in waiting] == [("suppressed", "no_consent")] * 3


def test_new_rules_are_tried_again_when_the_disk_was_full(world: World) -> None:
    waiting = world.alert()
    with full_disk(world):
        world.set_policy(consent={"unknown": "suppress"})
    assert world.state(waiting) == ("waiting", None)
    world.timers.later_turn()
    world.settle()
    assert world.state(waiting) == ("suppressed", "no_consent")


def test_what_is_in_flight_ends_when_it_is_lost(world: World) -> None:
    world.connect()
    push_id = world.alert()
    assert world.received() == [push_id]
    world.says("settings", {"consent": "denied"})
    assert world.state(push_id) == ("sent", None), "it is on its way"
    world.disconnect()
    assert world.state(push_id) == ("suppressed", "no_consent")
    world.connect()
    assert world.received() == [push_id], "not again"


def test_what_is_in_flight_and_acknowledged_was_delivered(world: World) -> None:
    world.connect()
    push_id = world.alert()
    world.says("settings", {"consent": "denied"})
    world.acknowledge()
    assert world.state(push_id) == ("delivered", None)


def test_a_crash_does_not_bring_it_back(world: World) -> None:
    world.connect()
    push_id = world.alert()
    world.says("settings", {"consent": "denied"})
    world.crash()
    assert world.state(push_id) == ("suppressed", "no_consent")


def say_together(world: World, *moves: Any) -> None:
    """Submit operations one after the other, commit them as one group, and only then call back."""
    for move in moves:
        move()
        world.loop.run_until_complete(asyncio.sleep(0))
        world.timers.turn()
    world.writer.commit_group()
    world.writer.call_back()
    world.settle()


def publish(world: World, leaf: str, payload: Any) -> None:
    identity = world.identities[1]
    topic = f"default/devices/{identity.device_id}/{leaf}"
    world.connections.published(
        identity.client_id, Message(topic, Body(json.dumps(payload).encode())), lambda code: None
    )


def offered_while_consent_is_withdrawn(world: World, **fields: Any) -> str:
    request = world.request(notification=ALERT, **fields)
    accepting: list[asyncio.Task[AcceptedPush]] = []
    say_together(
        world,
        lambda: accepting.append(world.loop.create_task(world.acceptance.accept(APP, request))),
        lambda: publish(world, "settings", {"consent": "denied"}),
    )
    world.loop.run_until_complete(accepting[0])
    return accepting[0].result().push_id


def read_while_consent_is_withdrawn(world: World, **fields: Any) -> str:
    world.disconnect()
    push_id = world.alert(priority="critical", **fields)  # so that the first read finds it
    say_together(
        world,
        lambda: world.engine.connect(world.identities[1], 1),
        lambda: publish(world, "settings", {"consent": "denied"}),
    )
    return push_id


RACES = pytest.mark.parametrize("race", [offered_while_consent_is_withdrawn, read_while_consent_is_withdrawn])


@RACES
def test_what_was_handed_over_while_consent_was_withdrawn_is_delivered_when_acknowledged(
    world: World, race: Callable[..., str]
) -> None:
    world.connect()
    push_id = race(world)
    assert world.received() == [push_id]
    world.acknowledge()
    assert world.state(push_id) == ("delivered", "after_suppressed")
    world.says("receipts", {"push_id": push_id, "event": "acted", "action": "play", "result": {"table": 7}})
    assert world.state(push_id) == ("acted", "after_suppressed")
    assert world.row("SELECT action, result FROM whole_delivery") == ("play", '{"table": 7}')
    assert world.counts(push_id) == {"targeted": 1, "acted": 1}
    world.check_events()


@RACES
def test_what_was_handed_over_with_qos_0_while_consent_was_withdrawn_is_sent(
    world: World, race: Callable[..., str]
) -> None:
    world.connect()
    push_id = race(world, qos=0)
    assert world.received() == [push_id]
    assert world.state(push_id) == ("sent", "after_suppressed")
    assert [event["type"] for event in world.events()].count("delivery.sent") == 1
    world.check_events()


def test_a_receipt_proves_that_a_suppressed_one_had_arrived(world: World) -> None:
    """In flight when consent was withdrawn; the device took it, and its PUBACK was lost with the connection."""
    world.connect()
    push_id = world.alert()
    world.says("settings", {"consent": "denied"})
    world.disconnect()
    assert world.state(push_id) == ("suppressed", "no_consent")
    world.says("receipts", {"push_id": push_id, "event": "acted", "action": "play", "result": 1})
    assert world.state(push_id) == ("acted", "after_suppressed")
    world.check_events()


def test_who_changes_their_mind_back_is_sent_again_what_was_in_flight(world: World) -> None:
    world.connect()
    push_id = world.alert()
    world.says("settings", {"consent": "denied"})
    world.says("settings", {"consent": "granted"})
    world.disconnect()
    assert world.state(push_id) == ("waiting", None)
    world.connect()
    assert world.received() == [push_id] * 2


def test_what_is_lost_while_consent_is_being_withdrawn_is_not_sent_again(world: World) -> None:
    world.connect()
    push_id = world.alert()
    publish(world, "settings", {"consent": "denied"})
    world.timers.turn()
    world.writer.commit_group()  # in flight, as the operation sees it
    world.engine.disconnect_device("d1")
    world.settle()
    assert world.state(push_id) == ("suppressed", "no_consent")


def test_the_policy_decides_on_the_unknown_and_on_what_the_denied_still_get(world: World) -> None:
    world.says("settings", {"consent": "granted"}, device_no=1)
    world.says("settings", {"consent": "denied"}, device_no=3)
    waiting = world.alert({"all": True})
    world.set_policy(consent={"unknown": "suppress", "denied": {"silent": "suppress"}})
    assert [world.state(waiting, no)[0] for no in (1, 2, 3)] == ["waiting", "suppressed", "suppressed"]
    for target in ({"all": True}, {"devices": ["d1", "d2", "d3"]}):
        shown, silent = world.alert(target), world.push(target).push_id
        assert [world.state(shown, no)[0] for no in (1, 2, 3)] == ["waiting", "suppressed", "suppressed"]
        assert [world.state(silent, no)[0] for no in (1, 2, 3)] == ["waiting", "waiting", "suppressed"]


def test_a_muted_channel_is_not_shown(world: World) -> None:
    world.says("settings", {"channels": {"offers": False, "news": True}})
    for target in ({"device": "d1"}, {"all": True}):
        offer = world.alert(target, channel="offers")
        assert world.state(offer) == ("suppressed", "channel_muted")
        assert world.state(world.alert(target, channel="news")) == ("waiting", None)
        assert world.state(world.alert(target)) == ("waiting", None)
        assert world.state(world.push(target, channel="offers").push_id) == ("waiting", None), "data mutes nobody"


def test_a_channel_that_may_not_be_muted(world: World) -> None:
    world.run(world.policies.add_channel(APP.no, NewChannel(id="safety", name="Safety", may_mute=False)))
    world.says("settings", {"channels": {"safety": False}})
    push_id = world.alert(channel="safety")
    assert world.state(push_id) == ("waiting", None)
    world.run(world.policies.change_channel(APP.no, "safety", ChannelFields(name="Safety")))
    world.settle()
    assert world.state(push_id) == ("suppressed", "channel_muted"), "from now on it may"


def test_a_suppressed_push_supersedes_nothing(world: World) -> None:
    world.says("settings", {"channels": {"offers": False}})
    older = world.alert(collapse_key="price")
    world.push(notification=ALERT, channel="offers", collapse_key="price")
    assert world.state(older) == ("waiting", None)
    world.connect()
    world.disconnect()
    assert world.state(older) == ("waiting", None), "judged again, it is still the newest for this device"


def test_the_answer_to_a_push_that_asks_is_the_consent(world: World) -> None:
    world.connect()
    asked = world.push(kind="in_app", notification=ALERT).push_id
    receipt = {"push_id": asked, "event": "acted", "action": "consent.granted", "result": {"text_version": "v2"}}
    assert world.says("receipts", receipt) == 0
    assert world.row("SELECT consent, settings_text_version FROM device WHERE no = 1") == ("granted", "v2")
    world.says("settings", {"consent": "denied"})
    world.says("receipts", receipt)
    assert world.row("SELECT consent FROM device WHERE no = 1") == ("denied",), (
        "a receipt that comes twice is no answer"
    )


def test_what_was_said_last_holds_also_when_it_is_stored_together(world: World) -> None:
    world.connect()
    asked = world.push(kind="in_app", notification=ALERT).push_id
    tap = {"push_id": asked, "event": "acted", "action": "consent.granted"}
    world.says_at_once(("receipts", tap), ("settings", {"consent": "denied", "seq": 7}))
    assert world.row("SELECT consent FROM device WHERE no = 1") == ("denied",)


def test_an_answer_that_comes_twice_is_none_the_second_time_also_when_it_is_stored_together(world: World) -> None:
    world.connect()
    first, second = (world.push(kind="in_app", notification=ALERT).push_id for _ in range(2))
    granted = {"push_id": first, "event": "acted", "action": "consent.granted"}
    denied = {"push_id": second, "event": "acted", "action": "consent.denied"}
    world.says_at_once(("receipts", granted), ("receipts", denied), ("receipts", granted))
    assert world.row("SELECT consent FROM device WHERE no = 1") == ("denied",)


def test_a_device_is_told_of_its_preferences_when_its_answer_was_an_action(world: World) -> None:
    told: list[str] = []
    world.on_settings = lambda app_id, device_id: told.append(device_id)
    asked = world.push(kind="in_app", notification=ALERT).push_id
    world.says("receipts", {"push_id": asked, "event": "acted", "action": "consent.granted"})
    assert told == ["d1"]
    world.says("receipts", {"push_id": asked, "event": "displayed"})
    assert told == ["d1"], "nothing that it prefers has changed"


def test_every_answer_is_proved(world: World) -> None:
    world.says("settings", {"consent": "granted", "seq": 5, "text_version": "v1", "client": "kiosk 2.1"})
    world.now += 1_000
    world.says("settings", {"consent": "denied", "seq": 4})
    world.says("settings", {"consent": "denied", "seq": 6})
    records = world.run(world.preferences.consents(1, 1))
    assert [(record["consent"], record["seq"]) for record in records] == [("denied", 6), ("granted", 5)]
    assert (records[1]["text_version"], records[1]["client"], records[1]["source"]) == ("v1", "kiosk 2.1", "mqtt")
    assert records[1]["recorded_at"] == "2027-01-15T08:00:00.000Z"


def test_the_proof_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.consent.CONSENT_RECORDS", 3)
    for seq in range(1, 6):
        world.says("settings", {"consent": "granted", "seq": seq})
    assert [record["seq"] for record in world.run(world.preferences.consents(1, 1))] == [5, 4, 3]


def test_the_forecast_says_who_would_not_get_it(world: World) -> None:
    world.says("settings", {"consent": "denied", "channels": {"offers": False}}, device_no=1)
    world.says("settings", {"channels": {"offers": False}}, device_no=2)
    for target in ({"all": True}, {"devices": ["d1", "d2", "d3"]}):
        request = world.request(target, notification=ALERT, channel="offers")
        forecast = world.run(world.forecast.of(APP, request))
        assert (forecast["targeted"], forecast["suppressed"]) == (3, {"no_consent": 1, "channel_muted": 1})
        accepted = world.push(target, notification=ALERT, channel="offers")
        assert accepted.suppressed == 2


class Minds(RuleBasedStateMachine):
    """People change their minds, apps their rules, devices come and go, the server crashes: nothing unwanted is ever
    handed over, everything that ends so has its reason, and the counts sum."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(devices=2, mailbox_limit=50)
        self.consent = {1: "unknown", 2: "unknown"}
        self.muted: dict[int, set[str]] = {1: set(), 2: set()}
        self.policy = Policy()
        self.kinds: dict[str, tuple[str, str | None]] = {}
        self.seen = {1: 0, 2: 0}
        self.seq = 0

    devices = st.sampled_from([1, 2])
    channels = st.sampled_from(["offers", "news"])

    @rule(
        to=st.sampled_from([{"device": "d1"}, {"devices": ["d1", "d2"]}, {"all": True}]),
        kind=st.sampled_from(["alert", "in_app", "silent", "command"]),
        channel=st.none() | channels,
    )
    def pushes(self, to: dict[str, Any], kind: str, channel: str | None) -> None:
        fields = {} if channel is None else {"channel": channel}
        accepted = self.world.push(to, kind=kind, notification=ALERT, **fields)
        self.kinds[accepted.push_id] = kind, channel
        numbers = [1] if to == {"device": "d1"} else [1, 2]
        assert accepted.suppressed == sum(not self.wanted(no, kind, channel) for no in numbers)

    @rule(device_no=devices, consent=st.sampled_from(["unknown", "granted", "denied"]))
    def answers(self, device_no: int, consent: str) -> None:
        self.check_received()
        self.seq += 1
        self.world.says("settings", {"consent": consent, "seq": self.seq}, device_no)
        self.consent[device_no] = consent

    @rule(device_no=devices, channel=channels, wanted=st.booleans())
    def mutes(self, device_no: int, channel: str, wanted: bool) -> None:
        self.check_received()
        self.world.says("settings", {"channels": {channel: wanted}}, device_no)
        (self.muted[device_no].discard if wanted else self.muted[device_no].add)(channel)

    @rule(unknown=st.sampled_from(["allow", "suppress"]), command=st.sampled_from(["allow", "suppress"]))
    def rules_change(self, unknown: Any, command: Any) -> None:
        self.check_received()
        self.policy = Policy(consent=ConsentPolicy(unknown=unknown, denied=WhenDenied(command=command)))
        self.world.run(self.world.policies.set_policy(APP.no, self.policy))
        self.world.settle()

    @rule(device_no=devices)
    def comes(self, device_no: int) -> None:
        if not self.session(device_no).connected:
            self.world.connect(device_no)

    @rule(device_no=devices)
    def goes(self, device_no: int) -> None:
        if self.session(device_no).connected:
            self.check_received()
            self.world.disconnect(device_no)

    @rule(device_no=devices)
    def acknowledges(self, device_no: int) -> None:
        if self.session(device_no).connected and self.session(device_no).inflight:
            self.world.acknowledge(device_no)

    @rule()
    def crashes(self) -> None:
        self.check_received()
        self.world.crash()
        self.seen = {1: 0, 2: 0}

    def session(self, device_no: int) -> Any:
        return self.world.engine.session(self.world.identities[device_no].client_id)

    def wanted(self, device_no: int, kind: str, channel: str | None) -> bool:
        """The model."""
        consent = self.consent[device_no]
        if kind == "alert" and (
            consent == "denied" or (consent == "unknown" and self.policy.consent.unknown != "allow")
        ):
            return False
        if kind == "command" and consent == "denied" and self.policy.consent.denied.command != "allow":
            return False
        return not (kind in ("alert", "in_app") and channel in self.muted[device_no])

    @invariant()
    def check_received(self) -> None:
        """What was handed over since the last look was wanted then."""
        for device_no in (1, 2):
            handed_over = self.session(device_no).handed_over
            for hand_over in handed_over[self.seen[device_no] :]:
                kind, channel = self.kinds[json.loads(hand_over.payload)["push_id"]]
                assert self.wanted(device_no, kind, channel), (device_no, kind, channel)
            self.seen[device_no] = len(handed_over)

    @invariant()
    def every_end_has_its_reason(self) -> None:
        for state, reason in self.world.connection.execute("SELECT state, reason FROM whole_delivery"):
            assert state in (0, 10, 30)
            assert (state == 30) == (reason in ("no_consent", "channel_muted")), (state, reason)

    def teardown(self) -> None:
        for push_id in self.kinds:
            self.world.counts(push_id)
        self.world.check_events()
        self.world.close()


TestMinds = Minds.TestCase
TestMinds.settings = settings(TestMinds.settings, stateful_step_count=30, deadline=None)


def test_a_device_joins_the_topics_that_it_may_and_hears_of_the_others(world: World) -> None:
    world.set_policy(joinable_topics=["news"])
    assert world.says("settings", {"consent": "denied", "topics": {"news": True, "sport": True}, "seq": 2}) == 0
    assert topics_of(world.connection, [1]) == {1: ["news"]}
    assert world.row("SELECT consent FROM device WHERE no = 1") == ("denied",)
    error = world.activity.last_error(1)
    assert error is not None
    assert "'sport'" in error[0]
    world.says("settings", {"topics": {"news": False}, "seq": 1})
    assert topics_of(world.connection, [1]) == {1: ["news"]}, "the highest sequence wins"
    world.says("settings", {"topics": {"news": False}, "seq": 3})
    assert not topics_of(world.connection, [1])
    assert world.push({"topic": "news"}).targeted == 0
