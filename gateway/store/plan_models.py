"""The tables of pushes with a plan: a part of `models`, with its conventions.

Two kinds of times are not server time: *instants*, milliseconds of the clock on the wall, and *dates*
(`plans/timing.py`). Their columns do not end with `_at`: nothing shifts them when stored times are mended.
"""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Index, Text, text
from sqlmodel import Field, SQLModel


class PlanPart(SQLModel, table=True):
    """A push that is a part of a run of a plan (`deliveries/plan_parts`)."""

    __tablename__ = "plan_part"
    __table_args__ = (Index("plan_part_of_run", "kind", "run_no", "push_no"),)
    push_no: int | None = Field(default=None, primary_key=True)
    kind: str
    """`deliveries.plan_parts.PlanKind`."""
    plan_id: str
    """The plan's id in the API."""
    run_no: int


class PlanWaiting(SQLModel, table=True):
    """A segment of the devices that have not had their part of a run (`store/plans/waiting_devices`)."""

    __tablename__ = "plan_waiting"
    # With a rowid, as `device_set`.
    kind: str = Field(primary_key=True)
    run_no: int = Field(primary_key=True)
    segment: int = Field(primary_key=True)
    """Bits of the numbers above `device_sets.SEGMENT_BITS`."""
    devices: bytes = Field(sa_column=Column(BLOB, nullable=False))
    """Roaring bitmap of device numbers. Never empty."""


class Schedule(SQLModel, table=True):
    """A push with dates (`store/plans/schedules`)."""

    __tablename__ = "schedule"
    __table_args__ = (
        Index("schedule_of_app", "app_no", "no"),
        Index("schedule_wake", "wake", sqlite_where=text("wake IS NOT NULL")),
        Index("schedule_ended", "ended_at", sqlite_where=text("ended_at IS NOT NULL")),
        {"sqlite_autoincrement": True},
    )
    no: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    app_no: int
    name: str | None = None
    push: str = Field(sa_column=Column(Text, nullable=False))
    """`delivery.push.PushRequest` as JSON, with the fields that say when."""
    missed: str
    """`catch_up` or `skip`."""
    state: str
    """`store.plans.schedules.ScheduleState`."""
    since: int
    """Instant at which it was made, changed or resumed."""
    last_date: int | None = None
    """The date that was begun or skipped last."""
    used: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Dates that there were."""
    asked: int | None = None
    """Instant at which somebody wanted a run at once; None: it has begun, or nobody does."""
    wake: int | None = None
    """Instant at which it has to be looked at again; None: nothing is due any more."""
    version: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Counts its changes: what a look has found is noted only if there was none meanwhile."""
    failures: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Runs in a row that have failed."""
    created_at: int
    updated_at: int
    ended_at: int | None = None


class ScheduleRun(SQLModel, table=True):
    """A date of a schedule that has come due, or was skipped."""

    __tablename__ = "schedule_run"
    __table_args__ = (
        Index("schedule_run_of", "schedule_no", "no"),
        Index("schedule_run_running", "schedule_no", sqlite_where=text("state = 'running'")),
        {"sqlite_autoincrement": True},
    )
    no: int | None = Field(default=None, primary_key=True)
    schedule_no: int
    date: int | None = None
    """None: somebody wanted it at once."""
    due: int
    """Instant at which it was due first."""
    state: str
    """`store.plans.schedules.RunState`."""
    reason: str | None = None
    problem: str | None = None
    push: str | None = Field(default=None, sa_column=Column(Text))
    """The push as it was when the run began, as JSON, until it ends."""
    missed: str | None = None
    since: int | None = None
    slices: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    """Slices of time that its devices are spread over."""
    targeted: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Devices that it began with."""
    left_out: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Devices that it left out because it was too late for them."""
    skipped_dates: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Dates before it that were skipped with it."""
    started_at: int
    ended_at: int | None = None
