"""Responses about schedules and their runs."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response
from gateway.api.responses.counts import CountsResponse


class SchedulePreviewResponse(Response):
    """The next dates of a schedule."""

    next: list[str]
    """At most five instants at which it is due for the first of its devices, in order. RFC 3339, UTC, milliseconds."""


class AcceptedScheduleResponse(SchedulePreviewResponse):
    """The answer to a push with dates, which is a schedule."""

    schedule_id: str
    """The schedule's id, with which it is looked up and cancelled."""


class ScheduleRunResponse(Response):
    """A date of a schedule that has come due, or was skipped."""

    run: int
    """The run's number; numbers grow over all schedules."""
    due: str
    """When it was due for the first of its devices. RFC 3339, UTC, milliseconds."""
    state: str
    """`running` (some of its devices have not had their part), `done`, `skipped` (nobody was sent it), `failed` (its
    push was refused when it was due) or `cancelled`."""
    reason: str | None
    """Why devices were left out: `missed` (the server was away, and it was too late), `superseded` (a newer date was
    due as well), `outside_window` (the ttl was over before the window opened) or `removed` (they were); or
    `no_devices` (its target has none). null: nobody was."""
    problem: str | None
    """The code and the detail of the problem that its push was refused with. null: it was not."""
    asked: bool
    """Whether somebody wanted it at once; otherwise it is one of the schedule's dates."""
    targeted: int
    """Devices that it began with."""
    left_out: int
    """Devices that were given no part of it."""
    skipped_dates: int
    """Dates before it that were due as well, and were skipped for it."""
    started_at: str
    """When it began. RFC 3339, UTC, milliseconds."""
    ended_at: str | None
    """When the last of its parts was stored. RFC 3339, UTC, milliseconds. null: it is running."""
    push_ids: list[str]
    """The pushes that it was sent in, in order, as far as they are kept."""
    counts: CountsResponse | None
    """The deliveries of those by present state, summed up. null: there are none."""


class ScheduleResponse(Response):
    """A schedule."""

    schedule_id: str
    """The schedule's id."""
    name: str | None
    """Name for people. null: none."""
    state: str
    """`active`, `paused`, `ended` (it has no more dates) or `cancelled`."""
    missed: str
    """What becomes of a date that was missed: `catch_up` or `skip`."""
    push: dict[str, Any]
    """The push, with its dates, as in the request."""
    next: list[str]
    """The next instants at which it is due for the first of its devices: five at most, in lists one. RFC 3339, UTC,
    milliseconds."""
    failures: int
    """Runs in a row that have failed."""
    created_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When it was last changed. RFC 3339, UTC, milliseconds."""
    ended_at: str | None
    """When it ended or was cancelled. RFC 3339, UTC, milliseconds. null: it has not."""
    last_run: ScheduleRunResponse | None = None
    """The last run. null: there was none. Left out in lists."""


class SchedulesResponse(PageResponse):
    """A page of schedules."""

    items: list[ScheduleResponse]
    """Schedules, the newest first."""


class ScheduleRunsResponse(PageResponse):
    """A page of the runs of a schedule."""

    items: list[ScheduleRunResponse]
    """Runs, the newest first. Fewer than `limit` when they were sent in many pushes."""


class RecalledPartsResponse(Response):
    """Sums of what was recalled."""

    cancelled: int
    """Deliveries that had waited."""
    in_flight: int
    """Deliveries that were on their way."""
    too_late: int
    """Deliveries that had arrived or ended."""


class CancelledScheduleResponse(Response):
    """The answer to a cancelled schedule."""

    schedule_id: str
    """The schedule's id."""
    stopped: int
    """Devices of a run that was under way that had waited for their part."""
    recalled: RecalledPartsResponse | None = None
    """What was taken back of its pushes. Left out: nothing was to be."""
