"""Responses about webhooks and what their receivers did not accept."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, Response


class WebhookResponse(Response):
    """A webhook: an address that events are sent to, and what became of the last attempts."""

    id: str
    """The webhook's id."""
    url: str
    """The address that events are sent to with POST."""
    types: list[str]
    """Event types that it is sent: names, `PREFIX.*` for all that begin so, `*` for all."""
    description: str | None
    """What it is for. null: nothing was given."""
    enabled: bool
    """Whether events are sent. A webhook whose receiver accepted nothing for 24 hours, or answered 410, is disabled by
    the server."""
    disabled_at: str | None
    """When it was disabled. RFC 3339, UTC, milliseconds. null: it is enabled."""
    disabled_reason: str | None
    """Why it was disabled, for people. null: it is enabled."""
    succeeded_at: str | None
    """When its receiver last answered 2xx. RFC 3339, UTC, milliseconds. null: never."""
    failed_at: str | None
    """When an attempt last failed. RFC 3339, UTC, milliseconds. null: never."""
    last_error: str | None
    """Why the last failed attempt failed, for people. null: none did."""
    dead_letters_dropped: int
    """Dead letters that made room for newer ones: 1,000 and 32 MiB of a webhook are kept."""
    created_at: str
    """When the webhook was made. RFC 3339, UTC, milliseconds."""
    updated_at: str
    """When an operator last changed it or its secret. RFC 3339, UTC, milliseconds."""


class NewWebhookResponse(WebhookResponse):
    """A webhook with its secret."""

    secret: str
    """The secret that requests are signed with (Standard Webhooks, HMAC-SHA256): `whsec_` and Base64. Shown this
    once."""


class WebhooksResponse(PageResponse):
    """A page of webhooks."""

    items: list[WebhookResponse]
    """Webhooks in the order in which they were made; an app has 20 at most."""


class DeadLetterResponse(Response):
    """Events that a webhook's receiver did not accept within 24 hours."""

    id: str
    """The dead letter's id, a decimal number."""
    events: list[dict[str, Any]]
    """The events as they were sent: each with `id`, `type`, `timestamp` and `data`."""
    attempts: int
    """How often they were sent."""
    error: str
    """Why the last attempt failed, for people."""
    at: str
    """When they were given up. RFC 3339, UTC, milliseconds."""
    replaying: bool
    """Whether they are waiting to be sent once more."""


class DeadLettersResponse(PageResponse):
    """A page of dead letters."""

    items: list[DeadLetterResponse]
    """Dead letters, the newest first."""
    count: int | None = None
    """All dead letters of the webhook. Left out: `with_count` was not asked for."""


class TestedWebhookResponse(Response):
    """The answer of a webhook's receiver to a test."""

    delivered: bool
    """Whether it answered 2xx."""
    status: int | None
    """The HTTP status that it answered. null: it did not."""
    error: str | None
    """Why the test failed, for people. null: it did not."""
    milliseconds: int
    """Time from the beginning to the answer."""
    event: dict[str, Any]
    """The event that was sent: `id`, `type` (`webhook.test`), `timestamp` and `data`."""


class ReplayedResponse(Response):
    """The beginning of a replay."""

    replaying: int
    """Dead letters that will be sent once more. Those that are accepted leave the list."""
