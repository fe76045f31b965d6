"""The tables of alerts by day, and of caps that adapt to what they do: a part of `models`, with its conventions."""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Index, Text
from sqlmodel import Field, SQLModel


class AlertDay(SQLModel, table=True):
    """Sets of a segment's devices that had alerts on a day, or whose people did something (`analytics/alert_days`).

    For RECENT_DAYS.
    """

    __tablename__ = "alert_day"
    __table_args__ = (Index("alert_day_age", "day"),)  # with a rowid, as `DeviceSet`
    app_no: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    day: int = Field(primary_key=True)
    """Days since the Unix epoch, UTC."""
    channel: str = Field(primary_key=True)
    """Empty: alerts without a channel; of `opted_out`, consent."""
    measure: str = Field(primary_key=True)
    """`alerts`, `opened`, `dismissed`: counts (`analytics/alert_counts`). `times`: those who opened, by the step of the
    time that it took. `opted_out`: a set."""
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """Roaring bitmap of places in the segment, stacked by digit or step."""


class FatigueDay(SQLModel, table=True):
    """Sums of a day by bucket of devices that had about as many alerts: of a channel, a tag, or the app (`all`)."""

    __tablename__ = "fatigue_day"
    __table_args__ = (Index("fatigue_day_age", "day"), {"sqlite_with_rowid": False})
    app_no: int = Field(primary_key=True)
    dimension: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    day: int = Field(primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))


class FatiguePositionRow(SQLModel, table=True):
    """One row: how far the event log was followed, and the last day that was summed up (`analytics/alert_days`)."""

    __tablename__ = "fatigue_position"
    no: int | None = Field(default=None, primary_key=True)
    event_no: int
    closed_day: int


class AdaptedCapRow(SQLModel, table=True):
    """The present step of a channel's adaptive cap, and the figures that led to it (`delivery/adaptive_caps`)."""

    __tablename__ = "adapted_cap"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    channel: str = Field(primary_key=True)
    per_day: int
    content: str = Field(sa_column=Column(Text, nullable=False))
    """JSON of the last decision."""
    reviewed_day: int
    """The last day of which the figures have been looked at."""
    changed_at: int
