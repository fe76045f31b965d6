"""Alerts by device and day, what people did about them, and caps that adapt to it.

Revision ID: 0030
Revises: 0029
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alert_day",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("segment", sa.Integer(), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True),
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("measure", sa.String(), primary_key=True),
        sa.Column("devices", sa.BLOB(), nullable=False),
    )
    op.create_index("alert_day_age", "alert_day", ["day"])
    op.create_table(
        "fatigue_day",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("dimension", sa.String(), primary_key=True),
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("fatigue_day_age", "fatigue_day", ["day"])
    op.create_table(
        "fatigue_position",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("event_no", sa.Integer(), nullable=False),
        sa.Column("closed_day", sa.Integer(), nullable=False),
    )
    op.create_table(
        "adapted_cap",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("per_day", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("reviewed_day", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
