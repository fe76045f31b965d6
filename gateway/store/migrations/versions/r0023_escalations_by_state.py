"""Escalations of an app by state, for their list.

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("escalation_of_state", "escalation", ["app_no", "state"])
