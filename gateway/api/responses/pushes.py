"""Responses about pushes, their deliveries, and the attachments that they refer to."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response
from gateway.api.responses.counts import CountsResponse
from gateway.api.responses.duties import EscalationResponse


class AcceptedPushResponse(Response):
    """A push that is on disk. One with dates is answered as by `POST /v1/schedules`."""

    push_id: str
    """The push's id, to look up its deliveries with and to recall it."""
    targeted: int
    """Devices that the push is for, fixed now: as many deliveries were stored. Includes the suppressed ones."""
    suppressed: int
    """Deliveries of these that ended `suppressed` at once, because of consent, a muted channel, or a text that lacks
    something."""
    unknown: list[str]
    """Ids in the target's `devices` of which the app has no device. The push goes to the others."""


class HeldAlertsResponse(Response):
    """Alerts that a rule would hold back."""

    dropped: int
    """Alerts that would end `suppressed`."""
    deferred: int
    """Alerts that would wait for their time."""


class ForecastResponse(Response):
    """The devices that a push would reach if it were sent now."""

    targeted: int
    """Devices that the push would be for, the suppressed ones included."""
    online: int
    """Devices of these that are connected now."""
    suppressed: dict[str, int]
    """Deliveries that would end `suppressed` at once, by reason: `no_consent`, `channel_muted`, `no_text`. What
    caps and quiet hours would drop is in `capped` and `quiet_hours`."""
    unknown: list[str]
    """Ids in the target's `devices` of which the app has no device."""
    likely: int
    """Devices that are connected, or expected to come within the ttl: the sum of how often each came in the same hours
    of the last four weeks, rounded."""
    will_expire: int
    """Devices that are not, and those for which a cap or quiet hours would defer the push for longer than it lives."""
    unknown_presence: int
    """Devices that are away and were enrolled too lately to tell. With `likely`, `will_expire`, `suppressed` and the
    dropped ones of `capped` and `quiet_hours` they are `targeted`."""
    capped: HeldAlertsResponse
    """Alerts that a cap would hold back if all were handed over now."""
    quiet_hours: HeldAlertsResponse
    """Alerts that quiet hours would hold back if all were handed over now."""
    sampled: bool
    """Whether caps or quiet hours concern more than 5,000 devices, so that 5,000 were asked and stand for all."""
    texts: int | None = None
    """Different texts that its devices would get. Left out: it has no templates, nor texts by locale."""
    missing: list[MissingVariableResponse] | None = None
    """Up to 20 variables that its texts need and devices lack: with `on_missing` `refuse` the push would be refused,
    with `leave_out` those devices would get nothing. Left out: it has no templates, nor texts by locale."""
    hints: list[str] | None = None
    """What is probably a mistake: a channel that nobody has made, whose name is like that of one. Left out: nothing."""


class MissingVariableResponse(Response):
    """A variable that texts of a push need and devices lack."""

    variable: str
    """The variable, such as `device.attributes.floor`."""
    where: str
    """The first text that needs it, such as `notification.title`."""
    devices: int
    """Devices that lack it."""
    examples: list[str]
    """Ids of up to 5 of them."""


class KeptForecastResponse(Response):
    """The forecast that a push was sent with, beside what has happened."""

    likely: int
    """Devices that were expected to get it within the ttl."""
    will_expire: int
    """Devices that were not."""
    unknown_presence: int
    """Devices of which too little was known."""
    made_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    reached: int
    """Devices that have got it, as `reached.delivered`."""
    error: int | None
    """`likely` minus `reached`: positive when too many were expected. Devices of unknown presence are in `reached`
    only. null: the push is still open."""


class ReachedResponse(Response):
    """Deliveries of a push that came at least so far. Cumulative: one that was opened counts as displayed and delivered
    as well."""

    delivered: int
    """Delivered or further."""
    displayed: int
    """Displayed or further."""
    opened: int
    """Opened or further."""
    acted: int
    """An action was chosen, or a command was carried out."""


class TemplateUseResponse(Response):
    """A version of a saved template."""

    name: str
    """The template's name."""
    version: int
    """The version of it."""


