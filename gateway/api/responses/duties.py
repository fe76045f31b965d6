"""Responses about duties, and about pushes to them."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response
from gateway.api.responses.counts import CountsResponse


class DutyStepResponse(Response):
    """A step of a duty."""

    device: str | None = None
    """Its device. Left out: it has several, or a tag."""
    devices: list[str] | None = None
    """Its devices. Left out: it has one, or a tag."""
    tag: str | None = None
    """The tag whose devices are told. Left out: it names devices."""
    wait_s: int
    """Seconds until the next step."""


class DutyResponse(Response):
    """A duty: who is told, in which order, and what ends it."""

    name: str
    """The duty's name, which pushes have as their target."""
    description: str | None
    """Text about the duty for people. null: none."""
    steps: list[DutyStepResponse]
    """The steps, gone through in order while nobody acts."""
    repeat: int
    """Times that all steps are gone through again."""
    acts: list[str] | None
    """Ids of the actions that count as acting. null: every action."""
    opened: bool
    """Whether opening the push counts as acting as well."""
    running: int
    """Pushes to the duty on which nobody has acted yet."""
    created_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When it was last replaced. RFC 3339, UTC, milliseconds."""


class DutiesResponse(PageResponse):
    """A page of duties."""

    items: list[DutyResponse]
    """Duties, by name."""


class ActResponse(Response):
    """The act that ended a push to a duty."""

    push_id: str | None
    """The step's push on which somebody acted. null: it is no longer kept."""
    device_id: str
    """The device on which somebody acted."""
    event: str
    """`acted` or `opened`."""
    action: str | None
    """The id of the action that was chosen. null: none."""


class SentStepResponse(Response):
    """A step that was sent: a push of its own. The first one is the push that was sent to the duty."""

    step: int
    """Its number among the duty's steps, from 1 on."""
    round: int
    """1: the first time; more if the steps are repeated."""
    push_id: str
    """The step's push, whose deliveries can be looked up like any others."""
    target: dict[str, Any]
    """The devices of the step, as the duty has them."""
    sent_at: str
    """When it was sent. RFC 3339, UTC, milliseconds."""
    left_out: int
    """Devices with its tag beyond the first 100."""
    targeted: int
    """Deliveries of the step, fixed when it was sent."""
    counts: CountsResponse
    """Its deliveries by present state."""


class EscalationResponse(Response):
    """The progress of a push to a duty."""

    duty: str
    """The duty's name."""
    state: str
    """`running` (nobody has acted yet), `acted`, `exhausted` (nobody has, and there is no further step),
    `recalled`, or `superseded` (by a newer push to a duty with its collapse key)."""
    step: int
    """The number of the step that was sent last, from 1 on."""
    round: int
    """The round of that step, from 1 on."""
    next_at: str | None
    """When the next step is sent, or it ends. RFC 3339, UTC, milliseconds. null: it has ended."""
    ended_at: str | None
    """When it ended. RFC 3339, UTC, milliseconds. null: it is running."""
    reason: str | None
    """Why it is exhausted: `steps` (there is no further one) or `ttl` (the push's time to live was over). null: it is
    not, and was not."""
    acted: ActResponse | None
    """Who acted. null: nobody has."""
    steps: list[SentStepResponse] | None = None
    """The steps that were sent. Left out in lists."""


class ListedEscalationResponse(EscalationResponse):
    """The progress of a push to a duty, in a list of them."""

    push_id: str
    """The push that was sent to the duty, with which its steps can be looked up."""
    sent_at: str
    """When it was accepted. RFC 3339, UTC, milliseconds."""


class EscalationsResponse(PageResponse):
    """A page of pushes to duties."""

    items: list[ListedEscalationResponse]
    """Pushes to duties, the newest first."""
