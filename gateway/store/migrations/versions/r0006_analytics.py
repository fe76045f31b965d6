"""Funnels: of each push as it was counted last, and by hour for channels and tags.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "push_funnel",
        sa.Column("push_no", sa.Integer(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
    )
    op.create_table(
        "funnel",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("dimension", sa.String(), primary_key=True),
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("hour", sa.Integer(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("funnel_age", "funnel", ["hour"])
