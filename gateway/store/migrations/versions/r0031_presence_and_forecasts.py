"""Hours in which devices were connected, and forecasts that pushes were sent with.

Revision ID: 0031
Revises: 0030
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "presence_hour",
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("devices", sa.BLOB(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "segment"),
    )
    op.create_table(
        "push_forecast",
        sa.Column("push_no", sa.Integer(), primary_key=True),
        sa.Column("made_at", sa.Integer(), nullable=False),
        sa.Column("likely", sa.Integer(), nullable=False),
        sa.Column("will_expire", sa.Integer(), nullable=False),
        sa.Column("unknown_presence", sa.Integer(), nullable=False),
    )
