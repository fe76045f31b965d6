"""Tables of people: the sessions of the console. Conventions as in `models`."""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Index
from sqlmodel import Field, SQLModel


class StoredSession(SQLModel, table=True):
    """A person's session at the console, as it survives a restart. The server's memory is ahead of it by a minute."""

    __tablename__ = "console_session"
    __table_args__ = (Index("console_session_of_key", "key_no"),)
    no: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    token_hash: bytes = Field(sa_column=Column(BLOB, nullable=False, unique=True))
    """SHA-256 of the cookie's value."""
    app_no: int = Field(foreign_key="application.no")
    key_no: int | None = Field(default=None, foreign_key="api_key.no")
    """The key that it was begun with, and ends with; NULL: an identity provider vouched for the person."""
    person_id: str | None = None
    """The person whom an identity provider vouched for (`u_..`)."""
    name: str
    """Name of the key, or of the person."""
    scopes: str
    """Space-separated subset of `send read devices admin`."""
    created_at: int
    used_at: int
    """The last request, as far as it has been stored."""
    ends_at: int
    """When it ends however much it is used."""
