"""Deadlines, in one timing wheel.

That is connect timeout, keep alive, unacknowledged messages, will delay, session expiry.

A ring of slots, each `RESOLUTION_SECONDS` wide; a slot holds the targets that are checked when the hand passes it.
A target is checked, not fired: its `due(now)` decides by itself what is overdue and returns the time of its next check.
So a packet from a client costs one attribute store (`last_received`) and moves nothing in the ring; when the hand comes
by, the target sees that it was active meanwhile and is put further ahead.

Laws
1. A target is in at most one slot. `schedule` moves it.
2. Never early by the clock the caller gives; late by at most one resolution plus the time between two `advance`.
3. Deadlines beyond the horizon wait in the last slot and are checked once per round: a session that expires in a year
   costs one comparison every four minutes.

Price: 1,024 slots, 8 bytes each while empty, a set of 216 bytes and about 40 bytes per target while not. One connected
and one remembered session per device: 100,000 devices cost about 4 MB and 1,200 checks per second.
"""

from __future__ import annotations

from typing import Protocol

RING_SLOTS = 1_024
RESOLUTION_SECONDS = 0.25
"""Seconds. The shortest keep alive is 1 s, hence 1.5 s of silence: a quarter of a second more is unnoticed."""
HORIZON_SLOTS = RING_SLOTS - 2
"""Slots ahead that a target can be put: the hand's own slot is being emptied, and the one behind it is the past."""


class Target(Protocol):
    """An object with a deadline."""

    slot: int
    """Place in the ring, kept by the wheel; -1: nowhere."""

    def due(self, now: float) -> float | None:
        """Do what is overdue; return the time of the next check, or None for none until the next `schedule`."""


class TimingWheel:
    """The deadlines of one broker. It reads no clock: `advance` tells it the time. Runs on the *loop*."""

    def __init__(self, now: float) -> None:
        self._slots: list[set[Target] | None] = [None] * RING_SLOTS
        self._hand = int(now / RESOLUTION_SECONDS)
        """Number of the last slot checked, counted from the epoch. A target of time t is put one slot after t's own,
        so that it is never checked early."""

    def schedule(self, target: Target, at: float) -> None:
        """Check `target` at `at` (server time, seconds) and not before; replaces its earlier appointment."""
        ahead = min(max(int(at / RESOLUTION_SECONDS) + 1 - self._hand, 1), HORIZON_SLOTS)
        slot = (self._hand + ahead) % RING_SLOTS
        if target.slot == slot:
            return
        if target.slot >= 0:
            self._remove(target)
        target.slot = slot
        targets = self._slots[slot]
        if targets is None:
            self._slots[slot] = {target}
        else:
            targets.add(target)

    def cancel(self, target: Target) -> None:
        if target.slot >= 0:
            self._remove(target)
            target.slot = -1

    def advance(self, now: float) -> None:
        """Check every target whose time has come. A leap longer than the ring checks all of them once."""
        hand = int(now / RESOLUTION_SECONDS)
        for passed in range(max(self._hand + 1, hand - RING_SLOTS + 1), hand + 1):
            # Moves before the targets of this slot run: they schedule into slots ahead of it, never into it.
            self._hand = passed
            targets = self._slots[passed % RING_SLOTS]
            if targets is None:
                continue
            self._slots[passed % RING_SLOTS] = None
            for target in targets:
                if target.slot != passed % RING_SLOTS:
                    continue  # cancelled or moved by another target of this slot, a moment ago
                target.slot = -1
                again = target.due(now)
                if again is not None:
                    self.schedule(target, again)

    def _remove(self, target: Target) -> None:
        targets = self._slots[target.slot]
        if targets is not None:  # None: its slot is being checked right now
            targets.discard(target)
            if not targets:
                self._slots[target.slot] = None
