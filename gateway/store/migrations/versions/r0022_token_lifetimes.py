"""Lifetimes of device tokens: when one ends, and the one before it.

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, kind in (
        ("token_days", sa.Integer()),
        ("token_expires_at", sa.Integer()),
        ("previous_token_hash", sa.BLOB()),
        ("previous_token_until", sa.Integer()),
    ):
        op.add_column("device", sa.Column(name, kind))
    op.create_index(
        "device_token_expires", "device", ["token_expires_at"], sqlite_where=sa.text("token_expires_at IS NOT NULL")
    )
