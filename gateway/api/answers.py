"""The shapes of what the API answers, for its OpenAPI document.

Routes answer JSON that the rooms behind them have made; nothing is validated on the way out. A test holds real answers
against these models, which forbid what they do not name, so the document cannot fall behind.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProblemDocument(_Answer):
    """RFC 9457. `code` is stable and meant for programs; `detail` says what to do."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    retryable: bool


class Application(_Answer):
    id: str
    created_at: str


class Applications(_Answer):
    items: list[Application]
    next_cursor: str | None


class Key(_Answer):
    id: str
    app: str
    name: str
    scopes: list[str]
    created_at: str
    revoked_at: str | None


class NewKey(_Answer):
    id: str
    key: str = Field(description="The key itself. Shown this once.")
    app: str
    name: str
    scopes: list[str]
    created_at: str


class Keys(_Answer):
    items: list[Key]
    next_cursor: str | None


class MqttAccess(_Answer):
    """What the device's MQTT client needs."""

    host: str
    port: int
    tls: bool
    websocket: str = Field(description="The same over WebSocket, for browsers: a whole URL.")
    client_id: str
    username: str
    password: str
    topics: dict[str, str]


class EnrolledDevice(_Answer):
    device_id: str
    token: str = Field(description="Shown this once.")
    mqtt: MqttAccess


class RefusedDevice(_Answer):
    device_id: str | None
    error: ProblemDocument


class EnrolledDevices(_Answer):
    devices: list[EnrolledDevice | RefusedDevice]


class Device(_Answer):
    device_id: str
    name: str | None
    tags: list[str]
    attributes: dict[str, Any]
    locale: str | None
    timezone: str | None
    created_at: str
    updated_at: str
    online: bool
    address: str | None = Field(description="HOST:PORT it is connected from; null while offline.")
    connected_at: str | None = Field(description="Start of the last connection, which lasts if `online`.")
    last_seen: str | None
    last_error: str | None
    last_error_at: str | None
    consent: str
    channels: dict[str, bool]


class Devices(_Answer):
    items: list[Device]
    next_cursor: str | None


class WaitingPush(_Answer):
    push_id: str
    state: str = Field(description="`waiting`, or `sent` while it is in flight.")
    priority: str
    kind: str
    collapse_key: str | None
    sent_at: str
    expires_at: str
    size: int = Field(description="Bytes on the wire.")
    not_before: str | None = Field(description="Deferred by caps or quiet hours: judged again then.")
    attempts: int = Field(description="Times that it was sent and the device did not take it.")


class Mailbox(_Answer):
    items: list[WaitingPush]
    next_cursor: str | None


class EmptiedMailbox(_Answer):
    cancelled: int


class UplinkMessage(_Answer):
    topic: str = Field(description="Below `uplink/`.")
    received_at: str
    payload: str | None = Field(default=None, description="If it is UTF-8, and not above all control characters.")
    payload_base64: str | None = Field(default=None, description="If it is not.")


class Uplink(_Answer):
    items: list[UplinkMessage]
    next_cursor: str | None


class AcceptedPush(_Answer):
    push_id: str
    targeted: int
    suppressed: int
    unknown: list[str]


class Forecast(_Answer):
    targeted: int
    online: int
    suppressed: dict[str, int] = Field(description="By reason.")
    unknown: list[str]


class Counts(_Answer):
    """Exclusive: the states sum to `targeted`."""

    targeted: int
    waiting: int
    sent: int
    delivered: int
    displayed: int
    dismissed: int
    opened: int
    acted: int
    expired: int
    superseded: int
    cancelled: int
    suppressed: int
    overflowed: int
    refused: int
    revoked: int


class Reached(_Answer):
    """Cumulative: an opened one was displayed and delivered."""

    delivered: int
    displayed: int
    opened: int
    acted: int


class Push(_Answer):
    push_id: str
    target: dict[str, Any]
    kind: str
    priority: str
    qos: int
    ttl: int
    collapse_key: str | None = None
    channel: str | None = None
    notification: dict[str, Any] | None = None
    data: Any = None
    deadline: int | None = None
    fetch_from: str | None = Field(None, description="Whose addresses its devices show their credential to.")
    fetch_within: int | None = Field(None, description="Seconds over which its devices fetch what belongs to it.")
    sent_at: str
    expires_at: str
    recalled_at: str | None
    targeted: int
    suppressed: int
    counts: Counts
    reached: Reached


class Pushes(_Answer):
    items: list[Push]
    next_cursor: str | None


class Delivery(_Answer):
    device_id: str | None
    state: str
    reason: str | None
    qos: int | None = Field(description="Effective: min(asked for, granted); null until handed over.")
    delivered_at: str | None
    displayed_at: str | None
    dismissed_at: str | None
    opened_at: str | None
    acted_at: str | None
    ended_at: str | None = Field(description="When it ended without delivery.")
    replaced_by: str | None = Field(description="The digest that it went into.")
    attempts: int = Field(description="Times that it was sent and the device did not take it.")
    not_before: str | None = Field(description="It waits because of caps or quiet hours, and is judged again then.")
    action: str | None
    result: Any


class Deliveries(_Answer):
    items: list[Delivery]
    next_cursor: str | None


