"""The event log, and webhooks with how far each has been told.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("application", sa.Column("events_lost_to", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "event",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("push_no", sa.Integer()),
        sa.Column("devices", sa.Text()),
        sa.Column("reason", sa.String()),
        sa.Column("device_no", sa.Integer()),
        sa.Column("content", sa.Text()),
        sa.Column("size", sa.Integer(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("event_of_app", "event", ["app_no", "no"])
    op.create_table(
        "webhook",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), nullable=False, unique=True),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("types", sa.Text(), nullable=False),
        sa.Column("description", sa.String()),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("old_secret", sa.String()),
        sa.Column("old_secret_until", sa.Integer()),
        sa.Column("disabled_at", sa.Integer()),
        sa.Column("disabled_reason", sa.String()),
        sa.Column("succeeded_at", sa.Integer()),
        sa.Column("failed_at", sa.Integer()),
        sa.Column("last_error", sa.String()),
        sa.Column("dropped", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
    )
    op.create_index("webhook_of_app", "webhook", ["app_no", "no"])
    op.create_table(
        "webhook_lane",
        sa.Column("webhook_no", sa.Integer(), primary_key=True),
        sa.Column("lane", sa.Integer(), primary_key=True),
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failing_since", sa.Integer()),
        sa.Column("next_at", sa.Integer(), nullable=False, server_default="0"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "dead_letter",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("webhook_no", sa.Integer(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.Column("replay_at", sa.Integer()),
    )
    op.create_index("dead_letter_of_webhook", "dead_letter", ["webhook_no", "no"])
    op.create_index("dead_letter_age", "dead_letter", ["at"])
