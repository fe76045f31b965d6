"""Position of the event log and the pushes up to which everything was counted.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "analytics_position",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("event_no", sa.Integer(), nullable=False),
        sa.Column("push_no", sa.Integer(), nullable=False),
        sa.Column("later", sa.Text(), nullable=False),
    )
