"""The index of device attributes: a part of `models`, with its conventions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BLOB, Column, Connection, Index, MetaData, event
from sqlmodel import Field, SQLModel

from gateway.store.attribute_index import ATTRIBUTE_TRIGGERS


class DeviceAttribute(SQLModel, table=True):
    """An attribute of a live device, as expressions find it (`attribute_index`). Written by triggers alone."""

    __tablename__ = "device_attribute"
    __table_args__ = (Index("device_attribute_of_device", "device_no"), {"sqlite_with_rowid": False})
    app_no: int = Field(primary_key=True)
    name: str = Field(primary_key=True)
    """Empty: the device is crowded."""
    value: Any = Field(sa_column=Column(BLOB, primary_key=True, nullable=False))
    """Text, number, or a blob that is a boolean. BLOB is the column's affinity: nothing is converted."""
    device_no: int = Field(primary_key=True)


@event.listens_for(SQLModel.metadata, "after_create")
def _create_triggers(_: MetaData, connection: Connection, **__: Any) -> None:
    for trigger in ATTRIBUTE_TRIGGERS:
        connection.exec_driver_sql(trigger)
