"""Responses about what a device has had: its deliveries and its timeline."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response
from gateway.api.responses.pushes import DeliveryStateResponse


class DeviceDeliveryResponse(DeliveryStateResponse):
    """A delivery to a device, with what its push says."""

    push_id: str
    """The push's id."""
    kind: str
    """`alert`, `in_app`, `silent` or `command`."""
    title: str | None
    """The title of its notification, as the device got it. null: it has none."""
    body: str | None
    """The body of its notification, as the device got it: 200 characters at most. null: it has none."""
    channel: str | None
    """The channel that a person can mute it by. null: none."""
    priority: str
    """`critical`, `high`, `normal` or `low`."""
    collapse_key: str | None
    """A newer push with the same collapse key supersedes this one. null: it has none."""
    sent_at: str
    """When the push was accepted. RFC 3339, UTC, milliseconds."""
    expires_at: str
    """When its time to live is over. RFC 3339, UTC, milliseconds."""


class HistoryPageResponse(PageResponse):
    """The base of pages of a device's history."""

    searched_to: str | None
    """Everything since this time has been looked through; what is older is on the next pages. RFC 3339, UTC,
    milliseconds. null: this is the last page."""


class DeviceDeliveriesResponse(HistoryPageResponse):
    """A page of the deliveries to a device."""

    items: list[DeviceDeliveryResponse]
    """Deliveries, those of the newest pushes first. There may be fewer than `limit`, or none, before the last page."""


class EventPushResponse(Response):
    """A push, in an event of its delivery."""

    kind: str
    """`alert`, `in_app`, `silent` or `command`."""
    title: str | None
    """The title of its notification, as the device got it. null: it has none."""
    body: str | None
    """The body of its notification, as the device got it: 200 characters at most. null: it has none."""
    sent_at: str
    """When it was accepted. RFC 3339, UTC, milliseconds."""


class DeviceEventResponse(Response):
    """An event of a device."""

    id: str
    """The event's id, as in the stream of events."""
    type: str
    """Its type, such as `device.disconnected` or `delivery.displayed`."""
    timestamp: str
    """When it happened. RFC 3339, UTC, milliseconds."""
    data: dict[str, Any]
    """What there is to say of it, by its type, as in the stream of events."""
    push: EventPushResponse | None = None
    """Of a delivery: what its push says. Left out: it is about no push."""


class DeviceEventsResponse(HistoryPageResponse):
    """A page of what has happened to a device."""

    items: list[DeviceEventResponse]
    """Events, the newest first. There may be fewer than `limit`, or none, before the last page."""


class DisconnectResponse(Response):
    """The end of a connection."""

    at: str
    """When it ended. RFC 3339, UTC, milliseconds."""
    reason: str
    """Why, as in the event `device.disconnected`: `client`, `network`, `keep_alive`, `take_over`, `not_acknowledged`,
    `slow_consumer`, `limit_exceeded`, `protocol_error`, `revoked`, `server_busy`, `server_ending` or
    `internal_error`."""
    text: str
    """The reason in words."""
    detail: str | None
    """What else is known of it. null: nothing."""
    duration: float
    """Seconds for which the connection lasted."""


class ConnectionResponse(Response):
    """The connection of a device, and how the last ones ended."""

    online: bool
    """Whether it is connected now."""
    connected_at: str | None
    """When this connection began. RFC 3339, UTC, milliseconds. null: it is offline."""
    address: str | None
    """Address and port, HOST:PORT, that it is connected from. null: it is offline."""
    listener: str | None
    """What it is connected to: `tcp`, `tls`, `ws`, `wss` or `unix`. null: it is offline."""
    protocol: str | None
    """Version of MQTT: `3.1.1` or `5.0`. null: it is offline."""
    keep_alive: int | None
    """Seconds within which it promises to be heard; 0: it does not. null: it is offline."""
    subscribed_qos: int | None
    """The QoS with which it has subscribed to its pushes. null: it has not, or is offline."""
    in_flight: int
    """Pushes that it has been sent and has not acknowledged, about."""
    since: str
    """Ends of connections before this time are not known: when the server started, or later if there were very many.
    RFC 3339, UTC, milliseconds."""
    disconnects: list[DisconnectResponse]
    """The last ten ends of its connections, the newest first."""
