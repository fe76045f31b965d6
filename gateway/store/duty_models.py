"""The tables of duties: a part of `models`, with its conventions."""

from __future__ import annotations

from sqlalchemy import Column, Index, Text, text
from sqlmodel import Field, SQLModel


class Duty(SQLModel, table=True):
    """A duty of an app, as JSON: who is told of what is urgent, one step after the other (`delivery/duties`)."""

    __tablename__ = "duty"
    __table_args__ = ({"sqlite_with_rowid": False},)
    app_no: int = Field(primary_key=True)
    id: str = Field(primary_key=True)
    content: str = Field(sa_column=Column(Text, nullable=False))
    """`delivery.duties.DutyFields` as JSON."""
    created_at: int
    updated_at: int


class Escalation(SQLModel, table=True):
    """A push to a duty, and how far it has come (`store/deliveries/escalations`)."""

    __tablename__ = "escalation"
    __table_args__ = (
        Index("escalation_due", "due_at", sqlite_where=text("due_at IS NOT NULL")),
        Index("escalation_of_app", "app_no", "collapse_key", sqlite_where=text("due_at IS NOT NULL")),
        # Ends with the row's number, as each index does: the newest of a state are its last.
        Index("escalation_of_state", "app_no", "state"),
        Index("escalation_to_clear", "push_no", sqlite_where=text("cleared = 0")),
    )
    push_no: int | None = Field(default=None, primary_key=True)
    """Number of the push that was sent to the duty, which is its first step."""
    app_no: int
    duty: str
    content: str = Field(sa_column=Column(Text, nullable=False))
    """The duty as it was when the push was accepted, `delivery.duties.DutyFields` as JSON."""
    collapse_key: str
    state: str
    """`store.deliveries.escalations.EscalationState`."""
    step: int
    """Number of the step that was sent last, from 0 on, over all rounds."""
    due_at: int | None = None
    """Time of the next step, or of the end; None: it has ended."""
    ended_at: int | None = None
    reason: str | None = None
    acted_push_no: int | None = None
    """Number of the push on which somebody acted."""
    acted_device: str | None = None
    """Id of the device on which somebody acted."""
    acted_event: str | None = None
    action: str | None = None
    cleared: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    """0: it has ended, and what was sent of it has not been taken back yet."""


class EscalationStep(SQLModel, table=True):
    """A step of an escalation that was sent: a push of its own."""

    __tablename__ = "escalation_step"
    __table_args__ = (Index("escalation_step_push", "push_no", unique=True), {"sqlite_with_rowid": False})
    escalation_no: int = Field(primary_key=True)
    """`Escalation.push_no`."""
    step: int = Field(primary_key=True)
    push_no: int
    left_out: int
    """Devices of its tag that were too many."""
