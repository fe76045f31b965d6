"""Gap notices: an index of what ended while a device was away, and the time up to which it was told.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("device", sa.Column("gap_told_to", sa.Integer()))
    op.create_index(
        "delivery_missed", "delivery", ["device_no", "ended_at"], sqlite_where=sa.text("state IN (20, 22, 23)")
    )
