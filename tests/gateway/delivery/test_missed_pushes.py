"""Gap notices: what ended without reaching a device is told once, when it is back and listens."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.delivery.missed_pushes import MissedPushes
from tests.gateway.delivery.world import World


class Told:
    """A world whose devices are told; `listening` are those with a subscription to their notices."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.notices: list[tuple[str, dict[str, Any]]] = []
        self.listening = {"d1", "d2", "d3"}
        self.wire()

    def wire(self) -> None:
        world = self.world
        missed_pushes = MissedPushes(
            database=world.writer,
            clock_ms=world.clock,
            timers=world.timers,
            is_listening=lambda app_id, device_id: device_id in self.listening,
            notify=lambda app_id, device_id, gap: self.notices.append((device_id, gap)),
            apps_of=world.connections.apps_of,
        )
        world.on_returned = missed_pushes.returned

    def connect(self, device_no: int = 1) -> list[tuple[str, dict[str, Any]]]:
        """What it is told on its return."""
        self.notices.clear()
        self.world.connect(device_no)
        while self.world.timers.later:
            self.world.timers.later_turn()
            self.world.settle()
        return list(self.notices)


@pytest.fixture
def told(world: World) -> Told:
    return Told(world)


def test_what_a_device_missed_is_told_once(told: Told) -> None:
    world = told.world
    expired = world.push(ttl=60).push_id
    recalled = world.push().push_id
    world.passes(61)
    world.run(world.ledger.recalls.recall(1, recalled))
    overflowed, *_ = (world.push(ttl=3_600).push_id for _ in range(6))
    ((device_id, gap),) = told.connect()
    assert device_id == "d1"
    assert gap["count"] == 3
    assert gap["reasons"] == {"expired": 1, "cancelled": 1, "overflowed": 1}
    assert [(push["push_id"], push["state"], push["reason"]) for push in gap["pushes"]] == [
        (expired, "expired", "ttl"),
        (recalled, "cancelled", "recalled"),
        (overflowed, "overflowed", "mailbox_limit"),
    ]
    assert gap["pushes"][0]["ended_at"] == "2027-01-15T08:01:01.000Z"
    world.disconnect()
    assert told.connect() == []


def test_only_what_is_new_is_told_the_next_time(told: Told) -> None:
    world = told.world
    world.push(ttl=1)
    world.passes(2)
    told.connect()
    world.disconnect()
    later = world.push(ttl=1).push_id
    world.passes(2)
    world.crash()
    told.wire()
    ((_, gap),) = told.connect()
    assert [push["push_id"] for push in gap["pushes"]] == [later]


def test_superseded_and_unwanted_is_no_gap(told: Told) -> None:
    world = told.world
    world.push(collapse_key="price")
    world.push(collapse_key="price")
    world.says("settings", {"consent": "denied"})
    world.push(notification={"title": "Hi"})
    assert told.connect() == []


def test_who_does_not_listen_is_told_when_they_do(told: Told) -> None:
    world = told.world
    world.push({"all": True}, ttl=1)
    world.passes(2)
    told.listening.remove("d1")
    assert told.connect(1) == []
    assert [device_id for device_id, _ in told.connect(2)] == ["d2"]
    world.disconnect(1)
    told.listening.add("d1")
    assert [device_id for device_id, _ in told.connect(1)] == ["d1"]


def test_a_long_gap_is_counted_and_not_all_named(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.delivery.missed_pushes.LISTED_PUSHES", 2)
    monkeypatch.setattr("gateway.delivery.missed_pushes.DEVICES_TOGETHER", 1)
    world = told.world
    for _ in range(4):
        world.push({"all": True}, ttl=1)
    world.passes(2)
    world.connect(1)
    world.connect(2)
    notices = told.connect(3)
    assert sorted(device_id for device_id, _ in notices) == ["d1", "d2", "d3"]
    assert all((gap["count"], len(gap["pushes"])) == (4, 2) for _, gap in notices)


@pytest.mark.parametrize("form", ["sets"], indirect=True)
def test_a_gap_of_many_sets_is_told_in_parts_and_nobody_is_told_again(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first device is told all of it, before the second returns and has everything to hear."""
    monkeypatch.setattr("gateway.store.deliveries.missed_pushes.MISSED_SETS", 2)
    world = told.world
    for _ in range(3):
        world.push({"all": True}, ttl=1)
        world.passes(2)
    for _ in range(3):  # three that end together
        world.push({"all": True}, ttl=1)
    world.passes(2)
    assert sum(gap["count"] for _, gap in told.connect(1)) == 6
    world.disconnect(1)
    world.connect(2)
    notices = told.connect(1)
    assert [device_id for device_id, _ in notices] == ["d2"] * len(notices)
    assert sum(gap["count"] for _, gap in notices) == 6
    world.disconnect(1)
    assert told.connect(1) == []
