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