class PushResponse(Response):
    """A push and what became of its deliveries. Fields that the request left out are left out here, but for those with
    a default."""

    push_id: str
    """The push's id."""
    target: dict[str, Any]
    """Whom the push is for, as in the request; of a part of a campaign `{"campaign": ID}`."""
    kind: str
    """`alert`, `in_app`, `silent` or `command`."""
    priority: str
    """`critical`, `high`, `normal` or `low`."""
    qos: int
    """The MQTT QoS that was asked for: 0, 1 or 2. Each delivery has its effective QoS."""
    ttl: int
    """Time to live in seconds, from `sent_at`."""
    collapse_key: str | None = None
    """A newer push with the same collapse key supersedes what still waits of this one. Left out: none."""
    channel: str | None = None
    """The channel that a person can mute it by. Left out: none."""
    notification: dict[str, Any] | None = None
    """What is shown, as in the request, but with the address of each attachment instead of `attachment:ID`. Left out:
    nothing is."""
    data: Any = None
    """Any JSON for the device's program, as in the request. Left out: none."""
    texts: int | None = None
    """Number of different texts that its devices got, which `GET /v1/pushes/{push_id}/texts` lists; 0: none got any.
    Left out: all got what is said here."""
    template: TemplateUseResponse | None = None
    """The saved template that it was made with. Left out: none."""
    deadline: int | None = None
    """Of a command: seconds that the device has for its result. Left out: no limit."""
    signed: str | None = None
    """What the publisher has signed, as in the request. Left out: nothing."""
    encrypted: str | None = None
    """What the publisher has encrypted for the device, as in the request. Left out: nothing."""
    fetch_from: str | None = None
    """Origin of the server (`https://push.example`) from which devices fetch the push's attachments, showing their
    credential. Left out: it has no attachment of this server."""
    fetch_within: int | None = None
    """Seconds over which its devices should spread their fetches, each at a random moment. Left out: at once."""
    sent_at: str
    """When the push was accepted. RFC 3339, UTC, milliseconds."""
    expires_at: str
    """When its time to live is over. RFC 3339, UTC, milliseconds."""
    recalled_at: str | None
    """When it was recalled. RFC 3339, UTC, milliseconds. null: it was not."""
    sent_by: str | None
    """The id of the key (`k_..`) or of the person that sent it. null: the server made it, of a schedule, a campaign or
    the next step of a duty; or it is older than the audit log."""
    targeted: int
    """Deliveries of the push, fixed when it was accepted."""
    suppressed: int
    """Deliveries that ended `suppressed` when it was accepted. Later ones are in `counts`."""
    counts: CountsResponse
    """Its deliveries by present state."""
    reached: ReachedResponse
    """Its deliveries by how far they came, cumulative."""
    forecast: KeptForecastResponse | None = None
    """The forecast that it was sent with. Left out: none."""
    escalation: EscalationResponse | None = None
    """Of a push to a duty: how far it has come. The deliveries of the push are those of the first step. Left out: its
    target is no duty."""
    campaign_id: str | None = None
    """Of a part of a campaign: the campaign's id. Left out: it is none."""
    group: int | None = None
    """Of a part of a campaign: the number of its group, from 1 on. Left out: it is none."""
    variant: str | None = None
    """Of a part of a campaign: its variant's id. null: the campaign has none. Left out: it is no part."""
    schedule_id: str | None = None
    """Of a part of a schedule: its id. Left out: it is none."""
    escalation_of: str | None = None
    """Of a further step of a push to a duty: that push. Left out: it is none."""


class PushesResponse(PageResponse):
    """A page of pushes."""

    items: list[PushResponse]
    """Pushes, the newest first. Fewer than `limit` when they are large or have many deliveries to count: a page has
    1 MiB of JSON and 500,000 counted deliveries at most, beyond its first item."""


