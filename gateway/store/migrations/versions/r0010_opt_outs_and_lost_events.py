"""Withdrawals of consent by time, for the opt-outs after a push; and how far the last event went that was removed.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("application", sa.Column("events_lost_place", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("consent_denied", "consent_record", ["recorded_at"], sqlite_where=sa.text("consent = 'denied'"))
