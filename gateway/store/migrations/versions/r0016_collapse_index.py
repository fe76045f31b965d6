"""Waiting deliveries by device and collapse key, so that a newer push finds what it supersedes without its mailbox.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("delivery", sa.Column("collapse_key", sa.String()))
    op.execute(
        "UPDATE delivery SET collapse_key = (SELECT collapse_key FROM push WHERE no = push_no) WHERE +state = 0"
        " AND push_no IN (SELECT no FROM push WHERE collapse_key IS NOT NULL AND closed_at IS NULL)"
    )
    op.create_index(
        "delivery_collapse",
        "delivery",
        ["device_no", "collapse_key", "push_no"],
        sqlite_where=sa.text("state = 0 AND collapse_key IS NOT NULL"),
    )
