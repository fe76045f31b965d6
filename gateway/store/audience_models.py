"""Tables about who a push may be for; `models` has the conventions."""

from __future__ import annotations

from sqlalchemy import Index
from sqlmodel import Field, SQLModel


class DeviceTag(SQLModel, table=True):
    """One tag of one device."""

    __tablename__ = "device_tag"
    __table_args__ = (
        Index("device_tag_of_device", "device_no"),
        {"sqlite_with_rowid": False},
    )
    app_no: int = Field(primary_key=True)
    tag: str = Field(primary_key=True)
    device_no: int = Field(primary_key=True)


class SavedSegment(SQLModel, table=True):
    """An expression over devices, with a name (`audience/segments`)."""

    __tablename__ = "saved_segment"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    id: str = Field(primary_key=True)
    expression: str
    created_at: int
    updated_at: int


class DeviceTopic(SQLModel, table=True):
    """One device in one topic."""

    __tablename__ = "device_topic"
    __table_args__ = (
        Index("device_topic_of_device", "device_no"),
        {"sqlite_with_rowid": False},
    )
    app_no: int = Field(primary_key=True)
    topic: str = Field(primary_key=True)
    device_no: int = Field(primary_key=True)
    joined_at: int


class AlertUse(SQLModel, table=True):
    """An alert that was let through to a device whose app counts them, for a week."""

    __tablename__ = "alert_use"
    __table_args__ = ({"sqlite_with_rowid": False},)
    device_no: int = Field(primary_key=True)
    push_no: int = Field(primary_key=True)
    channel: str | None = None
    at: int


class CriticalUse(SQLModel, table=True):
    """A critical push that passed a rule which would have held another one."""

    __tablename__ = "critical_use"
    __table_args__ = (
        Index("critical_use_of_device", "device_no", "at"),
        Index("critical_use_of_app", "app_no", "no"),
        Index("critical_use_age", "at"),
    )
    no: int | None = Field(default=None, primary_key=True)
    app_no: int
    device_no: int
    push_no: int
    passed: str
    """The reason another push would have been suppressed or deferred for."""
    at: int
    """Time when it was let through, the last time."""
