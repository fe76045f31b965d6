"""Apps, as rows: found by id or number, listed, made."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gateway.store.transaction import Transaction


def app_number(transaction: Transaction, app_id: str) -> int | None:
    """Return the number of an app; None if there is none of this id."""
    row = transaction.execute("SELECT no FROM application WHERE id = ?", (app_id,)).fetchone()
    return None if row is None else int(row[0])


def app_numbers(transaction: Transaction, app_ids: Sequence[str]) -> dict[str, int]:
    """Return the numbers of those of these apps that there are, by id."""
    rows = transaction.execute(
        "SELECT id, no FROM application WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(app_ids),)
    )
    return dict(rows.fetchall())


def every_app(transaction: Transaction) -> list[int]:
    """Return the numbers of all apps."""
    return [app_no for (app_no,) in transaction.execute("SELECT no FROM application").fetchall()]


def app_id_of(transaction: Transaction, app_no: int) -> str:
    """Return the id of an app, which must be there."""
    (app_id,) = transaction.execute("SELECT id FROM application WHERE no = ?", (app_no,)).fetchone()
    return str(app_id)


def is_app(transaction: Transaction, app_no: int, app_id: str) -> bool:
    """Whether an app, which must be there, has this id."""
    (same,) = transaction.execute("SELECT id = ? FROM application WHERE no = ?", (app_id, app_no)).fetchone()
    return bool(same)


def count_apps(transaction: Transaction, most: int) -> int:
    """Count the apps, up to `most`."""
    (count,) = transaction.execute("SELECT count(*) FROM (SELECT no FROM application LIMIT ?)", (most,)).fetchone()
    return int(count)


def apps_behind(transaction: Transaction, after: str, only: str | None, limit: int) -> list[tuple[str, int]]:
    """List apps behind an id, in the order of their ids: id, and when each was made (ms). `only`: that one."""
    return transaction.execute(
        "SELECT id, created_at FROM application WHERE id > ?1 AND (?2 IS NULL OR id = ?2) ORDER BY id LIMIT ?3",
        (after, only, limit),
    ).fetchall()


def add_app(transaction: Transaction, app_id: str, now_ms: int) -> None:
    """Make an app, whose id nobody has. Writer thread."""
    transaction.execute("INSERT INTO application (id, created_at) VALUES (?, ?)", (app_id, now_ms))
