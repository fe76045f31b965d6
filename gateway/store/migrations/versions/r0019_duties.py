"""Duties, and pushes to them: how far each has come, and the pushes that are its steps.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "duty",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "escalation",
        sa.Column("push_no", sa.Integer(), primary_key=True),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("duty", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("collapse_key", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Integer()),
        sa.Column("ended_at", sa.Integer()),
        sa.Column("reason", sa.String()),
        sa.Column("acted_push_no", sa.Integer()),
        sa.Column("acted_device", sa.String()),
        sa.Column("acted_event", sa.String()),
        sa.Column("action", sa.String()),
        sa.Column("cleared", sa.Integer(), nullable=False, server_default="1"),
    )
    op.create_index("escalation_due", "escalation", ["due_at"], sqlite_where=sa.text("due_at IS NOT NULL"))
    op.create_index(
        "escalation_of_app", "escalation", ["app_no", "collapse_key"], sqlite_where=sa.text("due_at IS NOT NULL")
    )
    op.create_index("escalation_to_clear", "escalation", ["push_no"], sqlite_where=sa.text("cleared = 0"))
    op.create_table(
        "escalation_step",
        sa.Column("escalation_no", sa.Integer(), primary_key=True),
        sa.Column("step", sa.Integer(), primary_key=True),
        sa.Column("push_no", sa.Integer(), nullable=False),
        sa.Column("left_out", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("escalation_step_push", "escalation_step", ["push_no"], unique=True)
