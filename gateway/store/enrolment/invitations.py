"""Invitations, as rows: what is known of a device beforehand, the hash of its code, and what has become of the code.

Times are server time in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from gateway.store.rows import insert_rows
from gateway.store.transaction import Transaction

_COLUMNS: Final = "id, batch, app_no, code_hash, device, created_at, created_by, expires_at"
_SPENDING: Final = "i.expires_at, i.used_at, i.nonce_hash, i.answers"
_STATE: Final = "CASE WHEN used_at IS NOT NULL THEN 'used' WHEN expires_at <= ? THEN 'expired' ELSE 'open' END"


class NewInvitationRow(NamedTuple):
    """An invitation that is to be stored."""

    invitation_id: str
    batch: str
    code_hash: bytes
    device: str
    """What is known of the device, as JSON."""
    expires_at: int


class ListedInvitation(NamedTuple):
    """An invitation as a list has it."""

    no: int
    invitation_id: str
    batch: str
    device: str
    """What is known of the device, as JSON."""
    created_at: int
    created_by: str
    expires_at: int
    used_at: int | None
    device_id: str | None
    """Id of the device that it has become."""
    state: str
    """`open`, `used` or `expired`."""


class Spending(NamedTuple):
    """State of a code: until when it is good, and who has used it."""

    expires_at: int
    used_at: int | None
    nonce_hash: bytes | None
    answers: int


class FoundInvitation(NamedTuple):
    """An invitation that was found by its code."""

    no: int
    app_no: int
    app_id: str
    code_hash: bytes
    device: str
    """What is known of the device, as JSON."""
    spending: Spending


class SpentInvitation(NamedTuple):
    """An invitation that is being spent, with the live device that it has become; None in its fields: there is none."""

    invitation_id: str
    app_no: int
    device_no: int | None
    device_id: str | None
    connected_at: int | None
    """Start of the device's last connection; None as well if it has never connected."""
    spending: Spending


def count_invitations(transaction: Transaction, app_no: int) -> int:
    """Count the invitations of an app that are kept."""
    (kept,) = transaction.execute("SELECT count(*) FROM invitation WHERE app_no = ?", (app_no,)).fetchone()
    return int(kept)


def add_invitations(
    transaction: Transaction, app_no: int, invitations: Sequence[NewInvitationRow], by: str, now_ms: int
) -> None:
    """Store invitations that the key `by` has made. Writer thread."""
    rows = [
        (made.invitation_id, made.batch, app_no, made.code_hash, made.device, now_ms, by, made.expires_at)
        for made in invitations
    ]
    insert_rows(transaction, "invitation", _COLUMNS, rows)


def invitations_behind(
    transaction: Transaction,
    app_no: int,
    after: int,
    batch: str | None,
    state: str | None,
    now_ms: int,
    limit: int,
) -> Iterator[ListedInvitation]:
    """Yield invitations of an app behind a number, in the order in which they were made. None: any batch, or state."""
    also, values = "", list[Any]()
    if batch is not None:
        also, values = " AND i.batch = ?", [batch]
    if state is not None:
        also, values = f"{also} AND {_STATE} = ?", [*values, now_ms, state]
    rows = transaction.execute(
        "SELECT i.no, i.id, i.batch, i.device, i.created_at, i.created_by, i.expires_at, i.used_at, d.id,"
        f" {_STATE} FROM invitation AS i LEFT JOIN device AS d ON d.no = i.device_no"
        f" WHERE i.app_no = ? AND i.no > ?{also} ORDER BY i.no LIMIT ?",
        (now_ms, app_no, after, *values, limit),
    )
    return map(ListedInvitation._make, rows)


def remove_invitations(transaction: Transaction, app_no: int, id_or_batch: str, most: int) -> int:
    """Remove an invitation, or up to `most` open ones of a batch; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM invitation WHERE no IN (SELECT no FROM invitation WHERE app_no = ?1 AND"
        " (id = ?2 OR (batch = ?2 AND used_at IS NULL)) LIMIT ?3)",
        (app_no, id_or_batch, most),
    ).rowcount


def remove_ended_invitations(transaction: Transaction, before: int, count: int) -> int:
    """Remove up to `count` invitations that ended by a time; how many. Writer thread."""
    return transaction.execute(
        "DELETE FROM invitation WHERE no IN (SELECT no FROM invitation WHERE expires_at <= ? LIMIT ?)",
        (before, count),
    ).rowcount


def has_invitation(transaction: Transaction, app_no: int, id_or_batch: str) -> bool:
    """Whether an app has an invitation with this id, or in this batch."""
    row = transaction.execute(
        "SELECT 1 FROM invitation WHERE app_no = ?1 AND (id = ?2 OR batch = ?2)", (app_no, id_or_batch)
    ).fetchone()
    return row is not None


def find_invitation(transaction: Transaction, code_hash: bytes) -> FoundInvitation | None:
    """Return the invitation of a code by its SHA-256; None if nobody has this code. One look-up by index."""
    row = transaction.execute(
        f"SELECT i.no, i.app_no, a.id, i.code_hash, i.device, {_SPENDING} FROM invitation AS i"
        " JOIN application AS a ON a.no = i.app_no WHERE i.code_hash = ?",
        (code_hash,),
    ).fetchone()
    if row is None:
        return None
    no, app_no, app_id, found_hash, device, *spending = row
    return FoundInvitation(no, app_no, app_id, found_hash, device, Spending(*spending))


def spent_invitation(transaction: Transaction, no: int) -> SpentInvitation | None:
    """Return an invitation that is being spent; None if it was removed."""
    row = transaction.execute(
        f"SELECT i.id, i.app_no, d.no, d.id, d.connected_at, {_SPENDING}"
        " FROM invitation AS i LEFT JOIN device AS d ON d.no = i.device_no AND d.removed_at IS NULL WHERE i.no = ?",
        (no,),
    ).fetchone()
    if row is None:
        return None
    invitation_id, app_no, device_no, device_id, connected_at, *spending = row
    return SpentInvitation(invitation_id, app_no, device_no, device_id, connected_at, Spending(*spending))


def note_use(transaction: Transaction, no: int, device_no: int, nonce_hash: bytes | None, now_ms: int) -> None:
    """Note the device that an invitation has become, with its first answer. Writer thread."""
    transaction.execute(
        "UPDATE invitation SET used_at = ?, device_no = ?, nonce_hash = ?, answers = 1 WHERE no = ?",
        (now_ms, device_no, nonce_hash, no),
    )


def note_repetition(transaction: Transaction, no: int) -> None:
    """Note a further answer for the code of an invitation. Writer thread."""
    transaction.execute("UPDATE invitation SET answers = answers + 1 WHERE no = ?", (no,))
