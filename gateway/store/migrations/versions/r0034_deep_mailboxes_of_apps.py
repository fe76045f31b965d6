"""Mailboxes with many rows are noted by app: several servers over one database write the rows of one app at a time.

Revision ID: 0034
Revises: 0033
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from pyroaring import BitMap

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    noted = connection.exec_driver_sql("SELECT segment, devices FROM deep_mailbox").fetchall()
    op.drop_table("deep_mailbox")
    op.create_table(
        "deep_mailbox",
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("devices", sa.BLOB(), nullable=False),
        sa.PrimaryKeyConstraint("app_no", "segment"),
    )
    for segment, devices in noted:
        listed = json.dumps(list(BitMap.deserialize(devices)))
        for app_no, of_app in connection.exec_driver_sql(
            "SELECT app_no, json_group_array(no) FROM device WHERE no IN (SELECT value FROM json_each(?))"
            " GROUP BY app_no",
            (listed,),
        ).fetchall():
            connection.exec_driver_sql(
                "INSERT INTO deep_mailbox VALUES (?, ?, ?)", (app_no, segment, BitMap(json.loads(of_app)).serialize())
            )
