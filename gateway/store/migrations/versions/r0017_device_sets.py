"""Live devices by app and by tag, as compressed sets of numbers.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from pyroaring import BitMap

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SEGMENT_NUMBERS = 1 << 16


def upgrade() -> None:
    op.create_table(
        "device_set",
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("devices", sa.BLOB(), nullable=False),
        sa.PrimaryKeyConstraint("app_no", "tag", "segment"),
    )
    live = _store_all_devices(op.get_bind())
    _store_tags(op.get_bind(), live)


def _store_all_devices(connection: sa.Connection) -> dict[int, BitMap]:
    """The live devices of each app. Segment by segment: a list of all would be sorted first, to go by app."""
    live: dict[int, BitMap] = {}
    last_no = connection.exec_driver_sql("SELECT coalesce(max(no), 0) FROM device").scalar_one()
    for first_no in range(0, last_no + 1, SEGMENT_NUMBERS):
        for app_no, numbers in connection.exec_driver_sql(
            "SELECT app_no, json_group_array(no) FROM device WHERE no >= ? AND no < ? AND removed_at IS NULL"
            " GROUP BY app_no",
            (first_no, first_no + SEGMENT_NUMBERS),
        ).fetchall():
            devices = BitMap(json.loads(numbers))
            _store(connection, app_no, "", devices)
            live.setdefault(app_no, BitMap()).update(devices)
    return live


def _store_tags(connection: sa.Connection, live: dict[int, BitMap]) -> None:
    """One tag at a time, in the order of the table: of a million devices that is an array of seven megabytes."""
    for app_no, tag, numbers in connection.exec_driver_sql(
        "SELECT app_no, tag, json_group_array(device_no) FROM device_tag GROUP BY app_no, tag"
    ):
        _store(connection, app_no, tag, BitMap(json.loads(numbers)) & live.get(app_no, BitMap()))


def _store(connection: sa.Connection, app_no: int, tag: str, devices: BitMap) -> None:
    if not devices:
        return
    for segment in range(devices.min() // SEGMENT_NUMBERS, devices.max() // SEGMENT_NUMBERS + 1):
        part = devices & BitMap(range(segment * SEGMENT_NUMBERS, (segment + 1) * SEGMENT_NUMBERS))
        if part:
            part.run_optimize()
            connection.exec_driver_sql(
                "INSERT INTO device_set (app_no, tag, segment, devices) VALUES (?, ?, ?, ?)",
                (app_no, tag, segment, part.serialize()),
            )
