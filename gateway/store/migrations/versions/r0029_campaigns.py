"""Campaigns, the sets of their parts, and the pushes that those became.

Revision ID: 0029
Revises: 0028
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "campaign",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False, unique=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("group_no", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("reason", sa.String()),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String()),
        sa.Column("body_hash", sa.BLOB()),
        sa.Column("approved_by", sa.String()),
        sa.Column("start_at", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Integer()),
        sa.Column("group_at", sa.Integer()),
        sa.Column("observed_from", sa.Integer()),
        sa.Column("paused_at", sa.Integer()),
        sa.Column("ended_at", sa.Integer()),
        sa.Column("targeted", sa.Integer(), nullable=False),
        sa.Column("plan", sa.Text()),
        sa.Column("overruled", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("cleared", sa.Integer(), nullable=False, server_default="1"),
    )
    op.create_index("campaign_of_app", "campaign", ["app_no", "no"])
    op.create_index(
        "campaign_key",
        "campaign",
        ["app_no", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index("campaign_under_way", "campaign", ["app_no"], sqlite_where=sa.text("ended_at IS NULL"))
    op.create_index("campaign_to_clear", "campaign", ["no"], sqlite_where=sa.text("cleared = 0"))
    op.create_index("campaign_ended", "campaign", ["ended_at"], sqlite_where=sa.text("ended_at IS NOT NULL"))
    op.create_table(
        "campaign_set",
        sa.Column("campaign_no", sa.Integer(), primary_key=True),
        sa.Column("group_no", sa.Integer(), primary_key=True),
        sa.Column("variant_no", sa.Integer(), primary_key=True),
        sa.Column("segment", sa.Integer(), primary_key=True),
        sa.Column("devices", sa.BLOB(), nullable=False),
    )
    op.create_table(
        "campaign_part",
        sa.Column("campaign_no", sa.Integer(), primary_key=True),
        sa.Column("group_no", sa.Integer(), primary_key=True),
        sa.Column("variant_no", sa.Integer(), primary_key=True),
        sa.Column("push_no", sa.Integer(), nullable=False),
        sa.Column("recalled", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer()),
        sqlite_with_rowid=False,
    )
    op.create_index("campaign_part_push", "campaign_part", ["push_no"], unique=True)
