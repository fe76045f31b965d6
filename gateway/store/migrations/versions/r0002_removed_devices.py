"""An index over removed devices, so that retention finds the rows that nothing refers to any more.

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
