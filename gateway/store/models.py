"""Every table of the gateway on one page, but for those of `duty_models` and the other modules beside it.

Conventions: `no` is the internal integer key, `id` the public name. Times are integer milliseconds of server time
(Unix epoch, UTC). JSON is stored as text. Statements are written in SQL against these names, in the packages beside
this module; the classes are what migrations are compared with.

Two choices carry the speed. `delivery` is WITHOUT ROWID, clustered by (push_no, device_no), so a fan-out appends and
its acknowledgements touch neighbouring rows. The mailbox is a *partial* index over waiting deliveries only: it is the
device's queue in mailbox order, and history costs it nothing.

The deliveries of a push to many devices are sets (`waiting_set`, `outcome_set`) until something is true of one alone;
`deliveries/delivery_sets.py` explains them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BLOB, Column, Connection, Index, Table, Text, event, text
from sqlmodel import Field, SQLModel

from gateway.delivery_states import MISSED
from gateway.store import (
    attribute_models,
    audience_models,
    audit_models,
    campaign_models,
    content_models,
    duty_models,
    enrolment_models,
    fatigue_models,
    forecast_models,
    people_models,
    plan_models,
    watch_models,
)  # fmt: skip
from gateway.store.deliveries.conditions import COUNTED_TRIGGER, IS_WAITING, is_one_of

_DEFINED_BY_IMPORT = (
    attribute_models, audience_models, audit_models, campaign_models, content_models, duty_models,
    enrolment_models, fatigue_models, forecast_models, people_models, plan_models, watch_models,
)  # fmt: skip


class Application(SQLModel, table=True):
    """A tenant."""

    __tablename__ = "application"
    no: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    created_at: int
    events_lost_to: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Number of the last of its entries of the event log that retention has removed."""
    events_lost_place: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Place of the last event in that entry."""


class ApiKey(SQLModel, table=True):
    """A key of an app: its hash and its scopes."""

    __tablename__ = "api_key"
    no: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    app_no: int = Field(foreign_key="application.no", index=True)
    name: str
    scopes: str
    """Space-separated subset of `send read devices admin`."""
    secret_hash: bytes = Field(sa_column=Column(BLOB, nullable=False, unique=True))
    """SHA-256 of the whole key."""
    created_at: int
    revoked_at: int | None = None


class Device(SQLModel, table=True):
    """An enrolled device. A removed one keeps its row (id only) while deliveries refer to it; the id may be enrolled
    anew."""

    __tablename__ = "device"
    __table_args__ = (
        Index(
            "device_id_of_app",
            "app_no",
            "id",
            unique=True,
            sqlite_where=text("removed_at IS NULL"),
        ),
        Index("device_token_expires", "token_expires_at", sqlite_where=text("token_expires_at IS NOT NULL")),
        Index("device_zone", "app_no", "timezone", sqlite_where=text("timezone IS NOT NULL AND removed_at IS NULL")),
        Index("device_removed", "removed_at", sqlite_where=text("removed_at IS NOT NULL")),
        Index("device_with_quiet_hours", "app_no", sqlite_where=text("quiet_hours IS NOT NULL")),
        Index("device_restricted", "app_no", "no", sqlite_where=text("consent = 'denied' OR channels <> '{}'")),
        {"sqlite_autoincrement": True},
    )
    no: int | None = Field(default=None, primary_key=True)
    app_no: int = Field(foreign_key="application.no")
    id: str
    name: str | None = None
    attributes: str = Field(default="{}", sa_column=Column(Text, nullable=False, server_default="{}"))
    locale: str | None = None
    timezone: str | None = None
    token_hash: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """SHA-256 of the whole token; empty for a removed device."""
    created_at: int
    updated_at: int
    removed_at: int | None = None
    connected_at: int | None = None
    """Start of the last connection; whether it still lasts is known in memory only."""
    last_seen: int | None = None
    last_error: str | None = None
    last_error_at: int | None = None
    consent: str = Field(default="unknown", sa_column_kwargs={"server_default": "unknown"})
    channels: str = Field(default="{}", sa_column=Column(Text, nullable=False, server_default="{}"))
    settings_seq: int | None = None
    settings_text_version: str | None = None
    settings_client: str | None = None
    settings_at: int | None = None
    quiet_hours: str | None = None
    """The person's own, `audience.frequency.Hours` as JSON."""
    gap_told_to: int | None = None
    """Server time up to which the device was told what ended without reaching it."""
    token_days: int | None = None
    """Lifetime of its tokens; NULL: they never end."""
    token_expires_at: int | None = None
    previous_token_hash: bytes | None = Field(default=None, sa_column=Column(BLOB))
    previous_token_until: int | None = None


