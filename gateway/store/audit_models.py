"""The tables of the audit log: a part of `models`, with its conventions."""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Text
from sqlmodel import Field, SQLModel


class AuditEntryRow(SQLModel, table=True):
    """An entry of an app's audit log (`store/audit_entries`). Only its oldest leave."""

    __tablename__ = "audit_entry"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    """1 for the first entry of the app, and no gaps."""
    at: int
    """Milliseconds of the wall clock when it was written, and no server time: what is hashed must not change when
    the clock is set right."""
    actor: str
    action: str
    object: str
    address: str
    result: str
    details: str = Field(sa_column=Column(Text, nullable=False))
    """JSON object."""
    hash: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """`audit_chain` says of what."""


class AuditChainRow(SQLModel, table=True):
    """The two ends of an app's audit log."""

    __tablename__ = "audit_chain"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    base_seq: int
    """The last entry that has left, 0 if none has; with its hash, from which the first one that is kept follows."""
    base_hash: bytes = Field(sa_column=Column(BLOB, nullable=False))
    seq: int
    """The last entry."""
    hash: bytes = Field(sa_column=Column(BLOB, nullable=False))
    size: int
    """Bytes of the entries that are kept (`audit_entries.size_of`)."""
