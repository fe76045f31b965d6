"""Responses about fatigue: what people do about alerts, by how many they had in the last seven days."""

from __future__ import annotations

from typing import Literal

from gateway.api.responses.analytics import PercentilesResponse
from gateway.api.responses.common import Response

BucketName = Literal["0-1", "2-3", "4-7", "8-14", "15-28", "29+"]


class ShareResponse(Response):
    """A share with its 95 % confidence interval (Wilson's score interval), four decimals."""

    rate: float
    """What was observed, 0 to 1."""
    low: float
    """The true share is probably not below this."""
    high: float
    """The true share is probably not above this."""


class FatigueRatesResponse(Response):
    """Shares of a bucket. null: nothing to have a share of."""

    opened: ShareResponse | None
    """Alerts that were opened, as a share of the alerts."""
    opted_out: ShareResponse | None
    """Device-days on which the person opted out, as a share of the device-days."""
    dismissed: ShareResponse | None
    """Alerts that were put away, as a share of the alerts."""


class ComparisonResponse(Response):
    """A bucket's share, compared with that of the base."""

    verdict: Literal["higher", "not_higher", "not_enough"]
    """`higher`: significantly (one-sided, at 1 %: two-proportion z test, or Fisher's exact test where fewer than 5 are
    expected). `not_enough`: fewer than 100 device-days, or alerts, in one of the two buckets."""
    z: float | None
    """Standard errors by which it lies above the base's. null: not enough."""


class ComparisonsResponse(Response):
    """A bucket, compared with the base: the lowest one of which enough is known."""

    opted_out: ComparisonResponse
    """Of device-days."""
    dismissed: ComparisonResponse
    """Of alerts."""


class BucketResponse(Response):
    """Devices that had about as many alerts within seven days."""

    bucket: BucketName
    """Alerts that the device had in the seven days up to the end of the day."""
    device_days: int
    """Days of devices: a device counts on each day in the bucket that it is in then, if it had an alert in the last 14
    days and its person had not opted out before."""
    alerts: int
    """Alerts that were delivered on those days."""
    opened: int
    """Alerts that were opened, or acted on, on those days."""
    dismissed: int
    """Alerts that were put away on those days."""
    opted_out: int
    """Device-days on which the person muted the channel (without `channel`: any) or denied consent."""
    rates: FatigueRatesResponse
    """Shares of these figures."""
    time_to_open_ms: PercentilesResponse | None
    """Milliseconds from acceptance to opening. null: nothing was opened."""
    compared: ComparisonsResponse | None
    """Compared with the base. null: this is the lowest bucket."""


class LeaveFromResponse(Response):
    """The first buckets in which people do significantly more than in the base."""

    opted_out: BucketName | None
    """From this bucket on more people opt out. null: from none, as far as known."""
    dismissed: BucketName | None
    """From this bucket on more alerts are dismissed. null: from none, as far as known."""


class FatigueResponse(Response):
    """Reactions of people to alerts, by how many they had in the last seven days."""

    channel: str | None
    """Only alerts of this channel, also in the number that they had. null: of all channels."""
    tag: str | None
    """Only devices with this tag. null: all."""
    since: str
    """The beginning of the first day of the figures. RFC 3339, UTC, milliseconds."""
    until: str
    """The end of the last day of the figures. RFC 3339, UTC, milliseconds."""
    counted_to: str
    """The end of the last day that has been counted at all: days are counted when they are over."""
    base: BucketName | None
    """The bucket that the others are compared with: the lowest one with 100 device-days and alerts. null: none has."""
    buckets: list[BucketResponse]
    """All six, the lowest first."""
    leave_from: LeaveFromResponse
    """The frequency at which people leave."""
    verdict: Literal["people_leave", "no_difference", "not_enough_yet"]
    """`people_leave`: some bucket is significantly worse than the base. `not_enough_yet`: no two could be
    compared."""
