from __future__ import annotations

import time

import pytest

from broker.clock import ServerClock, boot_id


class HandMovedTime:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, wall: float, boot: float) -> None:
        self.wall = wall
        self.boot = boot
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "clock_gettime", lambda clock: {time.CLOCK_BOOTTIME: self.boot}[clock])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> HandMovedTime:
    return HandMovedTime(monkeypatch, wall=1_000_000.0, boot=50.0)


def test_starts_at_the_wall_clock_and_counts_suspended_time_as_well(machine: HandMovedTime) -> None:
    clock = ServerClock()
    assert clock.now() == 1_000_000.0
    machine.boot += 2.5
    assert clock.now() == 1_000_002.5
    assert clock() == clock.now()


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_jumps_changes_nothing(machine: HandMovedTime, jump: float) -> None:
    clock = ServerClock()
    machine.wall += jump
    machine.boot += 1.0
    assert clock.now() == 1_000_001.0


def test_never_starts_before_what_was_stored(machine: HandMovedTime) -> None:
    """The wall clock was set back between two runs: nothing that had expired comes back to life."""
    clock = ServerClock(last_stored=1_000_500.0)
    assert clock.now() == 1_000_500.0
    machine.boot += 1.0
    assert clock.now() == 1_000_501.0


def test_an_older_stored_time_does_not_hold_it_back(machine: HandMovedTime) -> None:
    assert ServerClock(last_stored=999_000.0).now() == 1_000_000.0


def test_runs_faster_on_request(machine: HandMovedTime) -> None:
    clock = ServerClock(speed=60.0)
    machine.boot += 2.0
    assert clock.now() == 1_000_120.0


@pytest.mark.parametrize("speed", [0.0, -1.0])
def test_refuses_a_speed_that_stops_or_turns_time(speed: float) -> None:
    with pytest.raises(ValueError):
        ServerClock(speed=speed)


def test_a_run_under_the_same_boot_goes_on_whatever_the_wall_clock_shows(machine: HandMovedTime) -> None:
    first = ServerClock()
    machine.boot += 10.0
    last = first.now()
    machine.boot += 3_600.0
    machine.wall = 0.0
    assert ServerClock(last, boot_origin=first.boot_origin).now() == 1_003_610.0


def test_what_was_stored_is_not_gone_back_behind_under_the_same_boot(machine: HandMovedTime) -> None:
    assert ServerClock(last_stored=2_000_000.0, boot_origin=ServerClock().boot_origin).now() == 2_000_000.0


def test_a_boot_has_a_name() -> None:
    assert boot_id() == boot_id() != ""
