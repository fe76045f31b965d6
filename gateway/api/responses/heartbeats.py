"""Responses about heartbeats and watches."""

from __future__ import annotations

from gateway.api.responses.common import PageResponse, Response


class DeviceHeartbeatResponse(Response):
    """A device of a heartbeat."""

    device_id: str
    """The device's id."""
    state: str
    """`answering`, `slow`, `silent`, or `unknown` (not beaten often enough yet)."""
    since: str
    """When it came into this state. RFC 3339, UTC, milliseconds."""
    missed: int
    """Beats in a row that it has missed, or answered too late."""
    answered_at: str | None
    """When it last answered. RFC 3339, UTC, milliseconds. null: never."""
    took_ms: int | None
    """Milliseconds from the beat to its last answer. null: it has never answered."""


class HeartbeatResponse(Response):
    """A heartbeat, and what became of its last beats."""

    name: str
    """The heartbeat's name."""
    device: str | None = None
    """Its device. Left out: it has several, or a tag."""
    devices: list[str] | None = None
    """Its devices. Left out: it has one, or a tag."""
    tag: str | None = None
    """The tag whose first 20 devices are to answer. Left out: it names devices."""
    every_s: int
    """Seconds between two beats."""
    within_s: int
    """Seconds within which a beat is to be answered."""
    misses: int
    """Beats in a row that are missed or late before a device counts as silent or slow."""
    beat_at: str | None
    """When the last beat was sent. RFC 3339, UTC, milliseconds. null: none since it was set, or since the server
    started."""
    next_at: str
    """When the next beat is sent. RFC 3339, UTC, milliseconds."""
    states: list[DeviceHeartbeatResponse]
    """Its devices, in the order of their enrolment."""
    created_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When it was last replaced. RFC 3339, UTC, milliseconds."""


class HeartbeatsResponse(PageResponse):
    """A page of heartbeats."""

    items: list[HeartbeatResponse]
    """Heartbeats, by name."""


class WatchResponse(Response):
    """A watch over what is sent."""

    name: str
    """The watch's name."""
    channel: str | None
    """The channel of the pushes that it is over. null: any."""
    key_id: str | None
    """The id of the key that they are sent with. null: any."""
    every_s: int
    """Seconds within which something is sent."""
    silent: bool
    """Whether nothing was, for so long."""
    heard_at: str | None
    """When something was last accepted. RFC 3339, UTC, milliseconds. null: never since it was set."""
    due_at: str | None
    """When it becomes silent, if nothing is accepted until then. RFC 3339, UTC, milliseconds. null: it is."""
    silent_at: str | None
    """Since when it is silent. RFC 3339, UTC, milliseconds. null: it is not."""
    created_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When it was last replaced. RFC 3339, UTC, milliseconds."""


class WatchesResponse(PageResponse):
    """A page of watches."""

    items: list[WatchResponse]
    """Watches, by name."""
