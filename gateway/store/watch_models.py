"""The tables of heartbeats and watches: a part of `models`, with its conventions."""

from __future__ import annotations

from sqlalchemy import Column, Index, Text
from sqlmodel import Field, SQLModel


class HeartbeatRow(SQLModel, table=True):
    """A heartbeat of an app: devices that are to answer every minute (`delivery/heartbeat_states`)."""

    __tablename__ = "heartbeat"
    __table_args__ = (Index("heartbeat_next", "next_at"), {"sqlite_with_rowid": False})
    app_no: int = Field(primary_key=True)
    id: str = Field(primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))
    """`delivery.heartbeat_states.HeartbeatFields` as JSON."""
    next_at: int
    """Time of the next beat."""
    beat_at: int | None = None
    """Time of the last beat, until it is evaluated; None: there is none."""
    push_no: int | None = None
    """Number of its push; None: no device was there to be sent it."""
    created_at: int
    updated_at: int


class HeartbeatDevice(SQLModel, table=True):
    """A device of a heartbeat, and what became of its last beats."""

    __tablename__ = "heartbeat_device"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    heartbeat: str = Field(primary_key=True)
    device_no: int = Field(primary_key=True)
    state: str
    """`store.deliveries.heartbeats.HeartbeatState`."""
    streak: int
    """Beats in a row that were missed or late."""
    answered_at: int | None = None
    took_ms: int | None = None
    changed_at: int


class WatchRow(SQLModel, table=True):
    """A watch of an app: what is sent at least how often (`delivery/watches`)."""

    __tablename__ = "watch"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    id: str = Field(primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))
    """`delivery.watches.WatchFields` as JSON."""
    due_at: int
    heard_at: int | None = None
    silent_at: int | None = None
    created_at: int
    updated_at: int
