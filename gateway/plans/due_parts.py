"""Looks at a run: who of the devices that wait is due, with how much of the lifetime left, and for whom it is over.

Pure. Each device has an instant at which it is due: that of its zone, and the slice of time that it is in. What is late
by less than a minute is on time. What is later was missed, because the server was away: it is sent at once while its
lifetime lasts, unless the schedule or its kind says otherwise, or the next date of the schedule is due as well.

Within hours: what was missed waits for the next time that the window is open, and slices end when it closes. Of two
dates that wait for the same opening the earlier one is left out, as soon as the later one has begun.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pyroaring import BitMap

from gateway.plans.slices import in_slices
from gateway.plans.timing import GRACE_MS

K = TypeVar("K", int, str)


@dataclass(slots=True, frozen=True)
class RunRules:
    """Rules of a run for what is late."""

    ttl_s: int
    catches_up: bool
    """Whether what was missed is sent at all: an order that comes late may do harm."""
    slices: int
    slice_ms: int


@dataclass(slots=True, frozen=True)
class DueGroup:
    """Devices of a run that wait, and are due at one instant but for their slices."""

    devices: BitMap
    due: int
    next_due: int | None = None
    """The instant at which the next date of the schedule is due for them."""
    is_stale: bool = False
    """Their lifetime is over before the window opens."""
    opens: int | None = None
    """The first instant from now on within the hours in which they may be sent it; None: it may be sent always."""
    closes: int | None = None
    """The instant at which those hours end that they are due in."""


@dataclass(slots=True)
class DueParts:
    """Result of a look at a run."""

    parts: dict[int, BitMap] = field(default_factory=dict)
    """Seconds of the lifetime that are left, and the devices that are given a part with it."""
    left_out: dict[str, BitMap] = field(default_factory=dict)
    """The reason, and the devices that are given none."""
    wake: int | None = None
    """The instant at which something is due next; None: nothing waits."""
    due: int | None = None
    """The instant at which the first of what is due now was due, but for what was missed."""


def find_due_parts(groups: Iterable[DueGroup], rules: RunRules, wall_ms: int) -> DueParts:
    """Find what is due of a run at an instant."""
    found = DueParts()
    for group in groups:
        if not group.devices:
            continue
        if group.is_stale:
            _add(found.left_out, "outside_window", group.devices)
            continue
        if group.next_due is not None and group.next_due <= group.due:  # both wait for the same opening
            _add(found.left_out, "superseded", group.devices)
            continue
        of_group = _within_hours(rules, group)
        behind = min((wall_ms - group.due) // of_group.slice_ms + 1, rules.slices) if wall_ms >= group.due else 0
        if behind < rules.slices:
            _wake_at(found, group.due + behind * of_group.slice_ms)
        # The first slice that is on time: what is before it was missed.
        on_time = min(max(0, -(-(wall_ms - group.due - GRACE_MS) // of_group.slice_ms)), behind)
        _add_part(found, group, of_group, on_time, behind, wall_ms)
        if on_time:
            _add_missed(found, group, of_group, on_time, wall_ms)
    return found


def _within_hours(rules: RunRules, group: DueGroup) -> RunRules:
    """The rules of a run with slices that are short enough for the hours in which they are due."""
    if group.closes is None:
        return rules
    return replace(rules, slice_ms=max(1, min(rules.slice_ms, (group.closes - group.due) // rules.slices)))


def _wake_at(found: DueParts, instant: int) -> None:
    found.wake = instant if found.wake is None else min(found.wake, instant)


def _add_part(found: DueParts, group: DueGroup, rules: RunRules, first: int, behind: int, wall_ms: int) -> None:
    devices = in_slices(group.devices, rules.slices, first, behind) if first < behind else BitMap()
    if not devices:
        return
    due = group.due + first * rules.slice_ms
    found.due = due if found.due is None else min(found.due, due)
    left_s = _seconds_left(rules.ttl_s, wall_ms - due)
    if left_s is None:
        _add(found.left_out, "missed", devices)
    else:
        _add(found.parts, left_s, devices)


def _add_missed(found: DueParts, group: DueGroup, rules: RunRules, on_time: int, wall_ms: int) -> None:
    devices = in_slices(group.devices, rules.slices, 0, on_time)
    if group.next_due is not None and group.next_due <= wall_ms:
        _add(found.left_out, "superseded", devices)
        return
    fresh = min(_first_fresh(group, rules, wall_ms), on_time) if rules.catches_up else on_time
    if fresh:
        _add(found.left_out, "missed", in_slices(group.devices, rules.slices, 0, fresh))
    if group.opens is not None and group.opens > wall_ms:
        open_for = min(max(_first_fresh(group, rules, group.opens), fresh), on_time)
        if open_for > fresh:
            _add(found.left_out, "outside_window", in_slices(group.devices, rules.slices, fresh, open_for))
        if open_for < on_time:
            _wake_at(found, group.opens)
        return
    devices = in_slices(group.devices, rules.slices, fresh, on_time) if fresh < on_time else BitMap()
    left_s = _seconds_left(rules.ttl_s, wall_ms - group.due - fresh * rules.slice_ms)
    if devices and left_s is not None:
        _add(found.parts, left_s, devices)


def _first_fresh(group: DueGroup, rules: RunRules, instant: int) -> int:
    """The first slice whose lifetime is not over at an instant: those before it are older."""
    return max(0, (instant - group.due - rules.ttl_s * 1000) // rules.slice_ms + 1)


def _seconds_left(ttl_s: int, late_ms: int) -> int | None:
    """Seconds of a lifetime that are left, rounded up; None: it is over. Of 0, now or never, nothing can be lost."""
    if not ttl_s:
        return 0 if late_ms <= GRACE_MS else None
    left_ms = ttl_s * 1000 - late_ms
    return -(-left_ms // 1000) if left_ms > 0 else None


def _add(found: dict[K, BitMap], key: K, devices: BitMap) -> None:
    if devices:
        found[key] = found.get(key, BitMap()) | devices
