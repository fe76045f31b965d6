"""Duties in the database: named objects of an app, as JSON."""

from __future__ import annotations

from typing import NamedTuple

from gateway.store.transaction import Transaction


class StoredDuty(NamedTuple):
    """A duty, as it is stored."""

    name: str
    content: str
    """`delivery.duties.DutyFields` as JSON."""
    created_at: int
    updated_at: int
    running: int
    """Escalations of it that nobody has acted on yet."""


_SELECT = (
    "SELECT id, content, created_at, updated_at, (SELECT count(*) FROM escalation AS e INDEXED BY escalation_of_app"
    " WHERE e.app_no = duty.app_no AND e.due_at IS NOT NULL AND e.duty = duty.id) FROM duty WHERE app_no = ?"
)


def duty_content(transaction: Transaction, app_no: int, name: str) -> str | None:
    """Read the content of a duty; None: there is none of that name. Any thread."""
    row = transaction.execute("SELECT content FROM duty WHERE app_no = ? AND id = ?", (app_no, name)).fetchone()
    return None if row is None else str(row[0])


def find_duty(transaction: Transaction, app_no: int, name: str) -> StoredDuty | None:
    """A duty of an app by its name. Any thread."""
    row = transaction.execute(f"{_SELECT} AND id = ?", (app_no, name)).fetchone()
    return None if row is None else StoredDuty._make(row)


def duties_behind(transaction: Transaction, app_no: int, name: str, limit: int) -> list[StoredDuty]:
    """Read the duties of an app behind a name, by name, `limit` and one more. Reader thread."""
    rows = transaction.execute(f"{_SELECT} AND id > ? ORDER BY id LIMIT ?", (app_no, name, limit + 1))
    return [StoredDuty._make(row) for row in rows.fetchall()]


def count_other_duties(transaction: Transaction, app_no: int, name: str) -> int:
    """Count the duties of an app but for one. Writer thread."""
    (others,) = transaction.execute("SELECT count(*) FROM duty WHERE app_no = ? AND id <> ?", (app_no, name)).fetchone()
    return int(others)


def replace_duty(transaction: Transaction, app_no: int, name: str, content: str, now_ms: int) -> None:
    """Store a duty, in the place of the one of that name. Writer thread."""
    transaction.execute(
        "INSERT INTO duty (app_no, id, content, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)"
        " ON CONFLICT DO UPDATE SET content = excluded.content, updated_at = excluded.updated_at",
        (app_no, name, content, now_ms),
    )


def remove_duty(transaction: Transaction, app_no: int, name: str) -> bool:
    """Remove a duty; whether there was one. Writer thread."""
    return transaction.execute("DELETE FROM duty WHERE app_no = ? AND id = ?", (app_no, name)).rowcount > 0
