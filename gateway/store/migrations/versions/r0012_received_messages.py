"""Identifiers of the QoS 2 messages of devices whose content is stored.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "received_message",
        sa.Column("identifier", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("identifier"),
    )
