"""Indexes over removed devices and over tombstones of pushes, so that retention finds what may leave.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("device_removed", "device", ["removed_at"], sqlite_where=sa.text("removed_at IS NOT NULL"))
    op.create_index("push_to_forget", "push", ["gone_at"], sqlite_where=sa.text("gone_at IS NOT NULL"))
