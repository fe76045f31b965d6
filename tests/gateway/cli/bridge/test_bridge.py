"""The bridge between a broker and a server that the test moves by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.bridge import bridge as bridge_module
from gateway.cli.bridge.bridge import CONNECTION_EVENTS, EventsLost, NoDevices, event_types
from gateway.cli.bridge.bridged_devices import FEW_CHANGES
from gateway.cli.bridge.broker_connection import BrokerConnected, BrokerLost
from gateway.cli.bridge.message_pushes import BURST_MESSAGES, PushAnswered
from gateway.cli.server_client import RequestRefused
from gateway.cli.terminal import Failure
from tests.gateway.cli.bridge.fakes import CONFIG, OPTIONS, BridgeWorld, FakeSource, device

MakeWorld = Callable[..., BridgeWorld]
CONNECTIVITY = "fleetpush/devices/kiosk-1/connectivity"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeWorld]:
    worlds: list[BridgeWorld] = []

    def make(*devices: Any, connected: bool = True, **options: Any) -> BridgeWorld:
        world = BridgeWorld(tmp_path, *devices, **options)
        worlds.append(world)
        if connected:
            world.connect()
            world.refresh()
        return world

    yield make
    for world in worlds:
        world.state_file.close()


def restart(world: BridgeWorld, make: MakeWorld, *devices: Any, **options: Any) -> BridgeWorld:
    """Another process on the same broker."""
    world.bridge.shut_down(0)
    world.state_file.close()
    again = make(*devices, connected=False, **options)
    again.broker.retained = world.broker.retained
    return again


# Devices


def test_a_device_is_published_state_first(make: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world = make(device(), device("kiosk-2", online=False, battery=None, version=None))
    assert world.broker.retained["fleetpush/status"] == b"online"
    assert world.broker.retained[CONNECTIVITY] == b"online"
    assert world.broker.json("fleetpush/devices/kiosk-1/attributes") == {"battery": 81, "version": "2.3"}
    assert world.broker.retained["fleetpush/devices/kiosk-2/connectivity"] == b"offline"
    order = [topic for topic, _ in world.broker.published]
    assert order.index(CONFIG) > order.index(CONNECTIVITY)
    assert capsys.readouterr().out == "bridge ready name=fleetpush devices=2\n"


def test_without_discovery_there_are_states_only(make: MakeWorld) -> None:
    world = make(device(), options=replace(OPTIONS, discovery=None))
    assert not [topic for topic in world.broker.retained if topic.startswith("homeassistant")]
    assert CONNECTIVITY in world.broker.retained
    world.source.devices.clear()
    world.refresh()
    assert [*world.broker.retained] == ["fleetpush/status"]


def test_nothing_is_published_twice_that_has_not_changed(make: MakeWorld) -> None:
    world = make(device())
    world.refresh()
    before = len(world.broker.published)
    world.refresh()
    assert len(world.broker.published) == before
    world.source.devices["kiosk-1"] = device(battery=80)
    world.refresh()
    assert [topic for topic, _ in world.broker.published[before:]] == ["fleetpush/devices/kiosk-1/attributes"]


def test_a_removed_device_leaves_nothing_behind_and_connectivity_goes_last(make: MakeWorld) -> None:
    world = make(device(), device("kiosk-2"))
    world.message("kiosk-1/command/reboot", b"nonsense")
    del world.source.devices["kiosk-1"]
    before = len(world.broker.published)
    world.refresh()
    assert not [topic for topic in world.broker.retained if "kiosk-1" in topic]
    cleared = [topic for topic, payload in world.broker.published[before:] if not payload]
    assert (cleared[0], cleared[-1]) == (CONFIG, CONNECTIVITY)
    assert "kiosk-1" not in world.bridge.state.announced


def test_what_a_former_run_has_left_is_cleared(make: MakeWorld) -> None:
    world = restart(make(device(), device("kiosk-9")), make, device())
    world.find("kiosk-9")  # before the list is there
    world.find("kiosk-1")
    world.connect()
    world.refresh()
    assert not [topic for topic in world.broker.retained if "kiosk-9" in topic]
    assert CONFIG in world.broker.retained
    world.broker.retained["fleetpush/devices/kiosk-8/connectivity"] = b"online"
    world.find("kiosk-8")  # after it
    world.find("+/kiosk-7")
    assert not [topic for topic in world.broker.retained if "kiosk-8" in topic]
    assert not [topic for topic, _ in world.broker.published if "kiosk-7" in topic]


def test_a_button_that_is_gone_is_removed_and_then_forgotten(make: MakeWorld) -> None:
    world = make(device(commands=("reboot", "identify")))
    world.refresh()
    world = restart(world, make, device(commands=("reboot",)))
    world.connect()
    assert world.broker.json(CONFIG)["cmps"]["command_identify"] == {"p": "button"}
    world.refresh()
    assert "command_identify" not in world.broker.json(CONFIG)["cmps"]


def test_a_broker_that_comes_back_empty_gets_everything(make: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world = make(device())
    everything = dict(world.broker.retained)
    world.broker.connected = False
    world.bridge.handle(BrokerLost("the connection broke"))
    world.bridge.handle(BrokerLost("no route"))
    world.source.devices["kiosk-1"] = device(online=False)
    world.refresh()
    world.broker.retained.clear()
    world.broker.connected = True
    world.connect()
    assert world.broker.retained == everything | {CONNECTIVITY: b"offline"}
    assert capsys.readouterr().err.count("No connection") == 1, "one line for one failure"


# Events


def test_an_event_says_that_and_the_server_what(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "CHANGE_SECONDS", 0.0)
    world = make(device())
    world.source.devices["kiosk-1"] = device(online=False)
    world.event(1, "device.connected", device_id="kiosk-1", address="h:1")  # an old one, read after a restart
    world.bridge.wait(0)
    world.acknowledge()
    assert world.broker.retained[CONNECTIVITY] == b"offline"
    assert world.source.shown == ["kiosk-1"]
    assert world.bridge.state.cursor == "1.0"
    assert world.room.acquire(blocking=False)


def test_a_device_that_was_removed_is_gone_with_its_event(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "CHANGE_SECONDS", 0.0)
    world = make(device())
    world.source.devices.clear()
    world.event(1, "device.disconnected", device_id="kiosk-1", reason="revoked")
    world.bridge.wait(0)
    world.acknowledge()
    assert [*world.broker.retained] == ["fleetpush/status"]


def test_many_changes_cost_one_list_and_strangers_nothing(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "EARLY_REFRESH_SECONDS", 0.0)
    names = [f"kiosk-{number}" for number in range(30)]
    world = make(*(device(name) for name in names))
    lists = world.source.lists
    for number in range(50):
        world.event(number, "device.connected", device_id=f"till-{number}")
    assert world.source.lists == lists
    for number, name in enumerate(names):
        world.event(number, "device.connected", device_id=name)
    assert world.source.lists > lists
    assert len(world.source.shown) <= FEW_CHANGES


def test_a_new_device_is_found_by_its_connection(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "EARLY_REFRESH_SECONDS", 0.0)
    world = make(device())
    world.source.devices["kiosk-2"] = device("kiosk-2")
    world.event(1, "device.connected", device_id="kiosk-2")
    assert "fleetpush/devices/kiosk-2/connectivity" in world.broker.retained


def test_events_that_are_asked_for_are_those_that_are_needed() -> None:
    assert event_types(OPTIONS).endswith("delivery.*")
    assert "delivery.acted" in event_types(replace(OPTIONS, notify=False))
    assert event_types(replace(OPTIONS, notify=False, commands=())) == CONNECTION_EVENTS


# Messages and outcomes


def test_a_command_becomes_a_push_and_its_outcome_is_published(make: MakeWorld) -> None:
    world = make(device())
    world.message("kiosk-1/command/reboot")
    assert world.sender.sent[0].body["data"] == {"command": "reboot"}
    world.accept("p1")
    assert world.result() == {"kind": "command", "command": "reboot", "state": "accepted", "push_id": "p1"}
    world.event(1, "delivery.delivered", device_id="kiosk-1", push_id="p1")
    assert world.result()["state"] == "delivered"
    world.event(2, "delivery.acted", device_id="kiosk-1", push_id="p1", result={"ok": True})
    assert world.result()["result"] == {"ok": True}
    world.event(3, "delivery.acted", device_id="kiosk-1", push_id="p2", result={"ok": False})
    assert world.result()["push_id"] == "p1", "somebody else's push"
    assert not world.bridge.state.owed


def test_an_outcome_that_is_faster_than_the_answer_is_not_lost(make: MakeWorld) -> None:
    world = make(device())
    world.message("kiosk-1/notify", b"Hi")
    world.event(1, "delivery.expired", device_id="kiosk-1", push_id="p1", reason="ttl")
    world.accept("p1")
    assert world.result() == {"kind": "notify", "state": "expired", "push_id": "p1", "reason": "ttl"}


def test_an_outcome_is_owed_over_a_restart(make: MakeWorld) -> None:
    world = make(device())
    world.message("kiosk-1/command/reboot")
    world.accept("p1")
    world = restart(world, make, device())
    world.connect()
    world.refresh()
    world.event(9, "delivery.acted", device_id="kiosk-1", push_id="p1", result=1)
    assert world.result()["state"] == "acted"


def test_outcomes_whose_events_were_missed_are_asked_for(make: MakeWorld) -> None:
    world = make(device())
    for push_id in ("p1", "p2", "p3"):
        world.message("kiosk-1/command/reboot")
        world.accept(push_id)
    facts = {"ended_at": None, "action": None, "reason": None, "result": 7}
    world.source.deliveries = {"p1": {"state": "acted", **facts}, "p2": {"state": "waiting", **facts}}
    world.event(1, "events.lost", after="0")
    for _ in range(3):
        world.bridge.wait(0)
    world.acknowledge()
    assert world.result() == {"kind": "command", "command": "reboot", "state": "acted", "push_id": "p1", "result": 7}
    assert [*world.bridge.state.owed] == ["p2"], "p3 is so old that nothing is known of it"


def test_outcomes_are_asked_for_again_when_the_server_is_back(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "EARLY_REFRESH_SECONDS", 0.0)
    world = make(device())
    world.message("kiosk-1/command/reboot")
    world.accept("p1")
    world.source.failure = Failure("no answer")
    world.event(1, "events.lost", after="0")
    world.bridge.wait(0)
    world.source.failure = None
    for _ in range(3):
        world.bridge.wait(0)
    assert not world.bridge.state.owed


def test_a_large_result_is_said_to_be_large(make: MakeWorld) -> None:
    world = make(device())
    world.message("kiosk-1/command/reboot")
    world.accept("p1")
    world.event(1, "delivery.acted", device_id="kiosk-1", push_id="p1", result="x" * 4096)
    assert "ask the server for push p1" in world.result()["result"]["error"]


@pytest.mark.parametrize(("reason", "state"), [("stale", "refused"), ("no answer from the server", "failed")])
def test_what_becomes_no_push_is_told(make: MakeWorld, reason: str, state: str) -> None:
    world = make(device())
    world.message("kiosk-1/notify", b"Hi")
    world.bridge.handle(PushAnswered(world.sender.sent[-1], None, reason))
    assert world.result() == {"kind": "notify", "state": state, "reason": reason}


def test_bad_messages_are_told_seldom_and_stop_nothing(make: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world = make(device())
    before = len(world.broker.published)
    for _ in range(100):
        world.message("kiosk-1/command/wipe")
        world.message("nobody/command/reboot")
        world.message("kiosk-1/command/\x1b[2J")
        world.message("../status", b"offline")
    assert world.sender.sent == []
    assert world.result() == {"kind": "command", "command": "wipe", "state": "refused", "reason": "not_allowed"}
    assert len(world.broker.published) - before <= 2
    said = capsys.readouterr().err
    assert said.count("not_allowed") == said.count("too_many") == said.count("nobody") == 1
    assert "\x1b" not in said
    world.source.devices["kiosk-2"] = device("kiosk-2")
    world.refresh()
    world.message("kiosk-2/command/reboot")
    assert len(world.sender.sent) == 1, "another device has its own rate"


def test_a_device_has_so_many_messages(make: MakeWorld) -> None:
    world = make(device())
    for _ in range(BURST_MESSAGES + 5):
        world.message("kiosk-1/command/reboot")
    assert len(world.sender.sent) == BURST_MESSAGES
    assert world.result()["reason"] == "too_many"


def test_a_retained_message_is_refused(make: MakeWorld) -> None:
    world = make(device())
    world.message("kiosk-1/command/reboot", retained=True)
    assert world.sender.sent == []
    assert world.result()["reason"] == "retained"


# A server that does not answer


def test_a_server_that_is_away_makes_the_bridge_offline(make: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world = make(device())
    world.source.failure = Failure("no answer from http://127.0.0.1:9: refused.")
    world.refresh()
    world.refresh()
    assert world.broker.retained["fleetpush/status"] == b"offline"
    assert CONFIG in world.broker.retained, "nobody is removed because the server is away"
    world.source.failure = None
    world.refresh()
    assert world.broker.retained["fleetpush/status"] == b"online"
    said = capsys.readouterr().err
    assert (said.count("No answer"), said.count("answers again")) == (1, 1)


def test_a_key_that_is_refused_ends_it(make: MakeWorld) -> None:
    world = make(device())
    world.source.failure = RequestRefused("no such key", "unauthorized")
    with pytest.raises(RequestRefused):
        world.refresh()
    with pytest.raises(Failure, match="forbidden"):
        world.bridge.handle(EventsLost(Failure("forbidden"), final=True))
    world.bridge.handle(EventsLost(Failure("gone"), final=False))


def test_it_says_goodbye(make: MakeWorld) -> None:
    world = make(device())
    world.bridge.shut_down(0)
    assert world.broker.retained["fleetpush/status"] == b"offline"


# Clearing


def test_everything_of_a_bridge_can_be_cleared(make: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "CLEAR_SECONDS", 0.05)
    monkeypatch.setattr(bridge_module, "CLEAR_POLL_SECONDS", 0.0)
    world = restart(make(device(), device("kiosk-2")), make)
    world.bridge._source = NoDevices()
    world.broker.retained["zigbee/lamp"] = b"on"
    acknowledge, wait = world.acknowledge, world.bridge.wait

    def wait_acknowledging(seconds: float) -> None:
        wait(seconds)
        acknowledge()

    monkeypatch.setattr(world.bridge, "wait", wait_acknowledging)
    world.bridge.handle(BrokerConnected())
    world.find("kiosk-2")
    assert world.bridge.clear_all(15)
    assert world.broker.retained == {"zigbee/lamp": b"on"}
    assert not world.bridge.state.announced


def test_a_broker_that_is_away_cannot_be_cleared(make: MakeWorld) -> None:
    world = make(device(), connected=False)
    world.bridge._source = FakeSource()
    assert not world.bridge.clear_all(0)
