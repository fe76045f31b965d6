"""Responses about campaigns."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response
from gateway.api.responses.counts import CountsResponse
from gateway.api.responses.pushes import ReachedResponse


class CampaignSummaryResponse(Response):
    """A campaign without its counts."""

    campaign_id: str
    """The campaign's id."""
    name: str
    """Its name for people."""
    state: str
    """`awaiting_approval`, `scheduled` (its time has not come), `running`, `paused`, `completed` or `aborted`."""
    phase: str | None
    """Of one that runs: `starting`, `sending` the present group, or `observing` it. null: it does not run."""
    reason: str | None
    """Why it has paused, or has ended as it did. null: nothing to explain."""
    group: int | None
    """Number of the present group, from 1 on. null: its target is not frozen yet."""
    groups: int | None
    """Groups that there are. null: its target is not frozen yet."""
    targeted: int
    """Devices of its target: when it was made, and when it was frozen from then on."""
    created_by: str
    """Id of the key that made it."""
    approved_by: str | None
    """Id of the key that approved it. null: none has."""
    created_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    start_at: str
    """When it may start. RFC 3339, UTC, milliseconds."""
    started_at: str | None
    """When its target was frozen. RFC 3339, UTC, milliseconds. null: it is not yet."""
    paused_at: str | None
    """When it paused. RFC 3339, UTC, milliseconds. null: it is not paused."""
    ended_at: str | None
    """When it ended. RFC 3339, UTC, milliseconds. null: it has not."""


class CampaignCountsResponse(Response):
    """Deliveries of several parts, added up."""

    counts: CountsResponse
    """Deliveries by present state."""
    reached: ReachedResponse
    """Deliveries by how far they came, cumulative."""
    failed: int
    """Deliveries that were acted on with a result that has an `error`, which `acted` counts as well. Of a campaign of
    commands, or with a condition or goal that says `failed`; else 0."""


class CampaignPartResponse(Response):
    """A part of a campaign: a push to a variant of a group."""

    push_id: str
    """The push's id."""
    variant: str | None
    """The variant's id. null: the campaign has none."""
    targeted: int
    """Its deliveries."""
    sent_at: str
    """When it was accepted. RFC 3339, UTC, milliseconds."""
    recalled: bool
    """Whether it was recalled because the campaign was aborted."""


class CampaignConditionResponse(Response):
    """A condition, and how it stands in a group."""

    kind: str
    """`go_on` or `stop`."""
    condition: str
    """The condition, with what it counts now."""
    holds: bool | None
    """Whether it is true now. null: there are too few outcomes to say."""


class CampaignGroupResponse(CampaignCountsResponse):
    """A group of a campaign."""

    group: int
    """Its number, from 1 on."""
    name: str
    """`canary`, its size as the rollout says it, or its number in a rate."""
    size: int
    """Devices that it was planned for. Those that are removed before it is sent are not sent it."""
    state: str
    """`waiting`, `sending`, `observing` or `sent`."""
    conditions: list[CampaignConditionResponse]
    """The campaign's conditions, as this group has them. Empty while nothing of it was sent."""
    parts: list[CampaignPartResponse]
    """The parts that were sent."""


class CampaignGoalResponse(Response):
    """The share of a variant's devices that reached the goal."""

    count: int
    """Devices that did what the campaign is for."""
    of: int
    """Devices that were sent it."""
    rate: float | None
    """The first as a share of the second. null: it was sent to nobody yet."""
    interval: list[float]
    """Wilson's interval of the share, with the campaign's confidence: from, to."""


class CampaignVariantResponse(CampaignCountsResponse):
    """A variant of a campaign."""

    id: str
    """The variant's id."""
    weight: int
    """Its weight among those of all variants."""
    size: int | None
    """Devices that it is planned for. null: the target is not frozen yet."""
    goal: CampaignGoalResponse
    """What it has achieved."""


class CampaignComparisonResponse(Response):
    """Two variants, compared."""

    variants: list[str]
    """Ids of the two."""
    difference: float
    """Share of the first less that of the second."""
    z: float | None
    """The statistic of the two-proportion z-test. null: an expected count is less than 5."""
    p: float | None
    """Probability of a difference as large as this if there were none, two-sided. null: as of `z`."""
    adjusted_p: float | None
    """The same, corrected by Holm's method for the number of comparisons. null: as of `z`."""


class CampaignResultResponse(Response):
    """The comparison of the variants."""

    goal: str
    """What they are compared by."""
    verdict: str
    """`not_enough` (an expected count of the best one is less than 5), `no_difference` (none is better than all others
    with this confidence) or `winner`."""
    winner: str | None
    """Id of the variant that is better than all others. null: there is none."""
    confidence: float
    """The confidence that was asked for, 0 to 1."""
    preliminary: bool
    """true: the campaign has not ended, and the verdict may change. Who stops as soon as there is a winner finds
    differences that are none."""
    comparisons: list[CampaignComparisonResponse]
    """Each variant with each other one."""


class CampaignResponse(CampaignSummaryResponse, CampaignCountsResponse):
    """A campaign with everything that is known about it."""

    plan: dict[str, Any]
    """What was asked for."""
    holdout: int | None
    """Devices that it sends nothing to. null: the target is not frozen yet."""
    not_planned: int | None
    """Devices that no group is for, because the rollout ends without `rest`. null: the target is not frozen yet."""
    blast_radius: int
    """Devices that any part was sent to, each counted once; the suppressed are not."""
    group_results: list[CampaignGroupResponse]
    """The groups. Empty: the target is not frozen yet."""
    variants: list[CampaignVariantResponse] | None
    """The variants. null: there are none."""
    result: CampaignResultResponse | None
    """The comparison of the variants. null: there are none."""


class CampaignsResponse(PageResponse):
    """A page of campaigns."""

    items: list[CampaignSummaryResponse]
    """Campaigns, the newest first."""


class HeldOutDeviceResponse(Response):
    """A device that a campaign sends nothing to."""

    device_id: str
    """The device's id."""
    removed: bool
    """Whether it was removed since."""


class HoldoutResponse(PageResponse):
    """A page of the devices that a campaign sends nothing to."""

    items: list[HeldOutDeviceResponse]
    """Devices, in order of enrolment."""


class PlannedGroupResponse(Response):
    """A group that a campaign would have."""

    group: int
    """Its number, from 1 on."""
    name: str
    """`canary`, its size as the rollout says it, or its number in a rate."""
    size: int
    """Devices that it would be for."""
    pace_ms: int | None
    """Milliseconds from its start to that of the next one. null: conditions and time decide."""


class PlannedVariantResponse(Response):
    """A variant that a campaign would have."""

    id: str
    """The variant's id."""
    size: int
    """Devices, over all groups."""


class CampaignForecastResponse(Response):
    """The sizes of a campaign's groups and variants if it started now."""

    targeted: int
    """Devices of the target."""
    unknown: list[str]
    """Ids in the target's `devices` of which the app has no device."""
    holdout: int
    """Devices that would be sent nothing."""
    not_planned: int
    """Devices that no group is for, because the rollout ends without `rest`."""
    groups: list[PlannedGroupResponse]
    """The groups in their order."""
    variants: list[PlannedVariantResponse] | None
    """The variants. null: there are none."""
    parts: int
    """Pushes that would be sent: groups times variants, without those for nobody."""
    needs_approval: bool
    """Whether another key would have to approve it."""