class Recall(_Answer):
    cancelled: int = Field(description="Taken back while they waited.")
    in_flight: int = Field(description="Handed over, outcome open; lost ones will end `cancelled`.")
    too_late: int = Field(description="Delivered.")


class Health(_Answer):
    status: str


class Cap(_Answer):
    count: int
    per: str


class Caps(_Answer):
    limits: list[Cap]
    excess: str


class Hours(_Answer):
    start: str
    end: str


class QuietHours(Hours):
    excess: str


class CriticalPolicy(_Answer):
    per_day: int


class Channel(_Answer):
    id: str
    name: str
    description: str | None
    importance: str
    sound: str | None
    may_mute: bool
    caps: Caps | None
    quiet_hours: QuietHours | None
    created_at: str
    updated_at: str


class Channels(_Answer):
    items: list[Channel]
    next_cursor: str | None


class WhenDenied(_Answer):
    in_app: str
    silent: str
    command: str


class ConsentPolicy(_Answer):
    unknown: str
    denied: WhenDenied


class Policy(_Answer):
    consent: ConsentPolicy
    caps: Caps | None
    quiet_hours: QuietHours | None
    timezone: str
    critical: CriticalPolicy


class ChannelChoice(_Answer):
    """`name` and what follows it only for channels that were made."""

    id: str
    name: str | None = None
    description: str | None = None
    importance: str | None = None
    sound: str | None = None
    may_mute: bool | None = None
    caps: Caps | None = None
    quiet_hours: QuietHours | None = None
    muted: bool


class Preferences(_Answer):
    consent: str
    channels: list[ChannelChoice]
    quiet_hours: Hours | None
    timezone: str
    seq: int | None
    changed_at: str | None


class ConsentRecord(_Answer):
    consent: str
    text_version: str | None
    client: str | None
    source: str = Field(description="`mqtt`, `http` (the device), `operator`, or `push` (an action of a push).")
    seq: int | None
    recorded_at: str


class ConsentRecords(_Answer):
    items: list[ConsentRecord]


class CriticalUse(_Answer):
    device_id: str | None = Field(description="null: the device was removed.")
    push_id: str | None = Field(description="null: the push left by retention.")
    passed: str = Field(description="The reason another push would have been held for.")
    at: str


class CriticalUses(_Answer):
    items: list[CriticalUse]
    next_cursor: str | None


class CallAnswer(_Answer):
    status: str = Field(description="`answered`, `queued` (no answer yet), or `ended` (it will not be carried out).")
    push_id: str
    state: str
    reason: str | None
    result: Any


class Rates(_Answer):
    """`delivered` of the eligible; of what people see, `alert` and `in_app`, each as a share of the stage before, and
    `opted_out` of the delivered; `acted` of the delivered if nothing of it is seen. null: nothing that it could
    be a share of."""

    delivered: float | None
    displayed: float | None
    opened: float | None
    acted: float | None
    opted_out: float | None


class Percentiles(_Answer):
    p50: int
    p90: int
    p99: int


class Stages(_Answer):
    targeted: int
    eligible: int = Field(description="Targeted, without what was suppressed.")
    delivered: int
    displayed: int
    dismissed: int
    opened: int
    acted: int
    opted_out: int
    rates: Rates
    time_to_deliver_ms: Percentiles | None
    time_to_open_ms: Percentiles | None


class PushFunnel(Stages):
    push_id: str
    counted_at: str


class Funnel(Stages):
    """One of `channel`, `tag` and `hour`; a channel of null is none."""

    channel: str | None = None
    tag: str | None = None
    hour: str | None = None


class Funnels(_Answer):
    items: list[Funnel] = Field(description="The 1,000 with most deliveries, if there are more.")
    limited: bool = Field(
        description="There may be more tags than are counted: 500 of a push, and in an hour; or hours before "
        "`counted_from`."
    )
    counted_from: str | None = Field(
        description="There was no time to add up the hours before this one: ask for them with `from` and `to`."
    )
    uncounted: int = Field(description="Pushes that have changed and will be counted soon.")


class Webhook(_Answer):
    id: str
    url: str
    types: list[str]
    description: str | None
    enabled: bool
    disabled_at: str | None
    disabled_reason: str | None
    succeeded_at: str | None = Field(description="The last time that the receiver took something.")
    failed_at: str | None
    last_error: str | None
    dead_letters_dropped: int = Field(description="The oldest of more than 1,000, or of more than 32 MiB.")
    created_at: str
    updated_at: str


class NewWebhook(Webhook):
    secret: str = Field(description="Shown this once.")


class Webhooks(_Answer):
    items: list[Webhook]
    next_cursor: str | None


class DeadLetter(_Answer):
    id: str
    events: list[dict[str, Any]]
    attempts: int
    error: str
    at: str
    replaying: bool


class DeadLetters(_Answer):
    items: list[DeadLetter]
    next_cursor: str | None


class Replayed(_Answer):
    replaying: int


class Attachment(_Answer):
    id: str = Field(description="The SHA-256 of its bytes; pushes refer to it as `attachment:ID`.")
    url: str
    content_type: str
    size: int
    created_at: str
    expires_at: str
