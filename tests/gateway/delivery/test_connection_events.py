"""Devices that come and go are told of, a storm of them too, in few entries and lines."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gateway.delivery.connection_events import LOG_LINES, REASONS, ConnectionEvents
from tests.gateway.delivery.world import World


@pytest.fixture
def connections(world: World) -> ConnectionEvents:
    return watched(world)


def watched(world: World, *, logged: bool = True) -> ConnectionEvents:
    database: Any = world.writer
    connections = ConnectionEvents(
        database=database, activity=world.activity, clock_ms=world.clock, timers=world.timers, logged=logged
    )
    world.on_connected = connections.connected
    world.on_disconnected = connections.disconnected
    return connections


def told(world: World) -> list[tuple[str, dict[str, Any]]]:
    world.timers.later_turn()
    world.settle()
    return [(event["type"].removeprefix("device."), event["data"]) for event in world.events()]


def test_a_connection_is_told_of_with_its_duration_and_reason(world: World, connections: ConnectionEvents) -> None:
    world.connect()
    assert told(world) == [("connected", {"device_id": "d1", "address": ""})]
    world.passes(61.5)
    world.connections.disconnected("d1", "ack timeout")
    assert told(world)[1:] == [
        ("disconnected", {"device_id": "d1", "reason": "not_acknowledged", "duration": 61.5}),
    ]
    assert connections.ended == {"not_acknowledged": 1}
    assert "not_acknowledged" in world.row("SELECT last_error FROM device WHERE no = 1")[0]


@pytest.mark.parametrize("reason", [*REASONS, "malformed packet"])
def test_an_end_that_is_an_error_is_the_last_error(world: World, connections: ConnectionEvents, reason: str) -> None:
    world.connect()
    world.connections.disconnected("d1", reason, "the detail" if reason == "malformed packet" else "")
    named = REASONS.get(reason, "protocol_error")
    (_, data) = told(world)[-1]
    assert data["reason"] == named
    error = world.row("SELECT last_error FROM device WHERE no = 1")[0]
    if named in ("client", "take_over", "network", "server_ending", "revoked"):
        assert error is None
    else:
        assert error.startswith(f"connection ended ({named}): ")
    assert ("the detail" in (error or "")) == (data.get("detail") == "the detail") == (reason == "malformed packet")


def test_a_client_that_says_why_it_leaves_is_quoted(world: World, connections: ConnectionEvents) -> None:
    world.connect()
    world.connections.disconnected("d1", "disconnected", "reason code 0x95")
    assert told(world)[-1][1]["detail"] == "reason code 0x95"
    assert "0x95" in world.row("SELECT last_error FROM device WHERE no = 1")[0]


def test_events_of_a_device_come_in_their_order(world: World, connections: ConnectionEvents) -> None:
    world.connect(1)
    told(world)
    world.connect(1)  # a take-over
    world.connect(2)
    world.disconnect(2)
    assert [(kind, data["device_id"]) for kind, data in told(world)[1:]] == [
        ("connected", "d2"),
        ("disconnected", "d1"),
        ("disconnected", "d2"),
        ("connected", "d1"),
    ]


@pytest.mark.parametrize("was_online", [False, True])
@pytest.mark.parametrize("is_online", [False, True])
def test_flaps_are_counted_and_not_told_one_by_one(
    world: World, connections: ConnectionEvents, was_online: bool, is_online: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    if was_online:
        world.connect()
        told(world)
    before = len(world.events())
    for _ in range(50):
        world.connect()
        world.disconnect()
    if is_online:
        world.connect()
    events = told(world)[before:]
    kinds = [kind for kind, _ in events]
    assert (
        kinds
        == {
            (False, False): ["connected", "disconnected"],
            (False, True): ["connected"],
            (True, False): ["disconnected"],
            (True, True): ["disconnected", "connected"],
        }[was_online, is_online]
    )
    assert all(data["flaps"] >= 49 for _, data in events)
    assert all("times more)" in record.getMessage() for record in caplog.records[-len(events) :])


def test_a_storm_is_one_entry_and_one_line(
    world: World, connections: ConnectionEvents, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    devices = [world.enrol() for _ in range(200)]
    for device in devices:
        world.connect(device.device_no)
    assert len(told(world)) == 200
    assert world.row("SELECT count(*), sum(size) FROM event") == (1, 200)
    for device in devices[:150]:
        world.connections.disconnected(device.client_id, "connection lost")
    assert len(told(world)) == 350
    said = [record.getMessage() for record in caplog.records]
    assert said == ["200 devices connected, 0 disconnected", "0 devices connected, 150 disconnected (network 150)"]


def test_few_are_a_line_each_unless_that_is_not_wanted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watched(world)
    world.connect(1)
    world.passes(2)
    told(world)
    world.connections.disconnected("d1", "protocol error", "PUBLISH without topic")
    told(world)
    assert [record.getMessage() for record in caplog.records] == [
        "device default/d1 connected from ",
        "device default/d1 disconnected after 2.0 s: protocol_error: PUBLISH without topic",
    ]
    assert LOG_LINES > 2
    caplog.clear()
    watched(world, logged=False)
    world.connect(2)
    assert len(told(world)) == 3
    assert not caplog.records


def test_a_page_may_end_within_an_entry(world: World, connections: ConnectionEvents) -> None:
    for device_no in (1, 2, 3):
        world.connect(device_no)
    told(world)
    whole = world.events()
    assert [event["data"]["device_id"] for event in whole] == ["d1", "d2", "d3"]
    assert world.events(limit=1) == whole
    assert sorted(map(str, world.events(limit=1, lanes=2))) == sorted(map(str, whole))
    assert {event["timestamp"] for event in whole} == {world.events()[0]["timestamp"]}
