"""The timing wheel: never early, hardly late, and every target looked at once."""

from __future__ import annotations

import random

from broker.deadlines import HORIZON_SLOTS, RESOLUTION_SECONDS, TimingWheel

START = 1_700_000_000.0


class Target:
    def __init__(self, again: float | None = None) -> None:
        self.slot = -1
        self.looks: list[float] = []
        self.again = again

    def due(self, now: float) -> float | None:
        self.looks.append(now)
        again, self.again = self.again, None
        return again


def run(wheel: TimingWheel, until: float, step: float = RESOLUTION_SECONDS, start: float = START) -> None:
    now = start
    while now < until:
        now += step
        wheel.advance(now)


def test_never_early_and_late_by_one_resolution_at_most() -> None:
    seed = random.Random(3)
    wheel = TimingWheel(START)
    targets = [(START + seed.uniform(0, 60), Target()) for _ in range(300)]
    for at, target in targets:
        wheel.schedule(target, at)
    run(wheel, START + 62, step=0.05)
    for at, target in targets:
        (look,) = target.looks
        assert at <= look <= at + RESOLUTION_SECONDS + 0.06
        assert target.slot == -1


def test_an_overdue_target_is_checked_soon() -> None:
    wheel = TimingWheel(START)
    target = Target()
    wheel.schedule(target, START - 100)
    wheel.advance(START + 2 * RESOLUTION_SECONDS)
    assert len(target.looks) == 1


def test_the_last_appointment_counts() -> None:
    wheel = TimingWheel(START)
    earlier, later, cancelled = Target(), Target(), Target()
    wheel.schedule(earlier, START + 20)
    wheel.schedule(earlier, START + 5)
    wheel.schedule(later, START + 5)
    wheel.schedule(later, START + 20)
    wheel.schedule(cancelled, START + 5)
    wheel.cancel(cancelled)
    wheel.cancel(cancelled)
    run(wheel, START + 6)
    assert (len(earlier.looks), len(later.looks)) == (1, 0)
    run(wheel, START + 21, start=START + 6)
    assert (len(earlier.looks), len(later.looks), len(cancelled.looks)) == (1, 1, 0)


def test_a_target_that_names_a_time_is_checked_again() -> None:
    wheel = TimingWheel(START)
    target = Target(again=START + 9)
    wheel.schedule(target, START + 3)
    run(wheel, START + 12)
    assert [round(look - START) for look in target.looks] == [3, 9]


def test_beyond_the_horizon_a_target_waits_in_rounds() -> None:
    wheel = TimingWheel(START)
    expires_at = START + 3 * HORIZON_SLOTS * RESOLUTION_SECONDS

    class Distant(Target):
        def due(self, now: float) -> float | None:
            self.looks.append(now)
            return None if now >= expires_at else expires_at

    target = Distant()
    wheel.schedule(target, expires_at)
    run(wheel, expires_at + 1, step=1.0)
    assert len(target.looks) in (3, 4)
    assert expires_at <= target.looks[-1] <= expires_at + 1.5


def test_a_leap_of_the_clock_checks_everything() -> None:
    wheel = TimingWheel(START)
    targets = [Target() for _ in range(50)]
    for number, target in enumerate(targets):
        wheel.schedule(target, START + number * 5)
    wheel.advance(START + 1_000_000)
    assert all(len(target.looks) == 1 for target in targets)


def test_targets_may_move_and_cancel_each_other_while_the_hand_is_on_them() -> None:
    wheel = TimingWheel(START)

    class Meddler(Target):
        others: list[Target]

        def due(self, now: float) -> float | None:
            for number, other in enumerate(self.others):
                if number % 2:
                    wheel.cancel(other)
                else:
                    wheel.schedule(other, now + 10)
            return super().due(now)

    meddlers = [Meddler() for _ in range(4)]
    for meddler in meddlers:
        meddler.others = [other for other in meddlers if other is not meddler]
        wheel.schedule(meddler, START + 1)
    run(wheel, START + 3)
    assert sum(len(meddler.looks) for meddler in meddlers) == 1