class ConsentRecord(SQLModel, table=True):
    """Proof of what a person has answered, and when: one row for each answer, as the server heard it."""

    __tablename__ = "consent_record"
    __table_args__ = (
        Index("consent_record_of_device", "device_no", "no"),
        Index("consent_denied", "recorded_at", sqlite_where=text("consent = 'denied'")),
    )
    no: int | None = Field(default=None, primary_key=True)
    device_no: int
    consent: str
    text_version: str | None = None
    """Version of the text that asked."""
    client: str | None = None
    """The program that asked."""
    source: str
    """Source of the answer: `mqtt`, `http` (by the device), `operator`, or `push` (an action of a push)."""
    seq: int | None = None
    recorded_at: int


class AppPolicy(SQLModel, table=True):
    """The policy of an app, as JSON."""

    __tablename__ = "app_policy"
    app_no: int = Field(primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))
    """`audience.policy.Policy` as JSON."""
    updated_at: int


class RuleChange(SQLModel, table=True):
    """The rules of an app have changed, and not all that waits has been put under them (`delivery/rule_changes`)."""

    __tablename__ = "rule_change"
    app_no: int = Field(primary_key=True)
    number: int
    """Number of the last change, counted by `audience.policy.PolicyStore`."""


class ChannelRow(SQLModel, table=True):
    """A channel of an app, as JSON."""

    __tablename__ = "channel"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    id: str = Field(primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))
    """`audience.policy.ChannelFields` as JSON."""
    created_at: int
    updated_at: int


class DeviceSet(SQLModel, table=True):
    """A segment of a set of devices: all live ones of an app, those of a tag or of a topic (`device_sets`)."""

    __tablename__ = "device_set"
    # With a rowid: without one SQLite compares keys with whole rows, bitmaps included, to find one.
    app_no: int = Field(primary_key=True)
    tag: str = Field(primary_key=True)
    """Empty: all live devices. A topic's begins with a slash."""
    segment: int = Field(primary_key=True)
    """Bits of the numbers above `device_sets.SEGMENT_BITS`."""
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """Roaring bitmap of device numbers, in its portable form. Never empty."""


