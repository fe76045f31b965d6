"""Withdrawals of consent by time, for the opt-outs after a push.

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
    op.create_index("consent_denied", "consent_record", ["recorded_at"], sqlite_where=sa.text("consent = 'denied'"))
