"""Attachments in the database: which app has which file, and until when. The files are beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.store.transaction import Transaction


class AttachmentRow(NamedTuple):
    """An attachment of an app: `size` in bytes, times in milliseconds."""

    app_no: int
    id: str
    content_type: str
    size: int
    created_at: int
    expires_at: int


def stored_attachments(transaction: Transaction) -> list[AttachmentRow]:
    """Read the attachments of all apps. Reader thread."""
    rows = transaction.execute("SELECT app_no, id, content_type, size, created_at, expires_at FROM attachment")
    return [AttachmentRow._make(row) for row in rows.fetchall()]


def keep_attachment(transaction: Transaction, row: AttachmentRow) -> None:
    """Store an attachment, or that one which is there lives as long as this. Writer thread."""
    transaction.execute(
        "INSERT INTO attachment (app_no, id, content_type, size, created_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (app_no, id) DO UPDATE SET"
        " content_type = excluded.content_type, expires_at = max(expires_at, excluded.expires_at)",
        row,
    )


def extend_attachments(transaction: Transaction, app_no: int, ids: Sequence[str], until: int) -> None:
    """Have attachments of an app live until a time at least. Writer thread."""
    transaction.executemany(
        "UPDATE attachment SET expires_at = max(expires_at, ?) WHERE app_no = ? AND id = ?",
        [(until, app_no, attachment_id) for attachment_id in ids],
    )


def remove_attachments(transaction: Transaction, keys: Sequence[tuple[int, str]]) -> None:
    """Remove attachments: (app number, id) each. Writer thread."""
    transaction.executemany("DELETE FROM attachment WHERE app_no = ? AND id = ?", keys)


def has_owner(transaction: Transaction, attachment_id: str) -> bool:
    """Whether any app has an attachment. Writer thread."""
    row = transaction.execute("SELECT 1 FROM attachment WHERE id = ? LIMIT 1", (attachment_id,)).fetchone()
    return row is not None
