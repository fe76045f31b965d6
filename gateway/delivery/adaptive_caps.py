"""Caps that adapt: a channel that sends less when people leave, and more when they do not mind.

A channel with an adaptive cap (`Caps.adaptive`) allows a number of alerts a day between its floor and its ceiling. The
steps double, as the buckets of `fatigue` do, so one step is one bucket: at one alert a day a device has seven in a
week, at two fourteen, at four 28.

Laws
1. Once a day, when a day has been summed up, the channel's figures of the last FIGURE_DAYS are looked at; of a day that
   is long over (the server was down) nothing is decided.
2. *Down* one step, if at the present frequency significantly more people opt out, or more alerts are dismissed, than in
   a lower bucket of which enough is known: the next, or any, since harm may grow too slowly to be seen from one to the
   next. The present frequency is the highest that people have within the cap.
3. *Up* one step, if they do not, and alerts are opened no less, and people do reach the cap, and the last change is
   COOLING_DAYS ago, and the higher bucket is not known to be worse: what was learned is tried again when it is
   forgotten.
4. In every other case nothing changes: also while too little is known.
5. A change is a change of the channel's rules: stored with its event `channel.caps_adapted`, valid for what waits, and
   undone by any other caps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gateway.audience.frequency import AdaptiveCap
from gateway.audience.policy import AdaptedCap, Channel, PolicyStore
from gateway.delivery.fatigue import MEASURES, Fatigue, Figures, described_share, is_known
from gateway.delivery.significance import Verdict, compare
from gateway.store.analytics.alert_days import WEEK_DAYS, bucket_name, bucket_of
from gateway.store.analytics.funnels import DAY_MS
from gateway.store.deliveries.event_log import log_of_app
from gateway.store.transaction import Transaction

log = logging.getLogger(__name__)

FIGURE_DAYS = 28
"""Days whose figures decide: four weeks, so each day of the week as often."""
COOLING_DAYS = 7
"""Days after a change before the cap goes up: frequency is counted in seven days, so until then hardly anybody has
lived with the change."""

Reason = Literal[
    "more_opted_out",
    "more_dismissed",
    "no_harm",
    "not_enough",
    "at_floor",
    "at_ceiling",
    "cap_not_reached",
    "opened_less",
    "changed_lately",
    "more_known_worse",
]


class CapDecision(NamedTuple):
    """Result of a look at the figures."""

    per_day: int
    """Alerts a day from now on."""
    reason: Reason
    present: int | None = None
    """Bucket of the present frequency; None: too little is known."""
    below: int | None = None
    """Bucket that it was compared with."""


def steps_of(adaptive: AdaptiveCap) -> list[int]:
    """The alerts a day that a cap may have: from the floor, doubling, to the ceiling."""
    steps = [adaptive.floor_per_day]
    while steps[-1] * 2 < adaptive.ceiling_per_day:
        steps.append(steps[-1] * 2)
    if steps[-1] < adaptive.ceiling_per_day:
        steps.append(adaptive.ceiling_per_day)
    return steps


def decide(figures: Sequence[Figures], adaptive: AdaptiveCap, per_day: int, days_since_change: int) -> CapDecision:
    """Decide by a channel's figures, by bucket, how many alerts a day it allows from now on."""
    steps = steps_of(adaptive)
    lower = max((step for step in steps if step < per_day), default=None)
    higher = min((step for step in steps if step > per_day), default=None)
    top = bucket_of(per_day * WEEK_DAYS)
    known = [bucket for bucket in range(top + 1) if is_known(figures[bucket])]
    if len(known) < 2:
        return CapDecision(per_day, "not_enough")
    below, present = known[-2:]

    def keep(reason: Reason) -> CapDecision:
        return CapDecision(per_day, reason, present, below)

    for bucket in reversed(known[:-1]):
        harm = harm_of(figures[present], figures[bucket])
        if harm is not None:
            return (
                CapDecision(per_day, "at_floor", present, bucket)
                if lower is None
                else CapDecision(lower, harm, present, bucket)
            )
    if higher is None:
        return keep("at_ceiling")
    if present < top:
        return keep("cap_not_reached")
    if compare(figures[below].share("opened"), figures[present].share("opened")) is Verdict.HIGHER:
        return keep("opened_less")
    if days_since_change < COOLING_DAYS:
        return keep("changed_lately")
    above = bucket_of(higher * WEEK_DAYS)
    if above > present and harm_of(figures[above], figures[present]) is not None:
        return keep("more_known_worse")
    return CapDecision(higher, "no_harm", present, below)