class DeliveryStateResponse(Response):
    """The state of a delivery. It is in exactly one at every moment."""

    state: str
    """`waiting`, `sent`, `delivered`, `displayed`, `dismissed`, `opened` or `acted`; or an end without delivery:
    `expired`, `superseded`, `cancelled`, `suppressed`, `overflowed`, `refused` or `revoked`."""
    reason: str | None
    """Why it ended: `ttl`, `collapse_key`, `digested`, `recalled`, `mailbox_emptied`, `removed_from_mailbox`,
    `no_consent`, `channel_muted`, `no_text`, `capped`, `quiet_hours`, `mailbox_limit`, `mailbox_bytes`,
    `reason_code_0xNN`, `packet_too_large`, `not_acknowledged` or `device_removed`; `after_<end>` if a receipt proved
    later that it arrived; or why the device itself dismissed it. null: nothing to explain."""
    qos: int | None
    """The effective MQTT QoS: the smaller of what the push asked for and what the device subscribed with. null: it has
    not been sent yet."""
    delivered_at: str | None
    """When it was first known to be delivered. RFC 3339, UTC, milliseconds. null: it is not."""
    displayed_at: str | None
    """When it was first reported displayed. RFC 3339, UTC, milliseconds. null: it was not."""
    dismissed_at: str | None
    """When it was first reported dismissed. RFC 3339, UTC, milliseconds. null: it was not."""
    opened_at: str | None
    """When it was first reported opened. RFC 3339, UTC, milliseconds. null: it was not."""
    acted_at: str | None
    """When it was first reported acted. RFC 3339, UTC, milliseconds. null: it was not."""
    ended_at: str | None
    """When it ended without delivery. RFC 3339, UTC, milliseconds. null: it did not."""
    replaced_by: str | None
    """The id of the digest push that it went into. null: none."""
    attempts: int
    """How often it was sent to the device and not acknowledged."""
    not_before: str | None
    """When the delivery, which caps or quiet hours hold back, is checked again. RFC 3339, UTC, milliseconds. null: it
    is not held back."""
    action: str | None
    """The id of the action that was chosen. null: none."""
    result: Any
    """What the device answered with its action or command, at most 4 KiB of JSON. null: nothing."""


class DeliveryResponse(DeliveryStateResponse):
    """A delivery: one push to one device."""

    device_id: str | None
    """The device's id. null: the device was removed."""


class ReasonCountResponse(Response):
    """Deliveries of a push that are in a state for a reason."""

    state: str
    """The state."""
    reason: str | None
    """The reason. null: there is nothing to explain."""
    count: int
    """Deliveries of which both are true: `GET /v1/pushes/{push_id}/deliveries?state=..&reason=..` lists them."""


class ReasonsResponse(Response):
    """The deliveries of a push by state and reason."""

    push_id: str
    """The push's id."""
    targeted: int
    """Deliveries of the push."""
    items: list[ReasonCountResponse]
    """States and reasons in the order of the states, the most frequent reason first. The counts are of one moment, and
    sum to `targeted`."""


class AwaitedPushResponse(AcceptedPushResponse):
    """A push that was waited for, and what became of it."""

    delivery: DeliveryResponse
    """Its only delivery, in the state in which the waiting ended."""


class DeliveriesResponse(PageResponse):
    """A page of the deliveries of a push."""

    items: list[DeliveryResponse]
    """Deliveries in the order in which their devices were enrolled."""


class TextResponse(Response):
    """A text of a push, as its devices got it."""

    text: int
    """Its number within the push, from 1 on."""
    devices: int
    """Devices that it is for."""
    size: int
    """Bytes on the wire, at most."""
    notification: dict[str, Any] | None = None
    """What is shown. Left out: nothing is."""
    data: Any = None
    """Any JSON for the device's program. Left out: none."""
    deadline: int | None = None
    """Of a command: seconds that the device has for its result. Left out: no limit."""
    signed: str | None = None
    """What the publisher has signed. Left out: nothing."""
    encrypted: str | None = None
    """What the publisher has encrypted for the device. Left out: nothing."""
    fetch_from: str | None = None
    """Origin of the server from which devices fetch the push's attachments. Left out: it has none of this server."""
    fetch_within: int | None = None
    """Seconds over which its devices should spread their fetches. Left out: at once."""


class TextsResponse(PageResponse):
    """A page of the texts of a push."""

    items: list[TextResponse]
    """Texts by number. None for a device that got none. Fewer than `limit` when they are large."""


class RecallResponse(Response):
    """The result of recalling a push, by delivery."""

    cancelled: int
    """Deliveries that waited and ended `cancelled`, reason `recalled`."""
    in_flight: int
    """Deliveries that are sent and not acknowledged: acknowledged ones become `delivered`, lost ones `cancelled`."""
    too_late: int
    """Deliveries that the device has already. It is told to remove the push from its screen, if it subscribes to its
    `notices` topic."""


class AttachmentResponse(Response):
    """A file that pushes refer to and devices fetch."""

    id: str
    """The SHA-256 of its bytes in hexadecimal. Pushes refer to it as `attachment:ID`."""
    url: str
    """The address that devices fetch it from."""
    content_type: str
    """Its media type, as given by the header `Content-Type` of the upload."""
    size: int
    """Its size in bytes."""
    created_at: str
    """When it was first uploaded. RFC 3339, UTC, milliseconds."""
    expires_at: str
    """When it is removed, unless it is uploaded again or a push refers to it for longer. RFC 3339, UTC,
    milliseconds."""
