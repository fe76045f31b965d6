"""Apps whose rules have changed and of which not everything that waits has been put under the new ones.

All that have rules now: an earlier version may have been stopped in between, and kept no note of it.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rule_change",
        sa.Column("app_no", sa.Integer(), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
    )
    op.execute(
        "INSERT INTO rule_change (app_no, number) SELECT app_no, 0 FROM app_policy UNION SELECT app_no, 0 FROM channel"
    )
