"""The boot under which the server ran last, and what the wall clock was ahead of server time since when.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clock", sa.Column("boot_id", sa.String(), nullable=True))
    op.add_column("clock", sa.Column("boot_origin", sa.Integer(), nullable=True))
    op.add_column("clock", sa.Column("boot_since", sa.Integer(), nullable=True))
    op.create_table(
        "clock_offset",
        sa.Column("since", sa.Integer(), primary_key=True),
        sa.Column("ahead", sa.Integer(), nullable=False),
    )
