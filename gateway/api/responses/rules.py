"""Responses about what keeps pushes from people: channels, policy, consent, preferences."""

from __future__ import annotations

from gateway.api.responses.common import PageResponse, Response


class CapResponse(Response):
    """A limit of alerts within a rolling window."""

    count: int
    """Alerts that a device gets within the window, 1 to 1,000."""
    per: str
    """The window: any `hour`, `day` (24 hours) or `week` (7 days)."""


class CapsResponse(Response):
    """Limits of how many alerts a device gets."""

    limits: list[CapResponse]
    """At most three limits, one more if an adaptive one is among them; an alert must be within all of them."""
    excess: str
    """What becomes of an alert over a limit: `drop` (it ends `suppressed`, reason `capped`), `defer` (it waits for
    room) or `digest` (it waits, and comes together with others as one alert)."""


class CapGroupResponse(Response):
    """Devices with limits of their own."""

    tag: str | None
    """The devices with this tag. null: those of the segment."""
    segment: str | None
    """The devices that were in this saved segment some minutes ago at most. null: those with the tag."""
    limits: list[CapResponse]
    """Limits instead of all others of these caps. Empty: none."""


class GroupedCapsResponse(CapsResponse):
    """Limits of how many alerts a device gets, and of groups of devices."""

    groups: list[CapGroupResponse]
    """Devices with limits of their own instead; the first group that a device is in counts."""


class AdaptiveCapResponse(Response):
    """Bounds of a limit that a channel sets itself."""

    floor_per_day: int
    """Alerts a day below which the limit never goes."""
    ceiling_per_day: int
    """Alerts a day above which the limit never goes."""
    start_per_day: int | None
    """Alerts a day to begin with. null: the ceiling."""


class PolicyCapsResponse(GroupedCapsResponse):
    """Limits as they were set."""

    adaptive: AdaptiveCapResponse | None
    """A limit that the channel sets itself, besides the others. null: none."""


class ConsideredRatesResponse(Response):
    """Shares, 0 to 1, four decimals. null: nothing to have a share of."""

    opened: float | None
    """Of the alerts."""
    opted_out: float | None
    """Of the device-days."""
    dismissed: float | None
    """Of the alerts."""


class ConsideredBucketResponse(Response):
    """Figures of devices that had about as many alerts of the channel within seven days."""

    bucket: str
    """Alerts within seven days, as in `GET /v1/analytics/fatigue`."""
    device_days: int
    """Days of devices."""
    alerts: int
    """Alerts on those days."""
    rates: ConsideredRatesResponse
    """Shares, as in `GET /v1/analytics/fatigue`."""


class CapDecisionResponse(Response):
    """The last look at a channel's figures, once a day."""

    from_per_day: int
    """Alerts a day until then."""
    to_per_day: int
    """Alerts a day since. The same: nothing changed."""
    reason: str
    """Why: `more_opted_out`, `more_dismissed` (down a step), `no_harm` (up a step), or why nothing changed:
    `not_enough`, `at_floor`, `at_ceiling`, `cap_not_reached`, `opened_less`, `changed_lately`, `more_known_worse`."""
    present: ConsideredBucketResponse | None
    """The highest frequency that people have within the cap. null: too little is known."""
    below: ConsideredBucketResponse | None
    """The next lower one of which enough is known. null: too little is known."""


class AdaptedCapResponse(Response):
    """The present step of an adaptive cap."""

    per_day: int
    """Alerts of the channel to a device in 24 hours."""
    since: str
    """When it became that. RFC 3339, UTC, milliseconds."""
    decision: CapDecisionResponse | None
    """The last look at the figures. null: none yet."""


class HoursResponse(Response):
    """A time span of every day, by the clock in the device's time zone."""

    start: str
    """First minute, `HH:MM`."""
    end: str
    """The minute after the last one, `HH:MM`. Earlier than `start`: on the next day."""


class QuietHoursResponse(HoursResponse):
    """Hours in which no alert disturbs."""

    excess: str
    """What becomes of an alert in quiet hours: `defer` (it waits for their end) or `drop` (it ends `suppressed`, reason
    `quiet_hours`)."""


class CriticalPolicyResponse(Response):
    """The number of critical pushes that may pass other rules."""

    per_day: int
    """Critical pushes to a device in any 24 hours that may pass a muted channel, a cap or quiet hours, 0 to 1,000. One
    more is treated like any other push."""


class ChannelResponse(Response):
    """A channel: a category of pushes that a person can mute."""

    id: str
    """The channel's id, which pushes name in `channel`."""
    name: str
    """Its name for people."""
    description: str | None
    """What it is about, for people. null: nothing was given."""
    importance: str
    """A hint to the device how prominently to show its pushes: `high`, `default` or `low`."""
    sound: str | None
    """A hint to the device which sound to play. null: none."""
    may_mute: bool
    """Whether a person can mute it. false: choices against it have no effect."""
    caps: PolicyCapsResponse | None
    """Limits of alerts of this channel to a device, besides the policy's, as they were set. null: none."""
    effective_caps: GroupedCapsResponse | None
    """The limits of `caps` that hold now: an adaptive one as what it has come to. null: none."""
    adapted: AdaptedCapResponse | None
    """What an adaptive cap has come to. null: the channel has none."""
    quiet_hours: QuietHoursResponse | None
    """Quiet hours of this channel, instead of the policy's. null: the policy's."""
    created_at: str
    """When the channel was made. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When it was last changed. RFC 3339, UTC, milliseconds."""


