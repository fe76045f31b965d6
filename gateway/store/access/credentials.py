"""Tokens of devices, as rows: whose they are, when they end, what follows them.

Stored is the SHA-256 of a token. One that ends has its terms beside it, and the token before it for as long as that is
good; what never ends has no `token_days`. Times are server time in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from gateway.store.transaction import Transaction

Terms: TypeAlias = Sequence[object] | None
"""Of a token that ends: its end, the hash of the token before (hexadecimal, or None), and until when that is good."""
FoundDevice: TypeAlias = tuple[int, int, str, Terms]
"""A device as a CONNECT is decided by: its number, its app's, the hash of its token in hexadecimal, its terms."""

_NEW_TOKEN: Final = (
    "token_hash = ?1, updated_at = ?2, token_expires_at = ?2 + token_days * 86400000,"
    " previous_token_hash = NULL, previous_token_until = NULL"
)
"""Assignments of a token (its hash, the time) that voids the one before. What never ends has no `token_days`, and NULL
makes NULL."""
_TERMS: Final = (
    "iif(d.token_expires_at IS NULL, NULL, json_array(d.token_expires_at,"
    " lower(hex(d.previous_token_hash)), d.previous_token_until))"
)
"""Terms of a device's token as JSON, for one whose token ends."""


class DeviceToken(NamedTuple):
    """The token of a device whose app is not known yet."""

    device_no: int
    app_no: int
    app_id: str
    token_hash: bytes
    terms: Terms


class RenewableToken(NamedTuple):
    """A token as it is before a renewal."""

    device_no: int
    token_hash: bytes
    token_days: int | None
    """None: it never ends."""
    expires_at: int | None
    previous: bytes | None
    """Hash of the token before; None: there is none."""
    previous_until: int | None


class NewToken(NamedTuple):
    """A token that was given."""

    expires_at: int | None
    """None: it never ends."""


class ExpiredToken(NamedTuple):
    """A device whose token has ended."""

    expires_at: int
    device_no: int
    app_id: str
    device_id: str


def token_hash_of(transaction: Transaction, app_id: str, device_id: str) -> bytes | None:
    """Return the hash of the token of an enrolled device; None: there is none. Any connection."""
    row = transaction.execute(
        "SELECT d.token_hash FROM device AS d JOIN application AS a ON a.no = d.app_no"
        " WHERE a.id = ? AND d.id = ? AND d.removed_at IS NULL",
        (app_id, device_id),
    ).fetchone()
    return None if row is None else bytes(row[0])


def find_devices(transaction: Transaction, wanted: Sequence[tuple[str, str]]) -> dict[int, FoundDevice]:
    """Find devices by position in `wanted`: (app id, device id) each. Runs on a reader.

    One row for all of them: each row that SQLite hands out is a pass of the interpreter lock to and fro, and a fleet
    that returns asks for thousands."""
    (rows,) = transaction.execute(
        # CROSS JOIN keeps the order of the tables: from the list to the rows, by index.
        f"SELECT json_group_array(json_array(wanted.key, d.no, a.no, lower(hex(d.token_hash)), {_TERMS}))"
        " FROM json_each(?) AS wanted"
        " CROSS JOIN application AS a ON a.id = wanted.value ->> 0"
        " CROSS JOIN device AS d ON d.app_no = a.no AND d.id = wanted.value ->> 1 AND d.removed_at IS NULL",
        (json.dumps(wanted),),
    ).fetchone()
    return {index: (no, app_no, token_hash, terms) for index, no, app_no, token_hash, terms in json.loads(rows)}


def device_tokens(transaction: Transaction, device_id: str) -> list[DeviceToken]:
    """List the tokens of the live devices that have this id, one of each app at most."""
    rows = transaction.execute(
        f"SELECT d.no, a.no, a.id, d.token_hash, {_TERMS} FROM application AS a CROSS JOIN device AS d"
        " ON d.app_no = a.no AND d.id = ? AND d.removed_at IS NULL",
        (device_id,),
    )
    return [
        DeviceToken(no, app_no, app_id, token_hash, None if terms is None else json.loads(terms))
        for no, app_no, app_id, token_hash, terms in rows
    ]


def rotate_token(
    transaction: Transaction,
    app_no: int,
    device_id: str,
    device_no: int | None,
    token_hash: bytes,
    now_ms: int,
) -> NewToken | None:
    """Give a live device a token that voids the one before; None if there is no such device. With a number the id must
    still be that device's. Writer thread."""
    row = transaction.execute(
        f"UPDATE device SET {_NEW_TOKEN} WHERE app_no = ?3 AND id = ?4 AND removed_at IS NULL"
        " AND (?5 IS NULL OR no = ?5) RETURNING token_expires_at",
        (token_hash, now_ms, app_no, device_id, device_no),
    ).fetchone()
    return None if row is None else NewToken(*row)


def replace_token(transaction: Transaction, device_no: int, token_hash: bytes, now_ms: int) -> NewToken:
    """Give a device, which must be there, a token that voids the one before. Writer thread."""
    row = transaction.execute(
        f"UPDATE device SET {_NEW_TOKEN} WHERE no = ?3 RETURNING token_expires_at", (token_hash, now_ms, device_no)
    ).fetchone()
    return NewToken(*row)


def renewable_token(transaction: Transaction, app_no: int, device_id: str) -> RenewableToken | None:
    """Return the token of a live device; None if there is no such device."""
    row = transaction.execute(
        "SELECT no, token_hash, token_days, token_expires_at, previous_token_hash, previous_token_until FROM device"
        " WHERE app_no = ? AND id = ? AND removed_at IS NULL",
        (app_no, device_id),
    ).fetchone()
    return None if row is None else RenewableToken(*row)


def renew_token(
    transaction: Transaction,
    device_no: int,
    token_hash: bytes,
    expires_at: int,
    previous: bytes,
    previous_until: int | None,
) -> None:
    """Give a device a token that ends, and keep the one before for a while. Writer thread."""
    transaction.execute(
        "UPDATE device SET token_hash = ?, token_expires_at = ?, previous_token_hash = ?,"
        " previous_token_until = ? WHERE no = ?",
        (token_hash, expires_at, previous, previous_until, device_no),
    )


def expired_tokens(transaction: Transaction, after: tuple[int, int], now_ms: int, limit: int) -> list[ExpiredToken]:
    """List devices whose tokens have ended by now, in the order of (end, device number), behind one of those."""
    rows = transaction.execute(
        "SELECT d.token_expires_at, d.no, a.id, d.id FROM device AS d JOIN application AS a ON a.no = d.app_no"
        " WHERE d.token_expires_at IS NOT NULL AND d.token_expires_at >= ?1 AND d.token_expires_at <= ?3"
        " AND (d.token_expires_at, d.no) > (?1, ?2) ORDER BY d.token_expires_at, d.no LIMIT ?4",
        (*after, now_ms, limit),
    )
    return [ExpiredToken(*row) for row in rows]
