"""Responses about funnels: how far deliveries came, by push, channel, tag, hour of the day, campaign and variant."""

from __future__ import annotations

from gateway.api.responses.common import Response


class RatesResponse(Response):
    """Shares of the stage before, 0 to 1, four decimals. null: that stage is empty."""

    delivered: float | None
    """Delivered, as a share of the eligible."""
    displayed: float | None
    """Displayed, as a share of the delivered `alert` and `in_app` pushes."""
    opened: float | None
    """Opened, as a share of the displayed."""
    acted: float | None
    """Acted, as a share of the opened; for commands and data, which show nothing, as a share of the delivered."""
    opted_out: float | None
    """Opted out, as a share of the delivered `alert` and `in_app` pushes."""


class PercentilesResponse(Response):
    """Times in milliseconds, exact to a tenth; of pushes to more than 10,000 devices those of a sample."""

    p50: int
    """Half of the deliveries took no longer, in milliseconds."""
    p90: int
    """90 % of the deliveries took no longer, in milliseconds."""
    p99: int
    """99 % of the deliveries took no longer, in milliseconds."""


class StagesResponse(Response):
    """A funnel: deliveries by the stages that they reached, cumulative."""

    targeted: int
    """All deliveries."""
    eligible: int
    """Deliveries that were not suppressed."""
    delivered: int
    """Deliveries that reached the device, or further."""
    displayed: int
    """Deliveries that were shown to the person, or further. What was opened counts as displayed."""
    dismissed: int
    """Deliveries that were put away."""
    opened: int
    """Deliveries that were opened, or further. What was acted on counts as opened."""
    acted: int
    """Deliveries with an action that was chosen, or a command that was carried out."""
    opted_out: int
    """Devices whose person withdrew consent within a day of the delivery. By channel: people who muted the channel in
    the time asked for; by tag and hour: people who withdrew consent in that time; by campaign and variant: 0,
    ask for the push."""
    rates: RatesResponse
    """The stages as shares of the stage before."""
    time_to_deliver_ms: PercentilesResponse | None
    """Milliseconds from acceptance to delivery. null: nothing was delivered, or the funnel is by tag."""
    time_to_open_ms: PercentilesResponse | None
    """Milliseconds from acceptance to opening, or to the action. null: nothing was opened, or the funnel is by tag."""


class PushFunnelResponse(StagesResponse):
    """The funnel of one push."""

    push_id: str
    """The push's id."""
    counted_at: str
    """When it was counted: now. RFC 3339, UTC, milliseconds."""


class FunnelResponse(StagesResponse):
    """The funnel of all pushes of a channel, tag, hour of the day, campaign or variant.

    It has exactly one of `channel`, `tag`, `hour`, `campaign` and `variant`: the one that was asked for
    with `by`."""

    channel: str | None = None
    """With `by=channel`: the channel's id. null: pushes without a channel."""
    tag: str | None = None
    """With `by=tag`: the tag. Devices without a tag are in no funnel."""
    hour: str | None = None
    """With `by=hour`: the hour of the day at which the pushes were accepted, `00` to `23`, in the policy's time
    zone."""
    campaign: str | None = None
    """With `by=campaign`: the campaign's id."""
    variant: str | None = None
    """With `by=variant`: the campaign's id and the variant's, as `CAMPAIGN/VARIANT`. Campaigns without variants have
    none."""


class FunnelsResponse(Response):
    """Funnels by channel, tag, hour of the day, campaign or variant."""

    items: list[FunnelResponse]
    """At most 1,000 funnels in alphabetical order: those with most deliveries, if there are more."""
    limited: bool
    """Whether something is missing: tags (500 of a push, 500 of an app in an hour, and 1,000 in an answer are counted),
    the hours before `counted_from`, or campaigns for which there was no time."""
    counted_from: str | None
    """The first hour that is counted: there was no time to add up those before it, which can be asked for with `from`
    and `to`. RFC 3339, UTC, milliseconds. null: all hours that were asked for."""
    uncounted: int
    """Pushes that have changed and are not counted here yet."""
