"""Rules of a running campaign: its conditions, judged by the counts of its parts. No I/O, no clock.

`stop` is judged by the present group and by all that was sent, before each part and while a group is observed. What
somebody has overruled by resuming the campaign stops it again when it counts more than it did then.

`go_on` is judged by the present group. A condition that asks for much (`>=`, `>`) is fulfilled as soon as it is true:
what has arrived has arrived. One that asks for little (`<=`, `<`) is judged when its time is over. Percentages ask for
`min_sample` outcomes, or for those of the whole group if it has fewer devices.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.plans.campaign_counts import CountedPart, sample_of
from gateway.plans.campaign_fields import CampaignRequest, Plan, RateRollout
from gateway.plans.conditions import FAILED, Condition, Sample
from gateway.store.plans.campaigns import Campaign


@dataclass(slots=True, eq=False)
class RunningRules:
    """Conditions and times of a campaign that runs, parsed once."""

    go_on: list[Condition]
    stop: list[Condition]
    min_sample: int
    aborts: bool
    observe_ms: int
    go_on_ms: int
    counts_failures: bool
    is_paced: bool
    plan: Plan | None = None

    @classmethod
    def of(cls, fields: CampaignRequest) -> RunningRules:
        return cls(
            go_on=fields.go_on_conditions,
            stop=fields.stop_conditions,
            min_sample=fields.min_sample,
            aborts=fields.on_stop == "abort",
            observe_ms=fields.observe_ms,
            go_on_ms=fields.go_on_ms,
            counts_failures=any(
                FAILED in condition.metrics for condition in (*fields.go_on_conditions, *fields.stop_conditions)
            ),
            is_paced=isinstance(fields.rollout, RateRollout),
        )

    def stopped_by(self, campaign: Campaign, parts: Sequence[CountedPart]) -> str | None:
        """Describe the condition that stops the campaign, if one does."""
        overruled = read_overruled(campaign)
        for scope, sample in _samples(campaign.group_no, parts):
            for condition in self.stop:
                if condition.is_true(sample, self.min_sample) and sample.count(condition.metrics) > overruled.get(
                    f"{scope}|{condition.text}", -1
                ):
                    return f"{condition.shown(sample)}, of {scope}"
        return None

    def overruled_now(self, campaign: Campaign, parts: Sequence[CountedPart]) -> dict[str, int]:
        """Find what somebody overrules who resumes the campaign now, besides what was overruled before."""
        return read_overruled(campaign) | {
            f"{scope}|{condition.text}": sample.count(condition.metrics)
            for scope, sample in _samples(campaign.group_no, parts)
            for condition in self.stop
            if condition.is_true(sample, self.min_sample)
        }

    def missing(self, sample: Sample, elapsed_ms: int) -> tuple[str | None, int]:
        """The condition of `go_on` that did not become true in time, if one did not; and for how long one may still.

        `elapsed_ms`: milliseconds for which the group has been observed.
        """
        wait_ms = 0
        for condition in self.go_on:
            left_ms = (self.go_on_ms if condition.within_ms is None else condition.within_ms) - elapsed_ms
            holds = condition.is_true(sample, self.min_sample, capped=True)
            if condition.is_floor and holds:
                continue  # it stays true
            if left_ms > 0:
                wait_ms = max(wait_ms, left_ms)
            elif not holds:
                return condition.shown(sample), 0
        return None, wait_ms


def _samples(group_no: int, parts: Sequence[CountedPart]) -> list[tuple[str, Sample]]:
    """What conditions of `stop` are judged by: the present group, and all that was sent."""
    group = sample_of(part for part in parts if part.part.group_no == group_no)
    return [(f"group {group_no + 1}", group), ("all groups", sample_of(parts))]


def read_overruled(campaign: Campaign) -> dict[str, int]:
    """`scope|condition` -> what it counted when somebody resumed the campaign in spite of it."""
    found: dict[str, int] = json.loads(campaign.overruled)
    return found
