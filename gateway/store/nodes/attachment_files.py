"""Files of attachments in the database, in pieces: what one node was sent, every node serves. PostgreSQL only.

Pieces are stored before the row of their attachment, and are its file while there is such a row, of any app. What an
upload that has failed leaves is found by its age.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.store.deliveries.attachments import AttachmentRow
from gateway.store.transaction import Transaction

PIECE_BYTES = 262_144
"""Bytes of a piece: a statement of a few milliseconds, beside which others have their turn at the writer."""
REMOVED_ATTACHMENTS = 500
"""Attachments, or files, that one operation removes."""


class StoredRoom(NamedTuple):
    """Attachments of an app and of all apps that are stored, and their bytes; a file of several apps counts once."""

    files_of_app: int
    bytes_of_app: int
    files: int
    bytes: int


def pieces_of(size: int) -> int:
    """Return how many pieces a file of so many bytes has."""
    return -(-size // PIECE_BYTES)


def store_piece(transaction: Transaction, attachment_id: str, no: int, content: bytes, now_ms: int) -> None:
    """Store a piece of a file, the first has `no` 0. One that is there is as old as this one then. Writer thread."""
    transaction.execute(
        "INSERT INTO attachment_piece (id, no, stored_at, content) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id, no) DO UPDATE SET stored_at = excluded.stored_at",
        (attachment_id, no, now_ms, content),
    )


def count_pieces(transaction: Transaction, attachment_id: str) -> int:
    """Count the pieces of a file that are stored. A single statement."""
    (count,) = transaction.execute("SELECT count(*) FROM attachment_piece WHERE id = ?", (attachment_id,)).fetchone()
    return int(count)


def whole_files(transaction: Transaction) -> dict[str, int]:
    """Read which files have pieces: id -> how many. Reader thread."""
    return dict(transaction.execute("SELECT id, count(*) FROM attachment_piece GROUP BY id").fetchall())


def read_piece(transaction: Transaction, attachment_id: str, no: int) -> bytes | None:
    """Read a piece of a file; None if it is not there. A single statement."""
    row = transaction.execute(
        "SELECT content FROM attachment_piece WHERE id = ? AND no = ?", (attachment_id, no)
    ).fetchone()
    return None if row is None else bytes(row[0])


def stored_attachment(transaction: Transaction, app_no: int, attachment_id: str) -> AttachmentRow | None:
    """Read an attachment of an app. A single statement."""
    row = transaction.execute(
        "SELECT app_no, id, content_type, size, created_at, expires_at FROM attachment WHERE app_no = ? AND id = ?",
        (app_no, attachment_id),
    ).fetchone()
    return None if row is None else AttachmentRow._make(row)


def stored_room(transaction: Transaction, app_no: int) -> StoredRoom:
    """Measure what is stored. Writer thread."""
    (count_of_app, size_of_app) = transaction.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM attachment WHERE app_no = ?", (app_no,)
    ).fetchone()
    (count,) = transaction.execute("SELECT count(*) FROM attachment").fetchone()
    (size,) = transaction.execute(
        "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT id, size FROM attachment) AS file"
    ).fetchone()
    return StoredRoom(int(count_of_app), int(size_of_app), int(count), int(size))


def expired_attachments(transaction: Transaction, before: int) -> list[tuple[int, str]]:
    """Find attachments that have expired by a time, (app number, id) each, REMOVED_ATTACHMENTS at most. A single
    statement."""
    return transaction.execute(
        "SELECT app_no, id FROM attachment WHERE expires_at <= ? LIMIT ?", (before, REMOVED_ATTACHMENTS)
    ).fetchall()


def remove_expired_attachments(transaction: Transaction, keys: Sequence[tuple[int, str]], before: int) -> None:
    """Remove those of these attachments that have expired by a time, unless a push keeps them meanwhile. Writer
    thread."""
    transaction.executemany(
        "DELETE FROM attachment WHERE app_no = ? AND id = ? AND expires_at <= ?", [(*key, before) for key in keys]
    )


def abandoned_files(transaction: Transaction, before: int) -> list[str]:
    """Find files that no app has, stored before a time, REMOVED_ATTACHMENTS at most. A single statement."""
    rows = transaction.execute(
        "SELECT DISTINCT id FROM attachment_piece AS p WHERE stored_at < ?"
        " AND NOT EXISTS (SELECT 1 FROM attachment AS a WHERE a.id = p.id) LIMIT ?",
        (before, REMOVED_ATTACHMENTS),
    )
    return [attachment_id for (attachment_id,) in rows.fetchall()]


def remove_files(transaction: Transaction, ids: Sequence[str]) -> None:
    """Remove those of these files that no app has. Writer thread, under the locks of every app: no row is on its way
    then."""
    transaction.executemany(
        "DELETE FROM attachment_piece AS p WHERE id = ?"
        " AND NOT EXISTS (SELECT 1 FROM attachment AS a WHERE a.id = p.id)",
        [(attachment_id,) for attachment_id in ids],
    )