def harm_of(figures: Figures, base: Figures) -> Literal["more_opted_out", "more_dismissed"] | None:
    """The harm that is significantly greater than in another bucket; None if there is none."""
    if compare(figures.share("opted_out"), base.share("opted_out")) is Verdict.HIGHER:
        return "more_opted_out"
    if compare(figures.share("dismissed"), base.share("dismissed")) is Verdict.HIGHER:
        return "more_dismissed"
    return None


@dataclass(slots=True, kw_only=True)
class AdaptiveCaps:
    """Looks at the figures of channels whose caps adapt. Loop.

    `clock_ms` gives server time in milliseconds.
    """

    policies: PolicyStore
    fatigue: Callable[[], Fatigue]
    clock_ms: Callable[[], int]

    async def review(self, day: int) -> None:
        """Decide for every channel whose cap adapts, by the figures up to this day, which is over."""
        if day < self.clock_ms() // DAY_MS - 1:
            return
        for app_no, channel_id, channel in self.policies.adaptive_channels():
            if channel.adapted is not None and channel.adapted.reviewed_day < day:
                try:
                    await self._review_channel(app_no, channel_id, channel, channel.adapted, day)
                except Exception as error:  # above all a full disk: the next day is another one
                    log.warning("the cap of the channel %r of app %d cannot adapt: %s", channel_id, app_no, error)

    async def _review_channel(
        self, app_no: int, channel_id: str, channel: Channel, before: AdaptedCap, day: int
    ) -> None:
        caps = channel.fields.caps
        assert caps is not None, "a channel without caps has no adapted cap"
        assert caps.adaptive is not None, "nor has one whose caps do not adapt"
        figures = await self.fatigue().figures(app_no, "channel", channel_id, day - FIGURE_DAYS + 1, day)
        decision = decide(figures, caps.adaptive, before.per_day, day - before.changed_at // DAY_MS)
        described = described_decision(decision, before.per_day, figures)
        now_ms = self.clock_ms()

        def log_change(transaction: Transaction) -> None:
            log_of_app(transaction, "channel.caps_adapted", now_ms, app_no, {"channel": channel_id, **described})

        changes = decision.per_day != before.per_day
        adapted = AdaptedCap(decision.per_day, described, day, now_ms if changes else before.changed_at)
        await self.policies.adapt(app_no, channel_id, adapted, log_change if changes else None)


def described_decision(decision: CapDecision, before: int, figures: Sequence[Figures]) -> dict[str, Any]:
    """A decision with the figures that led to it, as the API and the event have it."""
    return {
        "from_per_day": before,
        "to_per_day": decision.per_day,
        "reason": decision.reason,
        "present": _described_bucket(decision.present, figures),
        "below": _described_bucket(decision.below, figures),
    }


def _described_bucket(bucket: int | None, figures: Sequence[Figures]) -> dict[str, Any] | None:
    if bucket is None:
        return None
    tally = figures[bucket].tally
    rates = {measure: described_share(figures[bucket].share(measure)) for measure in ("opened", *MEASURES)}
    return {
        "bucket": bucket_name(bucket),
        "device_days": tally["device_days"],
        "alerts": tally["alerts"],
        "rates": {measure: None if share is None else share["rate"] for measure, share in rates.items()},
    }