class Push(SQLModel, table=True):
    """A push as it was accepted."""

    __tablename__ = "push"
    __table_args__ = (
        Index("push_unfinished", "expires_at", sqlite_where=text("closed_at IS NULL")),
        Index("push_to_sweep", "closed_at", sqlite_where=text("swept_at IS NULL AND closed_at IS NOT NULL")),
        Index("push_to_bury", "swept_at", sqlite_where=text("gone_at IS NULL AND swept_at IS NOT NULL")),
        Index("push_to_forget", "gone_at", sqlite_where=text("gone_at IS NOT NULL")),
        Index("push_of_app", "app_no", "no"),
        Index(
            "push_collapse",
            "app_no",
            "collapse_key",
            "no",
            sqlite_where=text("collapse_key IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )
    no: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    app_no: int = Field(foreign_key="application.no")
    """0 of a beat, which is the server's own (`delivery/heartbeat_states`)."""
    kind: str
    priority: int
    """Index into `states.PRIORITIES`."""
    qos: int
    ttl: int
    """Seconds, as asked for."""
    collapse_key: str | None = None
    channel: str | None = None
    target: str = Field(sa_column=Column(Text, nullable=False))
    content: str = Field(sa_column=Column(Text, nullable=False))
    """JSON object with `notification` and `data`, each only if given."""
    size: int
    """Bytes of the wire payload at its largest; what a mailbox counts."""
    accepted_at: int
    expires_at: int
    recalled_at: int | None = None
    closed_at: int | None = None
    """Time when the last of its deliveries had ended, as far as noticed; always set soon after `expires_at`."""
    targeted: int
    suppressed: int = 0
    final_counts: str | None = None
    """JSON of the counts by state; set when retention removes the deliveries."""
    swept_at: int | None = None
    """`closed_at` again, once retention has removed all of its deliveries."""
    gone_at: int | None = None
    """Time when the counts went as well: the row is a tombstone, and the push answers 410 for as long as they were
    kept."""
    in_sets: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """1: its deliveries were stored as sets (`WaitingSet`), and their states are counted (`DeliveryCount`)."""
    key_id: str | None = None
    """The key that it was sent with, or another sender as the audit log calls it; None: the server made it by itself,
    of a plan or a duty, or it is of before the audit log."""


class FailedAttempt(SQLModel, table=True):
    """Count of the times that a delivery was sent to its device, which did not take it (`deliveries/attempts`)."""

    __tablename__ = "failed_attempt"
    __table_args__ = ({"sqlite_with_rowid": False},)
    push_no: int = Field(primary_key=True)
    device_no: int = Field(primary_key=True)
    count: int


class Delivery(SQLModel, table=True):
    """One push to one device; while waiting it is the entry of the device's mailbox."""

    __tablename__ = "delivery"
    __table_args__ = (
        Index(
            "delivery_mailbox",
            "device_no",
            "priority",
            "push_no",
            "size",
            sqlite_where=text(f"state {IS_WAITING}"),
        ),
        Index(
            "delivery_gated",
            "device_no",
            "priority",
            "push_no",
            "not_before",
            sqlite_where=text(f"state {IS_WAITING} AND not_before IS NOT NULL"),
        ),
        Index(
            "delivery_collapse",
            "collapse_key",
            "device_no",
            "push_no",
            sqlite_where=text(f"state {IS_WAITING} AND collapse_key IS NOT NULL"),
        ),
        Index("delivery_missed", "device_no", "ended_at", sqlite_where=text(f"state {is_one_of(*MISSED)}")),
        {"sqlite_with_rowid": False},
    )
    push_no: int = Field(primary_key=True)
    device_no: int = Field(primary_key=True)
    priority: int
    size: int
    state: int
    """`states.DeliveryState`."""
    reason: str | None = None
    qos: int | None = None
    """Effective QoS, once handed over."""
    delivered_at: int | None = None
    displayed_at: int | None = None
    dismissed_at: int | None = None
    opened_at: int | None = None
    acted_at: int | None = None
    ended_at: int | None = None
    """Time when it ended without delivery (first time)."""
    action: str | None = None
    result: str | None = None
    """JSON text of the device's result."""
    not_before: int | None = None
    """Time from which caps and quiet hours are checked at hand-over (`delivery/alert_limiter`); 0: at once. None: it
    goes out in its turn."""
    replaced_by: int | None = None
    """Number of the push that it was digested into."""
    collapse_key: str | None = None
    """The push's, of those that were waiting when they were accepted: for the index, where a newer push finds what it
    supersedes."""
    counted: int | None = None
    """1: the push was stored as sets, so its states are counted; the trigger `delivery_counted` does that for rows."""


class WaitingSet(SQLModel, table=True):
    """The devices of one segment for which a push waits, as a set: entries of their mailboxes."""

    __tablename__ = "waiting_set"
    __table_args__ = (
        # With a rowid, as `DeviceSet`.
        Index("waiting_set_mailbox", "segment", "app_no", "priority", "push_no"),
        Index("waiting_set_of_app", "app_no", "push_no", "count"),
    )
    push_no: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    """Device numbers without their last 16 bits."""
    app_no: int
    priority: int
    count: int
    """Devices in the set; at least 1."""
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """Device numbers, a serialized roaring bitmap."""


class OutcomeSet(SQLModel, table=True):
    """Devices of one segment whose deliveries of a push left the waiting set together. It never changes; a device that
    has a row in `delivery` is what that says."""

    __tablename__ = "outcome_set"
    __table_args__ = (
        Index("outcome_set_of_push", "push_no", "segment"),
        Index("outcome_set_missed", "segment", "at", sqlite_where=text(f"state {is_one_of(*MISSED)}")),
        {"sqlite_autoincrement": True},  # an event names the set for longer than it may be there
    )
    no: int | None = Field(default=None, primary_key=True)
    push_no: int
    segment: int
    state: int
    reason: str | None = None
    qos: int | None = None
    at: int
    """`delivered_at` or `ended_at` of each."""
    count: int
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))


class DeliveryCount(SQLModel, table=True):
    """Number of deliveries of a push in a state, rows included, if the push was stored as sets."""

    __tablename__ = "delivery_count"
    __table_args__ = ({"sqlite_with_rowid": False},)
    push_no: int = Field(primary_key=True)
    state: int = Field(primary_key=True)
    count: int


class DeepMailbox(SQLModel, table=True):
    """Devices of an app, of one segment, with many waiting rows: only those may get above a limit by sets.

    `delivery/mailbox_quota` explains it.
    """

    __tablename__ = "deep_mailbox"
    # With a rowid, as `DeviceSet`.
    app_no: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))


