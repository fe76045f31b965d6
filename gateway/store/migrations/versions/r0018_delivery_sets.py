"""The deliveries of a push to many devices as sets; counts of their states; mailboxes with many rows.

What was stored as rows stays rows.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from pyroaring import BitMap

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

COUNTED = """CREATE TRIGGER delivery_counted AFTER UPDATE OF state ON delivery
WHEN OLD.counted = 1 AND OLD.state <> NEW.state BEGIN
UPDATE delivery_count SET count = count - 1 WHERE push_no = OLD.push_no AND state = OLD.state;
INSERT INTO delivery_count (push_no, state, count) VALUES (NEW.push_no, NEW.state, 1)
ON CONFLICT DO UPDATE SET count = count + 1;
END"""


def upgrade() -> None:
    op.add_column("push", sa.Column("in_sets", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("delivery", sa.Column("counted", sa.Integer()))
    op.add_column("event", sa.Column("outcome_no", sa.Integer()))
    op.create_table(
        "waiting_set",
        sa.Column("push_no", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("devices", sa.BLOB(), nullable=False),
        sa.PrimaryKeyConstraint("push_no", "segment"),
    )
    op.create_index("waiting_set_mailbox", "waiting_set", ["segment", "app_no", "priority", "push_no"])
    op.create_index("waiting_set_of_app", "waiting_set", ["app_no", "push_no", "count"])
    op.create_table(
        "outcome_set",
        sa.Column("no", sa.Integer(), primary_key=True),
        sa.Column("push_no", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("qos", sa.Integer()),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("devices", sa.BLOB(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("outcome_set_of_push", "outcome_set", ["push_no", "segment"])
    op.create_index(
        "outcome_set_missed", "outcome_set", ["segment", "at"], sqlite_where=sa.text("state IN (20, 22, 23)")
    )
    op.create_table(
        "delivery_count",
        sa.Column("push_no", sa.Integer(), primary_key=True),
        sa.Column("state", sa.Integer(), primary_key=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deep_mailbox",
        sa.Column("segment", sa.Integer(), primary_key=True),
        sa.Column("devices", sa.BLOB(), nullable=False),
    )
    _note_deep_mailboxes()
    op.drop_index("delivery_collapse", "delivery")
    op.create_index(
        "delivery_collapse",
        "delivery",
        ["collapse_key", "device_no", "push_no"],
        sqlite_where=sa.text("state = 0 AND collapse_key IS NOT NULL"),
    )
    op.execute(COUNTED)


def _note_deep_mailboxes() -> None:
    rows = op.get_bind().exec_driver_sql(  # the thresholds of `deliveries/delivery_sets`
        "SELECT device_no FROM delivery INDEXED BY delivery_mailbox WHERE state = 0"
        " GROUP BY device_no HAVING count(*) >= 100 OR sum(size) >= 262144"
    )
    segments: dict[int, BitMap] = {}
    for (device_no,) in rows:
        segments.setdefault(device_no >> 16, BitMap()).add(device_no)
    for segment, devices in segments.items():
        op.get_bind().exec_driver_sql("INSERT INTO deep_mailbox VALUES (?, ?)", (segment, devices.serialize()))
