"""Responses about apps, keys, and the credentials of devices."""

from __future__ import annotations

from typing import Literal

from gateway.api.responses.common import PageResponse, ProblemDocument, Response


class ApplicationResponse(Response):
    """An app: a tenant. Devices, pushes, channels, webhooks and keys belong to exactly one."""

    id: str
    """The app's id, 1 to 32 characters of `a-z`, `0-9` and `-`. It begins the MQTT topics of the app's devices."""
    created_at: str
    """When the app was made. RFC 3339, UTC, milliseconds."""


class ApplicationsResponse(PageResponse):
    """A page of apps."""

    items: list[ApplicationResponse]
    """Apps in the order of their ids. A key of another app than `default` sees its own app only."""


class KeyResponse(Response):
    """An API key, without its secret."""

    id: str
    """The key's id, to revoke it with. It is not the secret."""
    app: str
    """The id of the app that the key belongs to."""
    name: str
    """What the key is for, as given when it was made."""
    scopes: list[str]
    """What the key may do: some of `send`, `read`, `devices`, `admin`. `admin` includes the others."""
    created_at: str
    """When the key was made. RFC 3339, UTC, milliseconds."""
    revoked_at: str | None
    """When the key was revoked. RFC 3339, UTC, milliseconds. null: the key is valid."""


class NewKeyResponse(Response):
    """A key that was just made, with its secret."""

    id: str
    """The key's id, to revoke it with. It is not the secret."""
    key: str
    """The secret, to be sent as `Authorization: Bearer KEY`. Shown this once: the server keeps its SHA-256 only."""
    app: str
    """The id of the app that the key belongs to."""
    name: str
    """What the key is for, as given in the request."""
    scopes: list[str]
    """What the key may do, without duplicates and in alphabetical order."""
    created_at: str
    """When the key was made. RFC 3339, UTC, milliseconds."""


class KeysResponse(PageResponse):
    """A page of keys."""

    items: list[KeyResponse]
    """Keys of the app in the order of their ids, revoked ones included."""


class MqttAccessResponse(Response):
    """The credentials and the address that the device's MQTT client connects with. Clean session (clean start) must be
    off."""

    host: str
    """Host name or address of the MQTT broker: the server's setting `public_host`."""
    port: int
    """TCP port of the MQTT broker."""
    tls: bool
    """Whether this port expects TLS."""
    websocket: str
    """URL of MQTT over WebSocket, subprotocol `mqtt`, for browsers."""
    client_id: str
    """The MQTT client identifier: the device id, with `APP/` before it for an app other than `default`."""
    username: str
    """The MQTT user name, the same as the client identifier."""
    password: str
    """The MQTT password: the device's token. Shown this once."""
    topics: dict[str, str]
    """The device's MQTT topics by name. It subscribes to `push` (QoS 1, or 2) and may subscribe to `notices`; it
    publishes to `receipts`, `settings`, `report`, `presence` and below `uplink`. All other topics are denied."""


class EnrolledDeviceResponse(Response):
    """A device with its credential."""

    device_id: str
    """The device's id: the given one, or one that the server has chosen."""
    token: str
    """The device's token, its MQTT password. Shown this once: the server keeps its SHA-256 only."""
    token_expires_at: str | None
    """When the token ends. RFC 3339, UTC, milliseconds. null: never."""
    token_expires_in: int | None
    """Seconds until the token ends, so that the device's clock need not be right. null: it never does."""
    mqtt: MqttAccessResponse
    """Where and how the device connects with MQTT."""


class RefusedDeviceResponse(Response):
    """A device of a bulk enrolment that was not enrolled."""

    device_id: str | None
    """The id that was asked for. null: the item has none that can be read."""
    error: ProblemDocument
    """Why it was not enrolled."""


class EnrolledDevicesResponse(Response):
    """The results of a bulk enrolment."""

    devices: list[EnrolledDeviceResponse | RefusedDeviceResponse]
    """One result for each item of the request, in its order: a credential, or a problem."""


class SessionResponse(Response):
    """A session of the console: who has signed in, and until when."""

    id: str
    """The session's id (`s_..`), as the log has it. It is not the cookie's value."""
    app: str
    """The id of the app in which the person has signed in."""
    role: Literal["viewer", "sender", "operator", "admin"] | None
    """The greatest role that the scopes include: `viewer` (read), `sender` (and send), `operator` (and manage devices),
    `admin`. null: they include none, as those of a key that may only send."""
    scopes: list[str]
    """What the person may do: some of `admin`, `devices`, `read`, `send`, with all that `admin` includes."""
    name: str
    """The name of the key, or of the person as the identity provider gives it."""
    sign_in: Literal["key", "oidc"]
    """How the session was begun: with a key, or by an identity provider (OpenID Connect)."""
    signed_in_at: str
    """When the session began. RFC 3339, UTC, milliseconds."""
    expires_at: str
    """When the session ends if it is not used any more: the setting `session_idle_minutes` after its last request.
    RFC 3339, UTC, milliseconds."""
    ends_at: str
    """When it ends however much it is used: the setting `session_hours` after it began. RFC 3339, UTC, milliseconds."""


class SignedOutResponse(Response):
    """The session has ended; the person is still signed in at the identity provider."""

    provider_sign_out: str
    """Where the person can sign out there as well, to come back to the console's sign-in."""


class IdentityProviderResponse(Response):
    """The identity provider that people can sign in with."""

    name: str
    """Its name, as the button says: the setting `oidc_name`."""


class SignInOptionsResponse(Response):
    """The ways to sign in at the console besides a key."""

    oidc: IdentityProviderResponse | None
    """The identity provider (OpenID Connect). null: none is configured."""
