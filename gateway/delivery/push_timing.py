"""The fields of a push that say when it is to be sent: any of them makes it a schedule (`plans/`).

A push with one of them is not stored as a push: it is a schedule, whose runs are pushes. They are checked here as far
as a request can be checked by itself; what depends on the time is checked when the schedule is made.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, model_validator

from gateway.audience.frequency import WallTime
from gateway.audience.time_zones import is_time_zone
from gateway.described_model import DescribedModel
from gateway.errors import problem

SCHEDULE_FIELDS = ("send_at", "send_at_local", "repeat", "window", "spread")
SCHEDULE_FIELD_SET = frozenset(SCHEDULE_FIELDS)
MAX_SPREAD_SECONDS = 86_400
"""A day: longer is a campaign."""
MAX_DATES = 1_000
"""Dates of a repetition that may be counted: they are walked through after the server was away."""
CRON_CHARACTERS = 100
"""Five fields with lists; one with every minute written out is longer, and is `*`."""
DATES_OF_DAY = 24
"""Dates that a repetition by the devices' own clocks may have on a day: a run goes around the earth for 26 hours, so
that as many are under way."""
DEVICE_ZONE = "device"
"""Stands for a zone: each device's own."""
_LOCAL_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T)?([01][0-9]|2[0-3]):[0-5][0-9]")


class _Strict(DescribedModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _local_time(text: str) -> str:
    if not _LOCAL_TIME.fullmatch(text):
        raise ValueError("must be a time without a zone, such as 09:00 or 2026-12-01T09:00")
    if "T" in text:
        datetime.fromisoformat(text)  # raises ValueError for 30 February
    return text


def _zone_or_device(text: str) -> str:
    if text != DEVICE_ZONE and not is_time_zone(text):
        raise ValueError('unknown time zone: use an IANA name such as Europe/Berlin, or "device"')
    return text


LocalTime = Annotated[str, AfterValidator(_local_time)]
ZoneOrDevice = Annotated[str, AfterValidator(_zone_or_device)]


@lru_cache(maxsize=1_000)
def cron_trouble(text: str) -> str | None:
    """Say what is wrong with a cron expression; None if it has dates."""
    if len(text.split()) != 5:
        return "a cron expression has five fields: minute, hour, day of the month, month, day of the week"
    try:
        next(CronSim(text, datetime(2026, 1, 1)))  # noqa: DTZ001  # dates by any clock
    except (CronSimError, ValueError) as error:
        return f"no cron expression: {str(error).lower()}"
    except StopIteration:
        return "no date fits it within fifty years"
    return None


def _cron(text: str) -> str:
    trouble = cron_trouble(text)
    if trouble is not None:
        raise ValueError(trouble)
    return text


def names_times_of_day(cron: str) -> bool:
    """Whether a cron expression names times of day, as Debian's cron tells: no star begins its minute or its hour."""
    minute, hour, *_ = cron.split()
    return not minute.startswith("*") and not hour.startswith("*")


def has_few_dates(cron: str) -> bool:
    """Whether a cron expression has DATES_OF_DAY dates on a day at most."""
    first = datetime(2028, 1, 1)  # noqa: DTZ001  # minute and hour fit on every day or on none
    minute, hour, *_ = cron.split()
    dates = CronSim(f"{minute} {hour} * * *", first - timedelta(seconds=1))
    return sum(1 for _, date in zip(range(DATES_OF_DAY + 1), dates, strict=False) if date.day == 1) <= DATES_OF_DAY


class Repeat(_Strict):
    """Dates of a push that is sent again and again."""

    cron: Annotated[str, Field(max_length=CRON_CHARACTERS), AfterValidator(_cron)]
    """Five fields as in cron: minute, hour, day of the month, month, day of the week (`0 9 * * 1-5`: at 9:00 from
    Monday to Friday). Names, lists, ranges, steps, `L` for the last day and `5#2` for the second Friday are
    understood."""
    zone: ZoneOrDevice
    """The clock that the fields are read on: an IANA zone such as `Europe/Vienna`, or `device` (each device's own; the
    minute and the hour are numbers then, at most 24 times a day)."""
    until: Annotated[AwareDatetime, Field(strict=False)] | None = None
    """No date is later than this time, RFC 3339 with its offset. Left out: without end."""
    count: Annotated[int, Field(ge=1, le=MAX_DATES)] | None = None
    """Number of dates, 1 to 1,000; those that were skipped count. Left out: without end."""

    @model_validator(mode="after")
    def _fits_devices(self) -> Repeat:
        if self.zone != DEVICE_ZONE:
            return self
        if not names_times_of_day(self.cron):
            raise ValueError('by each device\'s own clock ("device") minute and hour are numbers, such as 0 9 * * *')
        if not has_few_dates(self.cron):
            raise ValueError(f'by each device\'s own clock ("device") a day has at most {DATES_OF_DAY} dates')
        return self


class Window(_Strict):
    """Hours of every day in which the push may be sent. A date outside waits until they begin."""

    # `from` is a word of Python.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True, serialize_by_alias=True)

    start: Annotated[WallTime, Field(alias="from")]
    """First minute, `HH:MM` from `00:00` to `23:59`."""
    to: WallTime
    """First minute after it, `HH:MM`. Earlier than `from`: on the next day. The same: 422 `invalid_request`."""
    zone: ZoneOrDevice
    """The clock that the hours are read on: an IANA zone, or `device` (each device's own; a `repeat` has at most 24
    dates a day then)."""

    @model_validator(mode="after")
    def _has_two_ends(self) -> Window:
        if self.start == self.to:
            raise ValueError("from and to are the same: leave the window out, every time is inside")
        return self


def scheduled_by(request: Any) -> str | None:
    """The first of the fields by which a push request says when it is to be sent; None: at once."""
    return next((name for name in SCHEDULE_FIELDS if getattr(request, name) is not None), None)


def refuse_times(request: Any) -> None:
    """Refuse a push that is no schedule and says when it is to be sent. Raises Problem 422."""
    name = scheduled_by(request)
    if name is not None:
        raise problem(
            "invalid_request",
            f"{name}: this makes a schedule, which is sent by itself: POST /v1/pushes, or /v1/schedules with a name",
        )
