"""Forecast of caps and quiet hours: what they would do to a push that is sent now.

They are checked for each device when an alert is handed over (`alert_limiter`), by the same function that is asked here
as if everything were handed over at this moment. That takes some ten microseconds a device, so up to SAMPLE_DEVICES are
asked, and of more a random sample stands for all. They are read CHECKED_DEVICES at a time, in the turns of the app at
the reader threads: a forecast takes no longer for a million devices than for five thousand.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.delivery.alert_limiter import read_persons
from gateway.delivery.alert_rules import Alert, check_alert
from gateway.store.audience.preferences import devices_with_quiet_hours
from gateway.store.database import Database
from gateway.store.transaction import Transaction

SAMPLE_DEVICES = 5_000
"""Devices that are asked: a share is right to 1.4 % of them then, 19 times of 20."""
CHECKED_DEVICES = 500
"""Devices of one read: about ten milliseconds."""
REASONS = ("capped", "quiet_hours")


@dataclass(slots=True)
class LimitForecast:
    """Effects of caps and quiet hours on an alert, in numbers of all devices that it is for."""

    concerned: int = 0
    """Devices that rules concern at all."""
    checked: int = 0
    """Devices of those that were asked."""
    dropped: Counter[str] = field(default_factory=Counter)
    deferred: Counter[str] = field(default_factory=Counter)
    """By reason; until later than the push lives, too."""
    kept_from: BitMap = field(default_factory=BitMap)
    """Those of the devices asked which do not get it, however present they are: dropped, or deferred for too long."""

    @property
    def is_sampled(self) -> bool:
        """Whether a sample stands for all."""
        return self.checked < self.concerned

    def share_kept_from(self, devices: int) -> float:
        """The part of so many devices, the concerned ones among them, that do not get it."""
        return len(self.kept_from) / self.checked * self.concerned / devices if self.checked else 0.0

    def described(self) -> dict[str, dict[str, int]]:
        """The counts by reason, as the API shows them."""
        return {
            reason: {"dropped": self._scaled(self.dropped[reason]), "deferred": self._scaled(self.deferred[reason])}
            for reason in REASONS
        }

    def _scaled(self, count: int) -> int:
        return round(count * self.concerned / self.checked) if count else 0


async def forecast_limits(
    database: Database, policies: PolicyStore, app_no: int, alert: Alert, devices: BitMap, now_ms: int
) -> LimitForecast:
    """Forecast what caps and quiet hours do to an alert for these devices. Loop."""
    found = LimitForecast()
    if not devices or not policies.is_limited(app_no, alert.kind, alert.channel):
        return found
    if not policies.of(app_no).has_frequency_limits(alert.channel):  # but some people have quiet hours of their own
        with_hours = await database.read(partial(devices_with_quiet_hours, app_no=app_no), app_no)
        devices = devices & with_hours
    found.concerned = len(devices)
    asked = list(devices) if len(devices) <= SAMPLE_DEVICES else _sampled(devices)
    for start in range(0, len(asked), CHECKED_DEVICES):
        part = asked[start : start + CHECKED_DEVICES]
        await database.read(lambda transaction: _check(transaction, part, policies, alert, now_ms, found), app_no)  # noqa: B023  # awaited here
    return found


def _sampled(devices: BitMap) -> list[int]:
    places = random.sample(range(len(devices)), SAMPLE_DEVICES)
    return [devices[place] for place in sorted(places)]


def _check(
    transaction: Transaction,
    devices: list[int],
    policies: PolicyStore,
    alert: Alert,
    now_ms: int,
    found: LimitForecast,
) -> None:
    """Check an alert for these devices, and add what comes of it. Reader thread."""
    for device_no, person in read_persons(transaction, devices, policies, now_ms).items():
        found.checked += 1
        decision = check_alert(alert, person, now_ms)
        if decision.reason is None:
            continue
        is_late = decision.until is not None and decision.until >= now_ms + alert.ttl * 1000
        if decision.until is None or is_late:
            found.kept_from.add(device_no)
        (found.dropped if decision.until is None else found.deferred)[decision.reason] += 1
