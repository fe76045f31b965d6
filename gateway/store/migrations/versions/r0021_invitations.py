"""Invitations: codes by which devices enrol themselves.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "invitation",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), nullable=False, unique=True),
        sa.Column("batch", sa.String(), nullable=False),
        sa.Column("app_no", sa.Integer(), sa.ForeignKey("application.no"), nullable=False),
        sa.Column("code_hash", sa.BLOB(), nullable=False, unique=True),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Integer(), nullable=False),
        sa.Column("used_at", sa.Integer()),
        sa.Column("device_no", sa.Integer()),
        sa.Column("nonce_hash", sa.BLOB()),
        sa.Column("answers", sa.Integer(), nullable=False, server_default="0"),
        sqlite_autoincrement=True,
    )
    op.create_index("invitation_of_app", "invitation", ["app_no", "no"])
    op.create_index("invitation_of_batch", "invitation", ["batch"])
    op.create_index("invitation_expires", "invitation", ["expires_at"])
