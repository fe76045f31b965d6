"""An index of the attributes of devices, which triggers keep.

Revision ID: 0026
Revises: 0025
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# As `store/attribute_index` made them at the time.
TRIGGERS = (
    "CREATE TRIGGER device_attributes_enrolled AFTER INSERT ON device WHEN NEW.attributes <> '{}' AND"
    " (length(NEW.attributes) < 384 OR (SELECT count(*) FROM json_each(NEW.attributes)) <= 64) BEGIN INSERT"
    " OR IGNORE INTO device_attribute (app_no, name, value, device_no) SELECT NEW.app_no, j.key, CASE j.type"
    " WHEN 'text' THEN substr(j.value, 1, 129) WHEN 'true' THEN x'01' WHEN 'false' THEN x'00' ELSE j.value"
    " END, NEW.no FROM json_each(NEW.attributes) AS j WHERE j.type IN ('text', 'integer', 'real', 'true',"
    " 'false') AND length(j.key) BETWEEN 1 AND 64; END",
    "CREATE TRIGGER device_attributes_enrolled_crowded AFTER INSERT ON device WHEN NEW.attributes <> '{}' AND"
    " NOT (length(NEW.attributes) < 384 OR (SELECT count(*) FROM json_each(NEW.attributes)) <= 64) BEGIN"
    " INSERT OR IGNORE INTO device_attribute (app_no, name, value, device_no) VALUES (NEW.app_no, '', 0,"
    " NEW.no); END",
    "CREATE TRIGGER device_attributes_changed AFTER UPDATE OF attributes ON device WHEN NEW.attributes <>"
    " OLD.attributes AND (length(NEW.attributes) < 384 OR (SELECT count(*) FROM json_each(NEW.attributes)) <="
    " 64) BEGIN DELETE FROM device_attribute WHERE device_no = NEW.no AND (name, value) NOT IN (SELECT j.key,"
    " CASE j.type WHEN 'text' THEN substr(j.value, 1, 129) WHEN 'true' THEN x'01' WHEN 'false' THEN x'00'"
    " ELSE j.value END FROM json_each(NEW.attributes) AS j WHERE j.type IN ('text', 'integer', 'real',"
    " 'true', 'false') AND length(j.key) BETWEEN 1 AND 64); INSERT OR IGNORE INTO device_attribute (app_no,"
    " name, value, device_no) SELECT NEW.app_no, j.key, CASE j.type WHEN 'text' THEN substr(j.value, 1, 129)"
    " WHEN 'true' THEN x'01' WHEN 'false' THEN x'00' ELSE j.value END, NEW.no FROM json_each(NEW.attributes)"
    " AS j WHERE j.type IN ('text', 'integer', 'real', 'true', 'false') AND length(j.key) BETWEEN 1 AND 64;"
    " END",
    "CREATE TRIGGER device_attributes_changed_crowded AFTER UPDATE OF attributes ON device WHEN"
    " NEW.attributes <> OLD.attributes AND NOT (length(NEW.attributes) < 384 OR (SELECT count(*) FROM"
    " json_each(NEW.attributes)) <= 64) BEGIN DELETE FROM device_attribute WHERE device_no = NEW.no AND name"
    " <> ''; INSERT OR IGNORE INTO device_attribute (app_no, name, value, device_no) VALUES (NEW.app_no, '',"
    " 0, NEW.no); END",
)
INDEX_ALL = (
    "INSERT OR IGNORE INTO device_attribute (app_no, name, value, device_no) SELECT d.app_no, j.key, CASE"
    " j.type WHEN 'text' THEN substr(j.value, 1, 129) WHEN 'true' THEN x'01' WHEN 'false' THEN x'00' ELSE"
    " j.value END, d.no FROM device AS d CROSS JOIN json_each(d.attributes) AS j WHERE j.type IN ('text',"
    " 'integer', 'real', 'true', 'false') AND length(j.key) BETWEEN 1 AND 64 AND (length(d.attributes) < 384"
    " OR (SELECT count(*) FROM json_each(d.attributes)) <= 64) UNION ALL SELECT d.app_no, '', 0, d.no FROM"
    " device AS d WHERE NOT (length(d.attributes) < 384 OR (SELECT count(*) FROM json_each(d.attributes)) <="
    " 64)"
)


def upgrade() -> None:
    op.create_table(
        "device_attribute",
        sa.Column("app_no", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BLOB(), nullable=False),
        sa.Column("device_no", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("app_no", "name", "value", "device_no"),
        sqlite_with_rowid=False,
    )
    op.create_index("device_attribute_of_device", "device_attribute", ["device_no"])
    connection = op.get_bind()
    connection.exec_driver_sql(INDEX_ALL)
    for trigger in TRIGGERS:
        connection.exec_driver_sql(trigger)
