"""Run by Alembic with the connection that `migrate` opened and locked."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from gateway.store import models  # noqa: F401 - defines the tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,  # SQLite changes columns by copying the table
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
