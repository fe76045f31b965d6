"""Responses about enrolment by code: invitations, as they are made and as they are listed."""

from __future__ import annotations

from typing import Any

from gateway.api.responses.common import PageResponse, ProblemDocument, Response


class NewInvitationResponse(Response):
    """An invitation that was just made, with its code."""

    id: str
    """The invitation's id, to revoke it with. It is not the code."""
    batch: str
    """The id that all invitations of this request have."""
    code: str
    """The code for one device, 16 characters in groups of four. Shown this once: the server keeps its SHA-256 only."""
    url: str
    """What a QR code shows: the server's address, the code, and the fingerprint of the fleet's CA if it has one."""
    device_id: str | None
    """The id that the device will have. null: it says so itself, or the server chooses one."""
    name: str | None
    """The name that the device will have. null: it says so itself, or has none."""
    expires_at: str
    """When the code expires. RFC 3339, UTC, milliseconds."""
    qr: str | None = None
    """The QR code of `url`, an SVG document. With `qr` in the request alone."""


class RefusedInvitationResponse(Response):
    """An item of a list that has become no invitation."""

    error: ProblemDocument
    """Why there is no code for it."""


class NewInvitationsResponse(Response):
    """The codes that were made."""

    invitations: list[NewInvitationResponse | RefusedInvitationResponse]
    """One result for each that was asked for, in that order: a code, or a problem."""


class InvitationResponse(Response):
    """An invitation, without its code."""

    id: str
    """The invitation's id, to revoke it with. It is not the code."""
    batch: str
    """The id that all invitations have which one request has made."""
    state: str
    """`open`: the code is good. `used`: a device has it. `expired`: nobody used it in time."""
    device_id: str | None
    """The id of the device that used the code, or else the one that it will have. null: it says so itself, or the
    server chooses one."""
    name: str | None
    """The name that the device will have. null: it says so itself, or has none."""
    tags: list[str]
    """The tags that the device will have, in alphabetical order."""
    attributes: dict[str, Any]
    """The attributes that the device will have, besides those that it says itself."""
    locale: str | None
    """The language tag that the device will have. null: it says so itself, or has none."""
    timezone: str | None
    """The IANA time zone that the device will have. null: it says so itself, or has none."""
    token_days: int | None
    """Lifetime of the device's tokens in days. null: they never end."""
    created_at: str
    """When the code was made. RFC 3339, UTC, milliseconds."""
    created_by: str
    """The id of the key that made it."""
    expires_at: str
    """When the code expires. RFC 3339, UTC, milliseconds."""
    used_at: str | None
    """When a device used the code. RFC 3339, UTC, milliseconds. null: none has."""


class InvitationsResponse(PageResponse):
    """A page of invitations."""

    items: list[InvitationResponse]
    """Invitations in the order in which they were made. Fewer than `limit` when they are large."""


class RevokedInvitationsResponse(Response):
    """The result of a revocation."""

    revoked: int
    """Number of invitations that were removed."""


class PendingTokenResponse(Response):
    """A token request that waits."""

    status: str
    """`pending`."""
    confirmation: str
    """Text for the device's screen, seven characters: an operator compares it with the list of requests."""


class TokenRequestResponse(Response):
    """A device's request for a new token."""

    id: str
    """The request's id, to confirm or refuse it with."""
    device_id: str
    """The id of the device that it says it is."""
    state: str
    """`pending`: nobody has answered it. `confirmed`: the device gets a token, or has it. `refused`: it gets none."""
    confirmation: str
    """Text that the device shows on its screen, if it is the device that asks."""
    address: str
    """Address that it asks from."""
    note: str | None
    """What the device says about it. null: nothing."""
    asked_at: str
    """When it was made. RFC 3339, UTC, milliseconds."""
    polled_at: str
    """When its device has asked last. RFC 3339, UTC, milliseconds."""
    answered_at: str | None
    """When an operator confirmed or refused it. RFC 3339, UTC, milliseconds. null: not yet."""
    expires_at: str
    """When it is forgotten, if its device does not ask again. RFC 3339, UTC, milliseconds."""


class TokenRequestsResponse(PageResponse):
    """A page of token requests."""

    items: list[TokenRequestResponse]
    """Requests in the order of their ids."""
