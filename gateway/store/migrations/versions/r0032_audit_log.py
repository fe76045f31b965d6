"""The audit log: who changed what, hash-chained for each app; and the key of each push.

Revision ID: 0032
Revises: 0031
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("push", sa.Column("key_id", sa.String(), nullable=True))
    op.create_table(
        "audit_entry",
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("hash", sa.BLOB(), nullable=False),
        sa.PrimaryKeyConstraint("app_no", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_chain",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("base_seq", sa.Integer(), nullable=False),
        sa.Column("base_hash", sa.BLOB(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("hash", sa.BLOB(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
