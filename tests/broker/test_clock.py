from __future__ import annotations

import time

import pytest

from broker.clock import ServerClock


class HandMovedTime:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, wall: float, monotonic: float) -> None:
        self.wall = wall
        self.monotonic = monotonic
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> HandMovedTime:
    return HandMovedTime(monkeypatch, wall=1_000_000.0, monotonic=50.0)


def test_starts_at_the_wall_clock_and_follows_the_monotonic_one(machine: HandMovedTime) -> None:
    clock = ServerClock()
    assert clock.now() == 1_000_000.0
    machine.monotonic += 2.5
    assert clock.now() == 1_000_002.5
    assert clock() == clock.now()


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_jumps_changes_nothing(machine: HandMovedTime, jump: float) -> None:
    clock = ServerClock()
    machine.wall += jump
    machine.monotonic += 1.0
    assert clock.now() == 1_000_001.0


def test_never_starts_before_what_was_stored(machine: HandMovedTime) -> None:
    """The wall clock was set back between two runs: nothing that had expired comes back to life."""
    clock = ServerClock(last_stored=1_000_500.0)
    assert clock.now() == 1_000_500.0
    machine.monotonic += 1.0
    assert clock.now() == 1_000_501.0


def test_an_older_stored_time_does_not_hold_it_back(machine: HandMovedTime) -> None:
    assert ServerClock(last_stored=999_000.0).now() == 1_000_000.0


def test_runs_faster_on_request(machine: HandMovedTime) -> None:
    clock = ServerClock(speed=60.0)
    machine.monotonic += 2.0
    assert clock.now() == 1_000_120.0


@pytest.mark.parametrize("speed", [0.0, -1.0])
def test_refuses_a_speed_that_stops_or_turns_time(speed: float) -> None:
    with pytest.raises(ValueError):
        ServerClock(speed=speed)