class ChannelsResponse(PageResponse):
    """A page of channels."""

    items: list[ChannelResponse]
    """Channels in the order of their ids."""


class WhenDeniedResponse(Response):
    """The pushes that a device still gets whose person denied consent. It never gets an `alert`."""

    in_app: str
    """Pushes of kind `in_app`: `allow` or `suppress`."""
    silent: str
    """Pushes of kind `silent`: `allow` or `suppress`."""
    command: str
    """Pushes of kind `command`: `allow` or `suppress`."""


class ConsentPolicyResponse(Response):
    """The meaning of a person's consent for pushes."""

    unknown: str
    """Alerts to devices whose person has not answered: `allow` or `suppress`."""
    denied: WhenDeniedResponse
    """Other pushes to devices whose person has denied consent."""


class PolicyResponse(Response):
    """The rules of an app. What was never set has its default."""

    consent: ConsentPolicyResponse
    """What the consent of a person means for pushes."""
    caps: PolicyCapsResponse | None
    """Limits of alerts to a device, of all channels together. null: none."""
    quiet_hours: QuietHoursResponse | None
    """Hours in which no alert disturbs. null: none."""
    timezone: str
    """IANA time zone of devices that have not reported theirs."""
    critical: CriticalPolicyResponse
    """How often critical pushes may pass other rules."""
    joinable_topics: list[str]
    """Topics that a device may join and leave by itself; a `*` at the end stands for any ending."""
    approve_above: int | None
    """Number of devices above which a `command` has to be a campaign that another key approves. null: none is
    needed."""


class ChannelChoiceResponse(Response):
    """A channel and the person's choice. A channel that was muted and never made has `id` and `muted` only."""

    id: str
    """The channel's id."""
    name: str | None = None
    """Its name for people. Left out: the channel was not made."""
    description: str | None = None
    """What it is about, for people. null: nothing was given. Left out: the channel was not made."""
    importance: str | None = None
    """How prominently its pushes are shown: `high`, `default` or `low`. Left out: the channel was not made."""
    sound: str | None = None
    """A hint which sound to play. null: none. Left out: the channel was not made."""
    may_mute: bool | None = None
    """Whether a person can mute it. Left out: the channel was not made, and can be muted."""
    caps: CapsResponse | None = None
    """Limits of its alerts that hold for this device now. null: none. Left out: the channel was not made."""
    quiet_hours: QuietHoursResponse | None = None
    """Its own quiet hours. null: the policy's. Left out: the channel was not made."""
    muted: bool
    """Whether the person has muted it: its `alert` and `in_app` pushes end `suppressed`, reason `channel_muted`."""


class PreferencesResponse(Response):
    """The wishes of the person at a device, for a settings screen."""

    consent: str
    """Whether they want to be notified: `unknown`, `granted` or `denied`."""
    channels: list[ChannelChoiceResponse]
    """Every channel of the app, and every other one that the person has made a choice about."""
    topics: list[str]
    """Topics that the device is in, in alphabetical order."""
    joinable_topics: list[str]
    """Topics that it may join and leave by itself; a `*` at the end stands for any ending."""
    quiet_hours: HoursResponse | None
    """Their own quiet hours, besides the app's. null: none."""
    timezone: str
    """The IANA time zone in which quiet hours are counted: the device's, or the policy's."""
    seq: int | None
    """The sequence number of the last change that had one: a change with the same or a smaller one is ignored. null:
    none had one."""
    changed_at: str | None
    """When something was last changed. RFC 3339, UTC, milliseconds. null: never."""


class ConsentRecordResponse(Response):
    """An answer to the question for consent, kept as proof."""

    consent: str
    """The answer: `unknown`, `granted` or `denied`."""
    text_version: str | None
    """The version of the text that asked, as reported with the answer. null: none was reported."""
    client: str | None
    """The program that asked, as reported with the answer. null: none was reported."""
    source: str
    """How the answer came: `mqtt` (the device's `settings` topic), `http` (the device), `operator` (a key, on behalf of
    the person) or `push` (an action of a push)."""
    seq: int | None
    """The sequence number that was reported with the answer. null: none."""
    recorded_at: str
    """When it was stored. RFC 3339, UTC, milliseconds."""


class ConsentRecordsResponse(Response):
    """The answers of a device's person."""

    items: list[ConsentRecordResponse]
    """The last 100 answers, the newest first. Older ones are forgotten."""


class CriticalUseResponse(Response):
    """A critical push that passed a rule which would have held any other push."""

    device_id: str | None
    """The device's id. null: the device was removed."""
    push_id: str | None
    """The push's id. null: the push is no longer kept."""
    passed: str
    """The rule that it passed: `channel_muted`, `capped` or `quiet_hours`."""
    at: str
    """When it was sent to the device. RFC 3339, UTC, milliseconds."""


class CriticalUsesResponse(PageResponse):
    """A page of critical pushes that passed a rule."""

    items: list[CriticalUseResponse]
    """Uses, the newest first."""
