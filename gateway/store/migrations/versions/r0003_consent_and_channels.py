"""Policies and channels of apps, the proof of every consent, and an index over those devices that want less.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "app_policy",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
    )
    op.create_table(
        "channel",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_record",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("device_no", sa.Integer(), nullable=False),
        sa.Column("consent", sa.String(), nullable=False),
        sa.Column("text_version", sa.String()),
        sa.Column("client", sa.String()),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer()),
        sa.Column("recorded_at", sa.Integer(), nullable=False),
    )
    op.create_index("consent_record_of_device", "consent_record", ["device_no", "no"])
    op.create_index(
        "device_restricted",
        "device",
        ["app_no", "no"],
        sqlite_where=sa.text("consent = 'denied' OR channels <> '{}'"),
    )
