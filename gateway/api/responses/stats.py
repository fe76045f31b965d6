"""Responses about what happens now: the curves of an app's last minutes, and the server's own figures."""

from __future__ import annotations

from pydantic import Field

from gateway.api.responses.common import Response


class CurvesResponse(Response):
    """Curves of the last minutes. Lists of one length, with a number for each minute, the oldest first; the last minute
    is under way."""

    from_: str = Field(alias="from")
    """When the first of the minutes began. RFC 3339, UTC, milliseconds."""
    step_seconds: int
    """Seconds from one number to the next: 60."""
    pushes: list[int]
    """Pushes that were accepted."""
    targeted: list[int]
    """Deliveries of those."""
    sent: list[int]
    """Deliveries with QoS 0 that were handed over."""
    delivered: list[int]
    """Deliveries that arrived."""
    displayed: list[int]
    """Deliveries that were displayed."""
    dismissed: list[int]
    """Deliveries that were dismissed."""
    opened: list[int]
    """Deliveries that were opened."""
    acted: list[int]
    """Deliveries that were acted on."""
    expired: list[int]
    """Deliveries that ended `expired`."""
    superseded: list[int]
    """Deliveries that ended `superseded`."""
    cancelled: list[int]
    """Deliveries that ended `cancelled`."""
    overflowed: list[int]
    """Deliveries that ended `overflowed`."""
    refused: list[int]
    """Deliveries that ended `refused`."""
    suppressed: list[int]
    """Deliveries that ended `suppressed`."""
    revoked: list[int]
    """Deliveries that ended `revoked`."""
    connects: list[int]
    """Devices that connected. One that comes and goes within a fifth of a second counts once."""
    disconnects: list[int]
    """Devices whose connection ended; as `connects`."""
    online: list[int]
    """Devices that were connected at the end of the minute; of the last one: now."""
    waiting: list[int]
    """Deliveries that waited or were in flight, as of the last count in the minute."""


class FailingWebhookResponse(Response):
    """A webhook whose receiver does not take what is sent."""

    id: str
    """The webhook's id."""
    url: str
    """Its address."""
    since: str
    """Since when. RFC 3339, UTC, milliseconds."""
    last_error: str | None
    """Why the last attempt failed, for people. null: that is not known."""


class WebhookStatesResponse(Response):
    """The webhooks of an app, by whether they work."""

    enabled: int
    """Webhooks that events are sent to."""
    disabled: int
    """Webhooks that are disabled."""
    failing: list[FailingWebhookResponse]
    """Enabled webhooks whose receivers do not take what is sent."""


class CertificateEndResponse(Response):
    """The end of a certificate."""

    name: str
    """`server`, or `ca` for the one that signs devices' certificates."""
    ends_at: str
    """When it ends. RFC 3339, UTC, milliseconds."""
    days_left: float
    """Days until then; negative afterwards."""


class AlertResponse(Response):
    """An alert of the server that is true now."""

    name: str
    """Its name, as in the alert rules for Prometheus and in the runbook."""
    severity: str
    """`critical` (pushes do not arrive, or soon will not) or `warning`."""
    value: float
    """The figure that it is about, in the unit of its rule."""
    summary: str
    """What it means, for people."""


class ServerStatsResponse(Response):
    """Figures of the server, whatever the app."""

    version: str
    """Version of the server."""
    started_at: str
    """When it started. RFC 3339, UTC, milliseconds."""
    ready: bool
    """Whether pushes are accepted."""
    devices_online: int
    """Devices of all apps that are connected."""
    disk_left_bytes: int
    """Bytes that can be written until new pushes are refused."""
    disk_free_bytes: int
    """Bytes free on the disk of the data directory."""
    database_bytes: int
    """Bytes of the ledger and its log."""
    webhooks_failing: int
    """Enabled webhooks of all apps whose receivers do not take what is sent."""
    certificates: list[CertificateEndResponse]
    """Certificates in use. Empty without TLS."""
    alerts: list[AlertResponse]
    """Alerts that are true now, the critical ones first: those of the alert rules for Prometheus that need no
    history."""


class StatsResponse(Response):
    """An app as of now, with its last minutes."""

    since: str
    """Nothing before this time is in the curves: they are in memory, and begin anew with the server. Where there are
    very many apps, older minutes leave sooner. RFC 3339, UTC, milliseconds."""
    at: str
    """Time of the answer. RFC 3339, UTC, milliseconds."""
    devices: int
    """Devices of the app."""
    online: int
    """Devices of the app that are connected now."""
    waiting: int
    """Deliveries of the app that wait or are in flight, as of `waiting_counted_at`."""
    waiting_counted_at: str | None
    """When they were counted, seldom more than some seconds ago. RFC 3339, UTC, milliseconds. null: not yet."""
    curves: CurvesResponse
    """The last minutes."""
    webhooks: WebhookStatesResponse
    """Webhooks of the app."""
    heartbeats_silent: int
    """Devices of the app's heartbeats that do not answer."""
    senders_silent: int
    """Watches of the app whose sender is silent."""
    server: ServerStatsResponse | None
    """Figures of the server. null: they are not for this key."""