@event.listens_for(SQLModel.metadata.tables["delivery"], "after_create")
def _create_trigger(_: Table, connection: Connection, **__: Any) -> None:
    connection.exec_driver_sql(COUNTED_TRIGGER)


class PushFunnel(SQLModel, table=True):
    """The tally of a push when it was counted last, in all and by tag, as JSON (`delivery/analytics`)."""

    __tablename__ = "push_funnel"
    push_no: int | None = Field(default=None, primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))


class AnalyticsPosition(SQLModel, table=True):
    """One row: everything up to here has been counted (`delivery/analytics`)."""

    __tablename__ = "analytics_position"
    no: int | None = Field(default=None, primary_key=True)
    event_no: int
    push_no: int
    later: str = Field(sa_column=Column(Text, nullable=False))
    """Numbers of pushes that have not been, as a JSON array: large ones, which are counted by themselves."""


class Funnel(SQLModel, table=True):
    """The tallies of the pushes that were accepted in an hour, together: of a channel, a tag, or the app (`all`)."""

    __tablename__ = "funnel"
    __table_args__ = (Index("funnel_age", "hour"), {"sqlite_with_rowid": False})
    app_no: int = Field(primary_key=True)
    dimension: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    hour: int = Field(primary_key=True)
    """Hours since the Unix epoch, UTC."""
    content: str = Field(sa_column=Column(Text, nullable=False))


class EventEntry(SQLModel, table=True):
    """An entry of the event log (`deliveries/event_log`): about deliveries of a push, a device, or the app."""

    __tablename__ = "event"
    __table_args__ = (Index("event_of_app", "app_no", "no"), {"sqlite_autoincrement": True})
    no: int | None = Field(default=None, primary_key=True)
    app_no: int
    at: int
    type: str
    push_no: int | None = None
    """Number of the push, of an event of deliveries."""
    devices: str | None = Field(default=None, sa_column=Column(Text))
    """JSON array of the device numbers. Of connections: (device number, when, content) each."""
    reason: str | None = None
    device_no: int | None = None
    """Number of the device, of any other event of a device."""
    content: str | None = Field(default=None, sa_column=Column(Text))
    """JSON of what else there is to say of it."""
    size: int
    """Devices in it, as far as known."""
    outcome_no: int | None = None
    """Number of the outcome set that has the devices, instead of `devices`."""


