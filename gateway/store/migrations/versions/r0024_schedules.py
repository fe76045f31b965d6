"""Schedules: pushes with dates, their runs, and the devices that wait for their parts.

Revision ID: 0024
Revises: 0023
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "plan_part",
        sa.Column("push_no", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("plan_id", sa.String(), nullable=False),
        sa.Column("run_no", sa.Integer(), nullable=False),
    )
    op.create_index("plan_part_of_run", "plan_part", ["kind", "run_no", "push_no"])
    op.create_table(
        "plan_waiting",
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("run_no", sa.Integer(), primary_key=True),
        sa.Column("segment", sa.Integer(), primary_key=True),
        sa.Column("devices", sa.BLOB(), nullable=False),
    )
    op.create_table(
        "schedule",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), nullable=False, unique=True),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("name", sa.String()),
        sa.Column("push", sa.Text(), nullable=False),
        sa.Column("missed", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("since", sa.Integer(), nullable=False),
        sa.Column("last_date", sa.Integer()),
        sa.Column("used", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("asked", sa.Integer()),
        sa.Column("wake", sa.Integer()),
        sa.Column("version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.Integer()),
        sqlite_autoincrement=True,
    )
    op.create_index("schedule_of_app", "schedule", ["app_no", "no"])
    op.create_index("schedule_wake", "schedule", ["wake"], sqlite_where=sa.text("wake IS NOT NULL"))
    op.create_index("schedule_ended", "schedule", ["ended_at"], sqlite_where=sa.text("ended_at IS NOT NULL"))
    op.create_table(
        "schedule_run",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("schedule_no", sa.Integer(), nullable=False),
        sa.Column("date", sa.Integer()),
        sa.Column("due", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("problem", sa.String()),
        sa.Column("push", sa.Text()),
        sa.Column("missed", sa.String()),
        sa.Column("since", sa.Integer()),
        sa.Column("slices", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("targeted", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("left_out", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("skipped_dates", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("started_at", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.Integer()),
        sqlite_autoincrement=True,
    )
    op.create_index("schedule_run_of", "schedule_run", ["schedule_no", "no"])
    op.create_index("schedule_run_running", "schedule_run", ["schedule_no"], sqlite_where=sa.text("state = 'running'"))
    op.create_index(
        "device_zone",
        "device",
        ["app_no", "timezone"],
        sqlite_where=sa.text("timezone IS NOT NULL AND removed_at IS NULL"),
    )
