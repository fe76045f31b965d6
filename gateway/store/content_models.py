"""The tables of templates, and of pushes with several texts: a part of `models`, with its conventions."""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Text
from sqlmodel import Field, SQLModel


class TemplateRow(SQLModel, table=True):
    """A saved template of an app, and which of its versions is used (`content/templates`)."""

    __tablename__ = "template"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int
    """The newest."""
    created_at: int
    updated_at: int


class TemplateVersion(SQLModel, table=True):
    """A version of a template, which never changes."""

    __tablename__ = "template_version"
    app_no: int = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))
    """`delivery.push_template.TemplateFields` as JSON."""
    size: int
    """Bytes of it."""
    created_at: int


class PushTemplate(SQLModel, table=True):
    """The template that a push was made with."""

    __tablename__ = "push_template"
    push_no: int | None = Field(default=None, primary_key=True)
    name: str
    version: int


class PushText(SQLModel, table=True):
    """One of several texts of a push (`store/deliveries/push_texts`); a push with one has it in `Push.content`."""

    __tablename__ = "push_text"
    push_no: int = Field(primary_key=True)
    text_no: int = Field(primary_key=True)
    """From 1 on."""
    content: str = Field(sa_column=Column(Text, nullable=False))
    """As `Push.content`."""
    size: int
    """Bytes of the wire payload at its largest."""
    devices: int
    """Devices that it is for."""


class PushTextSet(SQLModel, table=True):
    """The devices of one segment that a text is for."""

    __tablename__ = "push_text_set"
    # With a rowid, as `DeviceSet`.
    push_no: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    """Device numbers without their last 16 bits."""
    text_no: int = Field(primary_key=True)
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """Device numbers, a serialized roaring bitmap."""
