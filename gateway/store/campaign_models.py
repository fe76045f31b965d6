"""The tables of campaigns: a part of `models`, with its conventions."""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Index, Text, text
from sqlmodel import Field, SQLModel


class CampaignRow(SQLModel, table=True):
    """A push with a plan, and how far it has come (`store/plans/campaigns`)."""

    __tablename__ = "campaign"
    __table_args__ = (
        Index("campaign_of_app", "app_no", "no"),
        Index(
            "campaign_key",
            "app_no",
            "idempotency_key",
            unique=True,
            sqlite_where=text("idempotency_key IS NOT NULL"),
        ),
        Index("campaign_under_way", "app_no", sqlite_where=text("ended_at IS NULL")),
        Index("campaign_to_clear", "no", sqlite_where=text("cleared = 0")),
        Index("campaign_ended", "ended_at", sqlite_where=text("ended_at IS NOT NULL")),
    )
    no: int | None = Field(default=None, primary_key=True)
    app_no: int
    id: str = Field(unique=True)
    name: str
    content: str = Field(sa_column=Column(Text, nullable=False))
    """`plans.campaign_fields.CampaignRequest` as JSON."""
    state: str
    """`store.plans.campaigns.CampaignState`."""
    phase: str
    """`store.plans.campaigns.Phase`: what it does, or will go on with when it is resumed."""
    group_no: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """The present group, from 0 on."""
    reason: str | None = None
    """Why it has paused, or has ended as it did, for people."""
    key_id: str
    """Id of the key that made it."""
    idempotency_key: str | None = None
    body_hash: bytes | None = Field(default=None, sa_column=Column(BLOB))
    """SHA-256 of the body that it was made of, with the idempotency key."""
    approved_by: str | None = None
    """Id of the key that approved it."""
    start_at: int
    """Time on the wall's clock from which on it may start."""
    created_at: int
    started_at: int | None = None
    """Time at which its target was frozen."""
    group_at: int | None = None
    """Time at which the present group began to be sent."""
    observed_from: int | None = None
    """Time from which on the present group is watched: all of it was sent, or the campaign was resumed."""
    paused_at: int | None = None
    ended_at: int | None = None
    targeted: int
    """Devices of its target: as it was when it was made, until it is frozen."""
    plan: str | None = Field(default=None, sa_column=Column(Text))
    """`plans.campaign_fields.Plan` as JSON, once the target is frozen."""
    overruled: str = Field(default="{}", sa_column=Column(Text, nullable=False, server_default="{}"))
    """Conditions that have stopped it and were overruled, and what they counted then, as JSON."""
    cleared: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    """0: it has ended, and something has still to be taken back or removed."""


class CampaignSet(SQLModel, table=True):
    """The devices of one segment in a part that was not sent, or in the holdout, as a set."""

    __tablename__ = "campaign_set"
    # With a rowid, as `DeviceSet`.
    campaign_no: int = Field(primary_key=True)
    group_no: int = Field(primary_key=True)
    """-1: the holdout."""
    variant_no: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    """Device numbers without their last 16 bits."""
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """Device numbers, a serialized roaring bitmap."""


class CampaignPart(SQLModel, table=True):
    """A part of a campaign that was sent: a push to a variant of a group."""

    __tablename__ = "campaign_part"
    __table_args__ = (Index("campaign_part_push", "push_no", unique=True), {"sqlite_with_rowid": False})
    campaign_no: int = Field(primary_key=True)
    group_no: int = Field(primary_key=True)
    variant_no: int = Field(primary_key=True)
    push_no: int
    recalled: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    failed: int | None = None
    """Results with an error, counted when the campaign ended: the deliveries leave before it does."""
