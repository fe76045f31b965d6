"""Responses about devices: what is known of one, its mailbox, its uplink messages, a call."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, ProblemDocument, Response


class DeviceResponse(Response):
    """A device, what is known about it, and its presence."""

    device_id: str
    """The device's id, unique within its app."""
    name: str | None
    """Its name for people. null: none was given."""
    tags: list[str]
    """Its tags in alphabetical order. A push with the target `{"tag": ..}` goes to all devices with that tag."""
    topics: list[str]
    """Topics that it is in, in alphabetical order. A push with the target `{"topic": ..}` goes to all devices in it."""
    attributes: dict[str, Any]
    """Free facts about the device, at most 16 KiB as JSON: those that the operator set, and those that the device has
    published to its `report` topic."""
    locale: str | None
    """Its language tag, for example `de-CH`. null: unknown."""
    timezone: str | None
    """Its IANA time zone, for example `Europe/Berlin`, in which quiet hours are counted. null: the policy's
    `timezone`."""
    created_at: str
    """When the device was enrolled. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When an operator last changed the device or rotated its token. RFC 3339, UTC, milliseconds."""
    online: bool
    """Whether its MQTT client is connected now."""
    address: str | None
    """Address and port, HOST:PORT, that it is connected from. null: it is offline."""
    connected_at: str | None
    """When its last connection began; that connection still lasts if `online` is true. RFC 3339, UTC, milliseconds.
    null: it has never connected."""
    last_seen: str | None
    """When it was last connected: now, while `online` is true. RFC 3339, UTC, milliseconds. null: never."""
    last_error: str | None
    """The device's last mistake, for example a denied topic or unusable JSON. null: none. At most one is kept."""
    last_error_at: str | None
    """When `last_error` happened. RFC 3339, UTC, milliseconds. null: there is none."""
    consent: str
    """Whether the person at the device wants to be notified: `unknown`, `granted` or `denied`. A device with `denied`
    gets no `alert`."""
    token_expires_at: str | None
    """When its token ends, unless the device renews it. RFC 3339, UTC, milliseconds. null: never."""
    channels: dict[str, bool]
    """The person's choices by channel id: false is muted. Channels without a choice are left out and are not muted."""
    waiting: int | None = None
    """Pushes that wait for it or are in flight to it. Only in lists, and with `with_waiting` alone."""


class DevicesResponse(PageResponse):
    """A page of devices."""

    items: list[DeviceResponse]
    """Devices in the order of their ids. Fewer than `limit` when they are large: a page has 1 MiB of JSON at most,
    beyond its first item."""
    count: int | None = None
    """Devices that are selected, on all pages together. With `with_count` alone."""


class ChangedDeviceResponse(Response):
    """The result for one device of a change of many: it has either `result` or `error`."""

    device_id: str
    """The device's id."""
    result: str | None = None
    """`changed`, `removed`, or `unchanged` if it was so before. Left out: see `error`."""
    error: ProblemDocument | None = None
    """Why nothing was changed. Left out: see `result`."""


class ChangedDevicesResponse(Response):
    """The results of a change of many devices."""

    selected: int | None
    """Devices that the filter selected when the change began. null: devices were listed, or this goes on behind a
    `cursor`."""
    devices: list[ChangedDeviceResponse]
    """One result for each device of this request, 1,000 at most: in the order of the list, or by id."""
    next_cursor: str | None
    """The `cursor` of the request that goes on with the next devices of the filter. null: that was all."""


class WaitingPushResponse(Response):
    """A push that waits in a device's mailbox."""

    push_id: str
    """The push's id."""
    state: str
    """The state of the delivery: `waiting`, or `sent` while it is in flight to the device."""
    priority: str
    """`critical`, `high`, `normal` or `low`. A mailbox is sent in this order, the oldest first within one priority."""
    kind: str
    """`alert`, `in_app`, `silent` or `command`."""
    collapse_key: str | None
    """A newer push with the same collapse key supersedes this one. null: it has none."""
    sent_at: str
    """When the push was accepted. RFC 3339, UTC, milliseconds."""
    expires_at: str
    """When its time to live is over: it then ends `expired` unless it was delivered. RFC 3339, UTC, milliseconds."""
    size: int
    """Size of the MQTT payload in bytes, at most."""
    not_before: str | None
    """When the delivery, which caps or quiet hours hold back, is checked again. RFC 3339, UTC, milliseconds. null: it
    is not held back."""
    attempts: int
    """How often it was sent to the device and not acknowledged. At the server's setting `max_attempts` (default 10) the
    delivery ends `refused`, reason `not_acknowledged`."""


class MailboxResponse(PageResponse):
    """A page of what waits for a device."""

    items: list[WaitingPushResponse]
    """Waiting pushes in the order in which they will be sent."""


class EmptiedMailboxResponse(Response):
    """The result of emptying a mailbox."""

    cancelled: int
    """Deliveries that waited and ended `cancelled`, reason `mailbox_emptied`. What is in flight is not counted."""


class RemovedFromMailboxResponse(Response):
    """The result of cancelling one push for one device: one of the three is 1."""

    cancelled: int
    """1: it waited, and has ended `cancelled`, reason `removed_from_mailbox`."""
    in_flight: int
    """1: it is sent and not acknowledged, and goes on."""
    too_late: int
    """1: it was delivered, or has ended before."""


class UplinkMessageResponse(Response):
    """An MQTT message that the device published below its `uplink` topic. It has either `payload` or
    `payload_base64`."""

    topic: str
    """The MQTT topic below `APP/devices/ID/uplink/`."""
    received_at: str
    """When the server stored it. RFC 3339, UTC, milliseconds."""
    payload: str | None = None
    """The payload as text, if it is UTF-8. Left out: see `payload_base64`."""
    payload_base64: str | None = None
    """The payload in Base64, if it is not UTF-8, or is a kilobyte and more of mostly control characters. Left out: see
    `payload`."""


class UplinkResponse(PageResponse):
    """A page of what a device has published below its `uplink` topic."""

    items: list[UplinkMessageResponse]
    """Messages, the newest first. By default the last 100 are kept, for 7 days and 8 MiB at most; the oldest leave
    first."""


class CallAnswerResponse(Response):
    """The answer to a call."""

    status: str
    """`answered` (the device has answered), `queued` (no answer within `wait` seconds; the command goes on), or `ended`
    (it will not be carried out)."""
    push_id: str
    """The id of the push that carries the command, to look up its delivery later."""
    state: str
    """The state of its delivery: `acted` when answered."""
    reason: str | None
    """Why the delivery ended, when `status` is `ended`: `ttl` for example. null: it did not."""
    result: Any
    """What the device answered, at most 4 KiB of JSON. null: nothing."""
