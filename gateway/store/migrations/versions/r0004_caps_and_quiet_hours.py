"""Deliveries that are judged at hand-over, what each device was sent lately, and the use of what passes every rule.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("device", sa.Column("quiet_hours", sa.String()))
    op.create_index("device_with_quiet_hours", "device", ["app_no"], sqlite_where=sa.text("quiet_hours IS NOT NULL"))
    op.add_column("delivery", sa.Column("not_before", sa.Integer()))
    op.create_index(
        "delivery_gated",
        "delivery",
        ["device_no", "priority", "push_no", "not_before"],
        sqlite_where=sa.text("state = 0 AND not_before IS NOT NULL"),
    )
    op.create_table(
        "alert_use",
        sa.Column("device_no", sa.Integer(), primary_key=True),
        sa.Column("push_no", sa.Integer(), primary_key=True),
        sa.Column("channel", sa.String()),
        sa.Column("at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "critical_use",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("device_no", sa.Integer(), nullable=False),
        sa.Column("push_no", sa.Integer(), nullable=False),
        sa.Column("passed", sa.String(), nullable=False),
        sa.Column("at", sa.Integer(), nullable=False),
    )
    op.create_index("critical_use_of_device", "critical_use", ["device_no", "at"])
    op.create_index("critical_use_of_app", "critical_use", ["app_no", "no"])
    op.create_index("critical_use_age", "critical_use", ["at"])
