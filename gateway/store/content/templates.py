"""Saved templates in the database: a row for each name, and one for each version that is kept.

The row of a name stays when its versions have left, for a while: it has the number of the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.store.transaction import Transaction


class SavedTemplate(NamedTuple):
    """A version of a template."""

    name: str
    version: int
    content: str
    """As JSON."""
    created_at: int


class TemplateSummary(NamedTuple):
    """A template as lists show it, with the size of its newest version in bytes."""

    name: str
    version: int
    created_at: int
    updated_at: int
    size: int


def read_version(transaction: Transaction, app_no: int, name: str, version: int | None) -> SavedTemplate | None:
    """Read a version of a template, the newest unless one is given; None: there is none. Any thread."""
    row = transaction.execute(
        "SELECT v.version, v.content, v.created_at FROM template AS t JOIN template_version AS v"
        " ON v.app_no = t.app_no AND v.name = t.name AND v.version = coalesce(?, t.version)"
        " WHERE t.app_no = ? AND t.name = ?",
        (version, app_no, name),
    ).fetchone()
    return None if row is None else SavedTemplate(name, *row)


def kept_versions(transaction: Transaction, app_no: int, name: str) -> list[tuple[int, int]]:
    """List the versions of a template, the newest first: (number, time of its making). Reader thread."""
    return transaction.execute(
        "SELECT version, created_at FROM template_version WHERE app_no = ? AND name = ? ORDER BY version DESC",
        (app_no, name),
    ).fetchall()


def templates_behind(transaction: Transaction, app_no: int, name: str, limit: int) -> Iterator[TemplateSummary]:
    """Read the templates of an app behind a name, by name, `limit` and one more. Reader thread."""
    rows = transaction.execute(
        "SELECT t.name, t.version, t.created_at, t.updated_at, v.size FROM template AS t"
        " JOIN template_version AS v ON v.app_no = t.app_no AND v.name = t.name AND v.version = t.version"
        " WHERE t.app_no = ? AND t.name > ? ORDER BY t.name LIMIT ?",
        (app_no, name, limit + 1),
    )
    return map(TemplateSummary._make, rows)


def usage_of_app(transaction: Transaction, app_no: int, but: str) -> tuple[int, int]:
    """Count the templates of an app besides the one of a name, and the bytes of all versions. Writer thread."""
    (others, size) = transaction.execute(
        "SELECT (SELECT count(DISTINCT name) FROM template_version WHERE app_no = ?1 AND name <> ?2),"
        " (SELECT coalesce(sum(size), 0) FROM template_version WHERE app_no = ?1)",
        (app_no, but),
    ).fetchone()
    return others, size


def add_version(
    transaction: Transaction, app_no: int, name: str, content: str, size: int, keep: int, now_ms: int, *, is_new: bool
) -> int:
    """Store a content of `size` bytes as the newest version of a template; its number. Writer thread.

    `keep`: versions that are kept, the newest. `is_new`: the app has no template of that name now.
    """
    (version,) = transaction.execute(
        "INSERT INTO template (app_no, name, version, created_at, updated_at) VALUES (?1, ?2, 1, ?3, ?3)"
        " ON CONFLICT DO UPDATE SET version = version + 1, updated_at = excluded.updated_at,"
        "  created_at = iif(?4, created_at, excluded.created_at) RETURNING version",
        (app_no, name, now_ms, not is_new),
    ).fetchone()
    transaction.execute(
        "INSERT INTO template_version (app_no, name, version, content, size, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (app_no, name, version, content, size, now_ms),
    )
    transaction.execute(
        "DELETE FROM template_version WHERE app_no = ? AND name = ? AND version <= ?",
        (app_no, name, version - keep),
    )
    return int(version)


def remove_template(transaction: Transaction, app_no: int, name: str, remembered: int, now_ms: int) -> bool:
    """Remove all versions of a template; whether there were any. Writer thread.

    `remembered`: removed templates of the app of which the last number is kept, those removed last.
    """
    removed = transaction.execute("DELETE FROM template_version WHERE app_no = ? AND name = ?", (app_no, name)).rowcount
    transaction.execute("UPDATE template SET updated_at = ? WHERE app_no = ? AND name = ?", (now_ms, app_no, name))
    transaction.execute(
        "DELETE FROM template WHERE app_no = ?1 AND name IN (SELECT t.name FROM template AS t"
        " WHERE t.app_no = ?1 AND NOT EXISTS (SELECT 1 FROM template_version AS v"
        "  WHERE v.app_no = ?1 AND v.name = t.name) ORDER BY t.updated_at DESC LIMIT -1 OFFSET ?2)",
        (app_no, remembered),
    )
    return removed > 0
