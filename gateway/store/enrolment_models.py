"""Tables of enrolment: the invitations by which devices enrol themselves. Conventions as in `models`."""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Index, Text
from sqlmodel import Field, SQLModel


class Invitation(SQLModel, table=True):
    """Leave for one device to enrol itself, by a code. Rows stay some weeks longer than the code is good for."""

    __tablename__ = "invitation"
    __table_args__ = (
        Index("invitation_of_app", "app_no", "no"),
        Index("invitation_of_batch", "batch"),
        Index("invitation_expires", "expires_at"),
        {"sqlite_autoincrement": True},
    )
    no: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    batch: str
    """Id that all have which one request has made."""
    app_no: int = Field(foreign_key="application.no")
    code_hash: bytes = Field(sa_column=Column(BLOB, nullable=False, unique=True))
    """SHA-256 of the code, without its hyphens."""
    device: str = Field(sa_column=Column(Text, nullable=False))
    """`devices.NewDevice` as JSON, as far as it was given."""
    created_at: int
    created_by: str
    """Id of the key that made it."""
    expires_at: int
    used_at: int | None = None
    device_no: int | None = None
    """The device that it has become."""
    nonce_hash: bytes | None = Field(default=None, sa_column=Column(BLOB))
    """SHA-256 of the nonce that the device gave when it used the code."""
    answers: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Tokens that were given for the code, the first included."""
