"""The rules that an alert is checked by when it would be handed over: mutes, quiet hours, caps, and critical pushes.

Pure decisions about one alert and one person; `alert_limiter` has the laws, and gathers what is asked here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pyroaring import BitMap

from gateway.audience.frequency import Caps, GroupSelector, Hours, free_at, quiet_until
from gateway.audience.policy import CRITICAL, Rules
from gateway.store.audience.devices import tags_among
from gateway.store.transaction import Transaction
from gateway.timestamps import wall_time


class Alert(NamedTuple):
    """A limited delivery that waits."""

    push_no: int
    kind: str
    channel: str | None
    priority: int
    ttl: int


class SentAlert(NamedTuple):
    """An alert that a person was sent; `at` in milliseconds."""

    push_no: int
    channel: str | None
    at: int


@dataclass(slots=True)
class Person:
    """A device's person: their rules and choices, and the alerts that they were sent lately."""

    app_no: int
    rules: Rules
    zone: str
    hours: Hours | None
    """Their own quiet hours."""
    choices: dict[str, bool]
    uses: list[SentAlert] = field(default_factory=list)
    """Alerts of the last week, in order."""
    groups: set[GroupSelector] = field(default_factory=set)
    """Groups with caps of their own that the device is in."""
    critical_uses: set[int] = field(default_factory=set)
    """Numbers of the pushes that were let through as critical in the last day."""


@dataclass(slots=True)
class Decision:
    """Result of a check. `reason` None: let it through. `until`: check it again then; None with a reason: it ends."""

    reason: str | None = None
    until: int | None = None
    passed: str | None = None
    """Rule that the alert passes because it is critical."""


def check_alert(alert: Alert, person: Person, now_ms: int) -> Decision:
    """Decide by the rules whether an alert may reach a person at this moment."""
    limit = _limit_on(alert, person, now_ms)
    rationed = (
        alert.priority == CRITICAL
        and len(person.critical_uses - {alert.push_no}) < person.rules.policy.critical.per_day
    )
    return Decision(passed=limit.reason) if rationed else limit


def _limit_on(alert: Alert, person: Person, now_ms: int) -> Decision:
    rules = person.rules
    if rules.is_muted(alert.kind, alert.channel, person.choices):
        return Decision("channel_muted")
    if alert.kind != "alert":
        return Decision()
    deferred = Decision()
    limits: list[tuple[str, str, int | None]] = []
    quiet = rules.quiet_hours(alert.channel)
    if quiet is not None:
        limits.append(("quiet_hours", quiet.excess, _quiet_until(quiet, person.zone, now_ms)))
    if person.hours is not None:
        own: str = quiet.excess if quiet is not None else "defer"
        limits.append(("quiet_hours", own, _quiet_until(person.hours, person.zone, now_ms)))
    for caps, of_channel in ((rules.policy.caps, False), (rules.caps(alert.channel), True)):
        if caps is not None:
            limits.append(("capped", caps.excess, _free_at(caps, alert, person, of_channel, now_ms)))
    for reason, excess, until in limits:
        if until is None:
            continue
        if excess == "drop" or not alert.ttl:
            return Decision(reason)
        if deferred.until is None or until > deferred.until:
            deferred = Decision(reason, until)
    return deferred


def _quiet_until(hours: Hours, zone: str, now_ms: int) -> int | None:
    """The end, in server time, of the quiet hours that the clock on the wall is in; None if it is in none."""
    ahead = wall_time.offset(now_ms)
    until = quiet_until(hours, zone, now_ms + ahead)
    return None if until is None else until - ahead


def _free_at(caps: Caps, alert: Alert, person: Person, of_channel: bool, now_ms: int) -> int | None:
    uses = [
        use.at
        for use in person.uses
        if use.push_no != alert.push_no and (not of_channel or use.channel == alert.channel)
    ]
    return free_at(caps.limits_of(person.groups), uses, now_ms)


def members_of(
    transaction: Transaction,
    devices: Collection[int],
    groups: Iterable[GroupSelector],
    in_segment: Callable[[str], BitMap],
) -> Iterator[tuple[int, GroupSelector]]:
    """The groups that devices of an app are in: (device number, group) each. `in_segment`: those of a segment."""
    tags: dict[str, GroupSelector] = {}
    for selector in groups:
        if selector.kind == "tag":
            tags[selector.name] = selector
        else:
            members = in_segment(selector.name)
            yield from ((device_no, selector) for device_no in devices if device_no in members)
    if not tags:
        return
    for device_no, tag in tags_among(transaction, devices, tags):
        yield device_no, tags[tag]
