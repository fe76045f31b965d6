"""Keys of apps, as rows: their hashes and their scopes. A revoked key keeps its row.

Scopes are stored as they are shown: a space-separated subset of `send read devices admin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.store.transaction import Transaction


class ValidKey(NamedTuple):
    """A key that opens something."""

    secret_hash: bytes
    app_no: int
    app_id: str
    key_id: str
    scopes: str
    name: str


class StoredKey(NamedTuple):
    """A key that may have been revoked. Times are server time in milliseconds."""

    no: int
    app_no: int
    scopes: str
    revoked_at: int | None


class ListedKey(NamedTuple):
    """A key as a list has it. Times are server time in milliseconds."""

    key_id: str
    name: str
    scopes: str
    created_at: int
    revoked_at: int | None


def find_key(transaction: Transaction, secret_hash: bytes) -> ValidKey | None:
    """Return the valid key with this SHA-256; None if there is none. One look-up by index."""
    row = transaction.execute(
        "SELECT k.secret_hash, k.app_no, a.id, k.id, k.scopes, k.name FROM api_key AS k"
        " JOIN application AS a ON a.no = k.app_no WHERE k.secret_hash = ? AND k.revoked_at IS NULL",
        (secret_hash,),
    ).fetchone()
    return None if row is None else ValidKey(*row)


def count_valid_keys(transaction: Transaction, app_id: str) -> int:
    """Count the keys of an app that are not revoked; 0 for an app that is not there."""
    (valid,) = transaction.execute(
        "SELECT count(*) FROM api_key AS k JOIN application AS a ON a.no = k.app_no"
        " WHERE a.id = ? AND k.revoked_at IS NULL",
        (app_id,),
    ).fetchone()
    return int(valid)


def add_key(
    transaction: Transaction,
    key_id: str,
    app_id: str,
    name: str,
    scopes: Sequence[str],
    secret_hash: bytes,
    now_ms: int,
) -> bool:
    """Store a key; False if there is no such app. Writer thread."""
    stored = transaction.execute(
        "INSERT INTO api_key (id, app_no, name, scopes, secret_hash, created_at)"
        " SELECT ?, no, ?, ?, ?, ? FROM application WHERE id = ?",
        (key_id, name, " ".join(scopes), secret_hash, now_ms, app_id),
    )
    return stored.rowcount > 0


def keys_behind(transaction: Transaction, app_no: int, after: str, limit: int) -> list[ListedKey]:
    """List keys of an app behind an id, in the order of their ids."""
    rows = transaction.execute(
        "SELECT id, name, scopes, created_at, revoked_at FROM api_key WHERE app_no = ? AND id > ? ORDER BY id LIMIT ?",
        (app_no, after, limit),
    )
    return [ListedKey(*row) for row in rows]


def key_of_app(transaction: Transaction, key_id: str, app_no: int | None) -> StoredKey | None:
    """Return a key of an app, or of whatever app (None); None if there is none."""
    row = transaction.execute(
        "SELECT no, app_no, scopes, revoked_at FROM api_key WHERE id = ?1 AND (?2 IS NULL OR app_no = ?2)",
        (key_id, app_no),
    ).fetchone()
    return None if row is None else StoredKey(*row)


def has_valid_key(transaction: Transaction, app_no: int, key_id: str) -> bool:
    """Whether an app has a key of this id that is not revoked."""
    key = "SELECT 1 FROM api_key WHERE app_no = ? AND id = ? AND revoked_at IS NULL"
    return transaction.execute(key, (app_no, key_id)).fetchone() is not None


def scopes_of_others(transaction: Transaction, key_no: int, app_no: int, app_id: str) -> list[str]:
    """List the scopes of each other valid key of an app; none if the app has another id than this."""
    rows = transaction.execute(
        "SELECT k.scopes FROM api_key AS k JOIN application AS a ON a.no = k.app_no"
        " WHERE k.app_no = ? AND k.no <> ? AND k.revoked_at IS NULL AND a.id = ?",
        (app_no, key_no, app_id),
    )
    return [scopes for (scopes,) in rows]


def revoke_key(transaction: Transaction, key_no: int, now_ms: int) -> None:
    """Revoke a key, and remove the sessions that were begun with it. Writer thread."""
    transaction.execute("UPDATE api_key SET revoked_at = ? WHERE no = ?", (now_ms, key_no))
    transaction.execute("DELETE FROM console_session WHERE key_no = ?", (key_no,))