class Webhook(SQLModel, table=True):
    """An address that an app has its events sent to."""

    __tablename__ = "webhook"
    __table_args__ = (Index("webhook_of_app", "app_no", "no"),)
    no: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    app_no: int
    url: str
    types: str = Field(sa_column=Column(Text, nullable=False))
    """JSON array of event types, `*` at the end allowed."""
    description: str | None = None
    secret: str
    """Secret as the receiver has it, `whsec_` and Base64: a signature needs it, so a hash would not do."""
    old_secret: str | None = None
    old_secret_until: int | None = None
    """Signed with both until then."""
    disabled_at: int | None = None
    disabled_reason: str | None = None
    succeeded_at: int | None = None
    failed_at: int | None = None
    last_error: str | None = None
    dropped: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Dead letters that had to make room for newer ones."""
    created_at: int
    updated_at: int


class WebhookLane(SQLModel, table=True):
    """The position up to which a part of the devices has been told of (`events/webhooks`)."""

    __tablename__ = "webhook_lane"
    __table_args__ = ({"sqlite_with_rowid": False},)
    webhook_no: int = Field(primary_key=True)
    lane: int = Field(primary_key=True)
    entry: int
    place: int
    attempts: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Attempts to send what comes next, all failed."""
    failing_since: int | None = None
    next_at: int = Field(default=0, sa_column_kwargs={"server_default": "0"})


class DeadLetter(SQLModel, table=True):
    """Events that a webhook's receiver would not take for a day."""

    __tablename__ = "dead_letter"
    __table_args__ = (Index("dead_letter_of_webhook", "webhook_no", "no"), Index("dead_letter_age", "at"))
    no: int | None = Field(default=None, primary_key=True)
    webhook_no: int
    events: str = Field(sa_column=Column(Text, nullable=False))
    attempts: int
    error: str
    at: int
    replay_at: int | None = None
    """Time of the next attempt, if somebody wants it sent again."""


class Attachment(SQLModel, table=True):
    """A file in the folder `attachments`, of an app; its name is its SHA-256."""

    __tablename__ = "attachment"
    __table_args__ = (Index("attachment_file", "id"),)
    app_no: int = Field(primary_key=True)
    id: str = Field(primary_key=True)
    content_type: str
    size: int
    created_at: int
    expires_at: int


class IdempotencyRecord(SQLModel, table=True):
    """The answer that a request with an idempotency key was given."""

    __tablename__ = "idempotency_record"
    __table_args__ = (
        Index("idempotency_record_age", "created_at"),
        {"sqlite_with_rowid": False},
    )
    app_no: int = Field(primary_key=True)
    key: str = Field(primary_key=True)
    body_hash: bytes = Field(sa_column=Column(BLOB, nullable=False))
    response: str = Field(sa_column=Column(Text, nullable=False))
    created_at: int


class UplinkMessage(SQLModel, table=True):
    """A message that a device said on `uplink`."""

    __tablename__ = "uplink_message"
    __table_args__ = (
        Index("uplink_of_device", "device_no", "no"),
        Index("uplink_age", "received_at"),
    )
    no: int | None = Field(default=None, primary_key=True)
    device_no: int
    topic: str
    """Below `uplink/`."""
    payload: bytes = Field(sa_column=Column(BLOB, nullable=False))
    received_at: int


class ReceivedMessage(SQLModel, table=True):
    """A QoS 2 message of a device (or a will) whose content is stored, until it cannot come again."""

    __tablename__ = "received_message"
    identifier: int | None = Field(default=None, primary_key=True)
    """Given by the broker: see `broker.events.BrokerEvents.published`."""


class ClockRow(SQLModel, table=True):
    """One row: the last stored server time, so that a restart never goes back (`no` = 1)."""

    __tablename__ = "clock"
    no: int | None = Field(default=None, primary_key=True)
    at: int
    boot_id: str | None = None
    """The machine's boot under which the server ran last; a run under the same one goes on exactly from it."""
    boot_origin: int | None = None
    """Server time at that boot."""
    boot_since: int | None = None
    """Server time at the first start under it."""


class ClockOffset(SQLModel, table=True):
    """Offset of the clock on the wall from server time, from a server time on (`store/server_time`)."""

    __tablename__ = "clock_offset"
    since: int | None = Field(default=None, primary_key=True)
    ahead: int
