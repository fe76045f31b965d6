"""Sessions of people at the console.

Revision ID: 0033
Revises: 0032
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "console_session",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), nullable=False, unique=True),
        sa.Column("token_hash", sa.BLOB(), nullable=False, unique=True),
        sa.Column("app_no", sa.Integer(), sa.ForeignKey("application.no"), nullable=False),
        sa.Column("key_no", sa.Integer(), sa.ForeignKey("api_key.no"), nullable=True),
        sa.Column("person_id", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("used_at", sa.Integer(), nullable=False),
        sa.Column("ends_at", sa.Integer(), nullable=False),
    )
    op.create_index("console_session_of_key", "console_session", ["key_no"])
