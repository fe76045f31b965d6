"""Sessions of people at the console, as rows: as they survive a restart.

The server's memory is ahead of the rows by a minute (`people/sessions`). Times are server time in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.store.transaction import Transaction


class SessionRow(NamedTuple):
    """A session as it is stored."""

    session_id: str
    token_hash: bytes
    """SHA-256 of the cookie's value."""
    app_no: int
    app_id: str
    holder: str
    """Id of the key that it was begun with, or of the person for whom an identity provider vouched."""
    name: str
    """Name of the key, or of the person."""
    scopes: str
    """Space-separated."""
    created_at: int
    used_at: int
    ends_at: int
    """When it ends however much it is used."""


_SESSIONS = (
    "SELECT s.id, s.token_hash, s.app_no, a.id, coalesce(k.id, s.person_id), s.name, s.scopes, s.created_at,"
    " s.used_at, s.ends_at FROM console_session AS s JOIN application AS a ON a.no = s.app_no"
    " LEFT JOIN api_key AS k ON k.no = s.key_no"
)


def live_sessions(transaction: Transaction, now_ms: int, idle_since: int) -> list[SessionRow]:
    """List the sessions that have not ended, the least lately used first. Runs on a reader."""
    rows = transaction.execute(
        f"{_SESSIONS} WHERE s.ends_at > ?1 AND s.used_at > ?2 AND k.revoked_at IS NULL ORDER BY s.used_at",
        (now_ms, idle_since),
    )
    return [SessionRow(*row) for row in rows]


def read_session(transaction: Transaction, session_id: str) -> SessionRow | None:
    """Read a session; None if it has ended, or its key was revoked. A single statement."""
    row = transaction.execute(f"{_SESSIONS} WHERE s.id = ? AND k.revoked_at IS NULL", (session_id,)).fetchone()
    return None if row is None else SessionRow(*row)


def add_session(transaction: Transaction, session: SessionRow, is_person: bool) -> bool:
    """Store a session; False if the key that holds it is not valid any more. `is_person`: no key holds it, but a
    person. Runs on the *writer thread*."""
    key = transaction.execute(
        "SELECT no FROM api_key WHERE id = ? AND revoked_at IS NULL", (session.holder,)
    ).fetchone()
    if key is None and not is_person:
        return False
    transaction.execute(
        "INSERT INTO console_session (id, token_hash, app_no, key_no, person_id, name, scopes, created_at, used_at,"
        " ends_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session.session_id,
            session.token_hash,
            session.app_no,
            None if is_person else key[0],
            session.holder if is_person else None,
            session.name,
            session.scopes,
            session.created_at,
            session.used_at,
            session.ends_at,
        ),
    )
    return True


def is_session_stored(transaction: Transaction, session_id: str) -> bool:
    """Whether a session has its row."""
    return transaction.execute("SELECT 1 FROM console_session WHERE id = ?", (session_id,)).fetchone() is not None


def renew_sessions(transaction: Transaction, used: Mapping[str, int]) -> None:
    """Write when sessions were last used, by their ids; another node may know of a later use. Runs on the *writer
    thread*."""
    transaction.execute(
        "UPDATE console_session SET used_at = u.value FROM json_each(?) AS u"
        " WHERE console_session.id = u.key AND console_session.used_at < u.value",
        (json.dumps(used),),
    )


def remove_sessions(transaction: Transaction, session_ids: Sequence[str]) -> None:
    """Remove the rows of sessions. Runs on the *writer thread*."""
    if session_ids:
        transaction.execute(
            "DELETE FROM console_session WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(session_ids),)
        )
