"""The tables of forecasts: a part of `models`, with its conventions."""

from __future__ import annotations

from sqlalchemy import BLOB, Column
from sqlmodel import Field, SQLModel


class PresenceHour(SQLModel, table=True):
    """A segment of the devices that were connected in an hour (`analytics/presence_hours`)."""

    __tablename__ = "presence_hour"
    # With a rowid, as `DeviceSet`.
    hour: int = Field(primary_key=True)
    """Hours of server time since the Unix epoch."""
    segment: int = Field(primary_key=True)
    """Bits of the numbers above `device_sets.SEGMENT_BITS`. Segment 0 is there for each hour in which the
    server ran."""
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """Roaring bitmap of device numbers."""


class PushForecast(SQLModel, table=True):
    """The forecast that a push was sent with (`analytics/forecasts`)."""

    __tablename__ = "push_forecast"
    push_no: int | None = Field(default=None, primary_key=True)
    made_at: int
    likely: int
    will_expire: int
    unknown_presence: int
