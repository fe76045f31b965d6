"""The first tables, exactly those of `gateway/store/models.py` at that time.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "application",
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("no"),
        sa.UniqueConstraint("id"),
    )
    op.create_table(
        "clock",
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("no"),
    )
    op.create_table(
        "delivery",
        sa.Column("push_no", sa.Integer(), nullable=False),
        sa.Column("device_no", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("qos", sa.Integer(), nullable=True),
        sa.Column("delivered_at", sa.Integer(), nullable=True),
        sa.Column("displayed_at", sa.Integer(), nullable=True),
        sa.Column("dismissed_at", sa.Integer(), nullable=True),
        sa.Column("opened_at", sa.Integer(), nullable=True),
        sa.Column("acted_at", sa.Integer(), nullable=True),
        sa.Column("ended_at", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(), nullable=True),
        sa.Column("result", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("push_no", "device_no"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.create_index(
            "delivery_mailbox",
            ["device_no", "priority", "push_no", "size"],
            unique=False,
            sqlite_where=sa.text("state = 0"),
        )

    op.create_table(
        "device_tag",
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("device_no", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("app_no", "tag", "device_no"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("device_tag", schema=None) as batch_op:
        batch_op.create_index("device_tag_of_device", ["device_no"], unique=False)

    op.create_table(
        "idempotency_record",
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body_hash", sa.BLOB(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("app_no", "key"),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("idempotency_record", schema=None) as batch_op:
        batch_op.create_index("idempotency_record_age", ["created_at"], unique=False)

    op.create_table(
        "uplink_message",
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("device_no", sa.Integer(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("payload", sa.BLOB(), nullable=False),
        sa.Column("received_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("no"),
    )
    with op.batch_alter_table("uplink_message", schema=None) as batch_op:
        batch_op.create_index("uplink_age", ["received_at"], unique=False)
        batch_op.create_index("uplink_of_device", ["device_no", "no"], unique=False)

    op.create_table(
        "api_key",
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.BLOB(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("revoked_at", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["app_no"],
            ["application.no"],
        ),
        sa.PrimaryKeyConstraint("no"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("secret_hash"),
    )
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_api_key_app_no"), ["app_no"], unique=False)

    op.create_table(
        "device",
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("attributes", sa.Text(), server_default="{}", nullable=False),
        sa.Column("locale", sa.String(), nullable=True),
        sa.Column("timezone", sa.String(), nullable=True),
        sa.Column("token_hash", sa.BLOB(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sa.Column("removed_at", sa.Integer(), nullable=True),
        sa.Column("connected_at", sa.Integer(), nullable=True),
        sa.Column("last_seen", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("last_error_at", sa.Integer(), nullable=True),
        sa.Column("consent", sa.String(), server_default="unknown", nullable=False),
        sa.Column("channels", sa.Text(), server_default="{}", nullable=False),
        sa.Column("settings_seq", sa.Integer(), nullable=True),
        sa.Column("settings_text_version", sa.String(), nullable=True),
        sa.Column("settings_client", sa.String(), nullable=True),
        sa.Column("settings_at", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["app_no"],
            ["application.no"],
        ),
        sa.PrimaryKeyConstraint("no"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.create_index(
            "device_id_of_app", ["app_no", "id"], unique=True, sqlite_where=sa.text("removed_at IS NULL")
        )

    op.create_table(
        "push",
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("qos", sa.Integer(), nullable=False),
        sa.Column("ttl", sa.Integer(), nullable=False),
        sa.Column("collapse_key", sa.String(), nullable=True),
        sa.Column("channel", sa.String(), nullable=True),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("accepted_at", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Integer(), nullable=False),
        sa.Column("recalled_at", sa.Integer(), nullable=True),
        sa.Column("closed_at", sa.Integer(), nullable=True),
        sa.Column("targeted", sa.Integer(), nullable=False),
        sa.Column("suppressed", sa.Integer(), nullable=False),
        sa.Column("final_counts", sa.String(), nullable=True),
        sa.Column("swept_at", sa.Integer(), nullable=True),
        sa.Column("gone_at", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["app_no"],
            ["application.no"],
        ),
        sa.PrimaryKeyConstraint("no"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("push", schema=None) as batch_op:
        batch_op.create_index(
            "push_collapse",
            ["app_no", "collapse_key", "no"],
            unique=False,
            sqlite_where=sa.text("collapse_key IS NOT NULL"),
        )
        batch_op.create_index("push_of_app", ["app_no", "no"], unique=False)
        batch_op.create_index(
            "push_to_bury", ["swept_at"], unique=False, sqlite_where=sa.text("gone_at IS NULL AND swept_at IS NOT NULL")
        )
        batch_op.create_index(
            "push_to_sweep",
            ["closed_at"],
            unique=False,
            sqlite_where=sa.text("swept_at IS NULL AND closed_at IS NOT NULL"),
        )
        batch_op.create_index(
            "push_unfinished", ["expires_at"], unique=False, sqlite_where=sa.text("closed_at IS NULL")
        )


def downgrade() -> None:
    raise NotImplementedError("going back is done by restoring a backup")
