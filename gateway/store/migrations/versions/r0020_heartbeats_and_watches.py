"""Heartbeats with their devices, and watches.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "heartbeat",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("next_at", sa.Integer(), nullable=False),
        sa.Column("beat_at", sa.Integer()),
        sa.Column("push_no", sa.Integer()),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("heartbeat_next", "heartbeat", ["next_at"])
    op.create_table(
        "heartbeat_device",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("heartbeat", sa.String(), primary_key=True),
        sa.Column("device_no", sa.Integer(), primary_key=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("streak", sa.Integer(), nullable=False),
        sa.Column("answered_at", sa.Integer()),
        sa.Column("took_ms", sa.Integer()),
        sa.Column("changed_at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "watch",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("due_at", sa.Integer(), nullable=False),
        sa.Column("heard_at", sa.Integer()),
        sa.Column("silent_at", sa.Integer()),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
