"""Topics that devices are in.

Revision ID: 0025
Revises: 0024
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_topic",
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("device_no", sa.Integer(), nullable=False),
        sa.Column("joined_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("app_no", "topic", "device_no"),
        sqlite_with_rowid=False,
    )
    op.create_index("device_topic_of_device", "device_topic", ["device_no"])
