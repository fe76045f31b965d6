"""Frequency of alerts: quiet hours in a person's own time zone, and caps within an hour, a day, a week.

Caps may have *groups*, devices with limits of their own, and those of a channel may adapt to what people do about its
alerts (`delivery/adaptive_caps`). What is decided here is the same for both: which limits hold, and when they leave
room.

Pure functions of times. Everything is milliseconds of server time (Unix epoch, UTC), except quiet hours, which are what
the clock on the wall says: `HH:MM`, the end excluded, over midnight if the end is the earlier one. On the night when
clocks are set back the hour that comes twice is quiet twice, and what is not quiet of it is not quiet twice; when they
are set forward, quiet hours that end in the hour that is left out end with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from gateway.audience.time_zones import time_zone
from gateway.described_model import DescribedModel
from gateway.names import Name

WINDOWS_MS = {"hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}
"""Milliseconds; rolling."""
LONGEST_MS = WINDOWS_MS["week"]
MINUTE_MS = 60_000
MAX_LIMITS = 3
"""Limits of caps: one for each window."""
MAX_GROUPS = 20
"""Groups of caps: looked through for each alert that is checked."""
MAX_ADAPTIVE_ALERTS = 50
"""Alerts a day that a channel may come to by itself: more than one in each half hour of a waking day."""


def _wall_time(text: str) -> str:
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", text):
        raise ValueError("must be a time of day with two digits each, such as 07:30")
    return text


WallTime = Annotated[str, AfterValidator(_wall_time)]


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Hours(_Strict):
    """Quiet hours of every day, by the clock in the device's time zone."""

    start: WallTime
    """First quiet minute, `HH:MM` from `00:00` to `23:59`."""
    end: WallTime
    """First minute that is not quiet any more, `HH:MM`. Earlier than `start`: on the next day. The same as `start`: 422
    `invalid_request`."""

    @model_validator(mode="after")
    def _has_two_ends(self) -> Hours:
        if self.start == self.end:
            raise ValueError("start and end are the same: that is never or always; leave it out, or deny consent")
        return self


class QuietHours(Hours):
    """Quiet hours of every day, and what becomes of alerts in them."""

    excess: Literal["defer", "drop"] = "defer"
    """`defer` (an alert in quiet hours waits for their end, while its ttl runs) or `drop` (it ends `suppressed`, reason
    `quiet_hours`)."""


MAX_CAP_ALERTS = 1_000
"""Alerts that a limit counts at most: so many of each device are kept."""


class Cap(_Strict):
    """A limit of alerts to a device within a rolling window."""

    count: Annotated[int, Field(ge=1, le=MAX_CAP_ALERTS)]
    """Alerts that a device gets within the window, 1 to 1,000."""
    per: Literal["hour", "day", "week"]
    """The window: any `hour`, `day` (24 hours) or `week` (7 days)."""


class GroupSelector(NamedTuple):
    """The choice of a group's devices: what kind of set it is, and its name."""

    kind: Literal["tag", "segment"]
    name: str


class CapGroup(_Strict):
    """Devices with limits of their own: those with a tag, or those in a saved segment."""

    tag: Name | None = None
    """The devices with this tag. null or left out: those of `segment`."""
    segment: Name | None = None
    """The devices that were in this saved segment some minutes ago at most. One that does not exist: 404
    `segment_not_found`; one that is removed later has nobody. The caps of an app name 20 at most. null or left out:
    those of `tag`."""
    limits: Annotated[list[Cap], Field(max_length=MAX_LIMITS)]
    """Limits instead of all others of these caps, at most three. Empty: none, these devices are not limited here."""

    @model_validator(mode="after")
    def _has_one_selector(self) -> CapGroup:
        if (self.tag is None) == (self.segment is None):
            raise ValueError("a group of caps needs a tag or a segment, and not both")
        return self

    @property
    def selector(self) -> GroupSelector:
        if self.tag is not None:
            return GroupSelector("tag", self.tag)
        assert self.segment is not None, "it has one of both"
        return GroupSelector("segment", self.segment)


class AdaptiveCap(_Strict):
    """Bounds of a limit that a channel sets itself, by what people do about its alerts."""

    floor_per_day: Annotated[int, Field(ge=1, le=MAX_ADAPTIVE_ALERTS)] = 1
    """Alerts a day below which the limit never goes, 1 to 50, default 1."""
    ceiling_per_day: Annotated[int, Field(ge=1, le=MAX_ADAPTIVE_ALERTS)] = 8
    """Alerts a day above which the limit never goes, 1 to 50, default 8. Not below the floor."""
    start_per_day: Annotated[int, Field(ge=1, le=MAX_ADAPTIVE_ALERTS)] | None = None
    """Alerts a day to begin with, within the two bounds. null or left out: the ceiling. Another one begins anew."""

    @model_validator(mode="after")
    def _is_in_order(self) -> AdaptiveCap:
        if self.floor_per_day > self.ceiling_per_day:
            raise ValueError("floor_per_day is above ceiling_per_day: exchange them")
        if self.start_per_day is not None and self.within(self.start_per_day) != self.start_per_day:
            raise ValueError("start_per_day is not between floor_per_day and ceiling_per_day")
        return self

    @property
    def start(self) -> int:
        """Alerts a day to begin with."""
        return self.ceiling_per_day if self.start_per_day is None else self.start_per_day

    def within(self, per_day: int) -> int:
        """The nearest number within the bounds."""
        return min(max(per_day, self.floor_per_day), self.ceiling_per_day)


