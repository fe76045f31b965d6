"""Requests of devices for a new token, as rows: a device asks any node, and so does its operator. PostgreSQL only.

All operations run under the lock of the request's app, so that bounds hold and one request of a device is confirmed.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.store.transaction import Transaction

_COLUMNS = (
    "digest, request_id, app_no, app_id, device_no, device_id, address, host, note, confirmation, asked_at, polled_at,"
    " state, answered_at, answers, ends_at"
)


class StoredRequest(NamedTuple):
    """A request; times are milliseconds, and `digest` is the hash of its secret."""

    digest: bytes
    request_id: str
    app_no: int
    app_id: str
    device_no: int
    device_id: str
    address: str
    host: str
    note: str | None
    confirmation: str
    asked_at: int
    polled_at: int
    state: str
    answered_at: int | None
    answers: int
    ends_at: int


class RequestBounds(NamedTuple):
    """Requests that there may be, one more included: of all, an app, and a device while they wait."""

    of_all: int
    of_app: int
    of_device: int


def token_requests(transaction: Transaction, now_ms: int) -> list[StoredRequest]:
    """Read the requests that have not ended, the oldest first. Reader thread."""
    rows = transaction.execute(
        f"SELECT {_COLUMNS} FROM token_request WHERE ends_at > ? ORDER BY asked_at, request_id", (now_ms,)
    )
    return [_stored(row) for row in rows.fetchall()]


def token_request(transaction: Transaction, digest: bytes) -> StoredRequest | None:
    """Read a request. A single statement."""
    row = transaction.execute(f"SELECT {_COLUMNS} FROM token_request WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else _stored(row)


def _stored(row: tuple[object, ...]) -> StoredRequest:
    found = StoredRequest._make(row)
    return found._replace(digest=bytes(found.digest))


def add_token_request(
    transaction: Transaction, row: StoredRequest, leaving: bytes | None, bounds: RequestBounds, now_ms: int
) -> bool:
    """Store a request, in the place of one that is `leaving` if need be; False if there is no room. Writer thread.

    One that is there already stays as it is.
    """
    transaction.execute("DELETE FROM token_request WHERE app_no = ? AND ends_at <= ?", (row.app_no, now_ms))
    if leaving is not None:
        transaction.execute("DELETE FROM token_request WHERE digest = ? AND state = 'pending'", (leaving,))
    (of_app, of_device) = transaction.execute(
        "SELECT count(*), count(*) FILTER (WHERE device_no = ? AND state = 'pending') FROM token_request"
        " WHERE app_no = ?",
        (row.device_no, row.app_no),
    ).fetchone()
    (of_all,) = transaction.execute("SELECT count(*) FROM token_request WHERE ends_at > ?", (now_ms,)).fetchone()
    if of_all >= bounds.of_all or of_app >= bounds.of_app or of_device >= bounds.of_device:
        return False
    transaction.execute(
        f"INSERT INTO token_request ({_COLUMNS}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO NOTHING", row
    )
    return True


def note_polled(transaction: Transaction, digest: bytes, polled_at: int, ends_at: int) -> None:
    """Note that the device of a request has asked again. Writer thread."""
    transaction.execute(
        "UPDATE token_request SET polled_at = ?, ends_at = CASE WHEN state = 'pending' THEN ? ELSE ends_at END"
        " WHERE digest = ?",
        (polled_at, ends_at, digest),
    )


def confirm_token_request(transaction: Transaction, digest: bytes, now_ms: int, ends_at: int) -> None:
    """Confirm a request that waits, and refuse the others of its device that do. Writer thread."""
    row = transaction.execute(
        "UPDATE token_request SET state = 'confirmed', answered_at = ?, ends_at = ?"
        " WHERE digest = ? AND state = 'pending' RETURNING device_no, app_no",
        (now_ms, ends_at, digest),
    ).fetchone()
    if row is not None:
        transaction.execute(
            "UPDATE token_request SET state = 'refused', answered_at = ?, ends_at = ?"
            " WHERE device_no = ? AND app_no = ? AND state = 'pending'",
            (now_ms, ends_at, *row),
        )


def refuse_token_request(transaction: Transaction, digest: bytes, now_ms: int, ends_at: int) -> None:
    """Refuse a request, unless its device has a token by it. Writer thread."""
    transaction.execute(
        "UPDATE token_request SET state = 'refused', answered_at = ?, ends_at = ?"
        " WHERE digest = ? AND state <> 'refused' AND answers = 0",
        (now_ms, ends_at, digest),
    )


def claim_answer(transaction: Transaction, digest: bytes, answers: int) -> bool:
    """Count an answer to a confirmed request; False if it is in another state, or has had more answers.

    `answers`: how many it has had, as far as the caller knows. Writer thread.
    """
    return (
        transaction.execute(
            "UPDATE token_request SET answers = answers + 1 WHERE digest = ? AND state = 'confirmed' AND answers = ?",
            (digest, answers),
        ).rowcount
        == 1
    )


def ended_requests(transaction: Transaction, now_ms: int) -> list[int]:
    """Find apps with requests that have ended. A single statement."""
    rows = transaction.execute("SELECT DISTINCT app_no FROM token_request WHERE ends_at <= ? LIMIT 500", (now_ms,))
    return [app_no for (app_no,) in rows.fetchall()]


def remove_ended_requests(transaction: Transaction, app_no: int, now_ms: int) -> None:
    """Remove an app's requests that have ended. Writer thread."""
    transaction.execute("DELETE FROM token_request WHERE app_no = ? AND ends_at <= ?", (app_no, now_ms))
