"""Heartbeats: who answers in time, who is slow or silent, and that nothing of them is left lying about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.delivery import heartbeat_states, heartbeats
from gateway.delivery.heartbeat_states import HeartbeatFields
from gateway.delivery.missed_pushes import missed_push_rows
from gateway.errors import Problem
from gateway.minute_counts import EVENT_TYPES, MINUTE_MS
from gateway.store.analytics.delivery_counts import count_events
from gateway.store.audience.device_sets import add_to_sets, remove_from_sets
from tests.gateway.delivery.world import ALERT, APP, World, items

DAY = 86_400


@pytest.fixture
def world() -> Iterator[World]:
    world = World(devices=3)
    yield world
    world.close()


def set_heartbeat(world: World, name: str = "store", **fields: Any) -> None:
    chosen = {} if fields.keys() & {"device", "devices", "tag"} else {"devices": ["d1", "d2"]}
    world.run(world.heartbeats.put(APP.no, name, HeartbeatFields.model_validate(chosen | fields)))
    world.passes(0)


def states(world: World, name: str = "store") -> dict[str, str]:
    found = world.run(world.heartbeats.get(APP.no, name))["states"]
    return {one["device_id"]: one["state"] for one in found}


def told(world: World) -> list[tuple[str, str]]:
    """Events of heartbeats: what, and of which device."""
    return [
        (event["type"].removeprefix("heartbeat."), event["data"]["device_id"])
        for event in world.events()
        if event["type"].startswith("heartbeat.")
    ]


def beat(world: World, *answering: int, after: float = 0.1) -> None:
    """A minute, in which these devices answer after some seconds."""
    world.passes(after)
    for device_no in answering:
        world.acknowledge_all(device_no)
        world.passes(0)
    world.passes(60 - after)


def test_a_beat_is_a_real_push_of_a_kind_of_its_own(world: World) -> None:
    for device_no in (1, 2):
        world.connect(device_no)
    set_heartbeat(world)
    (one,) = world.engine.session("d1").handed_over
    wire = json.loads(one.payload)
    assert {name: wire[name] for name in ("v", "kind", "priority", "expires_in")} == {
        "v": 1,
        "kind": "heartbeat",
        "priority": "low",
        "expires_in": 60,
    }
    assert len(one.payload) + len("3600") - len("60") == world.row("SELECT size FROM push")[0]
    beat(world, 1, 2, after=0.5)
    assert states(world) == {"d1": "answering", "d2": "answering"}
    found = world.run(world.heartbeats.get(APP.no, "store"))["states"][0]
    assert found["took_ms"] == 500
    assert told(world) == [], "that it works is no news"
    assert world.heartbeats.beaten["default/store"].slowest_ms == 500


def test_a_device_that_does_not_answer_is_silent_after_two_beats(world: World) -> None:
    for device_no in (1, 2):
        world.connect(device_no)
    set_heartbeat(world)
    beat(world, 1, 2)
    beat(world, 1)
    assert states(world)["d2"] == "answering"
    beat(world, 1)
    assert states(world) == {"d1": "answering", "d2": "silent"}
    beat(world, 1)
    assert told(world) == [("silent", "d2")], "once"
    assert world.heartbeats.beaten["default/store"].devices == {
        "unknown": 0,
        "answering": 1,
        "slow": 0,
        "silent": 1,
    }
    beat(world, 1, 2)
    assert told(world) == [("silent", "d2"), ("back", "d2")]


def test_a_device_that_answers_late_is_slow(world: World) -> None:
    world.connect(1)
    set_heartbeat(world, device="d1", within_s=5)
    beat(world, 1)
    beat(world, 1, after=6)
    beat(world, 1, after=6)
    assert states(world) == {"d1": "slow"}
    world.disconnect(1)
    beat(world)
    assert states(world) == {"d1": "silent"}
    assert told(world) == [("slow", "d1"), ("silent", "d1")]


def test_a_device_that_is_away_is_sent_nothing_and_is_silent(world: World) -> None:
    set_heartbeat(world, misses=1)
    beat(world)
    assert states(world) == {"d1": "silent", "d2": "silent"}
    assert world.row("SELECT count(*) FROM push") == (0,)
    world.connect(1)
    assert world.received(1) == []
    beat(world)
    beat(world, 1)
    assert states(world) == {"d1": "answering", "d2": "silent"}


def test_nobody_else_sees_anything_of_it(world: World) -> None:
    for device_no in (1, 2):
        world.connect(device_no)
    set_heartbeat(world)
    push_id = world.alert()
    world.acknowledge_all(1)
    for _ in range(3):
        beat(world, 1)
    assert [push["push_id"] for push in items(world.run(world.reports.pushes(APP.no, 10, None)))] == [push_id]
    assert {event["data"].get("push_id") for event in world.events()} <= {push_id, None}
    world.analytics.tick()
    world.passes(3)
    world.analytics.tick()
    world.settle()
    assert world.row("SELECT count(*) FROM funnel WHERE app_no <> 1") == (0,)
    assert world.row("SELECT count(*) FROM push_funnel AS f JOIN push AS p ON p.no = f.push_no WHERE p.app_no = 0") == (
        0,
    )


def test_a_beat_that_nobody_answered_is_no_delivery_that_ended(world: World) -> None:
    world.connect(1)
    set_heartbeat(world, device="d1")
    beat(world)
    world.disconnect(1)
    world.passes(1)
    assert world.row("SELECT count(*) > 0 FROM event WHERE type = 'delivery.expired'") == (1,)
    assert count_events(world.connection, 0, 100, EVENT_TYPES, MINUTE_MS)[0] == []


def test_a_day_of_beats_leaves_nothing_behind(world: World) -> None:
    world.connect(1)
    set_heartbeat(world, device="d1")
    most = 0
    for _ in range(60):
        beat(world, 1)
        most = max(most, *(world.row(f"SELECT count(*) FROM {table}")[0] for table in ("push", "delivery", "event")))
    assert most <= 13, "those of ten minutes"
    assert world.heartbeats.beats == 61
    (no,) = world.row("SELECT seq FROM sqlite_sequence WHERE name = 'push'")
    assert no == 61, "each was a push"


def test_what_the_server_slept_through_is_no_silence(world: World) -> None:
    for device_no in (1, 2):
        world.connect(device_no)
    set_heartbeat(world, misses=1)
    beat(world, 1, 2)
    world.crash()
    world.now += DAY * 1000
    world.crash()
    world.passes(0)
    assert told(world) == []
    for device_no in (1, 2):
        world.connect(device_no)
    world.passes(31)
    assert len(world.received(1)) == 1
    beat(world, 1, 2)
    assert states(world) == {"d1": "answering", "d2": "answering"}
    assert told(world) == []


def test_the_first_devices_of_a_tag_are_beaten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_states, "BEATEN_DEVICES", 2)
    add_to_sets(world.connection, APP.no, {"site": [1, 2, 3]})
    set_heartbeat(world, tag="site")
    assert list(states(world)) == ["d1", "d2"]
    remove_from_sets(world.connection, APP.no, {"site": [1]})
    beat(world)
    assert list(states(world)) == ["d2", "d3"]


def test_who_wants_no_data_is_not_beaten(world: World) -> None:
    world.set_policy(consent={"denied": {"silent": "suppress"}})
    world.connect(1)
    world.connect(2)
    world.says("settings", {"consent": "denied"}, 1)
    set_heartbeat(world)
    assert list(states(world)) == ["d2"]
    assert world.received(1) == []
    world.says("settings", {"consent": "denied"}, 2)  # one is on its way
    beat(world)
    assert list(states(world)) == []


def test_a_returning_device_is_not_told_of_beats_that_it_missed(world: World) -> None:
    world.connect(1)
    set_heartbeat(world, device="d1")
    world.disconnect(1)
    beat(world)
    gaps, _ = missed_push_rows(world.connection, [1], world.now)
    assert gaps == {}


def test_many_are_seen_to_some_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (heartbeat_states, heartbeats):
        monkeypatch.setattr(module, "DUE_BEATS", 2)
    for number in range(5):
        set_heartbeat(world, f"site-{number}")
    world.passes(60)
    assert world.heartbeats.beats == 7
    world.passes(0)
    world.passes(0)
    assert world.heartbeats.beats == 10


def test_a_full_disk_leaves_beats_out(world: World) -> None:
    world.connect(1)
    set_heartbeat(world, device="d1", misses=1)
    beat(world, 1)
    world.storage_left = False
    beat(world)
    assert len(world.received(1)) == 2
    world.storage_left = True
    world.passes(0)
    assert len(world.received(1)) == 3


def test_an_app_has_not_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "MAX_HEARTBEATS", 1)
    set_heartbeat(world)
    set_heartbeat(world, every_s=30)
    with pytest.raises(Problem, match="at most 1"):
        set_heartbeat(world, "other")
    world.run(world.heartbeats.remove(APP, "store"))
    assert world.heartbeats.beaten == {}
    assert world.row("SELECT count(*) FROM heartbeat_device") == (0,)
    for call in (world.heartbeats.get(APP.no, "store"), world.heartbeats.remove(APP, "store")):
        with pytest.raises(Problem) as refusal:
            world.run(call)
        assert refusal.value.code == "heartbeat_not_found"


def test_people_come_first(world: World) -> None:
    """A beat waits behind what people have sent, and never makes one of theirs wait."""
    world.connect(1)
    for _ in range(3):
        world.alert()
    set_heartbeat(world, device="d1")
    later = world.push(notification=ALERT, priority="normal").push_id
    world.acknowledge_all(1)
    kinds = [json.loads(one.payload)["kind"] for one in world.engine.session("d1").handed_over]
    assert kinds == ["alert"] * 4 + ["heartbeat"]
    assert world.received(1)[3] == later