class Caps(_Strict):
    """Limits of alerts to a device, and what becomes of more. At least one of `limits`, `groups` and `adaptive`."""

    limits: Annotated[list[Cap], Field(max_length=MAX_LIMITS)] = Field(default_factory=list)
    """At most three limits; an alert must be within all of them. Left out: none, but for groups and `adaptive`."""
    groups: Annotated[list[CapGroup], Field(max_length=MAX_GROUPS)] = Field(default_factory=list)
    """Devices with limits of their own instead, at most 20 groups: the first that a device is in counts."""
    adaptive: AdaptiveCap | None = None
    """A limit that the channel sets itself, besides `limits`; `{}` for the default bounds. Of a channel only. null or
    left out: none."""
    excess: Literal["drop", "defer", "digest"] = "drop"
    """`drop` (an alert over a limit ends `suppressed`, reason `capped`), `defer` (it waits for room, while its ttl
    runs) or `digest` (it waits, and comes together with others as one alert)."""

    @model_validator(mode="after")
    def _limits_something(self) -> Caps:
        if not self.limits and not self.groups and self.adaptive is None:
            raise ValueError("needs limits, groups or adaptive; leave caps out, or null, for none")
        return self

    def limits_of(self, member_of: Collection[GroupSelector]) -> list[Cap]:
        """The limits that hold for a device that is in these groups."""
        for group in self.groups:
            if group.selector in member_of:
                return group.limits
        return self.limits

    @property
    def segments(self) -> set[str]:
        """The segments that have groups."""
        return {group.segment for group in self.groups if group.segment is not None}

    @property
    def counted_alerts(self) -> int:
        """The alerts of a device that any of these limits looks back at."""
        limits = [*self.limits, *(limit for group in self.groups for limit in group.limits)]
        return max((limit.count for limit in limits), default=0)

    def adapted_to(self, per_day: int | None) -> Caps:
        """The caps that hold while the channel allows so many alerts a day; None: they do not adapt."""
        if per_day is None:
            return self
        limits = [*self.limits, Cap(count=per_day, per="day")]
        return self.model_copy(update={"limits": limits, "adaptive": None})


def _written_out(value: Any) -> Any:
    return {"adaptive": {}} if value == "adaptive" else value


ChannelCaps = Annotated[
    Caps | None, BeforeValidator(_written_out, json_schema_input_type=Caps | Literal["adaptive"] | None)
]
"""Caps of a channel; `"adaptive"` is short for `{"adaptive": {}}`."""


def is_quiet(hours: Hours, zone: str, now_ms: int) -> bool:
    """Whether the clock on the wall is within the hours. `now_ms` is wall time."""
    wall = datetime.fromtimestamp(now_ms / 1000, time_zone(zone)).strftime("%H:%M")
    if hours.start < hours.end:
        return hours.start <= wall < hours.end
    return wall >= hours.start or wall < hours.end


@lru_cache(maxsize=4_096)  # a fleet has few zones, and asks by the minute
def _quiet_until(hours: Hours, zone: str, minute: int) -> int | None:
    now_ms = minute * MINUTE_MS
    if not is_quiet(hours, zone, now_ms):
        return None
    tz = time_zone(zone)
    local = datetime.fromtimestamp(now_ms / 1000, tz)
    end_time = time.fromisoformat(hours.end)
    for day in (0, 1):
        date = local.date() + timedelta(days=day)
        for fold in (0, 1):
            end = datetime.combine(date, end_time, tz).replace(fold=fold).astimezone(UTC)
            end_ms = round(end.timestamp() * 1000)
            if end_ms > now_ms:
                change = _change(tz, minute, end_ms // MINUTE_MS)
                if change is not None and not is_quiet(hours, zone, change * MINUTE_MS):
                    return change * MINUTE_MS
                if end.astimezone(tz).time() == end_time:
                    return end_ms
                if change is not None:  # the end is left out: the clock is set forward, into quiet hours
                    return _quiet_until(hours, zone, change)
    raise AssertionError("the wall clock shows every minute within two days, or leaves it out")


def _change(tz: ZoneInfo, first: int, last: int) -> int | None:
    """The minute within these at which the clocks are set."""

    def offset(minute: int) -> timedelta | None:
        return datetime.fromtimestamp(minute * MINUTE_MS / 1000, tz).utcoffset()

    if offset(first) == offset(last):
        return None
    while last - first > 1:
        middle = (first + last) // 2
        if offset(middle) == offset(last):
            last = middle
        else:
            first = middle
    return last


def quiet_until(hours: Hours, zone: str, now_ms: int) -> int | None:
    """The end of the quiet hours that `now_ms` is in; None if it is in none. Wall time in milliseconds."""
    return _quiet_until(hours, zone, now_ms // MINUTE_MS)


def free_at(limits: Iterable[Cap], uses: Sequence[int], now_ms: int) -> int | None:
    """The time at which the limits allow one more beside these `uses` (times, in order); None if they do now."""
    latest: int | None = None
    for cap in limits:
        if len(uses) >= cap.count:
            free = uses[-cap.count] + WINDOWS_MS[cap.per]
            if free > now_ms and (latest is None or free > latest):
                latest = free
    return latest
