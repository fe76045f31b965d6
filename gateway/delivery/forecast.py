"""Forecast of a push: its reach if it were sent now. Nothing is stored or sent.

Each device of the target is counted once. It is suppressed at once (consent, muted channels), or dropped by a cap or in
quiet hours when it would be handed over (`limit_forecast`); else it is likely to come within the push's ttl, or not,
or nothing is known of its hours. Who is connected now comes. Who is not is expected as often as it came in the same
hours of the last four weeks (`presence_hours`); a device of the last days, as often as on the days before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from pyroaring import BitMap

from gateway.audience.policy import PolicyStore
from gateway.audience.target_resolution import TargetResolver
from gateway.delivery.alert_rules import Alert
from gateway.delivery.attachments import Attachments
from gateway.delivery.consent import refusals
from gateway.delivery.device_connections import DeviceConnections
from gateway.delivery.duties import devices_of_step, read_duty, unknown_duty
from gateway.delivery.limit_forecast import forecast_limits
from gateway.delivery.presence_hours import DAY_HOURS, ExpectedReach, expected_reach, sampled_windows
from gateway.delivery.push import PushRequest
from gateway.delivery.push_store import NO_TEXT
from gateway.delivery.submission import (
    AcceptedPush,
    AppRef,
    PendingPush,
    Submission,
    approval_needed,
    listed_ids,
    nobody_known,
    pending_push,
)
from gateway.delivery.text_rendering import TextRenderer
from gateway.delivery_states import PRIORITIES
from gateway.errors import Problem
from gateway.store.analytics.forecasts import KeptForecast, keep_forecast
from gateway.store.analytics.presence_hours import KEPT_WEEKS, WEEK_HOURS, PresenceSample, read_sample
from gateway.store.audience.device_sets import selected_devices
from gateway.store.audience.devices import device_rows
from gateway.store.audience.preferences import refusing_devices
from gateway.store.database import Database
from gateway.store.errors import StorageError
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)


class _Target(NamedTuple):
    """The devices of a push."""

    devices: BitMap
    unknown: list[str]
    """Ids of which there is no device."""
    suppressed: dict[str, int]
    """Deliveries by the reason for which they would end at once."""
    wanted: BitMap
    """The devices of the others."""


class Forecast:
    """Counts the reach of a push without sending it. Loop.

    `max_payload`: bytes of a wire payload. `clock_ms` gives server time in milliseconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        texts: TextRenderer,
        connections: DeviceConnections,
        policies: PolicyStore,
        attachments: Attachments,
        targets: TargetResolver,
        max_payload: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._texts = texts
        self._connections = connections
        self._policies = policies
        self._attachments = attachments
        self._targets = targets
        self._max_payload = max_payload
        self._clock_ms = clock_ms
        self.made = 0
        """Forecasts of pushes, for metrics."""

    async def of(self, app: AppRef, request: PushRequest) -> dict[str, Any]:
        """Count the reach, as the API shows it.

        Of a push with templates or texts by locale also `texts`, and what is `missing`; `hints` if its channel is
        probably mistyped. Raises as `Acceptance.accept`.
        """
        fetch_from = self._attachments.refer(app.no, request, keep=False)
        pending_push(app, Submission(request), self._max_payload, fetch_from)
        self.made += 1
        if request.is_composed:
            return await self._of_composed(app, request)
        return await self._count(app, request)

    async def accept(
        self, pending: PendingPush, request: PushRequest, accept: Callable[[PendingPush], Awaitable[AcceptedPush]]
    ) -> AcceptedPush:
        """Have a push accepted, and keep what was forecast of it right before. Raises as `accept`: what cannot be
        forecast is refused, or accepted without."""
        kept: KeptForecast | None = None
        made_at = self._clock_ms()
        try:
            found = await self.of(pending.app, request)
            kept = KeptForecast(made_at, found["likely"], found["will_expire"], found["unknown_presence"])
        except Problem:
            pass
        accepted = await accept(pending)
        if kept is not None:
            keep = partial(keep_forecast, app_no=pending.app.no, push_id=accepted.push_id, forecast=kept)
            try:
                await self._database.write(keep, pending.app.no)
            except (StorageError, Problem) as error:
                log.warning("the forecast of push %s is not kept: %s", accepted.push_id, error)
        return accepted

    async def _of_composed(self, app: AppRef, request: PushRequest) -> dict[str, Any]:
        devices = await self._targets.resolve(app.no, request.target)
        composed, rendered = await self._texts.forecast(app, request, devices)
        fields = composed.fields
        whole = request.model_copy(update={name: fields[name] for name in ("kind", "channel", "priority")})
        leaves_out = fields["on_missing"] == "leave_out"
        found = await self._count(app, whole, devices, rendered.without if leaves_out else None)
        missing = [
            {"variable": one.variable, "where": one.where, "devices": one.devices, "examples": one.examples}
            for one in rendered.lacking
        ]
        return found | {"texts": len(rendered.texts), "missing": missing}

    async def _count(
        self, app: AppRef, request: PushRequest, searched: BitMap | None = None, without: BitMap | None = None
    ) -> dict[str, Any]:
        """Count the reach, of a target that was `searched` for, and `without` devices that get no text."""
        online = self._connections.online_set()
        target = request.target
        if searched is None and self._targets.is_searched_for(target):
            searched = await self._targets.resolve(app.no, target)

        def count(transaction: Transaction) -> _Target:
            ids = listed_ids(target)
            unknown: list[str] = []
            if target.duty is not None:
                duty = read_duty(transaction, app.no, target.duty)
                if duty is None:
                    raise unknown_duty(target.duty)
                chosen = devices_of_step(transaction, app.no, duty.steps[0])
                devices, unknown = BitMap(chosen.numbers), list(chosen.unknown)
            elif ids is not None:
                known = device_rows(transaction, app.no, ids)
                unknown = [device_id for device_id in ids if device_id not in known]
                if not known:
                    raise nobody_known(unknown)
                devices = BitMap(known.values())
            else:
                devices = selected_devices(transaction, app.no, target) if searched is None else searched
            refusal = approval_needed(self._policies.of(app.no).policy, request.kind, len(devices))
            if refusal is not None:
                raise refusal
            suppressed, left = self._would_suppress(transaction, app.no, request, devices)
            if without and (lacking := left.intersection_cardinality(without)):
                suppressed[NO_TEXT] = lacking
                left = left - without
            return _Target(devices, unknown, suppressed, left)

        found = await self._database.read(count, app.no)
        hint = None if request.channel is None else self._policies.channel_hint(app.no, request.channel)
        return {
            "targeted": len(found.devices),
            "online": found.devices.intersection_cardinality(online),
            "suppressed": found.suppressed,
            "unknown": found.unknown,
            **await self._reach(app.no, request, found.wanted, online),
            **({} if hint is None else {"hints": [hint]}),
        }

    async def _reach(self, app_no: int, request: PushRequest, devices: BitMap, online: BitMap) -> dict[str, Any]:
        """Divide devices that want a push by what becomes of it."""
        now_ms = self._clock_ms()
        assert request.kind is not None, "filled in by validation"
        alert = Alert(0, request.kind, request.channel, PRIORITIES.index(request.priority), request.ttl)
        limits = await forecast_limits(self._database, self._policies, app_no, alert, devices, now_ms)
        limited = limits.described()
        left = len(devices) - sum(counts["dropped"] for counts in limited.values())
        get = 1.0
        """Part of the devices looked at that get it if they come."""
        if limits.is_sampled:
            get = 1 - limits.share_kept_from(len(devices))
        else:
            devices = devices - limits.kept_from
        come = devices & online
        reach = await self._expected(app_no, devices - come, now_ms, request.ttl * 1000)
        likely = min(round((len(come) + reach.expected) * get), left)
        unknown = min(round(len(reach.unknown) * get), left - likely)
        return {
            "likely": likely,
            "will_expire": left - likely - unknown,
            "unknown_presence": unknown,
            **limited,
            "sampled": limits.is_sampled,
        }

    async def _expected(self, app_no: int, away: BitMap, now_ms: int, ttl_ms: int) -> ExpectedReach:
        """How many of the devices that are away come within the ttl. With a ttl of 0 it is too late for them."""
        if not ttl_ms or not away:
            return ExpectedReach(0.0, BitMap())
        expected = 0.0
        for step_hours, count in ((WEEK_HOURS, KEPT_WEEKS), (DAY_HOURS, WEEK_HOURS // DAY_HOURS - 1)):
            samples: list[PresenceSample] = []
            for window in sampled_windows(now_ms, ttl_ms, step_hours, count):
                # One read for each: a week's hours of a million devices are 20 MB at worst.
                sample = await self._database.read(partial(read_sample, window=window, devices=away), app_no)
                if sample is not None:
                    samples.append(sample)
            reach = expected_reach(away, samples)
            expected += reach.expected
            away = reach.unknown
            if not away:
                break
        return ExpectedReach(expected, away)

    def _would_suppress(
        self, transaction: Transaction, app_no: int, request: PushRequest, devices: BitMap
    ) -> tuple[dict[str, int], BitMap]:
        """Count by reason the suppressed among the devices, and find the others. Reader thread."""
        if not self._policies.is_guarded(app_no):
            return {}, devices
        assert request.kind is not None, "filled in by validation"
        priority = PRIORITIES.index(request.priority)
        counts: dict[str, int] = {}
        for refusal in refusals(self._policies.of(app_no), request.kind, request.channel, priority):
            unwilling = devices & refusing_devices(transaction, app_no, refusal)
            if unwilling:
                counts[refusal.reason] = len(unwilling)
                devices = devices - unwilling
        return counts, devices
